"""Confidence and calibration of every model on clean, noisy and attacked images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from pipeline.report.markdown import image, percent, section, spread, table, thousands
from pipeline.report.summary import labelled
from pipeline.robustness.conditions import CLEAN

if TYPE_CHECKING:
    from pipeline.report.results import Results

KINDS = {CLEAN: "clean", "noise": "noisy", "attack": "attacked"}


def calibration_section(results: Results) -> str:
    """Expected calibration error, confidences and counts of every model on clean, noisy and attacked images."""
    n_bins, bins = results.params.robustness.calibration_bins, by_kind(results, "reliability")
    header = "model | ECE, % | right | their confidence | wrong | their confidence | of these sure"
    blocks = list[str]()
    for kind, shown in by_kind(results, "accuracy").items():
        top, rows = bins[kind][bins[kind]["bin"] == n_bins - 1], []
        for name, label in labelled(results, results.models()).items():
            mine, surest = (each[each["model"] == name] for each in (shown, top))
            (n_hits, n), (n_sure_hits, n_sure) = (each[["n_correct", "n"]].sum() for each in (mine, surest))
            row = [label, spread(mine.groupby("seed")["ece"].mean().tolist(), percent)]
            for what, count in (("hits", n_hits), ("misses", n - n_hits)):
                row.append(thousands(count))
                row.append(f"{mine[f'confidence_of_{what}'].sum() / count:.3f}" if count else "-")
            rows.append([*row, thousands(n_sure - n_sure_hits)])
        blocks += [f"{KINDS[kind].capitalize()} images:", table(header, rows)]
    return section(
        "Confidence and calibration",
        image("reliability", "Accuracy against confidence of the main models"),
        "Expected calibration error in % (mean over seeds; in parentheses the lowest and the highest seed), "
        f"{n_bins} bins; how many images the model gets right and wrong, and its mean softmax confidence in them. They "
        "are those of all seeds and of the headline conditions of each kind. *Sure*: a confidence in the highest bin, "
        f"at least {percent(1 - 1 / n_bins)} %. In the figure a perfectly calibrated model follows the diagonal; bins "
        "with fewer than ten images over all seeds are left out.",
        *blocks,
    )


def by_kind(results: Results, table: str) -> dict[str, pd.DataFrame]:
    """The rows of clean images and of the headline's conditions, by kind of condition."""
    shown = {CLEAN, *results.headline()}
    kinds = {each.name: each.kind for each in results.conditions() if each.name in shown}
    of_rows = results.tables[table]["condition"].map(kinds)
    return {kind: results.tables[table][of_rows == kind] for kind in dict.fromkeys(kinds.values())}
