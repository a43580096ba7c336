"""The robustness report's section on confidence and calibration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pipeline.report.figures import COLORS, LABELS, figure, label_axes
from pipeline.report.markdown import image, table
from pipeline.report.robustness_tables import conditions_of, headline_of, label_of, models_of
from pipeline.report.statistics import mean_interval
from pipeline.robustness.conditions import CLEAN

if TYPE_CHECKING:
    from pipeline.report.results import Results

_DRAWN = ("base", "pushed", "accuracy_first", "parameter_first")
_KINDS = (CLEAN, "noise", "attack")


def calibration_section(results: Results) -> str:
    """Expected calibration error and confidences of every model on clean, noisy and attacked images."""
    kind_of = {each.name: each.kind for each in conditions_of(results)}
    headline = {CLEAN, *headline_of(results)}
    shown = results.accuracy[results.accuracy["condition"].isin(headline)]
    shown = shown.assign(kind=shown["condition"].map(kind_of))
    rows = []
    for name in models_of(results):
        mine = shown[shown["model"] == name]
        cells = []
        for kind in _KINDS:
            of_kind = mine[mine["kind"] == kind]
            by_seed = of_kind.groupby("seed")["ece"].mean().tolist()
            interval = (
                mean_interval(by_seed, confidence=results.params.report.confidence) if by_seed else None
            )
            cells.append("-" if interval is None else interval.percent())
            cells.append(_mean_confidence(of_kind, "hits"))
            cells.append(_mean_confidence(of_kind, "misses"))
        rows.append([label_of(results, name), *cells])
    header = ["model"]
    for kind in ("clean", "noisy", "attacked"):
        header += [f"ECE, %, {kind}", "confidence, right", "wrong"]
    return "\n".join(
        [
            "## Confidence and calibration",
            "",
            image("reliability", "Accuracy against confidence of the main models"),
            "Expected calibration error in % (mean and interval over seeds), "
            f"{results.params.robustness.calibration_bins} bins, and the mean softmax confidence where the model is "
            "right and where it is wrong, over the headline conditions of each kind. In the figure a perfectly "
            "calibrated model follows the diagonal; bins with fewer than ten images over all seeds are left out.",
            "",
            table(header, rows),
        ]
    )


def draw_reliability(results: Results, folder: Path) -> None:
    """Reliability diagrams: accuracy against confidence on clean, noisy and attacked images, all seeds together."""
    kind_of = {each.name: each.kind for each in conditions_of(results)}
    headline = {CLEAN, *headline_of(results)}
    rows = results.reliability[results.reliability["condition"].isin(headline)]
    rows = rows.assign(kind=rows["condition"].map(kind_of))
    with figure(folder, "reliability", size=(9.5, 3.8), dpi=results.params.report.dpi) as drawing:
        axes = np.asarray(drawing.subplots(1, len(_KINDS), sharex=True, sharey=True))
        for ax, kind, title in zip(axes, _KINDS, ("clean images", "noisy", "attacked"), strict=True):
            _draw_kind(ax, rows[rows["kind"] == kind])
            label_axes(ax, x="confidence (%)", y="", title=title)
        axes[0].set_ylabel("accuracy (%)")
        drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)


def _draw_kind(ax: Axes, rows: pd.DataFrame) -> None:
    ax.plot([0, 100], [0, 100], color="grey", lw=0.8, ls=":", label="perfectly calibrated")
    for name in _DRAWN:
        bins = rows[rows["model"] == name].groupby("bin")[["n", "n_correct", "confidence"]].sum()
        bins = bins[bins["n"] >= 10]
        ax.plot(
            100 * bins["confidence"] / bins["n"],
            100 * bins["n_correct"] / bins["n"],
            color=COLORS[name],
            marker="o",
            ms=3,
            lw=1.1,
            label=LABELS[name],
        )


def _mean_confidence(rows: pd.DataFrame, what: str) -> str:
    n = rows["n_correct"].sum() if what == "hits" else (rows["n"] - rows["n_correct"]).sum()
    return f"{rows[f'confidence_of_{what}'].sum() / n:.3f}" if n else "-"
