"""The whole pipeline on the tiny preset: it runs, does not run again, and gives the same bytes everywhere."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import (
    ANOTHER_RUN,
    FULL_RUN_SECONDS,
    AnotherRun,
    FullRun,
    Workspace,
    jobs_run,
    stages_run,
    warmed,
)
from ruamel.yaml import YAML
from tiny_params import edited

from pipeline.jobs.provenance import FILE

# One process for all that share a full run.
pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.dvc]

HEADINGS = {
    "report.md": (
        *("# Grow, push, prune: tiny", "# The answer", "# What the papers claim, and what this run says"),
        *("# What ours was compared with, and how fairly", "## Ours and others at the same sizes"),
        *("# Robustness under noise and attacks", "## Accuracy drop", "## Strength by strength"),
        *("## At the same size", "## White box, a diagnostic", "## Pair by pair, on the same images"),
        *("## Confidence and calibration", "## Who is fooled", "## Accuracy", "## Perturbations"),
        *("# The latent space", "## Collapse: the paper's separation term and ours"),
        *("## Discriminants with and without the push", "## How many latent neurons are needed"),
        *("# Layer by layer", "## Which layers are pruned", "# Growing", "## Growth"),
        *("# Accuracy against size, time and bytes", "## Models, seed by seed", "## Accuracy against size"),
        *("## Selected models", "# Attacked images", "## Gallery", "# Provenance", "## Settings"),
    ),
    "summary.md": (),
}


def lock_of(workspace: Workspace) -> dict[str, Any]:
    text = workspace.path("dvc.lock").read_text(encoding="utf-8")
    stages: dict[str, Any] = YAML(typ="safe").load(text)["stages"]
    return stages


def test_full_run_ends_well_and_soon(full_run: FullRun) -> None:
    assert full_run.result.code == 0, full_run.result.output
    assert full_run.result.seconds < FULL_RUN_SECONDS
    lock = lock_of(full_run.workspace)
    assert sorted(full_run.result.ran) == sorted(lock)
    assert len(lock) <= 20
    assert len(full_run.workspace.path("dvc.lock").read_text(encoding="utf-8").splitlines()) <= 3000


def test_stages_and_jobs_say_a_line_each(full_run: FullRun) -> None:
    output, log = full_run.result.output, full_run.workspace.log()
    said = re.findall(r"^(\w+): [^\n]+ \(\d+\.\d s\)$", output, re.MULTILINE)
    assert said == full_run.result.ran == stages_run(log)
    of_jobs = re.findall(r"^\[\d+/\d+\] (\w+)(?:, |: )[^\n]+ \(\S+ \w+[;)]", output, re.MULTILINE)
    assert sorted(of_jobs) == sorted(job.split()[0] for job in jobs_run(log))
    assert len(of_jobs) > 25


def test_second_run_runs_nothing_and_nothing_is_left_behind(full_run: FullRun, finished: Workspace) -> None:
    assert (full_run.again.code, full_run.again.ran, full_run.again.restored) == (0, [], [])
    # Without its lock, as others copy the folder meanwhile.
    assert finished.must("git", "--no-optional-locks", "status", "--porcelain").output == ""
    tracked = finished.must("git", "ls-files").output.split()
    assert not [name for name in tracked if name.startswith(("runs/", ".jobs/", ".dvc/cache"))]
    left = [*finished.path(".jobs/work").rglob("*"), *finished.path(".jobs/new").rglob("*")]
    assert left == []


@pytest.mark.parametrize("page", HEADINGS)
def test_reports_have_their_sections_and_links_that_lead_somewhere(finished: Workspace, page: str) -> None:
    folder = finished.path("reports/tiny")
    text = (folder / page).read_text(encoding="utf-8")
    lines = text.splitlines()
    assert [heading for heading in HEADINGS[page] if heading not in lines] == []
    assert not [line for line in lines if re.search(r"\bnan\b|\binf\b|None", line)]
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    assert [target for target in targets if not (folder / target).exists()] == []
    assert targets or page == "summary.md"


def test_every_figure_is_png_and_svg_and_stands_on_a_page(finished: Workspace) -> None:
    folder = finished.path("reports/tiny")
    pages = (folder / "report.md").read_text(encoding="utf-8")
    figures = sorted((folder / "figures").iterdir())
    assert {file.suffix for file in figures} == {".png", ".svg"}
    assert [file.stem for file in figures if file.suffix == ".png"] == sorted({f.stem for f in figures})
    assert len(figures) >= 20
    for file in figures:
        assert f"(figures/{file.name})" in pages, f"{file.name} stands on no page"
        start = file.read_bytes()[:1000]
        assert start.startswith(b"\x89PNG") if file.suffix == ".png" else b"<svg" in start


def test_dvc_shows_metrics_a_params_diff_and_plots(finished_copy: Workspace) -> None:
    shown = json.loads(finished_copy.must("dvc", "metrics", "show", "--json").output)[""]["data"]
    means = "reports/tiny/metrics.json"
    assert set(shown) == {"metrics/tiny/accuracy.json", "metrics/tiny/accuracy_drop.json", means}
    taken, models = (shown[means]["data"][name] for name in ("take", "models"))
    assert models[taken]["low"] < models[taken]["test_accuracy"] < models[taken]["high"]
    assert 0.3 < shown["metrics/tiny/accuracy.json"]["data"]["0"]["original"]["test_accuracy"] <= 1
    assert "fgsm" in shown["metrics/tiny/accuracy_drop.json"]["data"]["0"]["original"]

    drawn = finished_copy.must("dvc", "plots", "show")
    assert "WARNING" not in drawn.output
    page = finished_copy.path("dvc_plots/index.html").read_text(encoding="utf-8")
    for title in ("accuracy against parameters", "pushing", "accuracy under perturbation"):
        assert title in page
    assert finished_copy.must("git", "status", "--porcelain").output == ""

    finished_copy.write_params(edited(("attacks.fgsm.epsilon", 8.0)))
    diff = json.loads(finished_copy.must("dvc", "params", "diff", "--json").output)
    changed = {"attacks.fgsm.epsilon": {"old": 16.0, "new": 8.0, "diff": -8.0}}
    assert {key: value for key, value in diff["params.yaml"].items() if key != "runtime.jobs"} == changed


def test_all_latent_neurons_of_the_original_are_the_original(finished: Workspace) -> None:
    """Its hits with the top neurons alone end at those of the whole net (thesis Figure 3-19)."""
    sensitivity, scores = (
        pd.read_csv(finished.path(f"runs/tiny/evaluate/{name}.csv")) for name in ("sensitivity", "scores")
    )
    whole = scores.query("model == 'original' and split == 'validation'")["n_correct"].tolist()
    last = sensitivity.groupby("seed").tail(1)
    assert last["n_correct"].tolist() == last["n_correct_pca"].tolist() == whole
    assert sensitivity["n_correct"].min() < whole[0]


def test_a_clone_with_the_cache_runs_nothing(finished: Workspace, tmp_path: Path) -> None:
    """On a machine that writes CRLF, too: DVC would take such line ends for edits of the code."""
    clone = Workspace(tmp_path / "clone")
    crlf = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    finished.must("git", "clone", "--quiet", *crlf, str(finished.root), str(clone.root))
    shutil.copytree(finished.path(".dvc/cache"), clone.path(".dvc/cache"))
    assert clone.must("dvc", "repro").ran == []
    assert clone.contents("reports", "metrics", "runs") == finished.contents("reports", "metrics", "runs")


def test_another_run_in_one_process_gives_the_same_bytes(
    finished: Workspace, another_run: AnotherRun
) -> None:
    """Another folder, another store, one job at a time instead of two in forked processes; some stages were killed."""
    folders = [*(f"runs/tiny/{stage}" for stage in ANOTHER_RUN), "metrics/tiny/accuracy.json"]
    first, second = (each.contents(*folders) for each in (finished, another_run.workspace))
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []
    for suffix, n in {".safetensors": 15, ".onnx": 2, ".csv": 8, ".json": 10}.items():
        assert len([name for name in first if name.endswith(suffix)]) >= n
    ran = [line for line in finished.log() if line["stage"] in ANOTHER_RUN]
    assert sorted(jobs_run(ran)) == sorted(jobs_run(another_run.workspace.log()))


def test_presets_and_names_there_and_back_leave_nothing_to_do(
    finished: Workspace, finished_copy: Workspace
) -> None:
    params = [sys.executable, "-m", "pipeline.params", "--preset"]
    finished_copy.must(*params, "digits")
    there = json.loads(finished_copy.must("dvc", "status", "--json").output)
    assert {"prepare", "train", "report"} <= {*there}

    finished_copy.write_params(edited(("name", "other"), ("data.split_seed", 1)))
    assert finished_copy.must("dvc", "repro", "prepare").ran == ["prepare"]
    finished_copy.must(*params, "tiny")
    before = len(finished_copy.log())
    with warmed(finished_copy) as by_warm:
        back = finished_copy.must(*by_warm, "dvc", "repro")
    assert set(back.ran) <= {"report"}
    assert set(jobs_run(finished_copy.log()[before:])) <= {"report"}
    folders = ("reports", "metrics", "runs/tiny")
    contents = [each.contents(*folders) for each in (finished_copy, finished)]
    # The one file that says when, and how long it took.
    dated = [each.pop(f"reports/tiny/{FILE}") for each in contents]
    assert all(each.startswith(b"# Provenance of this copy") for each in dated)
    assert contents[0] == contents[1]
