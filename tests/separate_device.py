"""A device that is not the CPU, without a GPU: tensors that say so, and operations that hold them to it.

Tensors on it (of the device type that torch calls `meta`) carry their numbers in a tensor on the CPU. As on a GPU, an
operation on tensors of both devices is refused, and so is a look into their memory (`.numpy()`); as on Apple's GPUs,
so is float64 where `forbid_float64` is set.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import pipeline.machine.device
import pipeline.machine.float64
from pipeline.params.machine import Numerics

DEVICE = torch.device("meta")
# As on a GPU: what indexes may lie on the CPU, and a copy takes numbers from one device to the other.
_TAKES_BOTH = ("aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_", "aten::copy_")


class Held(torch.Tensor):
    """A tensor on the device."""

    __module__ = "torch"  # what eagerpy knows tensors by
    numbers: Tensor

    @staticmethod
    def __new__(cls: type[Held], numbers: Tensor) -> Held:
        held = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, numbers.size(), strides=numbers.stride(), dtype=numbers.dtype, device=DEVICE
        )
        held.numbers = numbers
        return held  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> Held:
        copied = Held(self.numbers.clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    @property  # type: ignore[override]
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: Held) -> None:
        torch.Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.numbers = other.numbers

    def __getitem__(self, at: Any) -> Tensor:
        # torch itself would make an index of a list without asking here, and without numbers.
        if isinstance(at, list):
            at = torch.tensor(at) if at else torch.zeros(0, dtype=torch.long)
        return super().__getitem__(at)

    def tolist(self) -> Any:
        return self.cpu().tolist()  # as everywhere; torch's own refuses subclasses

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _compute(function, args, kwargs or {})  # outside of the block; inside it, the block asks


class SeparateDevice(TorchDispatchMode):
    """Inside the block, tensors can be made on the device and moved there and back."""

    def __init__(self, *, forbid_float64: bool) -> None:
        super().__init__()
        self._forbid_float64 = forbid_float64

    def __torch_dispatch__(
        self, function: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _compute(function, args, kwargs or {}, forbid_float64=self._forbid_float64)


def _compute(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    forbid_float64: bool = False,
) -> Any:
    """The operation on the numbers, its result on the device that it belongs to."""
    given = [each for each in tree_flatten((args, dict(kwargs)))[0] if isinstance(each, Tensor)]
    held = [each for each in given if isinstance(each, Held)]
    elsewhere = [each for each in given if not isinstance(each, Held) and each.ndim > 0]
    name = function._schema.name  # type: ignore[attr-defined]
    full_name = f"{name}.{function._overloadname}"  # type: ignore[attr-defined]
    if held and elsewhere and not full_name.startswith(_TAKES_BOTH):
        raise RuntimeError(f"{full_name}: expected all tensors to be on the same device")
    if any(each.is_meta and not isinstance(each, Held) for each in given):
        raise NotImplementedError(
            f"{full_name}: a tensor on the device that was not made here has no numbers"
        )
    wanted = kwargs.get("device")
    to = torch.device(wanted) if wanted is not None else None
    on_device = bool(held) if to is None else to.type == DEVICE.type
    if name == "aten::copy_":
        on_device = isinstance(args[0], Held)
    own_kwargs = {**kwargs, "device": torch.device("cpu")} if to is not None else dict(kwargs)
    found = function(*tree_map(_numbers_of, tuple(args)), **tree_map(_numbers_of, own_kwargs))
    if name.endswith("_") and isinstance(found, Tensor):
        return args[0]
    known = {id(each.numbers): each for each in held}

    def back(each: Any) -> Any:
        if not isinstance(each, Tensor) or not on_device:
            return each
        if forbid_float64 and each.dtype == torch.float64:
            raise TypeError(f"{full_name}: this device has no float64")
        return known[id(each)] if id(each) in known else Held(each)

    return tree_map(back, found)


def _numbers_of(each: Any) -> Any:
    return each.numbers if isinstance(each, Held) else each


@contextlib.contextmanager
def stages_on_device(*, forbid_float64: bool) -> Iterator[None]:
    """Inside the block, what a stage's `work` computes in this process lies on the device."""
    configure = pipeline.machine.device.configure_torch

    def configured(numerics: Numerics) -> torch.device:
        configure(numerics)
        return DEVICE

    without = frozenset({DEVICE.type}) if forbid_float64 else frozenset()
    with (
        mock.patch("pipeline.machine.device.configure_torch", configured),
        mock.patch("pipeline.machine.float64._WITHOUT_FLOAT64", without),
        # The real one does not know this device.
        mock.patch("torch.autocast", return_value=contextlib.nullcontext()),
        warnings.catch_warnings(),
        SeparateDevice(forbid_float64=forbid_float64),
    ):
        # It is none here: these tensors hold numbers.
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
        yield
