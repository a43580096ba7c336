"""What an edit of params.yaml or of code reruns: the jobs whose keys change, and nothing else.

The table below is planned, not run: every stage's jobs are listed, and in the place of what a job makes stands its key,
which tells of every edit that could change what it makes. tests/test_reruns.py runs some of the lines.
"""

import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from ruamel.yaml import YAML
from tiny_params import ABLATE, LATENCY, TINY, Change, params_of

from pipeline.jobs.code import code_digest
from pipeline.jobs.job import Job
from pipeline.jobs.output import list_jobs
from pipeline.jobs.run import JobKeys
from pipeline.jobs.store import Finished
from pipeline.params.params import Params

DVC: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, dict[str, Any]] = DVC["stages"]


class PlannedKeys(JobKeys):
    """Keys of jobs that have not run: in the place of what lies on disk stand the keys of the jobs that make it."""

    def __init__(self, stage: str, code: str, made: Mapping[Path, str]) -> None:
        # Not the base's, which would read the code anew for every plan.
        self.stage, self.code, self._made = stage, code, made
        self.stored = True  # DVC asks every stage by what it reads

    def _content(self, found: Any, done: Mapping[Job, Finished]) -> Any:
        if not isinstance(found, Path):
            return super()._content(found, done)
        # A file or folder that one job makes, or a folder of several jobs' outputs.
        makers = {job: key for job, key in self._made.items() if found.is_relative_to(job)}
        makers = makers or {job: key for job, key in self._made.items() if job.is_relative_to(found)}
        assert makers, f"{found}: no earlier stage makes it"
        return sorted((str(found), str(job), key) for job, key in makers.items())


def code_digests() -> dict[str, str]:
    """Of every stage's code, as it lies below the current folder."""
    return {stage: code_digest(f"stages.{stage}") for stage in STAGES}


def plan(params: Params, code: Mapping[str, str]) -> dict[str, str]:
    """The key of every job of every stage, by `stage label label`."""
    made: dict[Path, str] = {}
    plan: dict[str, str] = {}
    for stage in STAGES:  # in the order of dvc.yaml, which is that of the method
        module = import_module(f"stages.{stage}")
        keys = PlannedKeys(module.__name__, code[stage], made)
        done: dict[Job, Finished] = {}
        for job in list_jobs(module, params):
            key = keys.key(_as_dvc_asks(stage, job), done)
            done[job] = Finished(Path(), key, "")
            plan[" ".join([stage, *map(str, job.labels.values())])] = key
        made |= {Path("runs", params.name, stage) / job.folder: each.content for job, each in done.items()}
    return plan


def _as_dvc_asks(stage: str, job: Job) -> Job:
    """The report takes the params whole, and reruns for the sections that dvc.yaml names."""
    if "params" not in job.settings:
        return job
    sections = {name: getattr(job.settings["params"], name) for name in STAGES[stage]["params"]}
    return replace(job, settings={"params": sections})


