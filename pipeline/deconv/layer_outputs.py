"""Every convolution's and linear layer's output where it is read: values going forwards, signals coming back.

A layer's output is followed through functions that leave its channels apart (batch norm, dropout, an activation,
a pool, concatenation) as long as the result is all that is read. Where several functions read it, as at an
Inception module's beginning, it stays there, and the signals from all of them add up by themselves; so it does
at a residual sum, behind which the values are no longer one layer's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from pipeline.deconv.rectifiers import RECTIFIERS, Functions
from pipeline.models.classifier import weight_layers

_LAYERS: Functions = frozenset({torch.conv2d, functional.conv2d, functional.linear})
_CONCATENATIONS: Functions = frozenset({torch.cat, torch.concat, torch.concatenate})
_SMOOTH: Functions = frozenset(
    {
        *(functional.silu, functional.gelu, functional.hardswish, functional.mish, functional.softplus),
        *(functional.elu, functional.selu, functional.leaky_relu, functional.prelu, functional.hardsigmoid),
        *(functional.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_),
        *(functional.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_),
    }
)
# Between a layer and its readers, channel by channel and position by position.
ACTIVATIONS: Functions = RECTIFIERS | _SMOOTH | {functional.batch_norm, functional.dropout, torch.batch_norm}
POOLS: Functions = frozenset(
    {
        *(functional.max_pool2d, torch.max_pool2d, functional.adaptive_max_pool2d),
        *(functional.avg_pool2d, functional.adaptive_avg_pool2d, functional.lp_pool2d),
    }
)


def plain_call(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The function as it is."""
    return func(*args, **kwargs)


@dataclass(frozen=True)
class LayerOutput:
    """A layer's output where it is read: `n_channels` channels from `start` on along `dim` of some tensor.

    Attributes:
        edge: the tensor's place in autograd's graph; None where gradients were off.
        whole_shape: the tensor's shape, other layers' channels included.
        whole: the tensor's values, detached; None where they were not kept.
    """

    dim: int
    start: int
    n_channels: int
    edge: GradientEdge | None
    whole_shape: tuple[int, ...]
    whole: Tensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, channels, ...) of the output."""
        n, *others = (size for axis, size in enumerate(self.whole_shape) if axis != self.dim)
        return (n, self.n_channels, *others)

    @property
    def values(self) -> Tensor:
        """The output's values (n, channels, ...).

        Raises:
            ValueError: if they were not kept.
        """
        if self.whole is None:
            raise ValueError("expected the values of a layer's output, they were not kept")
        return self.part_of(self.whole)

    def part_of(self, whole: Tensor) -> Tensor:
        """The layer's channels (n, channels, ...) of the tensor that they lie in, or of a signal to it."""
        return whole.narrow(self.dim, self.start, self.n_channels).movedim(self.dim, 1)


class _Point:
    """A tensor on the way from a layer to its readers."""

    def __init__(self, tensor: Tensor, dim: int, *, keep_values: bool) -> None:
        self.shape, self.dim = tuple(tensor.shape), dim
        # The place in autograd's graph is that of the values now, whatever works on them in place later.
        self.edge = get_gradient_edge(tensor) if tensor.requires_grad else None
        self.values = tensor if keep_values else None
        self.n_readers = 0
        self.follower: tuple[_Point, int] | None = None  # and the first of the channels in it


