"""The figures of the robustness report: thesis Tables 5-1 to 5-3 as bars, Figures 5-2 to 5-5 as galleries."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes

from pipeline.compared import MODELS
from pipeline.report.figures import COLORS, LABELS, figure, label_axes
from pipeline.report.robustness_tables import conditions_of, drop_interval, headline_of
from pipeline.robustness.conditions import CLEAN, Condition

if TYPE_CHECKING:
    from pipeline.report.results import Results


def draw_drops(results: Results, folder: Path) -> None:
    """Accuracy drop of every model under every perturbation, mean and interval over seeds."""
    report = results.params.report
    conditions = headline_of(results)
    width = 0.8 / len(MODELS)
    with figure(folder, "drops", size=(9.5, 4.2), dpi=report.dpi) as drawing:
        ax = drawing.subplots()
        for idx, name in enumerate(MODELS):
            intervals = [drop_interval(results, name, c) for c in conditions]
            ax.bar(
                np.arange(len(conditions)) + (idx - (len(MODELS) - 1) / 2) * width,
                [100 * each.mean for each in intervals],
                width,
                yerr=[100 * np.nan_to_num(each.half_width) for each in intervals],
                color=COLORS[name],
                error_kw={"lw": 0.8, "capsize": 2, "ecolor": "#999999"},
                label=LABELS[name],
            )
        ax.axhline(0, color="black", lw=0.8)
        ax.set_xticks(np.arange(len(conditions)), conditions)
        label_axes(ax, x="", y="accuracy change against clean images\n(percentage points)")
        drawing.legend(loc="outside lower center", ncols=3)


def draw_severities(results: Results, folder: Path) -> bool:
    """Test accuracy against strength, a panel for each method that comes in several strengths; False without any.

    Noise has one scale of accuracies and attacks another: beside attacks that take half of all hits, noise would be
    a flat line. An attack without a budget has no place on such an axis; it has its row in the tables.
    """
    families: dict[str, list[Condition]] = {}
    for each in conditions_of(results):
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
    size = (3.2 * columns, 2.7 * n_rows + 0.22 * -(-len(MODELS) // columns) + 0.15)
    with figure(folder, "severities", size=size, dpi=results.params.report.dpi) as drawing:
        axes = list(np.asarray(drawing.subplots(n_rows, columns, squeeze=False)).flat)
        for ax, (family, conditions) in zip(axes, panels.items(), strict=False):
            strengths = [0.0, *(each.strength for each in conditions)]
            names = [CLEAN, *(each.name for each in conditions)]
            for model in MODELS:
                rows = results.rows("accuracy", model=model)
                by_seed = 100 * rows.pivot_table(index="seed", columns="condition", values="accuracy")[names]
                ax.plot(
                    strengths, by_seed.mean(), color=COLORS[model], marker=".", lw=1.2, label=LABELS[model]
                )
                ax.fill_between(
                    strengths, by_seed.min(), by_seed.max(), color=COLORS[model], alpha=0.08, lw=0
                )
            label_axes(ax, x=conditions[0].unit, y="", title=family)
        for kind in {each[0].kind for each in panels.values()}:
            alike = [ax for ax, each in zip(axes, panels.values(), strict=False) if each[0].kind == kind]
            for ax in alike[1:]:
                ax.sharey(alike[0])
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        for ax in drawing.axes[::columns]:
            ax.set_ylabel("test accuracy (%)")
        handles, labels = drawing.axes[0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside lower center", ncols=columns)
    return True


def draw_gallery(results: Results, attack: str, fooled: str, name: str, folder: Path) -> bool:
    """The first seed's clean images, perturbations, attacked images, and what base and pruned said; False if none."""
    rows, images = results.galleries[attack]
    rows = rows[rows["fooled"] == fooled]
    if rows.empty:
        return False
    clean, attacked = (images[f"{fooled}.{state}"].astype(np.float32) for state in ("clean", "attacked"))
    classes = results.dataset["classes"]
    n = len(rows)
    scale = float(np.abs(attacked - clean).max()) or 1.0
    with figure(folder, name, size=(1.75 * n + 0.6, 6.4), dpi=results.params.report.dpi) as drawing:
        axes = np.asarray(drawing.subplots(3, n, squeeze=False))
        for column, (_, row) in enumerate(rows.iterrows()):
            _show(axes[0, column], clean[column], 0, 1)
            _show(axes[1, column], attacked[column] - clean[column], -scale, scale)
            _show(axes[2, column], attacked[column], 0, 1)
            axes[0, column].set_title(
                f"label {classes[int(row['label'])]}\n{_said(row, 'clean', classes)}", fontsize=8
            )
            axes[2, column].set_title(_said(row, "attacked", classes), fontsize=8)
        for ax, label in zip(
            axes[:, 0], ("clean", f"perturbation,\n±{255 * scale:.0f} of 255", "attacked"), strict=True
        ):
            ax.set_ylabel(label)
    return True


def _said(row: pd.Series[Any], state: str, classes: list[str]) -> str:
    return "\n".join(
        f"{name}: {classes[int(row[f'{model}_{state}_class'])]} ({row[f'{model}_{state}_confidence']:.2f})"
        for name, model in (("base", "first"), ("pruned", "second"))
    )


def _show(ax: Axes, image: npt.NDArray[np.float32], low: float, high: float) -> None:
    pixels = image[0] if len(image) == 1 else (image.transpose(1, 2, 0) - low) / (high - low)
    ax.imshow(pixels, vmin=low, vmax=high, cmap="gray" if low == 0 else "RdBu_r", interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
