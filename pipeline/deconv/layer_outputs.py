"""The output of every convolution and linear layer, as the layers behind it read it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.deconv.rectifiers import RECTIFIERS
from pipeline.models.classifier import weight_layers

_LAYERS = frozenset({torch.conv2d, functional.conv2d, functional.linear})
# What may stand between a layer and the output that others read: it changes values, not channels.
_FOLLOWERS = RECTIFIERS | {functional.batch_norm, functional.dropout, torch.batch_norm}


class LayerOutputs:
    """Follows each layer's output through its batch norm, dropout and rectifier, by tensor identity.

    `outputs` maps a layer's name in `model.named_modules()` to its output, in the order of the forward pass.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layer_of_weight = {id(layer.weight): name for name, layer in weight_layers(model).items()}
        self.outputs: dict[str, Tensor] = {}
        self._owner: dict[int, str] = {}
        self._alive: list[Tensor] = []

    def observe(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> Any:
        """To be called after every torch function with (function, args, kwargs, result).

        Returns what the model is to get in the place of the result: a copy of a layer's output, so that what
        works in place behind it (`out += shortcut`) leaves the output as it was.
        """
        if func in _LAYERS:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            name = self._layer_of_weight.get(id(weight))
        elif func in _FOLLOWERS:
            name = self._owner.get(id(args[0] if args else kwargs["input"]))
        else:
            if args and result is args[0]:  # in place, and no follower: others' values are in it now
                self._owner.pop(id(result), None)
            return result
        if name is None:
            return result
        self.outputs[name] = result
        in_place = bool(args) and result is args[0]
        handed_on = result if in_place else result.clone()
        self._alive += [result, handed_on]  # while they live, their ids are their own
        self._owner[id(handed_on)] = name
        return handed_on
