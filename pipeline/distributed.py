"""Several training processes: each takes its share of a batch, gradients and scatter matrices are the whole batch's.

Lightning Fabric starts the processes, or joins those that torchrun or SLURM started. Every process runs the whole
stage: what is not training comes out the same in each, and rank 0 writes. A single process needs none of this, and
imports none of it.
"""

import atexit
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.params import Params

log = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)

_POLL_SECONDS = 0.2
# The closed connection is noticed first; whoever started the lost process needs this long to say which one it was.
_GRACE_SECONDS = 2.0
# Within this time, processes that fail did so for the same reason.
_SAME_FAULT_SECONDS = 0.5
# What rank 0 gives the others to tidy up once it has ended itself.
_ENDING_SECONDS = 15.0
_GO_ON = "run it again, it goes on from the last finished epoch"


def connect(params: Params) -> int:
    """Start or join `devices` processes on each of `num_nodes` machines, nothing where that is one; the rank.

    From here on, a process that is lost ends the others within seconds, and a line says which one it was.

    Raises:
        InputError: if the machine, or whoever started the processes, has other numbers of them.
    """
    runtime = params.runtime
    if runtime.devices * runtime.num_nodes == 1:
        return 0
    started_from = os.getppid()
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:
        threading.Thread(target=_end_after, args=(started_from,), daemon=True).start()
    from lightning_fabric import Fabric  # 5 seconds, which a single process need not wait
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    # Fabric's own watch: it says what it does while processes are still starting, when ours has not begun.
    launcher_log = logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script")
    launcher_log.setLevel(logging.INFO)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    on_gpu = torch.cuda.is_available() and runtime.device != "cpu"
    try:
        fabric = Fabric(
            accelerator="cuda" if on_gpu else "cpu",
            devices=runtime.devices,
            num_nodes=runtime.num_nodes,
            strategy="ddp",
        )
        fabric.launch()
    except (
        MisconfigurationException,
        ValueError,
    ) as error:  # more devices than there are, or than SLURM gives
        raise InputError(
            f"params.yaml: runtime.devices, runtime.num_nodes: {' '.join(str(error).split())}"
        ) from None
    sys.excepthook = _explain
    if rank() > 0:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(logging.Formatter(f"process {rank()}: %(message)s"))
    children: list[subprocess.Popen[bytes]] = getattr(fabric.strategy.launcher, "procs", [])
    if children:
        ended = threading.Event()
        atexit.register(_wait_for, children, ended)
        threading.Thread(target=_end_with, args=(children, ended), daemon=True).start()
    return rank()


def _end_with(children: "list[subprocess.Popen[bytes]]", ended: threading.Event) -> None:
    """End this process with one line as soon as one that it started has failed."""
    first = rank() + 1
    while not ended.wait(_POLL_SECONDS):
        for number, child in enumerate(children, start=first):
            code = child.poll()
            if not code:
                continue
            if code > 0 and ended.wait(_SAME_FAULT_SECONDS):
                return  # it said why itself, and so does this process
            how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"failed (exit code {code})"
            log.error("process %d of %d %s, which ends this run: %s", number, n_processes(), how, _GO_ON)
            for each in children:
                each.kill()
            logging.shutdown()
            os._exit(1)


def _end_after(parent: int) -> None:
    """End this process as soon as the one that started it is gone, wherever it is: in a collective it would wait."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    log.error("the process that started this one is gone, which ends this run: %s", _GO_ON)
    logging.shutdown()
    os._exit(1)


def _wait_for(children: "list[subprocess.Popen[bytes]]", ended: threading.Event) -> None:
    """Let the others tidy up at the end of the process that started them, however it ends."""
    ended.set()
    if dist.is_initialized():
        dist.destroy_process_group()  # those that still wait for this one learn of it
    deadline = time.monotonic() + _ENDING_SECONDS
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()


def _explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """One line for a lost connection, which is no fault of this process; a traceback for everything else."""
    text = str(error)
    lost = isinstance(error, dist.DistError) or "Connection closed" in text or "Connection reset" in text
    if not lost:
        sys.__excepthook__(kind, error, traceback)
        return
    time.sleep(_GRACE_SECONDS)
    log.error("the connection to another process is lost, which ends this run: %s", _GO_ON)


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


def agree_on(module: nn.Module) -> None:
    """Give every process rank 0's parameters and buffers: batch norm has counted other images in each."""
    if n_processes() == 1:
        return
    for tensor in module.state_dict().values():
        # DistributedDataParallel may have laid out a parameter anew: broadcast what is dense.
        dense = tensor.detach().contiguous()
        dist.broadcast(dense, src=0)
        tensor.copy_(dense)


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
            "(lda.samples_per_class for balanced batches), or lower runtime.devices"
        )
    summed = torch.tensor(list(values.values()), dtype=torch.float64)
    if torch.cuda.is_available() and dist.get_backend() == "nccl":
        summed = summed.cuda()
    dist.all_reduce(summed)
    return dict(zip(values, (summed / n_processes()).tolist(), strict=True))
