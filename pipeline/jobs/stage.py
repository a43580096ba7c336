"""What every stage script shares: flags, listing its jobs, running them, and putting their outputs together.

A stage module has `jobs`, which lists its jobs and is light to import, and `work`, which does one of them. The sections
of the params that `jobs` takes are those that dvc.yaml names (a test compares). It may also have:

* `STORED = False`: its single job is run every time, because it reads what no key can see;
* `TRAINS = True`: with `numerics.devices` or `num_nodes` above 1 its jobs are trained by several processes together;
* `OUT`, where its output goes, if not to `runs/<name>/<stage>`;
* `METRICS`, a file below `metrics/<name>`, and `metrics`, which makes its content from the output folder.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.errors import InputError
from pipeline.files import read_csv, write_csv, write_json
from pipeline.jobs.code import code_digest
from pipeline.jobs.display import Display
from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.run import JobKeys, Ran, chosen_jobs, run_jobs
from pipeline.jobs.store import Store
from pipeline.jobs.worker import limit_threads
from pipeline.params.file import read_params
from pipeline.progress import watched_by

if TYPE_CHECKING:
    from pipeline.params.params import Params

RUNS, METRICS = Path("runs"), Path("metrics")
# Outputs are put together here and renamed; never below `runs/`, which stages read.
_NEW = Path(".jobs/new")

log = logging.getLogger("pipeline")


def run_stage(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run the jobs of a stage that have to be run, and put the stage's output together; ends the process if it fails.

    Args:
        name: the stage's module, for example `stages.train`.
        arguments: of the command line.
    """
    started = time.time()
    only, listing = _flags(name, arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)  # ours alone: exporters and plotters narrate
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    stage = name.removeprefix("stages.")
    try:
        params = read_params()
        module = import_module(name)
        limit_threads(params.numerics.threads)
        jobs = chosen_jobs(list_jobs(module, params), only)
        if listing:
            _list(jobs, module, params)
        elif not getattr(module, "STORED", True):
            log.info("%s: %s", stage, _run_unstored(module, jobs, params))
        else:
            _run_stored(module, jobs, params, only=bool(only), started=started)
    except InputError as error:
        for line in str(error).splitlines():
            log.error("%s: %s", stage, line)
        sys.exit(1)
    except KeyboardInterrupt:
        log.error(
            "%s: interrupted; finished jobs are kept, others go on from their last epoch: run it again", stage
        )
        sys.stderr.flush()
        os._exit(130)


def list_jobs(module: ModuleType, params: Params) -> list[Job]:
    """The jobs of a stage under these params; one comes after those that it needs."""
    return [*module.jobs(RUNS / params.name, **sections_of(module, params))]


def sections_of(module: ModuleType, params: Params) -> dict[str, Any]:
    """The sections that a stage's `jobs` takes; `params` stands for all of them."""
    names = list(inspect.signature(module.jobs).parameters)[1:]
    return {name: params if name == "params" else getattr(params, name) for name in names}


def _run_stored(module: ModuleType, jobs: list[Job], params: Params, *, only: bool, started: float) -> None:
    store, keys = Store(), JobKeys(module.__name__, params.numerics)
    stage = module.__name__.removeprefix("stages.")
    if params.numerics.n_processes > 1 and getattr(module, "TRAINS", False):
        from pipeline.distributed.jobs import run_together
        from pipeline.distributed.launch import connect

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
        _replace(out, _assemble(jobs, ran, out))
        _write_metrics(module, out, params)
        used = {done.folder.parent.name for done in ran.done.values()}
        store.forget(params.runtime.store_gib * 2**30, used=used)
    store.log(
        "stage",
        stage=stage,
        experiment=params.name,
        started=round(started, 3),
        jobs=len(jobs),
        ran=[job.name for job in ran.ran],
    )
    where = "finished" if not only else "in the store"
    log.info(
        "%s: %d jobs %s, %d of them ran (%.1f s)",
        stage,
        len(jobs),
        where,
        len(ran.ran),
        time.time() - started,
    )


