"""What a result depends on beside params, inputs and the project's code: libraries, Python, and the kind of device."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics

_PACKAGES = (
    "torch",
    "torchvision",
    "torch-pruning",
    "foolbox",
    "numpy",
    "scipy",
    "scikit-image",
    "scikit-learn",
)


@cache
def versions() -> Mapping[str, str]:
    """Python's and the libraries' versions; a job that was finished with others is not taken from the store."""
    found = {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
    with suppress(PackageNotFoundError):  # an extra
        found["timm"] = version("timm")
    return found


@cache
def devices(numerics: Numerics) -> tuple[str, ...]:
    """The kinds of the devices that jobs can have, one entry for each GPU; a single `cpu` or `mps` without one.

    torch is asked only where there may be a GPU: importing it takes seconds.
    """
    if numerics.device in ("cpu", "mps") or not _may_have_gpu():
        return ("mps" if numerics.device == "mps" else "cpu",)
    # Counts by the driver's library, so that no context is made in this process, which computes nothing.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    names = tuple(torch.cuda.get_device_name(idx) for idx in range(torch.cuda.device_count()))
    return names or ("cpu",)


def n_gpus(kinds: Sequence[str]) -> int:
    """How many of `devices` are GPUs that jobs share out among them."""
    return 0 if kinds[0] in ("cpu", "mps") else len(kinds)


def context_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a job's key that its machine decides.

    Of GPUs the kind counts, not the number; a job that computes nothing with torch has the same on all.
    """
    kinds = sorted(set(devices(settings["numerics"]))) if "numerics" in settings else []
    return {"versions": dict(versions()), "device": kinds}


def _may_have_gpu() -> bool:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    nodes = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
    return not hidden and (any(Path(node).exists() for node in nodes) or platform.system() == "Windows")
