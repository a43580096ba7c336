"""The whole pipeline on the tiny preset: it runs, does not run again, and gives the same bytes everywhere."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import FULL_RUN_SECONDS, FullRun, Workspace

# One process for all that share a full run.
pytestmark = pytest.mark.xdist_group("workspace")

ALL_STAGES = {
    "prepare",
    *(f"{stage}@0" for stage in ("train", "grow", "push", "control", "shrink")),
    *(f"{stage}@0" for stage in ("select", "evaluate", "robustness")),
    "prune@0-round0",
    "prune@0-round1",
    "variant@0-ours",
    *(f"compete@0-{name}" for name in ("l1", "han", "scratch", "resnet6")),
    *(f"noise@{name}" for name in ("gaussian", "poisson", "speckle")),
    "source@0-resnet",
    *(f"craft@0-resnet-{name}" for name in ("fgsm", "newton_fool")),
    "white_box@0-pgd",
    "report",
}


def test_full_run_ends_well_and_soon(full_run: FullRun) -> None:
    assert full_run.result.code == 0, full_run.result.output
    assert set(full_run.result.ran) == ALL_STAGES
    assert full_run.result.seconds < FULL_RUN_SECONDS


def test_stages_log_one_line_each(full_run: FullRun) -> None:
    said = re.findall(r"(\w+)(?: \w+ \S+)*: [^\n]+ \(\d+\.\d s\)$", full_run.result.output, re.MULTILINE)
    assert len(said) == len(ALL_STAGES)


def test_second_run_runs_nothing(finished: Workspace) -> None:
    again = finished.must("dvc", "repro")
    assert again.ran == []
    assert again.restored == []


def test_run_leaves_only_ignored_files(finished: Workspace) -> None:
    assert finished.must("git", "status", "--porcelain").output == ""
    tracked = finished.must("git", "ls-files").output.split()
    assert not [name for name in tracked if name.startswith(("runs/", ".resume/", ".dvc/cache"))]


def test_run_leaves_no_resume_points(finished: Workspace) -> None:
    left = [str(path.relative_to(finished.root)) for path in finished.path(".resume").rglob("*")]
    assert left in ([], [".resume/partial"])


@pytest.mark.parametrize(
    ("page", "headings"),
    [
        (
            "pruning.md",
            (
                "# Pruning: tiny",
                "## Expectations",
                "## Models",
                "## Accuracy against size",
                "## Selected models",
                "## Layer by layer",
                "## Ours and others at the same sizes",
                "## Collapse: the paper's separation term and ours",
                "## Discriminants before and after pushing",
                "## How many latent neurons are needed",
                "## Growth",
                "## Settings",
            ),
        ),
        (
            "robustness.md",
            (
                "# Robustness: tiny",
                "## Claims",
                "## Accuracy drop",
                "## Strength by strength",
                "## At the same size",
                "## White box, a diagnostic",
                "## Pair by pair, on the same images",
                "## Confidence and calibration",
                "## Who is fooled",
                "## Gallery",
                "## Accuracy",
                "## Perturbations",
            ),
        ),
    ],
)
def test_reports_have_their_sections(finished: Workspace, page: str, headings: tuple[str, ...]) -> None:
    lines = finished.path("reports/tiny", page).read_text(encoding="utf-8").splitlines()
    missing = [heading for heading in headings if heading not in lines]
    assert not missing
    assert not [line for line in lines if re.search(r"\bnan\b|\binf\b|None", line)]


@pytest.mark.parametrize("page", ["pruning.md", "robustness.md", "summary.md"])
def test_report_links_lead_to_files(finished: Workspace, page: str) -> None:
    folder = finished.path("reports/tiny")
    text = (folder / page).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    assert [target for target in targets if not (folder / target).exists()] == []
    assert targets or page == "summary.md"


def test_every_figure_is_png_and_svg(finished: Workspace) -> None:
    figures = finished.path("reports/tiny/figures")
    png = {file.stem for file in figures.glob("*.png")}
    svg = {file.stem for file in figures.glob("*.svg")}
    assert png == svg
    expected = {
        "severities",
        "reliability",
        "accuracy_size",
        "comparison",
        "layers",
        "discriminants",
        "covariances",
        "growth",
        "drops",
        "pushing",
    }
    assert expected <= png
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in figures.glob("*.png"))
    assert all(b"<svg" in file.read_bytes()[:1000] for file in figures.glob("*.svg"))


def test_dvc_shows_metrics(finished: Workspace) -> None:
    shown = json.loads(finished.must("dvc", "metrics", "show", "--json").output)
    files = shown[""]["data"]
    assert set(files) == {"metrics/tiny/0/accuracy.json", "metrics/tiny/0/accuracy_drop.json"}
    base = files["metrics/tiny/0/accuracy.json"]["data"]["base"]
    assert 0.3 < base["test_accuracy"] <= 1
    assert "fgsm" in files["metrics/tiny/0/accuracy_drop.json"]["data"]["base"]


def test_dvc_shows_a_params_diff(finished_copy: Workspace) -> None:
    finished_copy.edit_params(after="attacks:", old="epsilon: 16.0", new="epsilon: 8.0")
    diff = json.loads(finished_copy.must("dvc", "params", "diff", "--json").output)
    assert diff["params.yaml"] == {"attacks.fgsm.epsilon": {"old": 16.0, "new": 8.0, "diff": -8.0}}


def test_dvc_shows_plots(finished_copy: Workspace) -> None:
    shown = finished_copy.must("dvc", "plots", "show")
    assert "WARNING" not in shown.output
    page = finished_copy.path("dvc_plots/index.html").read_text(encoding="utf-8")
    for title in ("accuracy against parameters", "pushing", "accuracy under perturbation"):
        assert title in page
    assert finished_copy.must("git", "status", "--porcelain").output == ""


def test_removed_reports_come_back_byte_for_byte(finished: Workspace, finished_copy: Workspace) -> None:
    shutil.rmtree(finished_copy.path("reports"))
    again = finished_copy.must("dvc", "repro")
    assert again.ran == ["report"]
    assert again.restored == []
    assert finished_copy.contents("reports") == finished.contents("reports")


def test_fresh_clone_with_the_cache_runs_no_training(finished: Workspace, tmp_path: Path) -> None:
    finished.must("git", "clone", "--quiet", str(finished.root), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    shutil.copytree(finished.path(".dvc/cache"), clone.path(".dvc/cache"))
    again = clone.must("dvc", "repro")
    assert set(again.ran) <= {"report"}
    assert clone.contents("reports", "metrics", "runs") == finished.contents("reports", "metrics", "runs")


@pytest.mark.parametrize(
    ("folder", "suffix", "least"),
    [
        ("runs", ".safetensors", 20),
        ("runs", ".onnx", 2),
        ("runs", ".csv", 10),
        ("runs", ".json", 10),
        ("metrics", ".json", 2),
        ("reports", ".md", 3),
        ("reports", ".csv", 8),
        ("reports", ".png", 8),
        ("reports", ".svg", 8),
    ],
)
def test_another_full_run_gives_the_same_bytes(
    finished: Workspace, second_run: FullRun, folder: str, suffix: str, least: int
) -> None:
    assert second_run.result.code == 0, second_run.result.output
    first = finished.contents(folder, suffixes=(suffix,))
    second = second_run.workspace.contents(folder, suffixes=(suffix,))
    assert len(first) >= least
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []


def test_removed_attack_vanishes_from_the_reports(finished_copy: Workspace) -> None:
    params = finished_copy.path("params.yaml")
    text = params.read_text(encoding="utf-8")
    entry = re.search(r"^  newton_fool:\n(    .*\n)+", text, re.MULTILINE)
    assert entry is not None
    without = text.replace(entry.group(), "").replace("    - newton_fool\n", "")  # nor in report.headline
    params.write_text(without, encoding="utf-8")
    again = finished_copy.must("dvc", "repro")
    assert again.ran == ["robustness@0", "report"]
    assert finished_copy.path("runs/tiny/0/craft/resnet/newton_fool/images.safetensors").exists()
    named = {
        name
        for name, content in finished_copy.contents("reports", "metrics").items()
        if b"newton_fool" in content or "newton_fool" in name
    }
    assert named == set()


def test_seed_that_is_not_in_the_params_stays_out_of_the_reports(
    finished: Workspace, finished_copy: Workspace
) -> None:
    # What a seed leaves behind when it is taken out of the list.
    shutil.copytree(finished_copy.path("runs/tiny/0"), finished_copy.path("runs/tiny/7"))
    again = finished_copy.must("dvc", "repro")
    assert set(again.ran) <= {"report"}
    assert finished_copy.contents("reports", "metrics") == finished.contents("reports", "metrics")


def test_preset_there_and_back_leaves_nothing_to_do(finished_copy: Workspace) -> None:
    finished_copy.must(sys.executable, "-m", "pipeline.params", "--preset", "digits")
    there = json.loads(finished_copy.must("dvc", "status", "--json").output)
    assert {"prepare", "train@0", "train@2", "report"} <= set(there)
    finished_copy.must(sys.executable, "-m", "pipeline.params", "--preset", "tiny")
    assert finished_copy.must("dvc", "repro", "--dry").ran == []


def test_work_under_another_name_costs_the_first_no_training(
    finished: Workspace, finished_copy: Workspace
) -> None:
    finished_copy.edit_params(after="name:", old="name: tiny", new="name: other")
    finished_copy.edit_params(after="train:", old="epochs: 4", new="epochs: 1")
    elsewhere = finished_copy.must("dvc", "repro", "train@0")
    assert "train@0" in elsewhere.ran
    finished_copy.must(sys.executable, "-m", "pipeline.params", "--preset", "tiny")
    back = finished_copy.must("dvc", "repro")
    assert set(back.ran) <= {"report"}
    assert finished_copy.contents("reports", "runs/tiny") == finished.contents("reports", "runs/tiny")
