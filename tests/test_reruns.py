"""What an edit reruns, by `dvc repro` itself: the jobs that ran, and outputs that are those of a fresh run.

A stage that DVC takes from its run-cache, or a job from its store, although something has changed, shows here alone.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from conftest import FULL_RUN_SECONDS, Workspace, jobs_run, stages_run, warmed
from ruamel.yaml import YAML
from tiny_params import Change, edited

# One process for all that share a copy of the full run.
pytestmark = [pytest.mark.xdist_group("reruns"), pytest.mark.dvc]

CONDITIONS = ("clean", "gaussian", "poisson", "speckle", "fgsm", "newton_fool", "pgd")
FRACTION: Change = ("lineup.fraction", 0.25)
ENTRIES: list[Change] = [
    FRACTION,
    ("attacks.fgsm.epsilon", 8.0),
    ("attacks.newton_fool", ...),
    ("report.headline", ["gaussian", "poisson", "speckle", "fgsm"]),
    ("noise.coarse", {"kind": "gaussian", "std": 20.0}),
    ("compare.competitors", ["l1", "han", "scratch", "random"]),
    ("runtime.jobs", 1),
]


@pytest.fixture(scope="module")
def edits(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A finished workspace whose params the tests change; which of them came before makes no difference."""
    copy = finished.copy(tmp_path_factory.mktemp("reruns") / "copy")
    yield copy
    shutil.rmtree(copy.root, ignore_errors=True)


def repro(workspace: Workspace, *changes: Change, targets: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The jobs that ran, and the stages that were asked, after the tiny preset has been changed."""
    before = len(workspace.log())
    workspace.write_params(edited(*changes))
    with warmed(workspace) as by_warm:
        workspace.must(*by_warm, "dvc", "repro", *targets, timeout=FULL_RUN_SECONDS)
    new = workspace.log()[before:]
    return jobs_run(new), stages_run(new)


def assert_fresh(workspace: Workspace, root: Path, *stages: str) -> None:
    """What these stages left is what one process makes without a store, without DVC, and without what is there."""
    fresh = workspace.copy(root, without=[".jobs", ".dvc", ".git", "reports", "metrics"])
    made = [f"runs/tiny/{stage}" for stage in stages]
    for folder in made:
        shutil.rmtree(fresh.path(folder))
    fresh.run_stages(*stages)
    assert stages_run(fresh.log()) == [*stages]
    assert fresh.contents(*made) == workspace.contents(*made)
    metrics = fresh.contents("metrics")
    assert metrics
    assert metrics.items() <= workspace.contents("metrics").items()


@pytest.fixture(scope="module")
def ran_for_the_fraction(edits: Workspace) -> list[str]:
    """The jobs that ran after another fraction of the lineup."""
    return repro(edits, FRACTION, targets=["white_box", "robustness"])[0]


def test_the_lineups_fraction_attacks_other_models(
    edits: Workspace, finished: Workspace, ran_for_the_fraction: list[str]
) -> None:
    """DVC leaves a key named `size` out of its run-cache's key: this one once was, and old numbers came back."""
    ran = ran_for_the_fraction
    assert sorted(ran) == sorted(["white_box 0 pgd", *(f"robustness 0 {name}" for name in CONDITIONS)])
    for table in ("white_box/white_box.csv", "robustness/accuracy.csv"):
        assert edits.path("runs/tiny", table).read_bytes() != finished.path("runs/tiny", table).read_bytes()


@pytest.mark.usefixtures("ran_for_the_fraction")
def test_entries_changed_added_and_removed_run_their_own_jobs_once(
    edits: Workspace, finished: Workspace, tmp_path: Path
) -> None:
    """On top of the other fraction: the strength of an attack, an attack less, a noise and a competitor more."""
    ran, asked = repro(edits, *ENTRIES)
    own = ["compare 0 random", "craft 0 resnet fgsm", "noise coarse"]
    assert sorted(ran) == sorted([*own, "robustness 0 coarse", "robustness 0 fgsm", "report"])
    assert asked[-1] == "report"
    assert repro(edits, *ENTRIES) == ([], [])
    images = "runs/tiny/craft/0/resnet/fgsm/images.safetensors"
    assert edits.path(images).read_bytes() != finished.path(images).read_bytes()

    assert_fresh(edits, tmp_path / "fresh", "noise", "craft", "white_box", "robustness")
    texts = edits.contents("reports", "metrics", "runs", suffixes=(".csv", ".md", ".yaml", ".json"))
    assert [name for name, text in texts.items() if b"newton_fool" in text or "newton_fool" in name] == []
    assert b"coarse" in texts["reports/tiny/tables/accuracy.csv"]
    assert b"random" in texts["reports/tiny/tables/comparison.csv"]


def test_a_seed_added_is_trained_by_itself(edits: Workspace) -> None:
    assert repro(edits, ("seeds", [0, 1]), targets=["train"]) == (["train 1"], ["train"])


def test_back_at_the_first_settings_everything_is_there_again(edits: Workspace, finished: Workspace) -> None:
    """DVC has every output but the reports, which come out as they did in another folder."""
    shutil.rmtree(edits.path("reports"))
    assert repro(edits) == (["report"], ["report"])
    for folder in ("runs", "metrics", "reports/tiny"):
        first, again = finished.contents(folder), edits.contents(folder)
        for found in (first, again):
            found.pop("reports/tiny/provenance.md", None)
        assert sorted(again) == sorted(first)
        assert [name for name in first if again[name] != first[name]] == []


def asked_next(workspace: Workspace) -> set[str]:
    """The stages that DVC finds changed."""
    status: dict[str, object] = json.loads(workspace.must("dvc", "status", "--json").output)
    return {*status}


def test_stray_files_and_another_number_of_jobs_change_nothing_and_a_figures_resolution_the_report(
    finished_copy: Workspace,
) -> None:
    for name in (
        "pipeline/.DS_Store",
        "pipeline/images/.ipynb_checkpoints/parts-checkpoint.py",
        "pipeline/models/.vgg.py.swp",
        "pipeline/models/vgg.py~",
        "pipeline/training/.#fit.py",
        "pipeline/training/#fit.py#",
        "pipeline/training/__pycache__/new.pyc",
        "stages/Thumbs.db",
    ):
        finished_copy.path(name).parent.mkdir(exist_ok=True)
        finished_copy.path(name).write_text("stray")
    finished_copy.write_params(edited(("runtime.jobs", 5), ("runtime.store_gib", 1.0)))
    assert asked_next(finished_copy) == set()
    finished_copy.write_params(edited(("report.dpi", 61)))
    assert asked_next(finished_copy) == {"report"}


def test_a_remark_in_code_makes_dvc_ask_and_runs_no_job(
    finished: Workspace, finished_copy: Workspace
) -> None:
    stages = YAML(typ="safe").load(finished.path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for file in ("pipeline/lda.py", "pipeline/report/figures.py"):
        with finished_copy.path(file).open("a", encoding="utf-8") as opened:
            opened.write("# A remark.\n")
    before = len(finished_copy.log())
    finished_copy.must("dvc", "repro", "push", "compare")
    new = finished_copy.log()[before:]
    assert jobs_run(new) == []
    assert stages_run(new) == ["push", "compare"]
    assert finished_copy.contents("runs") == finished.contents("runs")
    of_lda = {name for name, stage in stages.items() if "pipeline/lda.py" in stage["deps"]}
    assert asked_next(finished_copy) == of_lda - {"push", "compare"} | {"report"}
