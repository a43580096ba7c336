"""Resume points: a killed run goes on from its last finished epoch, candidate or sample.

They lie in the job's own folder of the store, whose key names everything that the result depends on. A point is one
safetensors file, written aside and renamed: whole or absent when a process is killed. It is written after every epoch,
so that waiting for the disk would cost more than it is worth: one that a power failure has spoilt counts as absent, and
so does one with a byte that is not what was saved, or another program's file. No pickle is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.distributed.collectives import rank
from pipeline.files import write_atomically

# Tensors on the CPU, and JSON state.
Restored = tuple[dict[str, Tensor], dict[str, Any]]

_STATE, _SHA256 = "state", "sha256"


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
        text = json.dumps(state)
        metadata = {_STATE: text, _SHA256: _digest(held, text)}
        write_atomically(self._file, save(held, metadata=metadata), sync=False)

    def load(self) -> Restored | None:
        """The tensors (on the CPU) and state last saved, or None."""
        try:
            with safe_open(os.fspath(self._file), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
        except (OSError, SafetensorError):
            return None
        text = metadata.get(_STATE, "")
        if metadata.get(_SHA256) != _digest(tensors, text):
            return None
        return tensors, json.loads(text)

    @property
    def _file(self) -> Path:
        return self._path.with_name(f"{self._path.name}.safetensors")


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """SHA-256 over names, types, shapes and bytes, and the state."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name} {tensor.dtype} {[*tensor.shape]}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
