"""Who runs the jobs: this process, several on this machine (loky, as joblib has it), or a Dask cluster's workers.

joblib's `Parallel` takes independent calls, in waves; jobs here wait for others of their stage, and start as soon as
those are done. So the executors under joblib's backends are used directly: both have `submit` of `concurrent.futures`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.params.machine import Runtime


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
    elif min(at_a_time, pending) <= 1:
        yield Inline(), 1
    else:
        from joblib.externals.loky import ProcessPoolExecutor

        with warnings.catch_warnings():
            # loky renews a process whose memory has grown, which it reports as if it were a fault.
            warnings.filterwarnings("ignore", "A worker stopped while some jobs were given to the executor")
            executor = ProcessPoolExecutor(max_workers=min(at_a_time, pending))
            try:
                yield executor, min(at_a_time, pending)
            finally:
                executor.shutdown(wait=True, kill_workers=True)


@contextmanager
def _dask(address: str) -> Iterator[tuple[Executor, int]]:
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            "params.yaml: runtime.backend: dask needs the package distributed, which is not installed"
        ) from None
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
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
        yield client.get_executor(pure=False, retries=0), len(threads)
