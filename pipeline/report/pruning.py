"""`pruning.md`: what growing, pushing and pruning did to accuracy, size and the latent space."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter

from pipeline.report import latent
from pipeline.report.comparison import comparison_section, draw_comparison
from pipeline.report.figures import COLORS, LABELS, MARKERS, figure, label_axes, scale_by_size, short_number
from pipeline.report.page import bullets, counted, frame_table, image, percent, section, table, thousands
from pipeline.report.published import published_scores
from pipeline.report.summary import expectations, sizes

if TYPE_CHECKING:
    from pipeline.report.results import Results


_SIZES = {"params": "parameters", "flops": "FLOPs per image"}


def pruning_report(results: Results, figures: Path) -> str:
    """Draw the figures and return the page."""
    for draw in (draw_samples, draw_comparison, draw_layers, draw_growth, *latent.FIGURES):
        draw(results, figures)
    results_of = (_head, _models, _samples, _selected, published_scores, _layers, comparison_section)
    sections = (*results_of, *latent.SECTIONS, _growth, _settings)
    return "\n".join(text for each in sections if (text := each(results)))


def _head(results: Results) -> str:
    data, environment, params = results.dataset, results.environment, results.params
    counts = ", ".join(f"{n} {name}" for name, n in data["counts"].items())
    size = "x".join(str(n) for n in data["image_shape"])
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    with_gpu = f" and one {environment['gpu']}" if "gpu" in environment else ""
    blocks = (
        f"# Pruning: {params.name}",
        f"{counted(len(params.seeds), 'seed')} ({', '.join(map(str, params.seeds))}); {len(data['classes'])} classes, "
        f"images {size} (channels, height, width): {counts}. Models are chosen on validation; the test part "
        f"chooses nothing.\nIntervals are {params.report.confidence:.0%} Student's t intervals of the mean over "
        "seeds. Parameters are those of convolutions and linear layers; FLOPs are 2 x multiply-accumulates for one "
        "image.",
        f"Computed with Python {environment['python']} on {environment['cores']} cores of "
        f"{environment['processor']}{with_gpu} ({packages}).",
        bullets(params.report.notes),
        section("Expectations", expectations(results)),
    )
    return "\n\n".join(filter(None, blocks))


def _models(results: Results) -> str:
    parts, scores, rows = ("validation", "test"), results.estimates("scores", "model", "split"), []
    for name, label in LABELS.items():
        accuracies = [scores[name, part].percent() for part in parts]
        rows.append([label, sizes(results, name, "params"), sizes(results, name, "flops"), *accuracies])
    per_seed = []
    for name, seed in product(LABELS, results.params.seeds):
        mine = results.rows("scores", seed=seed, model=name).set_index("split")
        size = [thousands(mine[column].iloc[0]) for column in ("params", "flops")]
        per_seed.append([LABELS[name], seed, *size, *(percent(mine["accuracy"].loc[part]) for part in parts)])
    return section(
        "Models",
        table("model | parameters (of base) | FLOPs (of base) | validation, % | test, %", rows),
        "Per seed:",
        table("model | seed | parameters | FLOPs | validation, % | test, %", per_seed),
    )


def _samples(results: Results) -> str:
    samples = results.tables["samples"]
    name = samples["round"] + ", " + samples["sample"]
    fate = np.where(samples["chosen"], "next round", np.where(samples["acceptable"], "acceptable", ""))
    samples = samples.assign(name=name, fate=fate)
    ended = [f"seed {seed}: {each['reason']}" for seed, each in results.stops.items() if each["stopped"]]
    running = [str(seed) for seed, each in results.stops.items() if not each["stopped"]]
    if running:
        who = "seed" if len(running) == 1 else "seeds"
        ended.append(f"{who} {', '.join(running)}: every round ran; more could follow")
    return section(
        "Accuracy against size",
        image("accuracy_size", "Validation accuracy against parameters and FLOPs"),
        "Each point is a pruned architecture after retraining (its name: the round, and the "
        "threshold or the share of the original that was reached); the line joins the means over the seeds that "
        "came as far as the sample, so a single seed can bend it; "
        "stars are the models of the table above with their intervals.",
        frame_table(
            "sample | seed | latent neurons kept | parameters | FLOPs | validation, % | ",
            samples,
            "name seed latent_kept params flops accuracy fate",
        ),
        "How the rounds ended (Algorithm 1):",
        bullets(ended),
    )


def draw_samples(results: Results, folder: Path) -> None:
    """Validation accuracy against parameters and FLOPs: every sample of every seed, and the models' means."""
    samples = results.tables["samples"]
    samples = samples.assign(percent=100 * samples["accuracy"])
    scores = results.estimates("scores", "model", "split")
    with figure(folder, "accuracy_size", size=(9.5, 4.0), dpi=results.params.report.dpi) as drawing:
        axes = drawing.subplots(1, 2, sharey=True)
        for ax, (column, unit) in zip(axes, _SIZES.items(), strict=True):
            for idx, (seed, rows) in enumerate(samples.groupby("seed")):
                label, marker = f"pruned samples, seed {seed}", MARKERS[idx % len(MARKERS)]
                ax.scatter(
                    rows[column],
                    rows["percent"],
                    color="#0072B2",
                    marker=marker,
                    alpha=0.35,
                    s=22,
                    label=label,
                )
            means = samples.groupby(["round", "target"])[[column, "percent"]].mean().sort_values(column)
            ax.plot(means[column], means["percent"], color="#0072B2", lw=1, label="pruned samples, mean")
            for name, label in LABELS.items():
                interval = scores[name, "validation"]
                error = None if np.isnan(interval.half_width) else 100 * interval.half_width
                style: dict[str, Any] = {"marker": "*", "ms": 11, "lw": 0, "elinewidth": 1.2, "capsize": 2.5}
                x, y = results.size(name, column), 100 * interval.mean
                ax.errorbar(x, y, yerr=error, color=COLORS[name], label=f"{label}, mean", **style)
            scale_by_size(ax)
            label_axes(ax, x=f"{unit} (log scale)")
        axes[0].set_ylabel("validation accuracy (%)")
        drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _selected(results: Results) -> str:
    rows = []
    for (seed, selection), name in product(results.selections.items(), ("accuracy_first", "parameter_first")):
        base, chosen = (selection[each]["n_correct"] / selection[each]["n"] for each in ("base", name))
        sample = f"{selection[name]['round']}, {selection[name]['sample']}"
        row = [LABELS[name], seed, sample, thousands(selection[name]["params"]), percent(chosen)]
        met = selection["within_drop"] or name == "accuracy_first"
        rows.append(
            [*row, percent(chosen - base, signed=True), "yes" if met else "no sample within the drop"]
        )
    return section(
        "Selected models",
        "Accuracy first: the best sample on validation. Parameter first: the smallest within "
        f"{percent(results.params.select.max_drop)} points of the base on validation.",
        table(
            "model | seed | sample | parameters | validation, % | against base, points | condition met", rows
        ),
    )


