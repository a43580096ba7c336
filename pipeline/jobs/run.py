"""Runs a stage's jobs: those that the store does not have, each as soon as what it needs is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from pipeline.errors import InputError
from pipeline.imports import trusted
from pipeline.jobs.code import code_digest
from pipeline.jobs.contents import RUNS, content_of, hashes_of, left_by_stage
from pipeline.jobs.context import context_of, devices, n_gpus
from pipeline.jobs.display import Display
from pipeline.jobs.executors import count_jobs, open_executor
from pipeline.jobs.job import Job
from pipeline.jobs.worker import Call, Ended, Surroundings, run_job

if TYPE_CHECKING:
    from pipeline.jobs.store import Finished, Store
    from pipeline.params.machine import Numerics, Runtime


class JobKeys:
    """Keys of a stage's jobs: everything that a result depends on, and nothing else.

    Args:
        stage: the module, for example `stages.train`.
        stored: False where the stage's job reads what no key can see: its key says nothing of what lies on
            disk, but names the project's folder, as copies of it may share a store.
        reads: endings of the names of the files that a stage reads which takes all of `runs/<name>`.
    """

    def __init__(self, stage: str, *, stored: bool = True, reads: tuple[str, ...] = ("",)) -> None:
        self.stage, self.code, self.stored, self._reads = stage, code_digest(stage), stored, reads
        self._contents: dict[Path, str] = {}

    def key(self, job: Job, done: Mapping[Job, Finished]) -> str:
        """The job's key, once all that it needs is done.

        Raises:
            InputError: if an earlier stage's output is missing, or is not what that stage left.
        """
        contents = {name: self._content(found, done) for name, found in job.inputs.items()}
        parts = {
            "stage": self.stage,
            "code": self.code,
            "settings": {name: _plain(value) for name, value in job.settings.items()},
            "inputs": contents,
            **context_of(job.settings),
        }
        if not self.stored:
            parts["folder"] = str(Path.cwd())
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def _content(self, found: Any, done: Mapping[Job, Finished]) -> Any:
        if isinstance(found, Job):
            return done[found].content
        if isinstance(found, Mapping):
            return {name: self._content(path, done) for name, path in found.items()}
        if found not in self._contents:
            try:
                self._contents[found] = self._on_disk(found)
            except FileNotFoundError:
                raise InputError(f"{found}: expected an earlier stage's output; run `dvc repro`") from None
        return self._contents[found]

    def _on_disk(self, found: Path) -> str:
        if found.is_relative_to(RUNS) and len(found.parts) > 2:
            return content_of(left_by_stage(found))
        if self.stored:
            return content_of(hashes_of(found))
        if found.is_relative_to(RUNS):
            for stage in sorted(path for path in found.iterdir() if path.is_dir()):
                left_by_stage(stage, self._reads)
        return str(found.resolve(strict=True))


@dataclass
class Ran:
    """What became of a stage's jobs: the finished ones, why others failed, and which of them had to run."""

    done: dict[Job, Finished] = field(default_factory=dict)
    failed: dict[Job, str] = field(default_factory=dict)
    ran: list[Job] = field(default_factory=list)


def run_jobs(
    jobs: Sequence[Job], *, keys: JobKeys, store: Store, numerics: Numerics, runtime: Runtime
) -> Ran:
    """Run what the store does not have; after the first failure nothing new is started.

    Args:
        jobs: a job comes after those that it needs.
        keys: of these jobs.
        store: where finished jobs are.
        numerics: the section of the params.
        runtime: the section of the params.

    Raises:
        InputError: if an input is missing, or a process is lost.
    """
    around, at_a_time = surroundings(store, numerics, runtime)
    result, waiting = Ran(), list(jobs)
    running: dict[Future[Ended], tuple[Job, str]] = {}

    def now() -> dict[str, str]:
        return {job.name: store.status(key) for job, key in list(running.values())}

    with Display(keys.stage.removeprefix("stages."), len(jobs), now) as display:
        waiting = _take_stored(waiting, result, keys, store, display)
        if not waiting:
            return result
        with open_executor(runtime, at_a_time=at_a_time, pending=len(waiting)) as (executor, n):
            while True:
                waiting = _take_stored(waiting, result, keys, store, display)
                ready = [job for job in waiting if all(needed in result.done for needed in job.needs)]
                for job in ready[: 0 if result.failed else n - len(running)]:
                    waiting.remove(job)
                    call = call_of(job, keys, result.done, around)
                    shown: Future[Ended] = Future()
                    running[shown] = (job, call.key)  # while a call in this process runs
                    future = executor.submit(run_job, call)
                    running[future] = running.pop(shown)
                if not running:
                    return result
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    ended = _result_of(future, running)
                    _collect(ended, *running.pop(future), result, store, display)


def surroundings(store: Store, numerics: Numerics, runtime: Runtime) -> tuple[Surroundings, int]:
    """Where jobs run, and how many at a time on this machine."""
    gpus = n_gpus(devices(numerics))
    at_a_time, elsewhere = count_jobs(runtime, threads=numerics.threads, gpus=gpus), runtime.backend == "dask"
    return Surroundings(
        root=Path.cwd(),
        store=store.root,
        workers=runtime.workers,
        threads=numerics.threads,
        gpus=None if elsewhere else gpus,
        jobs_per_gpu=1 if elsewhere or not gpus else -(-at_a_time // gpus),
        elsewhere=elsewhere,
        factories=trusted(),
    ), at_a_time


def call_of(job: Job, keys: JobKeys, done: Mapping[Job, Finished], around: Surroundings) -> Call:
    """The job on its way to a process, once all that it needs is done."""
    return Call(
        stage=keys.stage,
        key=keys.key(job, done),
        code=keys.code,
        context=context_of(job.settings),
        labels=job.labels,
        settings=job.settings,
        inputs={
            name: done[found].folder if isinstance(found, Job) else found
            for name, found in job.inputs.items()
        },
        around=around,
    )


def _result_of(future: Future[Ended], running: Mapping[Future[Ended], tuple[Job, str]]) -> Ended:
    try:
        return future.result()
    except Exception as error:  # whatever an executor makes of a process that is gone
        names = "; ".join(job.name for job, _ in running.values())
        raise InputError(
            f"a process was lost ({type(error).__name__}: killed, or out of memory) while these ran: {names}. "
            "Finished jobs are kept; run it again, these go on from their last epoch"
        ) from None


def _take_stored(
    waiting: Iterable[Job], result: Ran, keys: JobKeys, store: Store, display: Display
) -> list[Job]:
    """The jobs that are still to be run, or that wait for one which is."""
    left = []
    for job in waiting:
        done = None
        if all(needed in result.done for needed in job.needs):
            done = store.find(keys.key(job, result.done))
        if done is None:
            left.append(job)
        else:
            result.done[job] = done
            display.stored()
    return left


def _collect(ended: Ended, job: Job, key: str, result: Ran, store: Store, display: Display) -> None:
    if ended.failed:
        result.failed[job] = ended.line
        display.failed(job.name, ended.line)
        return
    finished = store.find(key)
    if finished is None:
        raise InputError(
            f"{store.root}: expected the job that has just ended ({job.name}); is the folder shared?"
        )
    result.done[job] = finished
    if not ended.ran:
        display.stored()
        return
    result.ran.append(job)
    display.ended(job.name, ended.line, ended.seconds)


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
