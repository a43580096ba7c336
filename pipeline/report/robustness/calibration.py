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
    kinds, bins, rows = by_kind(results, "accuracy"), by_kind(results, "reliability"), []
    n_bins = results.params.robustness.calibration_bins
    for name, label in labelled(results, results.models()).items():
        row = [label]
        for kind, shown in kinds.items():
            mine = shown[shown["model"] == name]
            row.append(spread(mine.groupby("seed")["ece"].mean().tolist(), percent))
            top = bins[kind][(bins[kind]["model"] == name) & (bins[kind]["bin"] == n_bins - 1)]
            (n_hits, n), (sure_hits, n_sure) = (each[["n_correct", "n"]].sum() for each in (mine, top))
            sure = f", {thousands(n_sure - sure_hits)} sure"
            for what, count, more in (("hits", n_hits, ""), ("misses", n - n_hits, sure)):
                confidence = mine[f"confidence_of_{what}"].sum() / max(count, 1)
                row.append(f"{confidence:.3f} ({thousands(count)}{more})" if count else "-")
        rows.append(row)
    columns = [f"ECE, %, {KINDS[kind]} | confidence, right | wrong" for kind in kinds]
    return section(
        "Confidence and calibration",
        image("reliability", "Accuracy against confidence of the main models"),
        "Expected calibration error in % (mean over seeds; in parentheses the lowest and the highest seed), "
        f"{n_bins} bins, and the mean softmax confidence where the model is right and where it is wrong, over the "
        "headline conditions of each kind. In parentheses how many images that is, over all seeds and these "
        f"conditions; *sure* are those of the wrong ones whose confidence lies in the highest bin, at least "
        f"{percent(1 - 1 / n_bins)} %. In the figure a perfectly calibrated model follows the diagonal; bins with "
        "fewer than ten images over all seeds are left out.",
        table(" | ".join(["model", *columns]), rows),
    )


def by_kind(results: Results, table: str) -> dict[str, pd.DataFrame]:
    """The rows of clean images and of the headline's conditions, by kind of condition."""
    shown = {CLEAN, *results.headline()}
    kinds = {each.name: each.kind for each in results.conditions() if each.name in shown}
    of_rows = results.tables[table]["condition"].map(kinds)
    return {kind: results.tables[table][of_rows == kind] for kind in dict.fromkeys(kinds.values())}
