"""The figures of the pruning report, after CVIU Figures 3-5 and 8 and thesis Figures 3-19, 4-5 to 4-7."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from pipeline.compared import MODELS
from pipeline.report.figures import COLORS, LABELS, MARKERS, figure, label_axes, short_number

if TYPE_CHECKING:
    from pipeline.report.results import Results


def draw_accuracy_against_size(results: Results, folder: Path) -> None:
    """Validation accuracy against parameters and FLOPs: every sample of every seed, and the models' means."""
    with figure(folder, "accuracy_size", size=(9.5, 4.0), dpi=results.params.report.dpi) as drawing:
        axes = drawing.subplots(1, 2, sharey=True)
        for ax, column, unit in ((axes[0], "params", "parameters"), (axes[1], "flops", "FLOPs per image")):
            _scatter_samples(ax, results, column)
            _mark_models(ax, results, column)
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            ax.xaxis.set_major_formatter(FuncFormatter(short_number))
            ax.xaxis.set_minor_formatter(NullFormatter())
            label_axes(ax, x=f"{unit} (log scale)", y="")
        axes[0].set_ylabel("validation accuracy (%)")
        drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def draw_layers(results: Results, folder: Path) -> None:
    """Parameters and FLOPs of each layer before and after (CVIU Figure 8), for the first seed."""
    seed = results.params.seeds[0]
    before, after = layerwise(results, seed)
    positions = np.arange(len(before))
    with figure(folder, "layers", size=(9.5, 6.0), dpi=results.params.report.dpi) as drawing:
        axes = drawing.subplots(2, 1, sharex=True)
        for ax, column, unit in ((axes[0], "params", "parameters"), (axes[1], "flops", "FLOPs per image")):
            ax.bar(positions, before[column], color="#009E73", label="pruned away")
            ax.bar(positions, after[column], color="#0072B2", label="remaining")
            label_axes(ax, x="", y=unit)
            ax.yaxis.set_major_formatter(FuncFormatter(short_number))
        axes[0].legend()
        axes[0].set_title(f"pushed and parameter-first model, seed {seed}", fontsize=10)
        axes[1].set_xticks(positions, before.index, rotation=90, fontsize=7)


def draw_discriminants(results: Results, folder: Path) -> None:
    """The largest discriminants before and after pushing and their running share (CVIU Figure 4)."""
    shown = 20
    with figure(folder, "discriminants", size=(9.5, 3.8), dpi=results.params.report.dpi) as drawing:
        axes = drawing.subplots(1, 2)
        for ax, state, title in ((axes[0], "before", "before pushing"), (axes[1], "after", "after pushing")):
            spaces = results.latent_spaces.values()
            sorted_v = np.stack([np.sort(space[f"{state}.v"])[::-1][:shown] for space in spaces])
            shares = np.stack([_running_share(space[f"{state}.v"])[:shown] for space in spaces])
            ranks = np.arange(1, sorted_v.shape[1] + 1)
            mean = sorted_v.mean(0)
            spread = np.abs(np.stack([mean - sorted_v.min(0), sorted_v.max(0) - mean]))
            ax.bar(ranks, mean, yerr=spread, color="#0072B2", capsize=1.5, error_kw={"lw": 0.7})
            label_axes(ax, x="latent neuron, by rank", y="discriminating power $v_j$ (Eq. 12)", title=title)
            right = ax.twinx()
            right.plot(ranks, 100 * shares.mean(0), color="#D55E00", marker=".")
            right.set_ylim(0, 105)
            right.grid(visible=False)
            right.spines["right"].set_visible(True)
            right.set_ylabel("running share of the sum (%)", color="#D55E00")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_covariances(results: Results, folder: Path) -> None:
    """Total scatter of the latent space before and after pushing (CVIU Figure 3), for the first seed."""
    seed = results.params.seeds[0]
    space = results.latent_spaces[seed]
    # One order for both, by the pushed model's variance, so that a neuron keeps its place.
    order = np.argsort(space["after.S_a"].diagonal())[::-1]
    with figure(folder, "covariances", size=(9.5, 4.4), dpi=results.params.report.dpi) as drawing:
        axes = drawing.subplots(1, 2)
        for ax, state, title in ((axes[0], "before", "before pushing"), (axes[1], "after", "after pushing")):
            matrix = np.abs(space[f"{state}.S_a"][np.ix_(order, order)])
            logarithm = np.log10(np.maximum(matrix, 1e-8))
            shown = ax.imshow(logarithm, vmin=-8, vmax=max(0.0, float(logarithm.max())), cmap="viridis")
            ax.grid(visible=False)
            label_axes(ax, x="latent neuron", y="latent neuron", title=f"{title}, seed {seed}")
        drawing.colorbar(shown, ax=axes, label="log10 |covariance|, cut off at -8", shrink=0.85)


