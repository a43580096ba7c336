"""Utility tracing: which filters the kept discriminants depend on (thesis Eq. 3.9-3.12).

One vector-Jacobian product does what the sources describe layer by layer: with the rectifiers' backward rule
replaced (`rectifiers`), max pooling's backward is unpooling by switches, a convolution's backward is the
transposed convolution, concatenation and fan-out split and sum by themselves, and in evaluation mode batch
norm is linear, traced as if folded into its convolution.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.deconv.layer_outputs import LayerOutputs
from pipeline.deconv.rectifiers import DeconvolutionMode
from pipeline.machine.float64 import float64, float64_device
from pipeline.machine.memory import in_fitting_batches
from pipeline.models.classifier import decision_layer, module_path


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

    def trace(size: int) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        for batch in torch.split(images, size):
            for name, maps in _trace_batch(twin, float64(batch), kept).items():
                sums[name] = sums[name] + maps if name in sums else maps
        return sums

    sums = in_fitting_batches(trace, batch_size)
    return {name: Utility(total / len(images)) for name, total in sums.items()}


def _float64_twin(model: nn.Module) -> nn.Module:
    """A copy in float64 and evaluation mode.

    Through dozens of layers the signal shrinks by tens of orders of magnitude, past what float32 holds.
    """
    twin = copy.deepcopy(model).to(float64_device(decision_layer(model).weight.device))
    return twin.double().eval().requires_grad_(False)


def _trace_batch(model: nn.Module, images: Tensor, kept: Tensor) -> dict[str, Tensor]:
    recorder = LayerOutputs(model)
    decision = decision_layer(model)
    latent: list[Tensor] = []
    hook = decision.register_forward_pre_hook(lambda _, inputs: latent.append(inputs[0]))
    with hook, torch.enable_grad(), module_path(model) as path, DeconvolutionMode(recorder.observe):
        try:
            model(images.detach().requires_grad_(True))
        except ValueError as error:
            raise ValueError(f"{error} in {path[-1] or type(model).__name__}") from None
    outputs = recorder.outputs
    outputs.pop(next(name for name, module in model.named_modules() if module is decision))
    response = latent[-1]
    signals = torch.autograd.grad(
        response,
        list(outputs.values()),
        grad_outputs=response.detach() * kept.to(response.device),
        allow_unused=True,
    )
    maps = {}
    for (name, output), signal in zip(outputs.items(), signals, strict=True):
        total = (torch.zeros_like(output) if signal is None else signal).detach().sum(0)
        maps[name] = total.reshape(*total.shape, *[1] * (3 - total.ndim))
    return maps
