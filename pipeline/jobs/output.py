"""A stage from its jobs to its output: listing them, running them, and putting together what they made."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError
from pipeline.files import read_csv, umask, write_csv, write_json
from pipeline.imports import trust
from pipeline.jobs.code import code_digest
from pipeline.jobs.contents import RUNS, files_below, hash_of, write_sums
from pipeline.jobs.flags import chosen_jobs
from pipeline.jobs.run import JobKeys, Ran, run_jobs
from pipeline.jobs.store import Store
from pipeline.jobs.worker import limit_threads
from pipeline.params.file import read_params
from pipeline.params.nets.sections import PythonModel

if TYPE_CHECKING:
    from pipeline.jobs.flags import Flags
    from pipeline.jobs.job import Job
    from pipeline.params.params import Params

METRICS = Path("metrics")
# Outputs are put together here and renamed; never below `runs/`, which stages read.
_NEW = Path(".jobs/new")

log = logging.getLogger("pipeline")


def run_and_collect(name: str, flags: Flags, *, started: float) -> None:
    """Run the jobs of a stage that have to be run, and put its output together.

    Raises:
        FlagError: if a flag names no job.
        InputError: for what else a user can put right.
    """
    params = read_params()
    module = import_module(name)
    trust(*(net.factory for net in params.nets.values() if isinstance(net, PythonModel)))
    limit_threads(params.numerics.threads)
    jobs = chosen_jobs(list_jobs(module, params), flags.only)
    if flags.listing:
        _list(jobs, module)
    else:
        _run(module, jobs, params, only=bool(flags.only), started=started)


def list_jobs(module: ModuleType, params: Params) -> list[Job]:
    """The jobs of a stage under these params; one comes after those that it needs."""
    return [*module.jobs(RUNS / params.name, **sections_of(module, params))]


def sections_of(module: ModuleType, params: Params) -> dict[str, Any]:
    """The sections that a stage's `jobs` takes; `params` stands for all of them."""
    names = list(inspect.signature(module.jobs).parameters)[1:]
    return {name: params if name == "params" else getattr(params, name) for name in names}


def _run(module: ModuleType, jobs: list[Job], params: Params, *, only: bool, started: float) -> None:
    store, keys = Store(), _keys(module)
    if not keys.stored:
        store.remove(keys.key(jobs[0], {}))
    stage = module.__name__.removeprefix("stages.")
    if params.numerics.n_processes > 1 and getattr(module, "TRAINS", False):
        from pipeline.distributed.launch import connect
        from pipeline.jobs.together import run_together

        rank = connect(params.numerics)
        ran = run_together(jobs, keys=keys, store=store, params=params)
        if rank:
            return
    else:
        ran = run_jobs(jobs, keys=keys, store=store, numerics=params.numerics, runtime=params.runtime)
    if ran.failed:
        sys.exit(1)
    if not only:
        _check_unchanged(module, params, keys.code)
        out = _out(module, params)
        _replace(out, _assemble(jobs, ran, out, _link if keys.stored else _move))
        _write_metrics(module, out, params)
        used = {done.folder.parent.name for done in ran.done.values()}
        store.forget(params.runtime.store_gib * 2**30, used=used)
    _log_stage(store, stage, params, jobs, ran.ran, started)
    where = "finished" if not only else "in the store"
    log.info(
        "%s: %d jobs %s, %d of them ran (%.1f s)",
        stage,
        len(jobs),
        where,
        len(ran.ran),
        time.time() - started,
    )


def _log_stage(
    store: Store, stage: str, params: Params, jobs: Sequence[Job], ran: Sequence[Job], started: float
) -> None:
    """The line that `python -m pipeline.jobs` reads."""
    names = [job.name or stage for job in ran]
    store.log(
        "stage", stage=stage, experiment=params.name, started=round(started, 3), jobs=len(jobs), ran=names
    )


def _check_unchanged(module: ModuleType, params: Params, code: str) -> None:
    """DVC records code and params as they are when the command ends; these results come from those at its start."""
    if (
        sections_of(module, read_params()) != sections_of(module, params)
        or code_digest(module.__name__) != code
    ):
        raise InputError("its code or params.yaml changed while it ran; run `dvc repro` again")


def _assemble(jobs: Sequence[Job], ran: Ran, out: Path, take: Callable[[Path, Path], None]) -> Path:
    """A folder with every job's files in the job's own folder, and each table of all jobs as one, above them."""
    new = _fresh(out)
    tables: dict[str, list[dict[str, Any]]] = {}
    hashes: dict[str, str] = {}
    for job in jobs:
        source = ran.done[job].folder
        for file in files_below(source):
            inside = file.relative_to(source)
            target = new / job.folder / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            take(file, target)
            hashes[(job.folder / inside).as_posix()] = ran.done[job].hashes[inside.as_posix()]
        for file in sorted(source.glob("*.csv")):  # none of an only job whose files are moved
            tables.setdefault(file.name, []).extend({**job.labels, **row} for row in read_csv(file))
    for name, rows in tables.items():
        if rows:  # there are none where no image fooled one of two models alone
            write_csv(new / name, rows, fields=list(dict.fromkeys(key for row in rows for key in row)))
            hashes[name] = hash_of(new / name)
    if out.is_relative_to(RUNS):
        write_sums(new, hashes)
    return new


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the file system has no such thing; read-only, as it is kept."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _move(source: Path, target: Path) -> None:
    """Out of the store, which finds that job no more: an ordinary file, as people edit reports and commit them."""
    shutil.move(source, target)
    target.chmod(0o666 & ~umask())


def _fresh(out: Path) -> Path:
    new = _NEW / "-".join(out.parts)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    return new


def _replace(out: Path, new: Path) -> None:
    """Put the new folder where the old one is, which is there until then."""
    old = new.with_name(f"{new.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        shutil.move(out, old)
    shutil.move(new, out)  # a rename, or a copy where runs/ lies on another disk
    shutil.rmtree(old, ignore_errors=True)


def _keys(module: ModuleType) -> JobKeys:
    stored, reads = getattr(module, "STORED", True), getattr(module, "READS", ("",))
    return JobKeys(module.__name__, stored=stored, reads=reads)


def _out(module: ModuleType, params: Params) -> Path:
    stage = module.__name__.removeprefix("stages.")
    return Path(getattr(module, "OUT", "runs/{name}/{stage}").format(name=params.name, stage=stage))


def _write_metrics(module: ModuleType, out: Path, params: Params) -> None:
    if hasattr(module, "METRICS"):
        write_json(METRICS / params.name / module.METRICS, module.metrics(out))


def _list(jobs: Sequence[Job], module: ModuleType) -> None:
    """Print each job, and whether the store has it."""
    store, keys = Store(), _keys(module)
    done: dict[Job, Any] = {}
    for job in jobs:
        found = None
        if all(needed in done for needed in job.needs):
            found = store.find(keys.key(job, done))
        if found is not None:
            done[job] = found
        sys.stdout.write(f"{job.name or 'its only job'}: {'to be run' if found is None else 'stored'}\n")
