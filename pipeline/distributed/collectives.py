"""What several training processes exchange: each takes its share of a batch, and all see the whole batch's gradients.

With a single process every function here hands through what it gets. With FSDP (`sharding`) parameters are held in
shares, too.
"""

import warnings
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.errors import InputError

Module = TypeVar("Module", bound=nn.Module)


def rank() -> int:
    """This process's number; 0 writes."""
    return dist.get_rank() if n_processes() > 1 else 0


def n_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_share(batch: Tensor) -> Tensor:
    """This process's part of a batch of indices.

    All parts have the same length, so that the mean over processes is the mean over images; what is left over of a
    batch is dropped. So is a batch too small for two images each, which batch norm needs.
    """
    n = n_processes()
    if n == 1:
        return batch
    n_each = len(batch) // n
    return batch[: n_each * n if n_each > 1 else 0][rank() :: n]


def gather(values: Tensor) -> Tensor:
    """The rows of all processes, one below the other; gradients flow back to the process that a row came from.

    Every process adds its own gradient of the same loss, and their mean is taken over parameters afterwards: the
    result is the gradient of one process that sees all rows.
    """
    return values if n_processes() == 1 else _Gather.apply(values)


class _Gather(torch.autograd.Function):
    """all_gather along the rows, with the gradient that its deprecated namesake in torch.distributed.nn had."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.n_rows = len(values)
        parts = [torch.empty_like(values) for _ in range(n_processes())]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].contiguous()
        dist.all_reduce(summed)
        return summed[rank() * ctx.n_rows : (rank() + 1) * ctx.n_rows]


def average_gradients_of(
    module: Module, device: torch.device
) -> Module | nn.parallel.DistributedDataParallel:
    """The module itself, or behind torch's DistributedDataParallel."""
    if n_processes() == 1:
        return module
    # Channels-last 1x1 filters: "not an error, but may impair performance".
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    return nn.parallel.DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


def agree_on(tensors: Iterable[Tensor]) -> None:
    """Give every process rank 0's values, in place: batch norm has counted other images in each."""
    if n_processes() == 1:
        return
    for tensor in tensors:
        # DistributedDataParallel may have laid out a parameter anew: broadcast what is dense.
        dense = tensor.detach().contiguous()
        dist.broadcast(dense, src=0)
        tensor.detach().copy_(dense)


def mean_over_processes(values: dict[str, float]) -> dict[str, float]:
    """The mean of each value over the processes.

    Raises:
        InputError: if there are none, because no batch was large enough to be shared out.
    """
    if n_processes() == 1:
        return values
    if not values:
        raise InputError(
            f"no batch has two images for each of {n_processes()} processes: raise the batch size "
            "(lda.samples_per_class for balanced batches), or lower numerics.devices"
        )
    summed = torch.tensor(list(values.values()), dtype=torch.float64)
    if torch.cuda.is_available() and dist.get_backend() == "nccl":
        summed = summed.cuda()
    dist.all_reduce(summed)
    return dict(zip(values, (summed / n_processes()).tolist(), strict=True))
