"""Who runs the jobs: this process, several on this machine, or a Dask cluster's workers.

Processes on this machine are loky's, as joblib has it, or below `make repro` the warm process's children.

joblib's `Parallel` takes independent calls, in waves; jobs here wait for others of their stage, and start as soon as
those are done. So the executors under joblib's backends are used directly: both have `submit` of `concurrent.futures`.

On a cluster whose machines share the project's folder, under one path, and have the same environment:

    dask scheduler                                              on one of them; it says its address
    dask worker tcp://HOST:8786 --nworkers 8 --nthreads 1       on each, wherever it is started
    runtime: {backend: dask, address: tcp://HOST:8786, ...}     in params.yaml

The workers are told where the project is. They may stay for many runs; after an edit of the code they refuse jobs
until they are started again, as they have the code from before in memory. Where a run is interrupted, they still end
the jobs that they have begun, which the next run finds.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.jobs.warm import open_forked
from pipeline.jobs.worker import end_with

if TYPE_CHECKING:
    from pipeline.params.machine import Runtime


_CONNECT_SECONDS = 10.0


class Inline(Executor):
    """Runs a call where it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The call's future, already done; only what is no `Exception` passes through."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def count_jobs(runtime: Runtime, *, threads: int, gpus: int) -> int:
    """How many jobs run at a time on this machine."""
    if runtime.jobs != "auto":
        return runtime.jobs
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return gpus or max(1, cores // threads)


@contextmanager
def open_executor(runtime: Runtime, *, at_a_time: int, pending: int) -> Iterator[tuple[Executor, int]]:
    """An executor and how many calls it runs at a time; none of its processes is left when the block is over.

    Raises:
        InputError: if Dask is not installed, its scheduler does not answer, or its workers have several threads.
    """
    if runtime.backend == "dask":
        with _dask(str(runtime.address)) as (executor, n):
            yield executor, n
        return
    n = min(at_a_time, pending)
    if (forked := open_forked(n)) is not None:
        with _ended(forked):
            yield forked, n
    elif n <= 1:
        yield Inline(), 1
    else:
        with _loky(n) as executor:
            yield executor, n


@contextmanager
def _loky(n: int) -> Iterator[Executor]:
    from joblib.externals.loky import ProcessPoolExecutor

    _start_trackers()
    with warnings.catch_warnings():
        # loky renews a process whose memory has grown, which it reports as if it were a fault.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs were given to the executor")
        executor = ProcessPoolExecutor(max_workers=n, initializer=end_with, initargs=(os.getpid(),))
        with _ended(executor, kill_workers=True):
            # Ctrl-C reaches the processes, too. They inherit that they do not hear it; this one ends them.
            with _deaf():
                executor.submit(os.getpid)  # a first call starts them
            yield executor


@contextmanager
def _ended(executor: Executor, **how: bool) -> Iterator[None]:
    """Shuts it down after the block; a second Ctrl-C waits until its processes are gone."""
    try:
        yield
    finally:
        with _deaf():
            executor.shutdown(wait=True, **how)


@contextmanager
def _deaf() -> Iterator[None]:
    """Inside the block Ctrl-C is not heard, but after it."""
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)


def _start_trackers() -> None:
    """Start the two processes that clear up after killed ones, before signals are blocked: that unblocks them.

    They report what they have cleared up as if it were a fault.
    """
    from multiprocessing import resource_tracker

    from joblib.externals.loky.backend import resource_tracker as own_tracker

    before = os.environ.get("PYTHONWARNINGS", "")
    os.environ["PYTHONWARNINGS"] = "ignore"
    resource_tracker.ensure_running()
    own_tracker.ensure_running()
    os.environ["PYTHONWARNINGS"] = before


@contextmanager
def _dask(address: str) -> Iterator[tuple[Executor, int]]:
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            "params.yaml: runtime.backend: dask needs the package distributed, which is not installed"
        ) from None
    if not re.fullmatch(r"((tcp|tls|ucx|wss?)://)?[^\s/]+:\d+", address):
        raise InputError(
            f"params.yaml: runtime.address: expected one such as tcp://HOST:8786 (got {address})"
        )
    for name in ("distributed", "distributed.client"):  # a lost scheduler is told in one line, by us
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"params.yaml: runtime.address: expected a Dask scheduler at {address} ({reason})"
        ) from None
    with client:
        threads = client.nthreads()
        if not threads:
            raise InputError(f"params.yaml: runtime.address: expected workers at {address}, got none")
        # Seeds and threads of torch are a process's: two jobs in one would change each other's numbers.
        if any(n != 1 for n in threads.values()):
            raise InputError(
                f"params.yaml: runtime.address: expected workers of one thread each (dask worker --nthreads 1), "
                f"got {', '.join(str(n) for n in sorted(set(threads.values())))}"
            )
        yield _Packed(client.get_executor(pure=False, retries=0), Path.cwd()), len(threads)


class _Packed(Executor):
    """Sends calls as bytes: neither a scheduler nor a worker can import the project before it is told where that is."""

    def __init__(self, executor: Executor, root: Path) -> None:
        self._executor, self._root = executor, str(root)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The call's future."""
        from distributed.protocol.pickle import dumps

        root = self._root

        def unpacked(call: bytes) -> Any:  # inside another function, and so sent whole, not by its name
            import sys

            from distributed.protocol.pickle import loads

            if root not in sys.path:
                sys.path.insert(0, root)
            return loads(call)()

        return self._executor.submit(unpacked, dumps(partial(fn, *args, **kwargs)))