def reruns(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    """The jobs of the later plan that have not run."""
    return {job for job, key in after.items() if key not in set(before.values())}


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    return code_digests()


@pytest.fixture(scope="module")
def unedited(digests: dict[str, str]) -> dict[str, str]:
    return plan(params_of(), digests)


def of(stage: str, seed: int = 0) -> tuple[str, ...]:
    """The jobs of a stage of the tiny preset."""
    labels: dict[str, Collection[str]] = {
        "push": ("main", "control", "ours"),
        "prune": ("pushed round1", "pushed round2"),
        "select": ("pushed",),
        "compare": ("ours", "resnet6", "scratch", "han", "l1"),
        "source": ("resnet",),
        "craft": ("resnet fgsm", "resnet newton_fool", "resnet pgd"),
        "white_box": ("pgd",),
        "robustness": ("clean", "gaussian", "poisson", "speckle", "fgsm", "newton_fool", "pgd"),
    }
    if stage == "noise":
        return ("noise gaussian", "noise poisson", "noise speckle")
    if stage in ("ablate", "latency"):
        return ()
    if stage in ("prepare", "report"):
        return (stage,)
    return tuple(f"{stage} {seed} {label}".strip() for label in labels.get(stage, ("",)))


AFTER_THE_FACT = {**TINY["prune"], "retraining": {**TINY["prune"]["retraining"], "push": "none"}}
# Who reads what: the models of the main flow, those of the comparison, and all of them under attack.
SELECTED = (*of("select"), *of("evaluate"))
ATTACKED = (*of("white_box"), *of("robustness"), "report")
PRUNED = (*of("prune"), *SELECTED, *ATTACKED)
PUSHED = (*of("push"), *of("compare"), *PRUNED)
OF_A_SEED = (
    "train",
    "grow",
    "push",
    "prune",
    "select",
    "compare",
    "evaluate",
    "source",
    "craft",
    "white_box",
)
SCRATCH = ("compare 0 scratch", "compare 0 resnet6")  # trained by the schedule of the base
# What is compared depends on ours at the same size, and the fixed nets on nothing of ours.
FOLLOWERS = tuple(job for job in of("compare") if job != "compare 0 resnet6")
EVERYTHING = tuple(job for stage in STAGES for job in of(stage))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(("runtime.jobs", 7), (), id="jobs"),
        pytest.param(("runtime.store_gib", 1.0), (), id="store"),
        pytest.param(("report.dpi", 61), ("report",), id="dpi"),
        pytest.param(("report.target_original_test_accuracy", 0.9), ("report",), id="target"),
        pytest.param(
            ("attacks.fgsm.epsilon", 8.0),
            ("craft 0 resnet fgsm", "robustness 0 fgsm", "report"),
            id="epsilon",
        ),
        pytest.param(
            ("attacks.newton_fool.steps", 4),
            ("craft 0 resnet newton_fool", "robustness 0 newton_fool", "report"),
            id="newton-steps",
        ),
        pytest.param(
            ("attacks.pgd.options", {"steps": 3}),
            ("craft 0 resnet pgd", "robustness 0 pgd", "white_box 0 pgd", "report"),
            id="white-box-attack",
        ),
        pytest.param(
            ("attacks.strong", {"method": "fgsm", "epsilon": 32.0}),
            ("craft 0 resnet strong", "robustness 0 strong", "report"),
            id="attack-added",
        ),
        pytest.param(("white_box", ["pgd", "fgsm"]), ("white_box 0 fgsm", "report"), id="white-box-added"),
        pytest.param(
            ("noise.gaussian.std", 6.0), ("noise gaussian", "robustness 0 gaussian", "report"), id="gaussian"
        ),
        pytest.param(
            ("noise.poisson.peak", 100.0), ("noise poisson", "robustness 0 poisson", "report"), id="poisson"
        ),
        pytest.param(
            ("noise.coarse", {"kind": "gaussian", "std": 20.0}),
            ("noise coarse", "robustness 0 coarse", "report"),
            id="noise-added",
        ),
        pytest.param(
            ("noise_seed", 1),
            (
                *of("noise"),
                *(f"robustness 0 {name}" for name in ("gaussian", "poisson", "speckle")),
                "report",
            ),
            id="noise-seed",
        ),
        pytest.param(("robustness.gallery_images", 4), (*of("robustness"), "report"), id="gallery"),
        pytest.param(("robustness.calibration_bins", 7), (*of("robustness"), "report"), id="bins"),
        pytest.param(("lineup.fraction", 0.25), ATTACKED, id="lineup-fraction"),
        pytest.param(("lineup.competitors", ["l1", "han"]), ATTACKED, id="lineup-competitor"),
        pytest.param(("lineup", None), ATTACKED, id="no-lineup"),
        pytest.param(("select.max_drop", 0.5), (*SELECTED, *ATTACKED), id="select"),
        pytest.param(("prune.retraining.epochs", 3), PRUNED, id="retraining"),
        pytest.param(("prune.etas", [0.5, 1.0, 2.0]), PRUNED, id="eta-added"),
        pytest.param(("prune.rounds", 3), ("prune 0 pushed round3", *SELECTED, *ATTACKED), id="round-added"),
        pytest.param(
            ("after_the_fact", AFTER_THE_FACT),
            (
                *(f"prune 0 after_the_fact round{number}" for number in (1, 2)),
                *("select 0 after_the_fact", "evaluate 0", *ATTACKED),
            ),
            id="chapter-3-added",
        ),
        pytest.param(
            ("ablate", ABLATE),
            (
                *(
                    f"ablate 0 {start} {score} {widths}"
                    for start in ("pushed", "control")
                    for score in ("saliency", "l1", "saliency_noisy")
                    for widths in ("layer", "global")
                ),
                "report",
            ),
            id="ablation-added",
        ),
        pytest.param(("latency", LATENCY), ("latency", "report"), id="latency-added"),
        pytest.param(("surgery.round_to", 2), (*of("compare"), *PRUNED), id="surgery"),
        pytest.param(("compare.sizes", {"params": [0.5, 0.2]}), (*of("compare"), *ATTACKED), id="sizes"),
        pytest.param(
            ("compare.competitors", ["l1", "han", "scratch", "random"]),
            ("compare 0 random", "report"),
            id="competitor-added",
        ),
        pytest.param(
            ("compare.fixed_nets.resnet6.model.width", 0.25),
            ("compare 0 resnet6", "report"),
            id="fixed-net",
        ),
        pytest.param(("push.variants.ours.gamma", 0.2), ("push 0 ours", "report"), id="variant"),
        pytest.param(
            ("push.variants.strong", {"separation": "trace", "gamma": 1.0, "lambda": 0.0, "beta": 0.0}),
            ("push 0 strong", "report"),
            id="variant-added",
        ),
        # The control pushes with weights of zero, and the variant has its own; neither reads these.
        pytest.param(("lda.gamma", 0.06), ("push 0 main", *of("compare"), *PRUNED), id="lda-weight"),
        pytest.param(("lda.ridge", 0.002), PUSHED, id="lda"),
        pytest.param(("push.training.epochs", 4), PUSHED, id="push"),
        pytest.param(("grow.max_modules", 2), (*of("grow"), *PUSHED), id="grow"),
        pytest.param(("train.training.epochs", 5), (*of("train"), *of("grow"), *PUSHED), id="train"),
        pytest.param(
            ("sources.resnet.training.epochs", 5), (*of("source"), *of("craft"), *ATTACKED), id="source"
        ),
        pytest.param(
            ("numerics.eval_batch_size", 256),
            tuple(job for job in EVERYTHING if job not in ("prepare", *of("noise"))),
            id="numerics",
        ),
        pytest.param(("data.split_seed", 1), EVERYTHING, id="split"),
        pytest.param(
            ("seeds", [0, 1]),
            (*(job for stage in (*OF_A_SEED, "robustness") for job in of(stage, 1)), "report"),
            id="seed-added",
        ),
        # What is taken away leaves the others as they are: no job runs, and the report reads tables without it.
        pytest.param(("attacks.newton_fool", ...), ("report",), id="attack-removed"),
        pytest.param(("compare.competitors", ["l1", "scratch"]), ("report",), id="competitor-removed"),
        pytest.param(("push.variants", {}), ("report",), id="variants-removed"),
    ],
)
def test_an_edit_reruns_the_jobs_that_it_touches_and_those_that_read_them(
    digests: dict[str, str], unedited: dict[str, str], change: Change, expected: tuple[str, ...]
) -> None:
    changes = [change]
    if change == ("attacks.newton_fool", ...):
        headline = [name for name in TINY["report"]["headline"] if name != "newton_fool"]
        changes.append(("report.headline", headline))
    assert sorted(reruns(unedited, plan(params_of(*changes), digests))) == sorted(expected)


