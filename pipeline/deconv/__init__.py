"""Utility tracing: which filters the kept discriminants depend on (thesis Eq. 3.9-3.12).

One vector-Jacobian product does what the sources describe layer by layer: with the rectifiers' backward rule
replaced (`rectifiers`), max pooling's backward is unpooling by switches, a convolution's backward is the
transposed convolution, concatenation and fan-out split and sum by themselves, and in evaluation mode batch
norm is linear, traced as if folded into its convolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.deconv.layer_outputs import ACTIVATIONS, POOLS, LayerOutputs, signals_to
from pipeline.deconv.rectifiers import deconvolved_call
from pipeline.machine.float64 import float64, float64_device
from pipeline.machine.memory import in_fitting_batches
from pipeline.models.classifier import (
    decision_layer,
    evaluation_mode,
    frozen_parameters,
    hidden_layers,
    latent_and_logits,
    module_path,
)

if TYPE_CHECKING:
    from pipeline.images.parts import Images

# The largest entry that a trace starts from, as a power of two: float32 holds 2^-126 to 2^127. Signals shrink
# more often than they grow; where they grow out of range, the trace starts again from the second.
_START_EXPONENTS = (60, -60)


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
    model: nn.Module, images: Tensor | Images, kept: Tensor, *, batch_size: int = 256
) -> dict[str, Utility]:
    """Eq. 3.9-3.12: the utility of every convolution's and linear layer's output channels.

    The signal starts from the latent response with the dropped dimensions set to 0. A layer's map is the `U`
    of Eq. 3.11 at its readers' input: behind batch norm, rectifier, pool and concatenation, wherever these
    are all that reads the layer. Where several functions read it, `U` is at the point where their ways part
    ("summed at the module beginning", CVIU 3.2), so that readers behind a pool and beside one add up at one
    size. At a residual sum it is the sum's signal before the rectifier, which comes to the same. An image's
    map is rectified before maps are averaged, as the rectification in every step of the deconvolution has it:
    what does not contribute in an image has utility 0 there, not less. The decision layer is not traced.

    Args:
        model: a classifier with a linear decision layer; its mode and weights are left as they were.
        images: (n, channels, height, width), as the model takes them, or a part of a data set.
        kept: (d,) boolean mask of the latent dimensions to trace from.
        batch_size: images at a time; memory does not grow with n.

    Returns:
        A `Utility` for each traced layer, float64 and all layers in one unit, by its name in
        `model.named_modules()`, in the order of the forward pass; a layer without a path to the latent space
        has a map of zeros.

    Raises:
        ValueError: for a mask of the wrong shape or without a kept dimension, no images, a function that
            cannot be traced (named), or a signal that no float32 holds.
    """
    check_start(model, images, kept)
    batches = partial(torch.split, images) if isinstance(images, Tensor) else images.in_batches

    def trace(size: int) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        for batch in batches(size):
            for name, maps in _trace_batch(model, batch, kept).items():
                sums[name] = sums[name] + maps if name in sums else maps
        return sums

    with evaluation_mode(model), frozen_parameters(model), torch.enable_grad():
        sums = in_fitting_batches(trace, batch_size)
    return {name: Utility(total / len(images)) for name, total in sums.items()}


def check_start(model: nn.Module, images: Tensor | Images, kept: Tensor) -> None:
    """Refuse what no trace starts from.

    Raises:
        ValueError: for a mask of latent dimensions of the wrong shape or without a kept one, or no images.
    """
    decision = decision_layer(model)
    if kept.shape != (decision.in_features,) or kept.dtype != torch.bool or not bool(kept.any()):
        raise ValueError(
            f"expected kept as a boolean mask ({decision.in_features},) with at least one True, "
            f"got {kept.dtype} {tuple(kept.shape)} with {int(kept.sum())}"
        )
    if len(images) == 0:
        raise ValueError("expected at least one image to trace, got none")


def _trace_batch(model: nn.Module, images: Tensor, kept: Tensor) -> dict[str, Tensor]:
    """The sum over the images of each layer's rectified maps, float64."""
    for exponent in _START_EXPONENTS:
        sums = _trace_from(model, images, kept, exponent)
        if all(bool(maps.isfinite().all()) for maps in sums.values()):
            return sums
    raise ValueError("expected a net that a signal comes back through, it grows out of what float32 holds")


def _trace_from(model: nn.Module, images: Tensor, kept: Tensor, exponent: int) -> dict[str, Tensor]:
    outputs = LayerOutputs(model, through=ACTIVATIONS | POOLS, call=deconvolved_call, keep_values=False)
    images = images.detach().requires_grad_(True)
    try:
        with outputs:
            latent, _ = latent_and_logits(model, images)
    except ValueError:
        _name_untraceable(model, images)
        raise
    layers = hidden_layers(model)
    found = {name: output for name, output in outputs.found().items() if name in layers}
    start = latent.detach() * kept.to(latent.device)
    # By a power of two, which is exact: through dozens of layers a signal shrinks by tens of orders of magnitude.
    largest = float(start.abs().max())
    scale = 2.0 ** (exponent - math.frexp(largest)[1])
    maps: dict[str, Tensor] = {}

    def receive(name: str, signal: Tensor) -> None:
        maps[name] = _as_map(float64(signal.clamp_min(0).sum(0)) / scale)

    with signals_to(receive, found):
        torch.autograd.grad(latent, images, grad_outputs=(float64(start) * scale).to(start))
    silent = {name: torch.zeros(output.shape[1:], dtype=torch.float64) for name, output in found.items()}
    return {
        name: maps.get(name, _as_map(zeros.to(float64_device(start.device))))
        for name, zeros in silent.items()
    }


def _name_untraceable(model: nn.Module, images: Tensor) -> None:
    """Run what cannot be traced again, more slowly, to say in which module that is.

    Raises:
        ValueError: with the module's name.
    """
    with module_path(model) as path, LayerOutputs(model, call=deconvolved_call, keep_values=False):
        try:
            model(images)
        except ValueError as error:
            raise ValueError(f"{error} in {path[-1] or type(model).__name__}") from None


def _as_map(total: Tensor) -> Tensor:
    """(channels, ...) as (channels, h, w)."""
    return total.reshape(*total.shape, *[1] * (3 - total.ndim))