def _run_unstored(module: ModuleType, jobs: list[Job], params: Params) -> str:
    """The only job of a stage that reads what no key can see, in this process."""
    stage = module.__name__.removeprefix("stages.")
    (job,), started = jobs, time.time()
    out = _out(module, params)
    new = _fresh(out)
    code = code_digest(module.__name__)
    for found in job.inputs.values():
        if isinstance(found, Path) and not found.exists():
            raise InputError(f"{found}: expected an earlier stage's output; run `dvc repro`")
    doing: list[str] = [""]
    with (
        Display(stage, 1, lambda: {job.name or stage: doing[-1]}),
        watched_by(lambda what: doing.__setitem__(0, what)),
    ):
        line = module.work(Workplace(new, new, params.runtime.workers), **job.settings, **job.inputs)
    _check_unchanged(module, params, code)
    _replace(out, new)
    Store().log(
        "stage",
        stage=stage,
        experiment=params.name,
        started=round(started, 3),
        jobs=1,
        ran=[job.name or stage],
    )
    return f"{line} ({time.time() - started:.1f} s)"


def _check_unchanged(module: ModuleType, params: Params, code: str) -> None:
    """DVC records code and params as they are when the command ends; these results come from those at its start."""
    if (
        sections_of(module, read_params()) != sections_of(module, params)
        or code_digest(module.__name__) != code
    ):
        raise InputError("its code or params.yaml changed while it ran; run `dvc repro` again")


def _assemble(jobs: Sequence[Job], ran: Ran, out: Path) -> Path:
    """A folder with every job's files in the job's own folder, and each table of all jobs as one, above them."""
    new = _fresh(out)
    tables: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        source = ran.done[job].folder
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            target = new / job.folder / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(file, target)
        for file in sorted(source.glob("*.csv")):
            tables.setdefault(file.name, []).extend({**job.labels, **row} for row in read_csv(file))
    for name, rows in tables.items():
        if rows:  # there are none where no image fooled one of two models alone
            write_csv(new / name, rows, fields=list(dict.fromkeys(key for row in rows for key in row)))
    return new


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the file system has no such thing; read-only, as it is kept."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _fresh(out: Path) -> Path:
    new = _NEW / "-".join(out.parts)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    return new


def _replace(out: Path, new: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    new.rename(out)


def _out(module: ModuleType, params: Params) -> Path:
    stage = module.__name__.removeprefix("stages.")
    return Path(getattr(module, "OUT", "runs/{name}/{stage}").format(name=params.name, stage=stage))


def _write_metrics(module: ModuleType, out: Path, params: Params) -> None:
    if hasattr(module, "METRICS"):
        write_json(METRICS / params.name / module.METRICS, module.metrics(out))


def _list(jobs: Sequence[Job], module: ModuleType, params: Params) -> None:
    """Print each job, and whether the store has it."""
    store, keys = Store(), JobKeys(module.__name__, params.numerics)
    done: dict[Job, Any] = {}
    for job in jobs:
        found = None
        if all(needed in done for needed in job.needs):
            found = store.find(keys.key(job, done))
        if found is not None:
            done[job] = found
        sys.stdout.write(f"{job.name or 'its only job'}: {'to be run' if found is None else 'stored'}\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage."""
        self.exit(2, f"{self.prog}: {message}\n")


def _flags(name: str, arguments: Sequence[str] | None) -> tuple[Mapping[str, list[str]], bool]:
    parser = _Parser(
        prog=f"python -m {name}", description=f"The stage {name.partition('.')[2]}; `dvc repro` calls it."
    )
    parser.add_argument(
        "--only",
        metavar="LABEL=VALUE",
        action="append",
        default=[],
        help="run chosen jobs into the store and leave the stage's output as it is; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="list the jobs, and whether the store has them")
    options = parser.parse_args(arguments)
    only: dict[str, list[str]] = {}
    for pair in options.only:
        label, equals, value = pair.partition("=")
        if not (label and equals and value):
            parser.error(f"--only: expected LABEL=VALUE, such as seed=0 (got {pair!r})")
        only.setdefault(label, []).append(value)
    return only, options.list


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
