"""Which channels of the net that was built are left, through any number of cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from pipeline.models.classifier import Classifier, blueprint_of, n_inputs, set_blueprint, weight_layers

if TYPE_CHECKING:
    from pipeline.prune.library import torch_pruning


class KeptChannels:
    """Cuts groups of channels of a model, and keeps account of what is left of every layer.

    Args:
        model: to be cut; its blueprint says what earlier cuts have left. A model without one is cut all the same.
    """

    def __init__(self, model: nn.Module) -> None:
        self._net = model.net if isinstance(model, Classifier) else model
        self._names = {layer: name for name, layer in weight_layers(self._net).items()}
        self._depthwise = {name: _fan_out(layer) for layer, name in self._names.items() if _fan_out(layer)}
        before = blueprint_of(self._net).kept_channels if hasattr(self._net, "blueprint") else {}
        self._left = {
            name: before.get(name) or (list(range(len(layer.weight))), list(range(n_inputs(layer))))
            for layer, name in self._names.items()
        }

    def prune(
        self, graph: torch_pruning.DependencyGraph, root: nn.Module, prune_fn: object, idxs: Sequence[int]
    ) -> None:
        """Remove channels of a layer, by their places in it now, and all that goes with them."""
        group = graph.get_pruning_group(root, prune_fn, idxs=list(idxs))
        for item in group:
            name = self._names.get(item.dep.target.module)
            if name is not None:
                gone, (outputs, inputs) = set(item.idxs), self._left[name]
                if graph.is_out_channel_pruning_fn(item.dep.handler):
                    outputs = [channel for at, channel in enumerate(outputs) if at not in gone]
                else:
                    inputs = [channel for at, channel in enumerate(inputs) if at not in gone]
                self._left[name] = outputs, inputs
        group.prune()

    def note(self) -> None:
        """Write down in the model's blueprint what is left of the layers that it still has.

        Raises:
            ValueError: if a layer has other numbers of channels than it should have.
        """
        kept = {name: self._left[name] for name in weight_layers(self._net)}
        for name, fan_out in self._depthwise.items():
            if name in kept:  # what cuts a depthwise convolution cuts its outputs, and inputs with them
                kept[name] = kept[name][0], [channel // fan_out for channel in kept[name][0][::fan_out]]
        for name, layer in weight_layers(self._net).items():
            expected, found = (len(layer.weight), n_inputs(layer)), tuple(map(len, kept[name]))
            if found != expected:
                raise ValueError(f"expected {name} to have lost all but {found} channels, it has {expected}")
        if hasattr(self._net, "blueprint"):
            set_blueprint(self._net, replace(blueprint_of(self._net), kept_channels=kept))


def _fan_out(layer: nn.Conv2d | nn.Linear) -> int:
    """Output channels for each input of a depthwise convolution; 0 for other layers."""
    if isinstance(layer, nn.Linear) or not layer.groups == layer.in_channels > 1:
        return 0
    return layer.out_channels // layer.in_channels
