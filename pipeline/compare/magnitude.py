"""Han et al.'s magnitude pruning: single weights set to zero and kept there (thesis 3.3.3's red curves)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from pipeline.cost import count_params
from pipeline.machine.float64 import float64
from pipeline.models.classifier import output_layer, weight_layers


def magnitude_masks(model: nn.Module, n_params: int, *, output_share: float = 0.0) -> dict[str, Tensor]:
    """Which weights stay so that `n_params` weights and biases are not zero, by layer name.

    Han et al. 2015 cut each layer at a quality parameter times the standard deviation of its weights; the
    parameter is one for all layers here, and the one that leaves so many. Biases stay.

    Args:
        model: its convolutions and linear layers are looked at; left as it was.
        n_params: weights and biases to keep, at least the biases and one weight.
        output_share: of the output layer's weights, the largest ones that stay whatever the others do.

    Raises:
        ValueError: if `n_params` is out of range.
    """
    layers = weight_layers(model)
    n_weights = sum(layer.weight.numel() for layer in layers.values())
    n_kept = n_params - (count_params(model) - n_weights)
    if not 1 <= n_kept <= n_weights:
        raise ValueError(f"expected between 1 and {n_weights} weights to keep, got {n_kept}")
    relative = {name: _in_deviations(layer.weight) for name, layer in layers.items()}
    last = next(name for name, layer in layers.items() if layer is output_layer(model))
    relative[last] = _largest_first(relative[last], round(output_share * relative[last].numel()))
    together = torch.cat([each.flatten() for each in relative.values()])
    # A stable order, so that ties fall the same way every time.
    order = torch.argsort(together, descending=True, stable=True)
    mask = torch.zeros_like(together, dtype=torch.bool)
    mask[order[:n_kept]] = True
    parts = torch.split(mask, [each.numel() for each in relative.values()])
    weights = {name: layer.weight for name, layer in layers.items()}
    return {
        name: part.view_as(weight).to(weight.device)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


@contextmanager
def masked(model: nn.Module, masks: dict[str, Tensor]) -> Iterator[None]:
    """Inside the block the masked weights are zero, whatever training does; after it they are zeros for good."""
    layers = {name: model.get_submodule(name) for name in masks}
    for name, layer in layers.items():
        torch_prune.custom_from_mask(layer, "weight", masks[name])  # type: ignore[no-untyped-call]
        # Computed anew in every forward pass; until then, no part of a graph, which could not be copied.
        layer.weight = cast(Tensor, layer.weight).detach()
    try:
        yield
    finally:
        for layer in layers.values():
            torch_prune.remove(layer, "weight")  # type: ignore[no-untyped-call]


def _in_deviations(weight: Tensor) -> Tensor:
    values = float64(weight.detach())
    deviation = float(values.std()) if values.numel() > 1 else 1.0
    return values.abs() / (deviation if deviation > 0 else 1.0)


def _largest_first(relative: Tensor, n: int) -> Tensor:
    """The same values with the `n` largest at infinity: before those of any other layer. Zeros stay zeros."""
    values = relative.flatten()
    largest = torch.argsort(values, descending=True, stable=True)[:n]
    first = torch.zeros_like(values, dtype=torch.bool)
    first[largest] = True
    return torch.where(first & (values > 0), torch.inf, values).reshape(relative.shape)
