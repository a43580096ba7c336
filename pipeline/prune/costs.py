"""What a net costs without some of its channels, exact without any cut."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.cost import measure_cost
from pipeline.models.classifier import weight_layers

if TYPE_CHECKING:
    from pipeline.prune.groups import ChannelGroup


class PlannedCosts:
    """Parameters and FLOPs as a function of which channels go, exact without any cut.

    A layer's weights are its outputs times its inputs times its kernel's positions, and its FLOPs go with them.

    Attributes:
        names: the L layers with weights that run, in their order.
        taken: (2, N, L) output channels and inputs that each layer loses with each root channel.
    """

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup], image_shape: Sequence[int]) -> None:
        rows = measure_cost(model, image_shape).layers
        self.names = [row.name for row in rows]
        layers = [weight_layers(model)[name] for name in self.names]
        self._n_out = _vector([row.out_channels for row in rows])
        self._n_in = _vector([row.in_channels for row in rows])
        depthwise = [isinstance(each, nn.Conv2d) and each.groups == each.in_channels > 1 for each in layers]
        self._depthwise = torch.tensor(depthwise)
        self._n_parts = _vector([each.groups if isinstance(each, nn.Conv2d) else 1 for each in layers])
        self._taps = _vector([each.weight[0, 0].numel() for each in layers])
        self._biased = _vector([each.bias is not None for each in layers])
        per_position = _vector([2 * each.weight.numel() for each in layers])
        self._positions = _vector([row.flops for row in rows]) / per_position
        places = {name: place for place, name in enumerate(self.names)}
        # Counts: exact in float32, and half as large.
        self.taken = torch.zeros(2, sum(group.n_channels for group in groups), len(rows))
        start = 0
        for group in groups:
            for taken, touched in zip(self.taken, (group.writers, group.readers), strict=True):
                for layer in touched:
                    if layer.name in places:
                        at = start + torch.tensor(layer.root_idx)
                        taken[:, places[layer.name]].index_add_(0, at, torch.ones(len(at)))
            start += group.n_channels

    def lost(self, gone: Tensor) -> Tensor:
        """Output channels and inputs (2, L) that the layers lose with a mask (N,) of channels."""
        return torch.einsum("n,snl->sl", gone.float(), self.taken)

    def without(self, lost: Tensor, left: Tensor) -> tuple[float, float]:
        """Parameters and FLOPs of the layers that are `left` (L,), without what they lost (2, L)."""
        params, flops = self.of_layers(lost)
        return float((params * left).sum()), float((flops * left).sum())

    @cached_property
    def whole(self) -> tuple[float, float]:
        """Parameters and FLOPs of the net as it is."""
        return self.without(torch.zeros(2, len(self.names)), torch.ones(len(self.names), dtype=torch.bool))

    @cached_property
    def savings(self) -> tuple[Tensor, Tensor]:
        """Parameters and FLOPs (N,) that each channel saves when it alone goes from the whole net."""
        alone = [[float(each.sum()) for each in self.of_layers(lost)] for lost in self.taken.unbind(1)]
        params, flops = torch.tensor(self.whole, dtype=torch.float64)[:, None] - _vector(alone).view(-1, 2).T
        return params, flops

    def of_layers(self, lost: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters and FLOPs (L,) of each layer without what they lost (2, L)."""
        n_out, n_in = self._n_out - lost[0], self._n_in - lost[1]
        weights = n_out * torch.where(self._depthwise, 1.0, n_in / self._n_parts) * self._taps
        return weights + self._biased * n_out, 2 * weights * self._positions


def _vector(values: Sequence[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
