"""A process that has the libraries loaded, and forks the processes of every stage's jobs, as long as `make repro` runs.

Importing torch takes longer than many a job, and without it each process of each stage does it anew. The warm process
loads libraries alone, none of the project's code, which may be edited meanwhile, and computes nothing, so that neither
threads nor a GPU are in use where it forks. There is none elsewhere than on Linux, where forking is less safe, nor for
`dvc repro` or a stage by itself.

A forked process runs the calls that come through its connection to the stage, and ends with that.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil

# Relative to the project's folder, as the system allows a hundred characters.
_ADDRESS = Path(".jobs/warm")
# How many threads the libraries of the warm process have, for the stages below `make repro`.
_VARIABLE = "GPP_WARM"
_LIBRARIES = (
    "torch",
    "torch._dynamo",
    "torch_pruning",
    "foolbox",
    "pandas",
    "scipy.stats",
    "sklearn.datasets",
    "altair",
    "matplotlib.backends.backend_agg",
    "jinja2",
)
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def load_libraries() -> None:
    """What two or more stages import, and what starts no thread."""
    # Torch-Pruning asks for timm, for a counter that nobody here uses; it takes two seconds to load.
    sys.modules["timm"] = None  # type: ignore[assignment]
    for name in _LIBRARIES:
        import_module(name)
    del sys.modules["timm"]


@contextmanager
def warm_process() -> Iterator[None]:
    """Inside the block there is a warm process for the stages that this process starts; it ends with this one."""
    if sys.platform != "linux":
        yield
        return
    os.environ[_VARIABLE] = os.environ["OMP_NUM_THREADS"]
    # Ctrl-C is for the stages, which end their processes: the warm one inherits that it does not hear it.
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with subprocess.Popen([sys.executable, "-m", "pipeline.jobs.warm", str(os.getpid())]) as process:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, heard)
            yield
        finally:
            process.kill()


def open_forked(n: int) -> Forked | None:
    """`n` processes that the warm one forks; None where there is none, or not with this number of threads."""
    if os.environ.get(_VARIABLE) != os.environ.get("OMP_NUM_THREADS"):
        return None
    try:
        return Forked(n)
    except (OSError, EOFError):
        return None


class Forked(ThreadPoolExecutor):
    """Runs each call in one of the warm process's children; one that is lost is an EOFError of its call.

    Raises:
        OSError: if there is no warm process.
        EOFError: if it has just gone.
    """

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self._free = SimpleQueue[Connection]()
        connections = [_connect() for _ in range(n)]
        self._processes = [psutil.Process(connection.recv()) for connection in connections]
        for connection in connections:
            self._free.put(connection)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The call's future."""
        return super().submit(self._call, fn, args, kwargs)

    def _call(self, *call: Any) -> Any:
        connection = self._free.get()
        try:
            connection.send(call)
            return connection.recv()
        finally:
            self._free.put(connection)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, and those that they have started, and wait until they are gone."""
        family = list(self._processes)
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                family += process.children(recursive=True)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family)
        super().shutdown(wait, cancel_futures=cancel_futures)


def _connect() -> Connection:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(_ADDRESS))
        return Connection(client.detach())


def _run_calls(connection: Connection, server: socket.socket) -> None:
    """What a forked process does."""
    from pipeline.jobs.worker import log_to_stderr

    server.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log_to_stderr()
    stage = select.poll()
    stage.register(connection.fileno(), 0)  # 0: its end alone

    def end_with_stage() -> None:
        stage.poll()
        os._exit(1)

    threading.Thread(target=end_with_stage, daemon=True).start()
    connection.send(os.getpid())
    with suppress(EOFError, OSError):  # the stage has ended
        while True:
            fn, args, kwargs = connection.recv()
            connection.send(fn(*args, **kwargs))


def main(parent: int) -> None:
    """Load the libraries, then fork a process for each connection; ends with its parent, whatever kills that."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    _ADDRESS.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        mask = os.umask(0o077)  # nobody else may send calls
        server.bind(str(_ADDRESS))
        os.umask(mask)
        server.listen()
        load_libraries()
        gc.freeze()
        while True:
            connection = Connection(server.accept()[0].detach())
            multiprocessing.get_context("fork").Process(target=_run_calls, args=(connection, server)).start()
            connection.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
