"""The deconvolution rule for rectifiers: backwards, the positive part of the signal passes (thesis 3.2.2)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Observer = Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any], Any], None]


class _Deconvolved(torch.autograd.Function):
    """A rectifier forwards; backwards the incoming signal is rectified, whatever the forward sign was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rectified: Tensor) -> Tensor:
        return rectified.clone()

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> tuple[Tensor, None]:
        return signals[0].clamp_min(0), None


RECTIFIERS: frozenset[Callable[..., Any]] = frozenset(
    {torch.relu, torch.relu_, functional.relu, functional.relu_, functional.relu6, Tensor.relu, Tensor.relu_}
)
_UNTRACEABLE: dict[Callable[..., Any], str] = {
    functional.silu: "SiLU",
    functional.gelu: "GELU",
    functional.hardswish: "Hardswish",
    functional.hardsigmoid: "Hardsigmoid",
    functional.elu: "ELU",
    functional.selu: "SELU",
    functional.mish: "Mish",
    functional.softplus: "Softplus",
    functional.leaky_relu: "leaky ReLU",
    functional.prelu: "PReLU",
    functional.sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    functional.tanh: "tanh",
    torch.tanh: "tanh",
    Tensor.tanh: "tanh",
    functional.scaled_dot_product_attention: "attention",
    functional.multi_head_attention_forward: "attention",
    functional.layer_norm: "layer norm",
}


class DeconvolutionMode(TorchFunctionMode):
    """While active, rectifiers follow the deconvolution rule, in unmodified models, modules or functions.

    Args:
        observe: called after every function with (function, args, kwargs, result).

    Raises:
        ValueError: by name, for a function that the method cannot trace.
    """

    def __init__(self, observe: Observer) -> None:
        super().__init__()
        self._observe = observe

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _UNTRACEABLE:
            raise ValueError(f"expected layers that deconvolution can trace, got {_UNTRACEABLE[func]}")
        if func in RECTIFIERS:
            x = args[0] if args else kwargs["input"]
            rectified = x.detach().clamp_min(0)
            if func is functional.relu6:
                rectified = rectified.clamp_max(6)
            # An in-place rectifier's caller goes on with what it returns, so a fresh tensor serves it.
            result = _Deconvolved.apply(x, rectified)
        else:
            result = func(*args, **kwargs)
        self._observe(func, args, kwargs, result)
        return result
