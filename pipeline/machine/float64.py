"""Sums that need float64, on devices that have none: Apple's GPUs."""

import torch
from torch import Tensor

_WITHOUT_FLOAT64 = frozenset({"mps"})


def float64_device(device: torch.device) -> torch.device:
    """The device itself or, where it has no float64, the CPU."""
    return torch.device("cpu") if device.type in _WITHOUT_FLOAT64 else device


def float64(values: Tensor) -> Tensor:
    """The values in float64, on the `float64_device` of theirs; gradients flow back."""
    return values.to(float64_device(values.device)).double()
