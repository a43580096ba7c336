"""FSDP: each of several processes keeps a share of every weight, of its gradient and of its momentum.

`trained_copy` gives what is trained in the model's place, `shard` shares it out, and at the end the whole weights come
back into the model, which pruning, tracing and attacks need whole. With one process, and with DDP, nothing happens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, nn

from pipeline.distributed.collectives import agree_on, n_processes
from pipeline.models.classifier import load_state

if TYPE_CHECKING:  # importing them takes a second, which a single process need not wait
    from torch.distributed.tensor import DTensor

    from pipeline.params.machine import Numerics

Module = TypeVar("Module", bound=nn.Module)

# A module with as many numbers of its own is gathered when it is its turn; smaller ones all at once.
_GATHERED_ALONE = 1_000_000


def is_sharded(numerics: Numerics) -> bool:
    """Whether weights are shared out in training."""
    return n_processes() > 1 and numerics.strategy == "fsdp"


@contextmanager
def trained_copy(module: Module, numerics: Numerics, device: torch.device) -> Iterator[Module]:
    """What to train in the module's place: the module itself, or with FSDP a copy, to be given to `shard`.

    The copy's weights come back into the module when the block has ended well. Until then the module waits in the
    host's memory.
    """
    if not is_sharded(numerics):
        yield module
        return
    try:
        # FSDP takes dense filters only; what reads them lays out images as it likes.
        trained = copy.deepcopy(module.cpu()).to(device).to(memory_format=torch.contiguous_format)
        agree_on(trained.state_dict().values())
        yield trained
        load_state(module, {name: whole(tensor) for name, tensor in trained.state_dict().items()})
    finally:
        module.to(device)


def shard(module: Module, device: torch.device) -> Module:
    """Share out every parameter below the module over all processes, in place.

    Each child can be called by itself afterwards, once the whole module has been.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (n_processes(),))
    for part in [*module.modules()][:0:-1]:  # from the leaves up, without the module itself
        if sum(each.numel() for each in part.parameters(recurse=False)) >= _GATHERED_ALONE:
            fully_shard(part, mesh=mesh)
    for child in module.children():
        fully_shard(child, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def whole(tensor: Tensor) -> Tensor:
    """The tensor that the processes hold shares of, in every one of them; any other tensor as it is."""
    return cast("DTensor", tensor).full_tensor() if _is_share(tensor) else tensor


def share_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """This process's share of a whole tensor, cut as the parameter is, on its device; whole where that is whole."""
    if not _is_share(parameter):
        return torch.empty_like(parameter).copy_(tensor).detach()
    from torch.distributed.tensor import distribute_tensor

    like = cast("DTensor", parameter)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def held_whole(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Those that are not shared out."""
    return (tensor for tensor in tensors if not _is_share(tensor))


def _is_share(tensor: Tensor) -> bool:
    if n_processes() == 1:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