def test_the_plan_of_the_unedited_params_has_every_job_once(unedited: dict[str, str]) -> None:
    assert sorted(unedited) == sorted(EVERYTHING)
    assert len(set(unedited.values())) == len(unedited)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the product's code, whose files the keys are made of."""
    for room in ("pipeline", "stages"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "rerun"),
    [
        (
            "pipeline/lda.py",
            {"push", "prune", "select", "compare", "evaluate", "white_box", "robustness", "report"},
        ),
        ("pipeline/attacks.py", {"craft", "white_box", "robustness", "report"}),
        ("pipeline/robustness/noise.py", {"noise", "robustness", "report"}),
        ("pipeline/report/figures.py", {"report"}),
        ("pipeline/jobs/run.py", set()),
        ("pipeline/progress.py", set()),
        ("stages/craft.py", {"craft", "robustness", "report"}),
    ],
)
def test_an_edit_of_code_reruns_what_imports_it_and_what_reads_that(
    code: Path, unedited: dict[str, str], file: str, rerun: set[str]
) -> None:
    """Of `lda.py`: nothing is trained, crafted or made noisy anew; of a report's figure: nothing but the report."""
    assert plan(params_of(), code_digests()) == unedited
    append(code / file, "\n\n_ADDED = 1\n")
    again = reruns(unedited, plan(params_of(), code_digests()))
    assert {job.split()[0] for job in again} == rerun
    left = {job.split()[0] for job in set(EVERYTHING) - again}
    assert left & rerun <= {"push", "compare", "robustness"}  # of some stages not every job is a reader


