"""The output of every convolution and linear layer, as the layers behind it read it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pipeline.rectifiers import RECTIFIERS

_LAYERS = frozenset({torch.conv2d, functional.conv2d, functional.linear})
# What may stand between a layer and the output that others read: it changes values, not channels.
_FOLLOWERS = RECTIFIERS | {functional.batch_norm, functional.dropout, torch.batch_norm}


class LayerOutputs:
    """Follows each layer's output through its batch norm, dropout and rectifier, by tensor identity.

    `outputs` maps a layer's name in `model.named_modules()` to its output, in the order of the forward pass.
    """

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
        """To be called after every torch function with (function, args, kwargs, result)."""
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


class ObservingMode(TorchFunctionMode):
    """While active, every torch function is reported to `observe` after it ran, unchanged."""

    def __init__(self, observe: Callable[..., None]) -> None:
        super().__init__()
        self._observe = observe

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._observe(func, args, kwargs or {}, result)
        return result
