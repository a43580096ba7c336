"""The deconvolution rule for rectifiers: backwards, the positive part of the signal passes (thesis 3.2.2)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Functions = frozenset[Callable[..., Any]]


class _Deconvolved(torch.autograd.Function):
    """A rectifier forwards; backwards the incoming signal is rectified, whatever the forward sign was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, high: float | None, in_place: bool) -> Tensor:
        if in_place:
            ctx.mark_dirty(x)
            return x.clamp_(0, high)
        return x.clamp(0, high)

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> tuple[Tensor, None, None]:
        return signals[0].clamp_min(0), None, None


@dataclass(frozen=True)
class _Rectification:
    """A call that rectifies: its input, its upper bound (6 for ReLU6), and whether it works in place."""

    x: Tensor
    high: float | None
    in_place: bool


_RELU_FAMILY: Functions = frozenset(
    {torch.relu, torch.relu_, functional.relu, functional.relu_, Tensor.relu, Tensor.relu_}
)
_CLAMPS: Functions = frozenset(
    {torch.clamp, torch.clamp_, torch.clamp_min, torch.clamp_min_, torch.clip, torch.clip_}
)
_TENSOR_CLAMPS: Functions = frozenset(
    {Tensor.clamp, Tensor.clamp_, Tensor.clamp_min, Tensor.clamp_min_, Tensor.clip, Tensor.clip_}
)
_BOUNDED: Functions = frozenset({functional.relu6, functional.hardtanh, functional.threshold})
RECTIFIERS: Functions = _RELU_FAMILY | _CLAMPS | _TENSOR_CLAMPS | _BOUNDED


def _read_call(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Rectification:
    """What a call to one of `RECTIFIERS` does.

    Raises:
        ValueError: if its lower bound is not zero.
    """
    names = {
        functional.relu: ("input", "inplace"),
        functional.relu6: ("input", "inplace"),
        functional.hardtanh: ("input", "min_val", "max_val", "inplace"),
        functional.threshold: ("input", "threshold", "value", "inplace"),
    }.get(func, ("input", "min", "max"))
    call = dict(zip(names, args, strict=False)) | dict(kwargs)
    in_place = bool(call.get("inplace", False)) or func.__name__.endswith("_")
    low: object = 0
    high: float | None = None
    if func is functional.relu6:
        high = 6.0
    elif func is functional.hardtanh:
        low, high = call.get("min_val", -1.0), call.get("max_val", 1.0)
    elif func is functional.threshold:
        low = max(abs(call["threshold"]), abs(call["value"]))
    elif func not in _RELU_FAMILY:
        low, high = call.get("min"), call.get("max")
    if isinstance(low, Tensor) or low != 0:
        raise ValueError(
            f"expected rectifiers that cut at zero, got {func.__name__} with the lower bound {low}"
        )
    return _Rectification(call["input"], high, in_place)


_NAMED: dict[str, list[Callable[..., Any]]] = {
    "SiLU": [functional.silu],
    "GELU": [functional.gelu],
    "Hardswish": [functional.hardswish],
    "Hardsigmoid": [functional.hardsigmoid],
    "ELU": [functional.elu],
    "SELU": [functional.selu],
    "Mish": [functional.mish],
    "Softplus": [functional.softplus],
    "leaky ReLU": [functional.leaky_relu],
    "PReLU": [functional.prelu],
    "softmax": [functional.softmax, torch.softmax, Tensor.softmax],
    "sigmoid": [
        *(functional.sigmoid, torch.special.expit),
        *(torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_),
    ],
    "tanh": [functional.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_],
    "attention": [functional.scaled_dot_product_attention, functional.multi_head_attention_forward],
    "square": [torch.square, Tensor.square],
    "power": [torch.pow, Tensor.pow, Tensor.__pow__],
    "product of two activations": [torch.addcmul],
    "layer norm": [functional.layer_norm],
    "local response norm": [functional.local_response_norm],
    "group norm": [functional.group_norm],
    "instance norm": [functional.instance_norm],
}
_UNTRACEABLE = {function: name for name, functions in _NAMED.items() for function in functions}
# Of two activations (squeeze and excite, attention); times a constant or a weight is linear and fine.
_PRODUCTS = frozenset[Any](
    [
        *(torch.mul, torch.multiply, torch.div, torch.divide, torch.true_divide),
        *(torch.matmul, torch.bmm, torch.einsum),
        *(Tensor.multiply, Tensor.divide, Tensor.true_divide),
        *(Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__),
        *(Tensor.div, Tensor.div_, Tensor.__truediv__, Tensor.__itruediv__),
        *(Tensor.matmul, Tensor.__matmul__, Tensor.bmm),
    ]
)


def _n_activations(values: Sequence[Any]) -> int:
    """Tensors that depend on the images among the arguments of a call, those in lists included."""
    flat = [each for value in values for each in (value if isinstance(value, list | tuple) else [value])]
    return sum(isinstance(value, Tensor) and value.requires_grad for value in flat)


def deconvolved_call(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a torch function returns; a rectifier's backward rule is that of deconvolution.

    Weights must not require gradients: what does, and is multiplied, is taken for an activation.

    Raises:
        ValueError: by name, for a function that the method cannot trace.
    """
    if func in _UNTRACEABLE:
        raise ValueError(f"expected layers that deconvolution can trace, got {_UNTRACEABLE[func]}")
    if func in _PRODUCTS and _n_activations([*args, *kwargs.values()]) > 1:
        raise ValueError(
            f"expected layers that deconvolution can trace, got a product of two activations ({func.__name__})"
        )
    if func in RECTIFIERS:
        call = _read_call(func, args, kwargs)
        return _Deconvolved.apply(call.x, call.high, call.in_place)
    return func(*args, **kwargs)
