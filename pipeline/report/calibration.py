"""The robustness report's section on confidence and calibration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.axes import Axes

from pipeline.report.figures import COLORS, LABELS, figure, label_axes
from pipeline.report.markdown import image, section, table
from pipeline.report.robustness_tables import conditions_of, headline_of, label_of, models_of
from pipeline.robustness.conditions import CLEAN

if TYPE_CHECKING:
    from pipeline.report.results import Results

_DRAWN = ("base", "pushed", "accuracy_first", "parameter_first")
_KINDS = {CLEAN: "clean", "noise": "noisy", "attack": "attacked"}


def calibration_section(results: Results) -> str:
    """Expected calibration error and confidences of every model on clean, noisy and attacked images."""
    by_kind = _by_kind(results, "accuracy")
    rows = []
    for name in models_of(results):
        cells = []
        for shown in by_kind.values():
            mine = shown[shown["model"] == name]
            cells.append(results.interval(mine.groupby("seed")["ece"].mean()).percent())
            cells.append(_mean_confidence(mine, "hits"))
            cells.append(_mean_confidence(mine, "misses"))
        rows.append([label_of(results, name), *cells])
    header = ["model"]
    for kind in by_kind:
        header += [f"ECE, %, {_KINDS[kind]}", "confidence, right", "wrong"]
    return section(
        "Confidence and calibration",
        image("reliability", "Accuracy against confidence of the main models"),
        "Expected calibration error in % (mean and interval over seeds), "
        f"{results.params.robustness.calibration_bins} bins, and the mean softmax confidence where the model is "
        "right and where it is wrong, over the headline conditions of each kind. In the figure a perfectly "
        "calibrated model follows the diagonal; bins with fewer than ten images over all seeds are left out.",
        "",
        table(header, rows),
    )


def draw_reliability(results: Results, folder: Path) -> None:
    """Reliability diagrams: accuracy against confidence on clean, noisy and attacked images, all seeds together."""
    by_kind = _by_kind(results, "reliability")
    with figure(folder, "reliability", size=(9.5, 3.8), dpi=results.params.report.dpi) as drawing:
        axes = drawing.subplots(1, len(by_kind), sharex=True, sharey=True)
        for ax, (kind, rows) in zip(axes, by_kind.items(), strict=True):
            _draw_kind(ax, rows)
            label_axes(ax, x="confidence (%)", y="", title="clean images" if kind == CLEAN else _KINDS[kind])
        axes[0].set_ylabel("accuracy (%)")
        drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)


def _by_kind(results: Results, table: str) -> dict[str, pd.DataFrame]:
    """The rows of clean images and of the headline's conditions, by kind of condition."""
    shown = {CLEAN, *headline_of(results)}
    names: dict[str, list[str]] = {}
    for each in conditions_of(results):
        if each.name in shown:
            names.setdefault(each.kind, []).append(each.name)
    rows = results.tables[table]
    return {kind: rows[rows["condition"].isin(of_kind)] for kind, of_kind in names.items()}


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
