"""One job, run in whatever process it was sent to."""

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from pipeline.errors import InputError
from pipeline.jobs.code import code_digest
from pipeline.jobs.context import versions
from pipeline.jobs.job import Workplace
from pipeline.jobs.store import PLACE_VARIABLE, Store
from pipeline.progress import watched_by

# Libraries read these when they are loaded: more threads would change the last bits of sums, and wait for each other.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# The GPU of this process's job, which `pipeline.machine.device` reads.
GPU_VARIABLE = "GPP_GPU"
_POLL_SECONDS = 0.2
# How often a job's words about its progress are written down.
_STATUS_SECONDS = 0.5


@dataclass(frozen=True)
class Surroundings:
    """Where a stage's jobs run; no result depends on it.

    Attributes:
        root: the project's folder.
        store: the store's folder.
        workers: processes that may read image files ahead.
        threads: of numeric libraries.
        gpus: how many there are, 0 for the CPU.
        jobs_per_gpu: how many jobs share one.
        parent: the process that the jobs' processes end with; None where somebody else minds them.
    """

    root: Path
    store: Path
    workers: int
    threads: int
    gpus: int
    jobs_per_gpu: int
    parent: int | None


@dataclass(frozen=True)
class Call:
    """A job on its way to a process: plain values and sections.

    Attributes:
        stage: the module, for example `stages.train`.
        key: the job's key in the store.
        code: `code_digest` of the module when the key was made.
        labels: of the job.
        settings: keyword arguments of `work`.
        inputs: keyword arguments of `work`, all paths.
        around: where it runs.
    """

    stage: str
    key: str
    code: str
    labels: Mapping[str, int | str]
    settings: Mapping[str, Any]
    inputs: Mapping[str, Any]
    around: Surroundings


@dataclass(frozen=True)
class Ended:
    """How a job ended: its one line, or why it failed; text, as not every exception can be sent."""

    line: str
    failed: bool
    seconds: float


def run_job(call: Call) -> Ended:
    """Run a job and publish what it made; nothing where another process has published it meanwhile."""
    _settle(call.around)
    store = Store(call.around.store)
    facts = {"stage": call.stage.removeprefix("stages."), "labels": dict(call.labels), "key": call.key}
    with store.lock(call.key):
        done = store.find(call.key)
        if done is not None:
            return Ended(done.summary, failed=False, seconds=0.0)
        folder = store.start(call.key)
        store.log("start", **facts, process=os.getpid())
        began = time.perf_counter()
        try:
            line = _work(call, folder)
        except InputError as error:
            store.log("failed", **facts)
            return Ended(str(error), failed=True, seconds=time.perf_counter() - began)
        except Exception as error:
            store.log("failed", **facts)
            traceback.print_exc()
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            return Ended(why, failed=True, seconds=time.perf_counter() - began)
        seconds = time.perf_counter() - began
        about = {**facts, "seconds": round(seconds, 3), "versions": dict(versions())}
        store.publish(call.key, summary=line, about=about)
        store.log("end", **facts, seconds=round(seconds, 3))
    return Ended(line, failed=False, seconds=seconds)


def _work(call: Call, folder: Path) -> str:
    around = call.around
    place = Workplace(folder / "out", folder / "resume", around.workers)
    with watched_by(_status_writer(folder / "status")), _own_gpu(around):
        line = import_module(call.stage).work(place, **call.settings, **call.inputs)
    # A process that started late may have imported code that is newer than the key.
    if code_digest(call.stage) != call.code:
        raise InputError("its code changed while it ran; run it again")
    return str(line)


def limit_threads(n: int) -> None:
    """Give numeric libraries that are loaded later `n` threads, in this process and those that it starts."""
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(n)))


def _settle(around: Surroundings) -> None:
    """Make a process one that runs jobs of this project; safe to do again for every job."""
    limit_threads(around.threads)
    os.environ[PLACE_VARIABLE] = str(around.store)
    os.chdir(around.root)
    if around.parent is None or around.parent == os.getpid():
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, too, and ends this process
    _follow(around.parent)


_followed: set[int] = set()


def _follow(parent: int) -> None:
    """End this process as soon as `parent` is gone, whatever killed that."""
    if parent in _followed:
        return
    _followed.add(parent)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pipeline").setLevel(logging.INFO)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _status_writer(path: Path) -> Any:
    last = 0.0

    def write(what: str) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _STATUS_SECONDS:
            last = now
            path.write_text(what, encoding="utf-8")

    return write


@contextmanager
def _own_gpu(around: Surroundings) -> Iterator[None]:
    """The first GPU with a free place, held while the job runs; locks are this machine's own."""
    if around.gpus == 0:
        yield
        return
    import fcntl

    while True:
        for place in range(around.gpus * around.jobs_per_gpu):
            shared, gpu = divmod(place, around.gpus)
            with (Path(gettempdir()) / f"gpp-{os.getuid()}-gpu{gpu}-{shared}").open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                os.environ[GPU_VARIABLE] = str(gpu)
                try:
                    yield
                finally:
                    del os.environ[GPU_VARIABLE]
                return
        time.sleep(_POLL_SECONDS)