def layerwise(results: Results, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Layers of the pushed and the parameter-first model of a seed, by name, in the order of the net.

    A layer that went with its whole branch is there with zeros.
    """
    before, after = (
        results.rows("layers", seed=seed, model=model).set_index("layer")
        for model in ("pushed", "parameter_first")
    )
    return before, after[["out", "params", "flops"]].reindex(before.index, fill_value=0)


def _layers(results: Results) -> str:
    seed = results.params.seeds[0]
    before, after = layerwise(results, seed)
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
    before, after = layerwise(results, seed)
    positions = np.arange(len(before))
    with figure(folder, "layers", size=(9.5, 6.0), dpi=results.params.report.dpi) as drawing:
        axes = drawing.subplots(2, 1, sharex=True)
        for ax, (column, unit) in zip(axes, _SIZES.items(), strict=True):
            ax.bar(positions, before[column], color="#009E73", label="pruned away")
            ax.bar(positions, after[column], color="#0072B2", label="remaining")
            label_axes(ax, y=unit)
            ax.yaxis.set_major_formatter(FuncFormatter(short_number))
        axes[0].legend()
        axes[0].set_title(f"pushed and parameter-first model, seed {seed}", fontsize=10)
        axes[1].set_xticks(positions, before.index, rotation=90, fontsize=7)


def _growth(results: Results) -> str:
    if results.params.grow is None:
        return section("Growth", "Nothing was grown (`grow` is null): the grown model is the base.")
    growth = results.tables["growth"]
    best = np.where(growth["chosen"], "best of the iteration", "")
    growth = growth.assign(what=np.where(growth["iteration"] == 0, "base", best))
    return section(
        "Growth",
        image("growth", "Validation accuracy of every candidate"),
        "Algorithm 2: in each iteration a module is tried in every stage and the best candidate is extended "
        "further; the grown model is the best of all, the base included.",
        frame_table(
            "iteration | seed | net | modules per stage | parameters | FLOPs | validation, % | ",
            growth,
            "iteration seed name stages params flops accuracy what",
        ),
    )


def draw_growth(results: Results, folder: Path) -> None:
    """Validation accuracy of every candidate, and the path that growing took (Algorithm 2); nothing without growth."""
    if results.params.grow is None:
        return
    with figure(folder, "growth", size=(6.5, 3.8), dpi=results.params.report.dpi) as drawing:
        ax = drawing.subplots()
        for idx, (seed, rows) in enumerate(results.tables["growth"].groupby("seed")):
            path = rows[(rows["chosen"] == 1) | (rows["iteration"] == 0)]
            x, y, color = rows["params"], 100 * rows["accuracy"], f"C{idx}"
            ax.scatter(x, y, color=color, s=16, alpha=0.5, label=f"seed {seed}, candidates")
            x, y = path["params"], 100 * path["accuracy"]
            ax.plot(x, y, color=color, marker="o", label=f"seed {seed}, best of each iteration")
        label_axes(ax, x="parameters", y="validation accuracy (%)")
        ax.xaxis.set_major_formatter(FuncFormatter(short_number))
        drawing.legend(loc="outside lower center", ncols=3, fontsize=7)


def _settings(results: Results) -> str:
    lda = results.params.lda
    return section(
        "Settings",
        f"Push weights (gamma, lambda, beta) = ({lda.gamma:g}, {lda.lambda_:g}, {lda.beta:g}), scatter matrices "
        f"divided by n, ridge {lda.ridge:g}. The sources state no weights; these were chosen on validation. "
        "All settings: [params.yaml](params.yaml); all numbers: [tables](tables).",
    )
