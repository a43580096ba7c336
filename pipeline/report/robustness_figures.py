"""The figures of the robustness report: thesis Tables 5-1 to 5-3 as bars, Figures 5-2 to 5-5 as galleries."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes

from pipeline.report.figures import COLORS, figure, label_axes, literal
from pipeline.robustness.conditions import CLEAN, Condition

if TYPE_CHECKING:
    from pipeline.report.results import Results

# Of a class's name above an image of the gallery.
_LETTERS = 14
KINDS = {CLEAN: "clean", "noise": "noisy", "attack": "attacked"}


def draw_drops(results: Results, folder: Path) -> None:
    """Accuracy drop of every model under every perturbation, mean and interval."""
    conditions = results.headline()
    positions, width = np.arange(len(conditions)), 0.8 / len(results.main_models())
    error_kw = {"lw": 0.8, "capsize": 2, "ecolor": "#999999"}
    with figure(folder, "drops", size=(9.5, 4.2), dpi=results.params.report.dpi) as drawing:
        ax = drawing.subplots()
        for idx, (name, label) in enumerate(results.main_models().items()):
            drops = [results.drop(name, condition) for condition in conditions]
            means = [100 * each.mean for each in drops]
            errors = 100 * np.array([[each.mean - each.low, each.high - each.mean] for each in drops]).T
            x = positions + (idx - (len(results.main_models()) - 1) / 2) * width
            ax.bar(x, means, width, yerr=errors, color=COLORS[name], error_kw=error_kw, label=label)
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xticks(positions, conditions)
        label_axes(ax, y="accuracy change against clean images\n(percentage points)")
        drawing.legend(loc="outside lower center", ncols=3)


def draw_severities(results: Results, folder: Path) -> bool:
    """Test accuracy against strength, a panel for each method that comes in several strengths; False without any.

    Noise has one scale of accuracies and attacks another: beside attacks that take half of all hits, noise would be
    a flat line. An attack without a budget has no place on such an axis; it has its row in the tables.
    """
    families: dict[str, list[Condition]] = {}
    for each in results.conditions():
        if each.kind != CLEAN and not isnan(each.strength):
            name = each.family if len(results.params.sources) == 1 else f"{each.family} {each.source}".strip()
            families.setdefault(name, []).append(each)
    swept = {name: sorted(each, key=lambda c: c.strength) for name, each in families.items() if len(each) > 1}
    panels = swept or families
    if not panels:
        return False
    columns = min(3, len(panels))
    n_rows = -(-len(panels) // columns)
    # The legend has as many columns as there are panels: three would be wider than one panel.
    size = (3.2 * columns, 2.7 * n_rows + 0.22 * -(-len(results.main_models()) // columns) + 0.15)
    with figure(folder, "severities", size=size, dpi=results.params.report.dpi) as drawing:
        axes = list(np.asarray(drawing.subplots(n_rows, columns, squeeze=False)).flat)
        first_of: dict[str, Axes] = {}
        for ax, (family, conditions) in zip(axes, panels.items(), strict=False):
            _draw_family(ax, results, conditions)
            label_axes(ax, x=conditions[0].unit, title=family)
            if (first := first_of.setdefault(conditions[0].kind, ax)) is not ax:
                ax.sharey(first)
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        for ax in axes[::columns]:
            ax.set_ylabel("test accuracy (%)")
        drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    return True


def _draw_family(ax: Axes, results: Results, conditions: list[Condition]) -> None:
    strengths = [0.0, *(each.strength for each in conditions)]
    names = [CLEAN, *(each.name for each in conditions)]
    for model, label in results.main_models().items():
        rows = results.rows("accuracy", model=model)
        by_seed = 100 * rows.pivot_table(index="seed", columns="condition", values="accuracy")[names]
        ax.plot(strengths, by_seed.mean(), color=COLORS[model], marker=".", lw=1.2, label=label)
        ax.fill_between(strengths, by_seed.min(), by_seed.max(), color=COLORS[model], alpha=0.08, lw=0)


def draw_gallery(results: Results, attack: str, fooled: str, name: str, folder: Path) -> bool:
    """The first seed's clean images, perturbations, attacked images, and what both models said; False if none."""
    rows, images = results.galleries[attack]
    rows = rows[rows["fooled"] == fooled]
    if rows.empty:
        return False
    clean, attacked = (images[f"{fooled}.{state}"].astype(np.float32) for state in ("clean", "attacked"))
    classes = [literal(each, most=_LETTERS) for each in results.dataset["classes"]]
    scale = float(np.abs(attacked - clean).max()) or 1.0
    shown = {
        "clean": (clean, 0, 1),
        f"perturbation,\n±{255 * scale:.0f} of 255": (attacked - clean, -scale, scale),
        "attacked": (attacked, 0, 1),
    }
    size = (1.75 * len(rows) + 0.6, 6.4)
    with figure(folder, name, size=size, dpi=results.params.report.dpi) as drawing:
        axes = np.asarray(drawing.subplots(3, len(rows), squeeze=False))
        for of_kind, (label, (pixels, low, high)) in zip(axes, shown.items(), strict=True):
            of_kind[0].set_ylabel(label)
            for ax, image in zip(of_kind, pixels, strict=True):
                _show(ax, image, low, high)
        for column, (_, row) in enumerate(rows.iterrows()):
            title = f"label {classes[int(row['label'])]}\n{_said(row, 'clean', classes)}"
            axes[0, column].set_title(title, fontsize=8)
            axes[2, column].set_title(_said(row, "attacked", classes), fontsize=8)
    return True


