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
from pipeline.errors import InputError
from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.run import JobKeys, Ran, call_of, surroundings
from pipeline.jobs.worker import run_job

if TYPE_CHECKING:
    from pipeline.jobs.store import Store
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
        said: list[bool] = [store.find(call.key) is None]
        dist.broadcast_object_list(said, src=0)
        if said[0]:
            if rank() == 0:
                ended = run_job(call)
                if ended.failed:
                    raise InputError(f"{job.name}: {ended.line}")
                log.info("%s: %s (%.0f s)", job.name, ended.line, ended.seconds)
            else:
                own = Path(".jobs/new") / f"rank{rank()}"
                shutil.rmtree(own, ignore_errors=True)
                own.mkdir(parents=True)
                place = Workplace(own, store.root / "work" / call.key / "resume", around.workers)
                import_module(call.stage).work(place, **call.settings, **call.inputs)
            result.ran.append(job)
            dist.barrier()
        done = store.find(call.key)
        if done is None:
            raise InputError(f"{store.root}: expected a folder that all {n_processes()} processes share")
        result.done[job] = done
    return result