def test_an_edit_of_comments_and_docstrings_reruns_no_job(code: Path, unedited: dict[str, str]) -> None:
    for file in sorted(code.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        assert text.startswith('"""')
        rewritten = text.replace('."""', ', in other words."""')
        file.write_text(f"# A remark.\n{rewritten}", encoding="utf-8")
    assert plan(params_of(), code_digests()) == unedited


def test_the_file_fits_on_a_few_screens() -> None:
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 250
    assert len(STAGES) <= 20


def test_a_stage_is_its_script_and_writes_where_dvc_looks() -> None:
    assert {*STAGES} == {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    for name, stage in STAGES.items():
        module = import_module(f"stages.{name}")
        assert stage["cmd"] == f"python -m stages.{name}"
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"]]
        folder = getattr(module, "OUT", "runs/{name}/{stage}")
        assert outs == [folder.replace("{name}", "${name}").replace("{stage}", name)]
        metrics = [next(iter(metric)) for metric in stage.get("metrics", [])]
        assert metrics == ([f"metrics/${{name}}/{module.METRICS}"] if hasattr(module, "METRICS") else [])


def test_deps_name_the_folders_that_the_jobs_read() -> None:
    params = params_of(("ablate", ABLATE), ("latency", LATENCY))
    for name, stage in STAGES.items():
        paths = {
            path for job in list_jobs(import_module(f"stages.{name}"), params) for path in _paths(job.inputs)
        }
        read = {"/".join(["runs", "${name}", *path.parts[2:3]]) for path in paths}
        assert read == {dep for dep in stage["deps"] if dep.startswith("runs/")}, name


def _paths(inputs: Any) -> Iterator[Path]:
    if isinstance(inputs, Path):
        yield inputs
    elif isinstance(inputs, Mapping):
        for each in inputs.values():
            yield from _paths(each)


def test_only_the_report_is_kept_out_of_the_cache() -> None:
    """Plain outs with `cache: false` switch the run-cache off; metrics do not."""
    for name, stage in STAGES.items():
        options = [next(iter(out.values())) for out in stage["outs"] if isinstance(out, dict)]
        assert options == ([{"cache": False}] if name == "report" else [])
        assert all(next(iter(metric.values())) == {"cache": False} for metric in stage.get("metrics", []))
