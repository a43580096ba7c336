"""Two reports side by side: paired where the test images are the same, settings that differ, mistakes in one line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from pipeline.errors import InputError
from pipeline.report.compare import compared
from pipeline.uncertainty import counts_of

N = 100


def report(folder: Path, hits: dict[int, int], *, epochs: int = 3, source: str = "digits") -> Path:
    """Of one model; by seed, how many of the first images are hits."""
    (folder / "tables").mkdir(parents=True)
    rows = [
        {"seed": seed, "model": "original", "split": "test", "params": 1000, "flops": 90}
        | counts_of(np.arange(N) < n)
        for seed, n in hits.items()
    ]
    pd.DataFrame(rows).to_csv(folder / "tables/scores.csv", index=False)
    params = {
        "name": "a",
        "data": {"source": source},
        "train": {"epochs": epochs},
        "report": {"confidence": 0.95},
    }
    YAML().dump(params, folder / "params.yaml")
    return folder


def attacked(folder: Path, *, noisy: int, milliseconds: float | None) -> Path:
    """The report with what a whole one has: clean and noisy images, and what its one model costs."""
    rows = [
        {"seed": seed, "condition": condition, "model": "original"} | counts_of(np.arange(N) < n)
        for seed in range(3)
        for condition, n in (("clean", 90), ("gaussian", noisy))
    ]
    pd.DataFrame(rows).to_csv(folder / "tables/accuracy.csv", index=False)
    cost = {"model": "original", "bytes": 5000, "milliseconds": milliseconds}
    cost |= {"worst_noise_drop": noisy / 100 - 0.9, "worst_attack_drop": -0.5}
    pd.DataFrame([cost]).to_csv(folder / "tables/recommendation.csv", index=False)
    (folder / "summary.md").write_text(f"**Take it at {noisy}.**\n\nmore\n")
    return folder


def test_two_whole_reports_say_what_they_recommend_what_it_costs_and_how_robust_it_is(tmp_path: Path) -> None:
    first, second = (report(tmp_path / name, dict.fromkeys(range(3), 90)) for name in "ab")
    attacked(first, noisy=80, milliseconds=0.5)
    attacked(second, noisy=70, milliseconds=None)
    text = compared(str(first), str(second))
    assert f"A: {first}\n\n**Take it at 80.**\n\nB: {second}\n\n**Take it at 70.**" in text
    assert "| original | 5,000 | 5,000 | 0.5 | - | -10.00 | -20.00 | -50.00 | -50.00 |" in text
    (noisy,) = [line for line in text.splitlines() if line.startswith("| gaussian |")]
    assert noisy.startswith("| gaussian | 80.00 | 70.00 | -10.00 [")
    assert "| clean |" not in text


def last_cell(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("| original |")]
    return line.strip("| ").split(" | ")[-1]


def test_differences_are_paired_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    first = report(tmp_path / "a", dict.fromkeys(range(6), 80) | {7: 0})
    second = report(tmp_path / "b", dict.fromkeys(range(6), 90), epochs=4)
    text = compared(str(first), str(second))
    mean, interval = last_cell(text).split(" ", 1)
    assert mean == "+10.00"
    low, high = map(float, interval.strip("[]").split(", "))
    # Paired: surely above zero, and narrower than the normal interval of two independent shares of 100.
    unpaired = 2 * 196 * np.sqrt(0.8 * 0.2 / N + 0.9 * 0.1 / N)
    assert 0 < low < 10 < high < low + unpaired
    assert "* `train.epochs`: 3 in A, 4 in B" in text


def test_other_images_have_no_interval(tmp_path: Path) -> None:
    first, second = report(tmp_path / "a", {0: 80}), report(tmp_path / "b", {0: 90}, source="mnist")
    text = compared(str(first), str(second))
    assert last_cell(text) == "+10.00"
    assert "not of the same test images" in text


@pytest.mark.parametrize("place", ["no-such-revision", "."])
def test_what_is_no_report_is_said_in_a_line(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes((ROOT / "presets/tiny.yaml").read_bytes())
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected a report's folder"):
        compared("empty" if place == "." else place, str(report(tmp_path / "b", {0: 90})))


def test_make_compare_says_what_it_needs() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "pipeline.report.compare", "one"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (told.returncode, told.stderr) == (1, "make compare: expected A=... B=..., got 1 of them\n")
