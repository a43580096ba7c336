"""Resume points: a killed run goes on from its last finished epoch, candidate or sample.

They lie in the job's own folder of the store, whose key names everything that the result depends on. A point is one
safetensors file, written aside and renamed: whole or absent when a process is killed. It is written after every epoch,
so that waiting for the disk would cost more than it is worth: one that a power failure has spoilt counts as absent. No
pickle is read.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.distributed.collectives import rank
from pipeline.files import write_atomically

# Tensors on the CPU, and JSON state.
Restored = tuple[dict[str, Tensor], dict[str, Any]]

_STATE = "state"


class ResumePoint:
    """Tensors and JSON state under one name; `child` makes points for the parts of a larger task."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def child(self, *names: object) -> ResumePoint:
        """The resume point of a part, for example an epoch loop inside a candidate."""
        return ResumePoint(self._path.joinpath(*(str(name) for name in names)))

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Replace the point by these tensors (any device) and this JSON-able state, atomically.

        Of several processes, rank 0 writes for all.
        """
        if rank() != 0:
            return
        held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_atomically(self._file, save(held, metadata={_STATE: json.dumps(state)}), sync=False)

    def load(self) -> Restored | None:
        """The tensors (on the CPU) and state last saved, or None."""
        try:
            with safe_open(os.fspath(self._file), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, json.loads(file.metadata()[_STATE])
        except (FileNotFoundError, SafetensorError):
            return None

    @property
    def _file(self) -> Path:
        return self._path.with_name(f"{self._path.name}.safetensors")
