"""One job, run in whatever process it was sent to."""

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from pipeline.errors import InputError, line_of
from pipeline.imports import trust
from pipeline.jobs.code import code_digest, code_trees
from pipeline.jobs.context import context_of, devices, n_gpus, versions
from pipeline.jobs.job import Workplace
from pipeline.jobs.matching import check_same_images
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
        gpus: how many there are, 0 for the CPU; None where jobs run on other machines, which count their own.
        jobs_per_gpu: how many jobs share one.
        elsewhere: whether the processes may be on other machines and older than this run.
        factories: functions that params.yaml names, which stored models may therefore call.
    """

    root: Path
    store: Path
    workers: int
    threads: int
    gpus: int | None
    jobs_per_gpu: int
    elsewhere: bool
    factories: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """A job on its way to a process: plain values and sections.

    Attributes:
        stage: the module, for example `stages.train`.
        key: the job's key in the store.
        code: `code_digest` of the module when the key was made.
        context: `context_of` the settings when the key was made.
        labels: of the job.
        settings: keyword arguments of `work`.
        inputs: keyword arguments of `work`, all paths.
        around: where it runs.
    """

    stage: str
    key: str
    code: str
    context: Mapping[str, Any]
    labels: Mapping[str, int | str]
    settings: Mapping[str, Any]
    inputs: Mapping[str, Any]
    around: Surroundings


@dataclass(frozen=True)
class Ended:
    """How a job ended: its one line, or why it failed; text, as not every exception can be sent.

    `ran` is False where another process had finished it meanwhile.
    """

    line: str
    failed: bool
    seconds: float
    ran: bool = True


def run_job(call: Call, work: Callable[[Call, Path], str] | None = None) -> Ended:
    """Run a job and publish what it made; nothing where another process has published it meanwhile.

    Args:
        call: the job.
        work: what to do in the job's folder, if not `work_on` alone.
    """
    store = Store(call.around.store)
    facts = {"stage": call.stage.removeprefix("stages."), "labels": dict(call.labels), "key": call.key}
    began = time.perf_counter()
    try:
        _settle(call.around)
        with store.lock(call.key):
            done = store.find(call.key)
            if done is not None:
                return Ended(done.summary, failed=False, seconds=0.0, ran=False)
            folder, began = store.start(call.key), time.perf_counter()
            store.log("start", **facts, process=os.getpid())
            line = (work or work_on)(call, folder)
            seconds = time.perf_counter() - began
            about = {**facts, "seconds": round(seconds, 3), "versions": dict(versions())}
            store.publish(call.key, summary=line, about=about)
            store.log("end", **facts, seconds=round(seconds, 3))
    except Exception as error:
        why = line_of(error)
        if why is None:
            sys.stderr.write(traceback.format_exc())  # one write: other processes' lines stay outside
            why = f"{type(error).__name__}: {error}".splitlines()[0]
        with suppress(OSError):  # no space, for example
            store.log("failed", **facts)
        return Ended(why, failed=True, seconds=time.perf_counter() - began)
    return Ended(line, failed=False, seconds=seconds)


def work_on(call: Call, folder: Path) -> str:
    """The stage's own `work`, in the job's folder; the line that it ends with."""
    _check_process(call)
    check_same_images(call.inputs)
    with watched_by(_status_writer(folder / "status")), _own_gpu(call):
        place = Workplace(folder / "out", folder / "resume", call.around.workers)
        line = import_module(call.stage).work(place, **call.settings, **call.inputs)
    _check_code(call)
    return str(line)


# Files of code that this process may have imported, by path in the project, each with its tree as it then was.
_imported: dict[str, str] = {}


def _check_process(call: Call) -> None:
    """A Dask worker outlives an edit of the code, and its machine may have other libraries and devices."""
    _check_code(call)
    for file, tree in code_trees(call.stage).items():
        if _imported.setdefault(file, tree) != tree:
            raise InputError(f"its process has another {file} in memory; start the Dask workers again")
    if call.around.elsewhere and (here := context_of(call.settings)) != call.context:
        raise InputError(f"expected a worker with {dict(call.context)} (got one with {here})")


def _check_code(call: Call) -> None:
    """A process that started late may import code that is newer than the key."""
    if code_digest(call.stage) != call.code:
        raise InputError("its code changed while it ran; run it again")


def limit_threads(n: int) -> None:
    """Give numeric libraries that are loaded later `n` threads, in this process and those that it starts."""
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(n)))


def _settle(around: Surroundings) -> None:
    """Make a process one that runs jobs of this project; safe to do again for every job."""
    limit_threads(around.threads)
    trust(*around.factories)
    os.environ[PLACE_VARIABLE] = str(around.store)
    try:
        os.chdir(around.root)
    except OSError:
        raise InputError(
            f"{around.root}: expected the project's folder on the machine of every worker"
        ) from None


def log_to_stderr() -> None:
    """Our own lines and other people's warnings: exporters and plotters narrate."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pipeline").setLevel(logging.INFO)


def end_with(parent: int) -> None:
    """End this process as soon as `parent` is gone, whatever killed that."""
    log_to_stderr()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _status_writer(path: Path) -> Callable[[str], None]:
    last = 0.0

    def write(what: str) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= _STATUS_SECONDS:
            last = now
            path.write_text(what, encoding="utf-8")

    return write


@contextmanager
def _own_gpu(call: Call) -> Iterator[None]:
    """The first GPU with a free place, held while the job runs; locks are this machine's own."""
    gpus = call.around.gpus
    if gpus is None:
        gpus = n_gpus(devices(call.settings["numerics"])) if "numerics" in call.settings else 0
    if gpus == 0:
        yield
        return
    import fcntl

    while True:
        for place in range(gpus * call.around.jobs_per_gpu):
            shared, gpu = divmod(place, gpus)
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
