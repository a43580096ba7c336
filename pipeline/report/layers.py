"""The pruning report's sections on layers: how much of each one is left, beside what the papers show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter

from pipeline.report.figures import COLORS, LABELS, SIZES, figure, label_axes, short_number
from pipeline.report.page import frame_table, image, percent, section, table

if TYPE_CHECKING:
    from pipeline.report.results import Results

# A model and the one that it was cut from.
_CUT_FROM = {
    "accuracy_first": "pushed",
    "parameter_first": "pushed",
    "after_the_fact_accuracy_first": "original",
    "after_the_fact_parameter_first": "original",
}


def layerwise(results: Results, model: str, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Layers of a pruned model of a seed and of the one that it was cut from, by name, in the order of the net.

    A layer that went with its whole branch is there with zeros.
    """
    before, after = (
        results.rows("layers", seed=seed, model=each).set_index("layer") for each in (_CUT_FROM[model], model)
    )
    return before, after[["out", "params", "flops"]].reindex(before.index, fill_value=0)


def profile(results: Results, model: str) -> pd.Series[float]:
    """The share of its filters that each layer keeps, in the order of the net, mean over seeds, but the last's."""
    shares = []
    for seed in results.params.seeds:
        before, after = layerwise(results, model, seed)
        shares.append((after["out"] / before["out"]).iloc[:-1])
    return pd.concat(shares, axis=1).mean(axis=1)


def profile_section(results: Results) -> str:
    """Whether first layers are hardly pruned and last ones almost entirely, as the papers' figures show."""
    rows = []
    for model in _pruned(results):
        shares = profile(results, model).to_numpy()
        third = -(-len(shares) // 3)
        first, last = float(shares[:third].mean()), float(shares[-third:].mean())
        words = "as in the papers" if first > last else "not as in the papers"
        rows.append([LABELS[model], percent(first), percent(last), words])
    header = "model | first third of the layers, % | last third, % | profile"
    return section(
        "Which layers are pruned",
        image("profile", "The share of its filters that each layer keeps"),
        "The papers' figures (CVIU 8-10, thesis 3-14 to 3-18) show first layers hardly pruned and the last modules "
        "almost entirely. Here, the share of its filters that a layer keeps, mean over layers and seeds:",
        table(header, rows),
    )


def draw_profile(results: Results, folder: Path) -> None:
    """The share of its filters that each layer keeps, from the first layer to the last (mean over seeds)."""
    with figure(folder, "profile", size=(9.5, 3.8), dpi=results.params.report.dpi) as drawing:
        ax = drawing.subplots()
        for model in _pruned(results):
            shares = 100 * profile(results, model)
            ax.plot(range(len(shares)), shares, color=COLORS[model], marker=".", lw=1.2, label=LABELS[model])
        ax.set_xticks(range(len(shares)), shares.index, rotation=90, fontsize=6)
        ax.set_ylim(0, 105)
        label_axes(ax, y="filters kept (%)", x="layers, from the first to the last")
        drawing.legend(loc="outside upper center", ncols=4)


def _pruned(results: Results) -> list[str]:
    return [model for model in results.main_models() if model in _CUT_FROM]


def layers_section(results: Results) -> str:
    """Every layer of the parameter-first model and of the one that it was cut from."""
    seed = results.params.seeds[0]
    before, after = layerwise(results, "parameter_first", seed)
    both = before.join(after.add_suffix(".after")).reset_index()
    return section(
        "Layer by layer",
        image("layers", "Parameters and FLOPs of each layer before and after pruning"),
        f"The pushed and the parameter-first model of seed {seed}; every seed is in `tables/layers.csv`.",
        frame_table(
            "layer | kind | out, before | after | parameters, before | after | FLOPs, before | after",
            both,
            "layer kind out out.after params params.after flops flops.after",
        ),
    )


def draw_layers(results: Results, folder: Path) -> None:
    """Parameters and FLOPs of each layer before and after (CVIU Figure 8), for the first seed."""
    seed = results.params.seeds[0]
    before, after = layerwise(results, "parameter_first", seed)
    positions = np.arange(len(before))
    with figure(folder, "layers", size=(9.5, 6.0), dpi=results.params.report.dpi) as drawing:
        axes = drawing.subplots(2, 1, sharex=True)
        for ax, (column, unit) in zip(axes, SIZES.items(), strict=True):
            ax.bar(positions, before[column], color="#009E73", label="pruned away")
            ax.bar(positions, after[column], color="#0072B2", label="remaining")
            label_axes(ax, y=unit)
            ax.yaxis.set_major_formatter(FuncFormatter(short_number))
        axes[0].legend()
        axes[0].set_title(f"pushed and parameter-first model, seed {seed}", fontsize=10)
        axes[1].set_xticks(positions, before.index, rotation=90, fontsize=7)


FIGURES = (draw_layers, draw_profile)
