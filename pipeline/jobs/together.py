"""A stage's jobs when several processes train one net together: one job after another, all processes in each."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist

from pipeline.distributed.collectives import n_processes, rank
from pipeline.distributed.launch import ProcessLost, is_connection_lost
from pipeline.errors import InputError
from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.run import JobKeys, Ran, call_of, surroundings
from pipeline.jobs.worker import run_job, work_on

if TYPE_CHECKING:
    from pipeline.jobs.store import Store
    from pipeline.jobs.worker import Call
    from pipeline.params.params import Params

log = logging.getLogger("pipeline")


def run_together(jobs: Sequence[Job], *, keys: JobKeys, store: Store, params: Params) -> Ran:
    """As `run_jobs`, in every process: rank 0 says which jobs are to be run and publishes what they make.

    If each process looked for itself, one could find a job that another has just finished, and leave it waiting in
    the job's first exchange.

    Raises:
        InputError: if a job fails, or the processes do not share the project's folder.
    """
    around, _ = surroundings(store, params.numerics, params.runtime)
    around = replace(around, gpus=0, elsewhere=True)  # each process has the GPU that it was started with
    result = Ran()
    for job in jobs:
        call = call_of(job, keys, result.done, around)
        if _lead(job, call) if rank() == 0 else _follow(call, store):
            result.ran.append(job)
        dist.barrier()
        done = store.find(call.key)
        if done is None:
            raise InputError(f"{store.root}: expected a folder that all {n_processes()} processes share")
        result.done[job] = done
    return result


def _lead(job: Job, call: Call) -> bool:
    """Run the job, with the others, unless it is finished; whether it ran."""
    ended = run_job(call, _work_together)
    if ended.failed:
        raise InputError(f"{job.name}: {ended.line}")
    if ended.ran:
        log.info("%s: %s (%.0f s)", job.name, ended.line, ended.seconds)
    else:
        dist.broadcast_object_list([False], src=0)
    return ended.ran


def _work_together(call: Call, folder: Path) -> str:
    dist.broadcast_object_list([True], src=0)
    try:
        return work_on(call, folder)
    except Exception as error:
        if is_connection_lost(error):
            raise ProcessLost from error
        raise


def _follow(call: Call, store: Store) -> bool:
    """Take part in the job if rank 0 runs it; whether it did."""
    said = [False]
    dist.broadcast_object_list(said, src=0)
    if said[0]:
        own = Path(".jobs/new") / f"rank{rank()}"
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        place = Workplace(own, store.root / "work" / call.key / "resume", call.around.workers)
        import_module(call.stage).work(place, **call.settings, **call.inputs)
        shutil.rmtree(own)
    return said[0]
