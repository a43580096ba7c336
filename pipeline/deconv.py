"""Utility tracing: which filters the kept discriminants depend on (thesis Eq. 3.9-3.12).

One vector-Jacobian product does what the sources describe layer by layer: with the rectifiers' backward rule
replaced (`rectifiers`), max pooling's backward is unpooling by switches, a convolution's backward is the
transposed convolution, concatenation and fan-out split and sum by themselves, and in evaluation mode batch
norm is linear, traced as if folded into its convolution.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.classifier import decision_layer
from pipeline.rectifiers import RECTIFIERS, DeconvolutionMode

_LAYERS = frozenset({torch.conv2d, functional.conv2d, functional.linear})
# What may stand between a layer and the output that others read: it changes values, not channels.
_FOLLOWERS = RECTIFIERS | {functional.batch_norm, functional.dropout, torch.batch_norm}


@dataclass(frozen=True)
class Utility:
    """One layer's utility.

    `map` (channels, h, w) is Eq. 3.11's reconstructed map, averaged over images (h = w = 1 after a linear
    layer); `channels` (channels,) is Eq. 3.12's, its spatial maximum.
    """

    map: Tensor

    @property
    def channels(self) -> Tensor:
        """Eq. 3.12: u_c = max over positions of the averaged map."""
        return self.map.flatten(1).amax(1)


def trace_utility(
    model: nn.Module, images: Tensor, kept: Tensor, *, batch_size: int = 256
) -> dict[str, Utility]:
    """Eq. 3.9-3.12: the utility of every convolution's and linear layer's output channels, in float64.

    The signal starts from the latent response with the dropped dimensions set to 0. A layer's map is the
    signal that its readers send back to its output (after its batch norm and rectifier, where it has them):
    the `U` at the next layer's input, summed over all that read it. The decision layer is not traced.

    Args:
        model: a classifier with a linear decision layer; its mode and weights are left as they were.
        images: (n, channels, height, width), as the model takes them.
        kept: (d,) boolean mask of the latent dimensions to trace from.
        batch_size: images at a time; memory does not grow with n.

    Returns:
        A `Utility` for each traced layer, by its name in `model.named_modules()`, in the order of the forward
        pass; a layer without a path to the latent space has a map of zeros.

    Raises:
        ValueError: for a mask of the wrong shape or without a kept dimension, no images, or a function that
            cannot be traced (named).
    """
    decision = decision_layer(model)
    if kept.shape != (decision.in_features,) or kept.dtype != torch.bool or not bool(kept.any()):
        raise ValueError(
            f"expected kept as a boolean mask ({decision.in_features},) with at least one True, "
            f"got {kept.dtype} {tuple(kept.shape)} with {int(kept.sum())}"
        )
    if len(images) == 0:
        raise ValueError("expected at least one image to trace, got none")
    twin = _float64_twin(model)
    sums: dict[str, Tensor] = {}
    for batch in torch.split(images, batch_size):
        for name, maps in _trace_batch(twin, batch.double(), kept.to(batch.device)).items():
            sums[name] = sums[name] + maps if name in sums else maps
    return {name: Utility(total / len(images)) for name, total in sums.items()}


def _float64_twin(model: nn.Module) -> nn.Module:
    """A copy in float64 and evaluation mode.

    Through dozens of layers the signal shrinks by tens of orders of magnitude, past what float32 holds.
    """
    return copy.deepcopy(model).double().eval().requires_grad_(False)


def _trace_batch(model: nn.Module, images: Tensor, kept: Tensor) -> dict[str, Tensor]:
    recorder = _OutputRecorder(model)
    latent: list[Tensor] = []
    decision = decision_layer(model)
    handle = decision.register_forward_pre_hook(lambda _, inputs: latent.append(inputs[0]))
    try:
        with torch.enable_grad(), DeconvolutionMode(recorder.observe):
            model(images.detach().requires_grad_(True))
    finally:
        handle.remove()
    outputs = recorder.outputs
    outputs.pop(next(name for name, module in model.named_modules() if module is decision))
    response = latent[-1]
    signals = torch.autograd.grad(
        response, list(outputs.values()), grad_outputs=response.detach() * kept, allow_unused=True
    )
    maps = {}
    for (name, output), signal in zip(outputs.items(), signals, strict=True):
        total = (torch.zeros_like(output) if signal is None else signal).detach().sum(0)
        maps[name] = total.reshape(*total.shape, *[1] * (3 - total.ndim))
    return maps


class _OutputRecorder:
    """Follows each layer's output through its batch norm, dropout and rectifier, by tensor identity."""

    def __init__(self, model: nn.Module) -> None:
        self._layer_of_weight = {
            id(module.weight): name
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        }
        self.outputs: dict[str, Tensor] = {}
        self._owner: dict[int, str] = {}
        self._alive: list[Tensor] = []

    def observe(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        if func in _LAYERS:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            name = self._layer_of_weight.get(id(weight))
        elif func in _FOLLOWERS:
            name = self._owner.get(id(args[0] if args else kwargs["input"]))
        else:
            return
        if name is not None:
            self._alive.append(result)  # while it lives, its id is its own
            self.outputs[name] = result
            self._owner[id(result)] = name
