"""Parameters and FLOPs, counted as the papers' tables count them."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.classifier import evaluation_mode, weight_layers


@dataclass(frozen=True)
class LayerCost:
    """One convolution or linear layer; FLOPs are 2 x multiply-accumulates for one image."""

    name: str
    kind: str
    in_channels: int
    out_channels: int
    params: int
    flops: int


@dataclass(frozen=True)
class Cost:
    """Sums over the layers, and the layers in the order in which they run.

    `memory_bytes`: float32 weights, and the outputs of these layers for one image, which training keeps.
    """

    params: int
    flops: int
    memory_bytes: int
    layers: tuple[LayerCost, ...]


def measure_cost(model: nn.Module, input_shape: Sequence[int]) -> Cost:
    """Count weights and biases of convolutions and linear layers, and their FLOPs for one image.

    The convention under which CVIU Table 1 comes out to the printed digit: batch norm is left out (it folds
    into its convolution), FLOPs are 2 x multiply-accumulates without biases. A layer that runs twice counts
    its FLOPs twice and its parameters once. Auxiliary heads are no part of a model here.

    Args:
        model: any module; its mode and state are left as they were.
        input_shape: (channels, height, width) of one image.
    """
    flops: dict[str, int] = {}
    outputs: list[int] = []
    layers = weight_layers(model)
    names: dict[nn.Module, str] = {layer: name for name, layer in layers.items()}

    def count(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        per_output = module.weight[0].numel()  # type: ignore[index]
        outputs.append(output[0].numel())
        flops[names[module]] = flops.get(names[module], 0) + 2 * per_output * output[0].numel()

    reference = next(model.parameters())
    with ExitStack() as hooks, evaluation_mode(model), torch.no_grad():
        for layer in layers.values():
            hooks.enter_context(layer.register_forward_hook(count))
        model(torch.zeros(1, *input_shape, device=reference.device, dtype=reference.dtype))
    rows = tuple(_layer_cost(name, layers[name], n_flops) for name, n_flops in flops.items())
    n_params = sum(row.params for row in rows)
    return Cost(n_params, sum(row.flops for row in rows), 4 * (n_params + sum(outputs)), rows)


def count_params(model: nn.Module) -> int:
    """Weights and biases of convolutions and linear layers: `measure_cost`'s `.params`, without a forward pass."""
    return sum(_n_params(layer) for layer in weight_layers(model).values())


def _n_params(layer: nn.Conv2d | nn.Linear) -> int:
    return layer.weight.numel() + (0 if layer.bias is None else layer.bias.numel())


def _layer_cost(name: str, layer: nn.Conv2d | nn.Linear, flops: int) -> LayerCost:
    params = _n_params(layer)
    if isinstance(layer, nn.Conv2d):
        kind = "x".join(str(size) for size in layer.kernel_size)
        return LayerCost(name, kind, layer.in_channels, layer.out_channels, params, flops)
    return LayerCost(name, "linear", layer.in_features, layer.out_features, params, flops)
