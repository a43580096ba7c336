"""What every stage script shares: flags, params, inputs, outputs, the resume key, errors in one line.

A stage reads `params.<section>` (a test holds those reads against dvc.yaml), calls one library function and
saves. Outputs are written beside their place and moved there when the stage has ended well.
"""

import argparse
import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from pydantic import BaseModel

from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.params.file import PARAMS_FILE, read_params
from pipeline.workflow.closure import import_closure
from pipeline.workflow.files import hash_files

RUNS, METRICS, REPORTS, RESUME = Path("runs"), Path("metrics"), Path("reports"), Path(".resume")

log = logging.getLogger("pipeline")


@dataclass(frozen=True)
class StageRun:
    """One run of one stage: its params, where it reads and where it writes."""

    stage: str
    params: Params
    keys: dict[str, str]
    out: Path
    code: dict[str, str]
    finished_with: list[Path] = field(default_factory=list)

    @property
    def seed(self) -> int:
        """The seed from the command line; the streams of different stages are kept apart by their names."""
        return int(self.keys["seed"])

    def artefact(self, *parts: object) -> Path:
        """A file or folder that an earlier stage wrote, `runs/<name>/<parts>`.

        Raises:
            InputError: if it is not there.
        """
        path = RUNS.joinpath(self.params.name, *(str(part) for part in parts))
        if not path.exists():
            raise InputError(f"{path}: expected an earlier stage's output; run `dvc repro`")
        return path

    def metrics(self, *parts: object) -> Path:
        """Where a JSON file for `dvc metrics` belongs."""
        return METRICS.joinpath(self.params.name, *(str(part) for part in parts))

    def resume_folder(self, inputs: Sequence[Path], sections: Sequence[BaseModel]) -> Path:
        """Where this run keeps its resume points, keyed by code, inputs and params; gone at its good end."""
        parts = {
            "code": self.code,
            "inputs": hash_files(inputs),
            "params": [section.model_dump(mode="json") for section in sections],
            "keys": self.keys,
        }
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        folder = RESUME / _flat_name(self.stage, *self.keys.values(), digest[:20])
        self.finished_with.append(folder)
        return folder


def run_stage(
    body: Callable[[StageRun], Any],
    *,
    out: str,
    keys: Sequence[str] = (),
    connect: Callable[[Params], int] | None = None,
) -> None:
    """Run a stage script's body and leave its output folder at `out`, whole or not at all.

    Args:
        body: gets the run, writes below `run.out`; what it returns is logged as the stage's one line.
        out: the output folder, a template such as `runs/{name}/{seed}/train`.
        keys: command-line flags that the stage needs, for example `seed`.
        connect: `processes.connect` of a stage that trains; what other ranks than 0 write is not kept.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)  # ours alone: exporters and plotters narrate
    script = Path(sys.argv[0]).resolve().relative_to(Path.cwd())
    parser = argparse.ArgumentParser(description=f"The stage {script.stem}; `dvc repro` calls it.")
    for key in keys:
        parser.add_argument(f"--{key}", required=True)
    flags = {key: str(value) for key, value in vars(parser.parse_args()).items()}
    started = perf_counter()
    label = " ".join([script.stem, *(f"{key} {value}" for key, value in flags.items())])
    try:
        code = hash_files(import_closure(script))
        params_hash = hash_files([PARAMS_FILE])
        params = read_params()
        rank = connect(params) if connect else 0
        final = Path(out.format(name=params.name, **flags))
        of_rank = [f"rank{rank}"] if rank else []
        partial = RESUME / "partial" / _flat_name(script.stem, params.name, *flags.values(), *of_rank)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        run = StageRun(script.stem, params, flags, partial, code)
        summary = body(run)
        # DVC records the code and params as they are when the command ends; these results come from
        # those at its start.
        if hash_files(import_closure(script)) != code or hash_files([PARAMS_FILE]) != params_hash:
            raise InputError("its code or params.yaml changed while it ran; run `dvc repro` again")
        if rank:
            shutil.rmtree(partial)
            return
        shutil.rmtree(final, ignore_errors=True)
        final.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(final)
        for folder in run.finished_with:
            shutil.rmtree(folder, ignore_errors=True)
    except InputError as error:
        for line in str(error).splitlines():
            log.error("%s: %s", label, line)
        sys.exit(1)
    log.info("%s: %s (%.1f s)", label, summary or "done", perf_counter() - started)


def _flat_name(*parts: str) -> str:
    """One folder name of several parts, which may be paths themselves."""
    return "-".join(parts).replace("/", "-")
