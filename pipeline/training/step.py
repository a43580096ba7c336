"""One forward pass of training, in the precision, compiled and shared out as params say."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.distributed.collectives import average_gradients_of
from pipeline.distributed.sharding import is_sharded, shard

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics
    from pipeline.training.objectives import Objective

log = logging.getLogger(__name__)

Terms = dict[str, Tensor]
Step = Callable[[Tensor, Tensor], Terms]

_LOW_PRECISION = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class _Step(nn.Module):
    """Model and objective as one module: what is compiled, and what several processes share."""

    def __init__(self, model: nn.Module, objective: Objective, precision: str) -> None:
        super().__init__()
        self.model, self.objective, self.precision = model, objective, precision

    def forward(self, images: Tensor, labels: Tensor) -> Terms:
        if self.precision == "float32":
            return self.objective(self.model, images, labels)  # type: ignore[no-any-return]
        with torch.autocast(images.device.type, dtype=_LOW_PRECISION[self.precision]):
            return self.objective(self.model, images, labels)  # type: ignore[no-any-return]


def training_step(model: nn.Module, objective: Objective, numerics: Numerics, device: torch.device) -> Step:
    """From images in [0, 1] and labels to the objective's terms.

    Keep it until the backward pass is over: with several processes it averages the gradients.

    Args:
        model: in training mode, on `device`; with FSDP what `trained_copy` gave.
        objective: on the same device, where batches lie too.
    """
    forward = _Step(model, objective, numerics.precision)
    step: Step = shard(forward, device) if is_sharded(numerics) else average_gradients_of(forward, device)
    return _compiled(step) if numerics.compile and objective.compilable else step


def gradient_scaler(numerics: Numerics, device: torch.device) -> torch.amp.GradScaler:
    """Keeps float16's gradients from underflow; hands everything through in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=numerics.precision == "float16")


def _compiled(step: Step) -> Step:
    """The step by torch.compile, or as it is from the moment that it cannot be compiled."""
    torch.use_deterministic_algorithms(  # as it is set already: says so to the compiler
        torch.are_deterministic_algorithms_enabled(),
        warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    compiled: Step = torch.compile(step)
    usable = True

    def run(images: Tensor, labels: Tensor) -> Terms:
        nonlocal usable
        if usable:
            try:
                return compiled(images, labels)
            except torch._dynamo.exc.TorchDynamoException as error:
                usable = False
                reason = " ".join(str(error).split())[:200]
                log.warning(
                    "torch.compile failed, going on without it (%s: %s)", type(error).__name__, reason
                )
        return step(images, labels)

    return run