def _said(row: pd.Series[Any], state: str, classes: list[str]) -> str:
    return "\n".join(
        f"{name}: {classes[int(row[f'{model}_{state}_class'])]} ({row[f'{model}_{state}_confidence']:.2f})"
        for name, model in (("original", "first"), ("pruned", "second"))
    )


def _show(ax: Axes, image: npt.NDArray[np.float32], low: float, high: float) -> None:
    pixels = image[0] if len(image) == 1 else (image.transpose(1, 2, 0) - low) / (high - low)
    ax.imshow(pixels, vmin=low, vmax=high, cmap="gray" if low == 0 else "RdBu_r", interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def draw_reliability(results: Results, folder: Path) -> None:
    """Reliability diagrams: accuracy against confidence on clean, noisy and attacked images, all seeds together."""
    rows_of = by_kind(results, "reliability")
    with figure(folder, "reliability", size=(9.5, 3.8), dpi=results.params.report.dpi) as drawing:
        axes = drawing.subplots(1, len(rows_of), sharex=True, sharey=True)
        for ax, (kind, rows) in zip(axes, rows_of.items(), strict=True):
            ax.plot([0, 100], [0, 100], color="grey", lw=0.8, ls=":", label="perfectly calibrated")
            for name in ("original", "pushed", "accuracy_first", "parameter_first"):
                bins = rows[rows["model"] == name].groupby("bin")[["n", "n_correct", "confidence"]].sum()
                bins = bins[bins["n"] >= 10]
                x, y = 100 * bins["confidence"] / bins["n"], 100 * bins["n_correct"] / bins["n"]
                ax.plot(x, y, color=COLORS[name], marker="o", ms=3, lw=1.1, label=results.labels[name])
            label_axes(ax, x="confidence (%)", title="clean images" if kind == CLEAN else KINDS[kind])
        axes[0].set_ylabel("accuracy (%)")
        drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)


def by_kind(results: Results, table: str) -> dict[str, pd.DataFrame]:
    """The rows of clean images and of the headline's conditions, by kind of condition."""
    shown = {CLEAN, *results.headline()}
    kinds = {each.name: each.kind for each in results.conditions() if each.name in shown}
    of_rows = results.tables[table]["condition"].map(kinds)
    return {kind: results.tables[table][of_rows == kind] for kind in dict.fromkeys(kinds.values())}
