"""Threads, determinism and device: set before anything is built."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics

# Which GPU a job has, set by whoever runs it.
GPU_VARIABLE = "GPP_GPU"


def configure_torch(numerics: Numerics) -> torch.device:
    """Set threads, determinism and denormals, and return the device that the params ask for.

    Raises:
        InputError: if the machine has no such device.
    """
    # cuBLAS reads it when it is loaded; without it deterministic algorithms refuse to multiply.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(numerics.threads)
    # A push drives activations towards zero; denormals there cost a fifth of the training time.
    torch.set_flush_denormal(True)
    # As use_deterministic_algorithms, which would import torch's compiler: two seconds in every stage.
    torch.set_deterministic_debug_mode("error" if numerics.device == "cpu" else "warn")
    # It would also write NaN into every new tensor, in case something reads one before it is filled: 7 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    chosen = numerics.device
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[chosen]:
        expected = ", ".join(name for name, there in present.items() if there)
        raise InputError(
            f"params.yaml: numerics.device: expected auto or what this machine has, {expected} (got {chosen})"
        )
    if chosen != "cuda":
        return torch.device(chosen)
    if GPU_VARIABLE in os.environ:  # a job has one of its own; of processes that train together, each has
        torch.cuda.set_device(int(os.environ[GPU_VARIABLE]))
    return torch.device(chosen, torch.cuda.current_device())
