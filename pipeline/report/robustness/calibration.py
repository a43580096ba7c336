"""Confidence and calibration of every model on clean, noisy and attacked images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from pipeline.report.markdown import image, percent, section, spread, table
from pipeline.report.summary import labelled
from pipeline.robustness.conditions import CLEAN

if TYPE_CHECKING:
    from pipeline.report.results import Results

KINDS = {CLEAN: "clean", "noise": "noisy", "attack": "attacked"}


def calibration_section(results: Results) -> str:
    """Expected calibration error and confidences of every model on clean, noisy and attacked images."""
    kinds = by_kind(results, "accuracy")
    rows = []
    for name, label in labelled(results, results.models()).items():
        row = [label]
        for shown in kinds.values():
            mine = shown[shown["model"] == name]
            row.append(spread(mine.groupby("seed")["ece"].mean().tolist(), percent))
            n_hits = mine["n_correct"].sum()
            for what, n in (("hits", n_hits), ("misses", mine["n"].sum() - n_hits)):
                row.append(f"{mine[f'confidence_of_{what}'].sum() / n:.3f}" if n else "-")
        rows.append(row)
    columns = [f"ECE, %, {KINDS[kind]} | confidence, right | wrong" for kind in kinds]
    return section(
        "Confidence and calibration",
        image("reliability", "Accuracy against confidence of the main models"),
        "Expected calibration error in % (mean over seeds; in parentheses the lowest and the highest seed), "
        f"{results.params.robustness.calibration_bins} bins, and the mean softmax confidence where the model is "
        "right and where it is wrong, over the headline conditions of each kind. In the figure a perfectly "
        "calibrated model follows the diagonal; bins with fewer than ten images over all seeds are left out.",
        table(" | ".join(["model", *columns]), rows),
    )


def by_kind(results: Results, table: str) -> dict[str, pd.DataFrame]:
    """The rows of clean images and of the headline's conditions, by kind of condition."""
    shown = {CLEAN, *results.headline()}
    kinds = {each.name: each.kind for each in results.conditions() if each.name in shown}
    of_rows = results.tables[table]["condition"].map(kinds)
    return {kind: results.tables[table][of_rows == kind] for kind in dict.fromkeys(kinds.values())}