def draw_growth(results: Results, folder: Path) -> None:
    """Validation accuracy of every candidate, and the path that growing took (Algorithm 2)."""
    with figure(folder, "growth", size=(6.5, 3.8), dpi=results.params.report.dpi) as drawing:
        ax = drawing.subplots()
        for idx, (seed, rows) in enumerate(results.tables["growth"].groupby("seed")):
            color = f"C{idx}"
            ax.scatter(
                rows["params"],
                100 * rows["accuracy"],
                color=color,
                s=16,
                alpha=0.5,
                label=f"seed {seed}, candidates",
            )
            path = rows[(rows["chosen"] == 1) | (rows["iteration"] == 0)]
            ax.plot(
                path["params"],
                100 * path["accuracy"],
                color=color,
                marker="o",
                label=f"seed {seed}, best of each iteration",
            )
        label_axes(ax, x="parameters", y="validation accuracy (%)")
        ax.xaxis.set_major_formatter(FuncFormatter(short_number))
        drawing.legend(loc="outside lower center", ncols=3, fontsize=7)


def draw_latent_sensitivity(results: Results, folder: Path) -> None:
    """Validation accuracy against the latent neurons kept, by LDA and by PCA (thesis Figure 3-19), first round."""
    with figure(folder, "latent_sensitivity", size=(6.5, 3.8), dpi=results.params.report.dpi) as drawing:
        ax = drawing.subplots()
        for idx, (seed, rows) in enumerate(results.rows("latent", round="round1").groupby("seed")):
            n_kept = int(rows["kept"].sum())
            ax.plot(
                rows["rank"],
                100 * rows["accuracy"],
                color=f"C{idx}",
                label=f"seed {seed}, LDA: {n_kept} kept",
            )
            by_pca = 100 * rows["n_correct_pca"] / rows["n"]
            ax.plot(rows["rank"], by_pca, color=f"C{idx}", lw=0.9, ls="--", label=f"seed {seed}, PCA")
            ax.axvline(n_kept, color=f"C{idx}", lw=0.8, ls=":")
        ax.set_xscale("log")
        label_axes(ax, x="top latent neurons used (log scale)", y="validation accuracy (%)")
        ax.legend()


def draw_pushing(results: Results, folder: Path) -> None:
    """The push over its epochs: the terms of Eq. 11, active neurons, and the largest discriminant's share."""
    panels = (
        ("train_l_lda", r"$\ell_{lda}$ (Eq. 7)"),
        ("train_l_cov", r"$\ell_{cov}$ (Eq. 8)"),
        ("train_l_align", r"$\ell_{align}$ (Eq. 10)"),
        ("train_n_active", "active neurons"),
        ("train_top_share", "share of the top discriminant"),
        ("accuracy", "validation accuracy (%)"),
    )
    pushing = results.tables["pushing"]
    pushing = pushing.assign(accuracy=100 * pushing["validation_n_correct"] / pushing["validation_n"])
    with figure(folder, "pushing", size=(9.5, 5.0), dpi=results.params.report.dpi) as drawing:
        axes = drawing.subplots(2, 3, sharex=True)
        for ax, (column, label) in zip(axes.flat, panels, strict=True):
            for idx, (seed, each) in enumerate(pushing.groupby("seed")):
                ax.plot(each["epoch"], each[column], color=f"C{idx}", label=f"seed {seed}")
            label_axes(ax, x="", y=label)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        for ax in axes[1]:
            ax.set_xlabel("epoch of the push")
        axes[0, 0].legend()


def layerwise(results: Results, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Layers of the pushed and the parameter-first model of a seed, by name, in the order of the net.

    A layer that went with its whole branch is there with zeros.
    """
    before, after = (
        results.rows("layers", seed=seed, model=model).set_index("layer")
        for model in ("pushed", "parameter_first")
    )
    return before, after[["out", "params", "flops"]].reindex(before.index, fill_value=0)


def _scatter_samples(ax: Axes, results: Results, column: str) -> None:
    samples = results.tables["samples"]
    for idx, (seed, rows) in enumerate(samples.groupby("seed")):
        ax.scatter(
            rows[column],
            100 * rows["accuracy"],
            color="#0072B2",
            marker=MARKERS[idx % len(MARKERS)],
            alpha=0.35,
            s=22,
            label=f"pruned samples, seed {seed}",
        )
    means = samples.groupby(["round", "sample"])[[column, "accuracy"]].mean().sort_values(column)
    ax.plot(means[column], 100 * means["accuracy"], color="#0072B2", lw=1, label="pruned samples, mean")


def _mark_models(ax: Axes, results: Results, column: str) -> None:
    for name in MODELS:
        rows = results.rows("scores", model=name, split="validation")
        interval = results.interval(rows["accuracy"])
        error = None if np.isnan(interval.half_width) else 100 * interval.half_width
        ax.errorbar(
            rows[column].mean(),
            100 * interval.mean,
            yerr=error,
            color=COLORS[name],
            marker="*",
            ms=11,
            lw=0,
            elinewidth=1.2,
            capsize=2.5,
            label=f"{LABELS[name]}, mean",
        )


def _running_share(v: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    descending = np.sort(np.maximum(v, 0).astype(np.float64))[::-1]
    shares: npt.NDArray[np.float64] = np.cumsum(descending) / max(float(descending.sum()), 1e-30)
    return shares