class LayerOutputs(TorchFunctionMode):
    """While active, follows the outputs of a model's layers to where they are read.

    Args:
        model: its `nn.Conv2d` and `nn.Linear` are followed.
        through: functions that do not count as readers, `ACTIVATIONS` or more.
        call: runs each torch function; a rule for backward passes may put its own in the place of some.
        keep_values: whether the outputs' values are kept, too.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        through: Functions = ACTIVATIONS,
        call: Callable[..., Any] = plain_call,
        keep_values: bool = True,
    ) -> None:
        super().__init__()
        self._layer_of_weight = {id(layer.weight): name for name, layer in weight_layers(model).items()}
        self._through, self._call, self._keep_values = through, call, keep_values
        self._beginnings: dict[str, _Point] = {}
        self._points = WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        read = [(each, self._points[each]) for each in _tensors(args, kwargs) if each in self._points]
        follows = func in self._through or func in _CONCATENATIONS
        if self._keep_values and _overwrites(func) and not follows and isinstance(args[0], Tensor):
            for overwritten in (args[0], args[0]._base):  # a view's tensor, too
                if overwritten is not None and overwritten in self._points:
                    self._points[overwritten].values = overwritten.detach().clone()
        result = self._call(func, args, kwargs)
        if not _tensors([result], {}):  # a shape or a type: nothing has been read
            return result
        found = self._follow(func, args, kwargs, read, result) if isinstance(result, Tensor) else None
        for tensor, point in read:
            point.n_readers += 1
            if point.n_readers == 1 and point.follower is not None:
                point.values = None
            elif self._keep_values and tensor is not result:
                point.values = tensor
        if found is not None:
            self._points[result] = found
        elif isinstance(result, Tensor) and result in self._points:
            del self._points[result]  # worked on in place: others' values are in it now
        return result

    def _follow(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Any, read: Any, result: Tensor
    ) -> _Point | None:
        """The result as a point of some layers' ways, if it is one; linked to those before it."""
        if func in _LAYERS:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            name = self._layer_of_weight.get(id(weight))
            if name is None:
                return None
            dim = result.ndim - 1 if func is functional.linear else 1
            point = self._beginnings[name] = _Point(result, dim, keep_values=self._keep_values)
            return point
        if not read or not (func in self._through or func in _CONCATENATIONS):
            return None
        parts = (
            [args[0] if args else kwargs["input"]] if func in self._through else list(_tensors(args, kwargs))
        )
        dim = read[0][1].dim
        if func in _CONCATENATIONS:
            along = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            if any(point.dim != along % result.ndim for _, point in read):
                return None
        point, start = _Point(result, dim, keep_values=self._keep_values), 0
        for part in parts:
            if part in self._points:
                self._points[part].follower = point, start
            start += part.shape[dim]
        return point

    def found(self) -> dict[str, LayerOutput]:
        """Each layer's output by the layer's name, in the order of the forward pass; to be called after it."""
        return {name: _walk(beginning) for name, beginning in self._beginnings.items()}


def _walk(beginning: _Point) -> LayerOutput:
    point, start = beginning, 0
    while point.n_readers == 1 and point.follower is not None:
        point, offset = point.follower
        start += offset
    whole = None if point.values is None else point.values.detach()
    n_channels = beginning.shape[beginning.dim]
    return LayerOutput(point.dim, start, n_channels, point.edge, point.shape, whole)


@contextmanager
def signals_to(receive: Callable[[str, Tensor], None], outputs: Mapping[str, LayerOutput]) -> Iterator[None]:
    """Within it a backward pass calls `receive(name, signal)` as it reaches each layer's output.

    A signal (n, channels, ...) is the gradient with respect to that output, all readers' summed; it lives no
    longer than the call, so that memory does not hold all layers' at once.
    """

    def hook(name: str, output: LayerOutput, number: int, signals: tuple[Tensor, ...]) -> None:
        if signals[number] is not None:
            receive(name, output.part_of(signals[number]))

    handles = [
        output.edge.node.register_prehook(partial(hook, name, output, output.edge.output_nr))
        for name, output in outputs.items()
        if output.edge is not None
    ]
    try:
        yield
    finally:
        # A node that kept its hook would be kept by it in turn, and with them every batch's outputs.
        for handle in handles:
            handle.remove()


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among the arguments of a call, or its results, those in lists included."""
    values = [*args, *kwargs.values()]
    flat = [each for value in values for each in (value if isinstance(value, list | tuple) else [value])]
    return [value for value in flat if isinstance(value, Tensor)]


def _overwrites(func: Callable[..., Any]) -> bool:
    """Whether a function works in place on its first argument, by torch's naming: `add_`, `__iadd__`."""
    name = func.__name__
    return (name.endswith("_") and not name.endswith("__")) or name.startswith("__i") or name == "__setitem__"
