"""The machine and the versions that results come from."""

import os
import platform
from importlib.metadata import version

import torch

from pipeline.machine.processor import processor_name

# DVC computes nothing, and is missing where stages run without it.
_PACKAGES = ("torch", "torchvision", "foolbox", "torch-pruning", "scikit-image", "scikit-learn", "numpy")


def describe_environment(device: torch.device) -> dict[str, object]:
    """Python, packages, processor, cores and, where `device` is one, the GPU; names no host, user or path."""
    gpu = {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}
    return gpu | {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: version(name) for name in _PACKAGES},
    }
