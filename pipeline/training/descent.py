"""From gradients to weights: the optimiser, its bounds, the running average, and all of their state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.distributed.collectives import agree_on
from pipeline.distributed.sharding import held_whole, share_like, whole
from pipeline.models.classifier import output_layer
from pipeline.params.training import RmsProp

if TYPE_CHECKING:
    from pipeline.params.training import Schedule

# Prefixes of what `Descent.tensors` gives.
_OPTIMIZER, _AVERAGE = "optimizer.", "average."


class Descent:
    """What changes the weights of a model and of its objective, step by step.

    Args:
        everything: `model` and `objective`, as they are trained: shared out where they are to be.
        settings: optimiser, rates, decays.
        scaler: of the losses.
    """

    def __init__(self, everything: nn.ModuleDict, settings: Schedule, scaler: torch.amp.GradScaler) -> None:
        self._everything, self._settings, self._scaler = everything, settings, scaler
        self._optimizer = _optimizer(everything, settings)
        self._decay = settings.optimizer.average_weights
        floats = {} if self._decay is None else self._floats()
        self._average = {name: tensor.clone() for name, tensor in floats.items()}

    def descend(self, loss: Tensor, time: float) -> None:
        """One step down a loss; `time` in epochs sets the learning rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._settings, time)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if (largest := self._settings.optimizer.clip_grad_norm) is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._everything.parameters(), largest)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._decay is not None:
            # One by one: torch's own running average takes no list in which some weights are shared out and some not.
            for name, tensor in self._floats().items():
                self._average[name].lerp_(tensor, 1 - self._decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The running average in the place of the model's weights inside the block, where one is kept."""
        own = {name: tensor.clone() for name, tensor in self._floats().items() if name in self._average}
        self.take_average()
        try:
            yield
        finally:
            self._assign(own)

    def take_average(self) -> None:
        """Leave the model with the running average of its weights, where one is kept; all processes with the same."""
        agree_on(held_whole(self._average.values()))
        self._assign(self._average)

    def tensors(self) -> dict[str, Tensor]:
        """The state of the optimiser and of the average by parameter name, whole."""
        found = {f"{_AVERAGE}{name}": whole(tensor) for name, tensor in self._average.items()}
        for name, parameter in self._everything.named_parameters():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"{_OPTIMIZER}{key}.{name}"] = whole(value)
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave; other names are left alone."""
        parameters, floats = dict(self._everything.named_parameters()), self._floats()
        for place, tensor in tensors.items():
            if place.startswith(_OPTIMIZER):
                key, name = place.removeprefix(_OPTIMIZER).split(".", 1)
                # RMSProp counts steps: a number, and no share of a parameter.
                value = share_like(tensor, parameters[name]) if tensor.ndim else tensor
                self._optimizer.state[parameters[name]][key] = value
            elif place.startswith(_AVERAGE):
                name = place.removeprefix(_AVERAGE)
                self._average[name] = share_like(tensor, floats[name])

    def _floats(self) -> dict[str, Tensor]:
        """The model's parameters and buffers that have a mean: batch norm counts its batches in integers."""
        state = self._everything["model"].state_dict()
        return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        floats = self._floats()
        for name, value in values.items():
            floats[name].copy_(value)


def learning_rate(settings: Schedule, time: float) -> float:
    """Linear warm-up, then a cosine to zero; `time` in epochs."""
    if time < settings.warmup_epochs:
        return settings.learning_rate * time / settings.warmup_epochs
    progress = (time - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _optimizer(everything: nn.ModuleDict, settings: Schedule) -> torch.optim.Optimizer:
    """The optimiser; weight decay on weight matrices and filters only, not on biases and batch norm.

    The decision layer's weights have a decay of their own (CVIU Figure 1).
    """
    decides = set(output_layer(everything["model"]).parameters())
    trainable = [parameter for parameter in everything.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.ndim > 1]
    groups = [
        {"params": [p for p in matrices if p not in decides], "weight_decay": settings.weight_decay},
        {"params": [p for p in matrices if p in decides], "weight_decay": settings.decision_weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate, chosen = settings.learning_rate, settings.optimizer
    if isinstance(chosen, RmsProp):
        return torch.optim.RMSprop(
            groups, lr=rate, alpha=chosen.decay, eps=chosen.epsilon, momentum=chosen.momentum
        )
    return torch.optim.SGD(groups, lr=rate, momentum=chosen.momentum, nesterov=chosen.momentum > 0)
