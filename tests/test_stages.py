"""What every stage's module has to keep to: light imports, declared sections and code, errors that can be sent."""

import importlib
import inspect
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from ruamel.yaml import YAML
from tiny_params import ABLATE, LATENCY, params_of

from pipeline.errors import InputError
from pipeline.jobs.code import code_deps
from pipeline.jobs.contents import write_sums
from pipeline.jobs.output import list_jobs
from pipeline.params.params import Params

DECLARED: dict[str, dict[str, Any]] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__")
SECTIONS = {field.alias or name for name, field in Params.model_fields.items()}
WITH_ALL_JOBS = params_of(("ablate", ABLATE), ("latency", LATENCY))

# What takes its time to import.
HEAVY = ["torch", "torchvision", "numpy", "scipy", "sklearn", "skimage", "pandas", "matplotlib", "foolbox"]
HEAVY += ["onnx", "joblib", "distributed", "lightning_fabric"]
_IMPORTED = """
import importlib, json, sys
for stage in sys.argv[2:]:
    importlib.import_module(f"stages.{stage}")
sys.stdout.write(json.dumps(sorted({name.split(".")[0] for name in sys.modules} & set(sys.argv[1].split()))))
"""


@pytest.mark.processes
def test_no_stage_imports_anything_heavy_before_its_work() -> None:
    """Listing jobs, asking for help and finding everything in the store do not wait for torch."""
    said = subprocess.run(
        [sys.executable, "-c", _IMPORTED, " ".join([*HEAVY, "argparse"]), *STAGES],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert json.loads(said.stdout) == ["argparse"]


_RUN = """
import json, sys
from pipeline.jobs.stage import run_stage
try:
    run_stage("stages.train", sys.argv[2:])
finally:
    sys.stderr.write(json.dumps(sorted({name.split(".")[0] for name in sys.modules} & set(sys.argv[1].split()))))
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("flag", "said", "imported"),
    [("--help", "the store", []), ("--list", "seed 0: to be run", ["pydantic"])],
)
def test_help_and_lists_come_without_torch(tmp_path: Path, flag: str, said: str, imported: list[str]) -> None:
    """So that they come at once: `--help` even without the params' own libraries."""
    for name in ("pipeline", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "params.yaml").symlink_to(ROOT / "presets/tiny.yaml")
    write_sums(tmp_path / "runs/tiny/prepare", {})
    command = [sys.executable, "-c", _RUN, " ".join([*HEAVY, "pydantic"]), flag]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0
    assert said in ran.stdout
    assert json.loads(ran.stderr) == imported


@pytest.mark.processes
def test_a_stage_without_its_input_says_so_in_a_line(tmp_path: Path) -> None:
    for name in ("pipeline", "stages"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "params.yaml").symlink_to(ROOT / "presets/tiny.yaml")
    said = subprocess.run(
        [sys.executable, "-m", "stages.noise"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 1
    assert said.stderr == "noise: runs/tiny/prepare: expected an earlier stage's output; run `dvc repro`\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_sections_that_jobs_take_are_those_of_the_dag(stage: str) -> None:
    """So that an edit of a section makes DVC ask the stages that read it, and no others."""
    module = importlib.import_module(f"stages.{stage}")
    _, *taken = inspect.signature(module.jobs).parameters
    declared = DECLARED[stage]["params"]
    assert len(set(declared)) == len(declared)
    if taken == ["params"]:
        assert stage == "report"
        assert set(declared) == SECTIONS - {"runtime"}
    else:
        assert [name.rstrip("_") for name in taken] == declared
        assert "runtime" not in taken


@pytest.mark.parametrize("stage", STAGES)
def test_rooms_that_a_stage_imports_are_those_of_the_dag(stage: str) -> None:
    declared = [dep for dep in DECLARED[stage]["deps"] if dep.startswith(("pipeline/", "stages/"))]
    assert declared == code_deps(Path(f"stages/{stage}.py"), ROOT)


@pytest.mark.parametrize("stage", STAGES)
def test_work_takes_what_its_jobs_bring(stage: str) -> None:
    """No setting or input is missing, or brought for nothing: it would be in the key."""
    module = importlib.import_module(f"stages.{stage}")
    jobs = list_jobs(module, WITH_ALL_JOBS)
    place, *taken = inspect.signature(module.work).parameters.values()
    assert place.name == "place"
    needed = {each.name for each in taken if each.default is inspect.Parameter.empty}
    for job in jobs:
        brought = [*job.settings, *job.inputs]
        assert len(set(brought)) == len(brought)
        assert needed <= set(brought) <= {each.name for each in taken}


@pytest.mark.parametrize("stage", STAGES)
def test_jobs_are_told_apart_and_come_after_what_they_need(stage: str) -> None:
    jobs = list_jobs(importlib.import_module(f"stages.{stage}"), WITH_ALL_JOBS)
    assert jobs
    assert len({job.folder for job in jobs}) == len(jobs)
    assert len({tuple(job.labels) for job in jobs}) == 1
    for idx, job in enumerate(jobs):
        assert all(needed in jobs[:idx] for needed in job.needs)
        assert pickle.loads(pickle.dumps(dict(job.settings))) == job.settings


def test_a_second_seed_adds_jobs_and_changes_none() -> None:
    both = params_of(("ablate", ABLATE), ("latency", LATENCY), ("seeds", [0, 1]))
    for stage in STAGES:
        module = importlib.import_module(f"stages.{stage}")
        once, twice = list_jobs(module, WITH_ALL_JOBS), list_jobs(module, both)
        if "seed" not in once[0].labels:
            assert len(once) == len(twice)
            continue
        assert len(twice) == 2 * len(once)
        same = [job for job in twice if job.labels["seed"] == 0]
        assert [(job.labels, job.settings) for job in same] == [(job.labels, job.settings) for job in once]


def _errors() -> list[type[InputError]]:
    """Every class of exceptions that is below InputError, found by its text: importing all modules takes its time."""
    kinds = {"InputError": InputError}
    files = sorted((ROOT / "pipeline").rglob("*.py"))
    while True:
        named = "|".join(kinds)
        found = {
            name: file
            for file in files
            for name in re.findall(rf"^class (\w+)\((?:{named})\):", file.read_text(), re.MULTILINE)
            if name not in kinds
        }
        if not found:
            return list(kinds.values())
        for name, file in found.items():
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            kinds[name] = getattr(importlib.import_module(module), name)


def test_errors_can_be_sent_between_processes() -> None:
    """One whose `__init__` takes other arguments than `args` cannot be read at the other end."""
    kinds = _errors()
    assert {"InputError", "DivergedError", "FlagError"} <= {kind.__name__ for kind in kinds}
    for kind in kinds:
        error = kind("train: expected 1 (got 2)")
        sent = pickle.loads(pickle.dumps(error))
        assert type(sent) is kind
        assert str(sent) == "train: expected 1 (got 2)"
