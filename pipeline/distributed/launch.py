"""Starts the processes that train together, and ends them together.

Lightning Fabric starts them, or joins those that torchrun or SLURM started. Every process runs the whole stage: what is
not training comes out the same in each, and rank 0 writes. A single process imports none of this.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from pipeline.distributed.collectives import n_processes, rank
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
# The closed connection is noticed first; whoever started the lost process needs this long to say which one it was.
_GRACE_SECONDS = 2.0
# Within this time, processes that fail did so for the same reason.
_SAME_FAULT_SECONDS = 0.5
# What rank 0 gives the others to tidy up once it has ended itself.
_ENDING_SECONDS = 15.0
_GO_ON = "run it again, it goes on from the last finished epoch"


class ProcessLost(BaseException):
    """Another process is gone: no fault of the job, which is not noted as failed."""


def is_connection_lost(error: BaseException) -> bool:
    """Whether an exchange failed because the process at the other end is gone."""
    text = str(error)
    return isinstance(error, dist.DistError) or "Connection closed" in text or "Connection reset" in text


def connect(numerics: Numerics) -> int:
    """Start or join `devices` processes on each of `num_nodes` machines, nothing where that is one; the rank.

    From here on, a process that is lost ends the others within seconds, and a line says which one it was.

    Raises:
        InputError: if the machine, or whoever started the processes, has other numbers of them.
    """
    if numerics.devices * numerics.num_nodes == 1:
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
    on_gpu = torch.cuda.is_available() and numerics.device != "cpu"
    try:
        fabric = Fabric(
            accelerator="cuda" if on_gpu else "cpu",
            devices=numerics.devices,
            num_nodes=numerics.num_nodes,
            strategy="ddp",  # for the launch, which is the same one; pipeline.distributed.sharding does what is fsdp's
        )
        fabric.launch()
    except (MisconfigurationException, ValueError) as error:  # more devices than there are, or SLURM gives
        raise InputError(
            f"params.yaml: numerics.devices, numerics.num_nodes: {' '.join(str(error).split())}"
        ) from None
    sys.excepthook = _explain
    if rank() > 0:
        for handler in logging.getLogger().handlers:
            handler.setFormatter(logging.Formatter(f"process {rank()}: %(message)s"))
    children: list[subprocess.Popen[bytes]] = getattr(fabric.strategy.launcher, "procs", [])
    if children:
        # From here on the watch is ours: Fabric's, which would kill this process without a line, has none left.
        for watch in (each for each in threading.enumerate() if each.name == "child-process-observer"):
            vars(watch)["_child_processes"] = []
        ended = threading.Event()
        atexit.register(_wait_for, children, ended)
        threading.Thread(target=_end_with, args=(children, ended), daemon=True).start()
    return rank()


def _end_with(children: list[subprocess.Popen[bytes]], ended: threading.Event) -> None:
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


def _wait_for(children: list[subprocess.Popen[bytes]], ended: threading.Event) -> None:
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
    if not (isinstance(error, ProcessLost) or is_connection_lost(error)):
        sys.__excepthook__(kind, error, traceback)
        return
    time.sleep(_GRACE_SECONDS)
    log.error("the connection to another process is lost, which ends this run: %s", _GO_ON)
