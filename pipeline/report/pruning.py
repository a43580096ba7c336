"""`pruning.md`: what growing, pushing and pruning did to accuracy, size and the latent space."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter

from pipeline.compared import ORIGINAL, PUSHED
from pipeline.report import latent, layers
from pipeline.report.ablation import ablation_section
from pipeline.report.comparison import comparison_section, draw_comparison
from pipeline.report.figures import (
    COLORS,
    LABELS,
    MARKERS,
    PIPELINES,
    SIZES,
    figure,
    label_axes,
    scale_by_size,
    short_number,
)
from pipeline.report.latency import draw_latency, latency_section
from pipeline.report.page import (
    bullets,
    counted,
    frame_table,
    image,
    literal,
    percent,
    section,
    table,
    thousands,
)
from pipeline.report.published import published_scores
from pipeline.report.summary import INTERVALS, expectations, label_with_collapse, over_seeds, sizes

if TYPE_CHECKING:
    from pipeline.report.results import Results


def pruning_report(results: Results, figures: Path) -> str:
    """Draw the figures and return the page."""
    for draw in (draw_samples, draw_comparison, draw_latency, *layers.FIGURES, draw_growth, *latent.FIGURES):
        draw(results, figures)
    of_layers = (layers.profile_section, layers.layers_section)
    results_of = (
        _head,
        _models,
        _samples,
        _selected,
        published_scores,
        *of_layers,
        comparison_section,
        ablation_section,
        latency_section,
    )
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
        f"chooses nothing.\nOf the {params.report.confidence:.0%} intervals: {INTERVALS} "
        "Parameters are those of convolutions and linear layers; FLOPs are 2 x multiply-accumulates for one "
        "image.",
        f"Computed with Python {environment['python']} on {environment['cores']} cores of "
        f"{literal(environment['processor'] + with_gpu)} ({packages}).",
        bullets(results.notes),
        section("Expectations", expectations(results)),
    )
    return "\n\n".join(filter(None, blocks))


def _models(results: Results) -> str:
    parts, scores, rows = ("validation", "test"), results.estimates("scores", "model", "split"), []
    models = {
        name: label_with_collapse(results, name, label)
        for name, label in (results.main_models() | results.int8_models()).items()
    }
    for name, label in models.items():
        accuracies = [scores[name, part].percent() for part in parts]
        rows.append([label, sizes(results, name, "params"), sizes(results, name, "flops"), *accuracies])
    per_seed = []
    for name, seed in product(models, results.params.seeds):
        mine = results.rows("scores", seed=seed, model=name).set_index("split")
        size = [thousands(mine[column].iloc[0]) for column in ("params", "flops")]
        per_seed.append([models[name], seed, *size, *(percent(mine["accuracy"].loc[part]) for part in parts)])
    return section(
        "Models",
        f"Accuracies: {over_seeds(results)}; the validation images chose the pruned models.",
        table("model | parameters (of original) | FLOPs (of original) | validation, % | test, %", rows),
        "Per seed:",
        table("model | seed | parameters | FLOPs | validation, % | test, %", per_seed),
    )


def _samples(results: Results) -> str:
    samples = results.tables["samples"]
    name = samples["round"] + ", " + samples["sample"]
    fate = np.where(samples["chosen"], "next round", np.where(samples["acceptable"], "acceptable", ""))
    fate = np.where(samples["collapsed"], "collapsed in retraining", fate)
    samples = samples.assign(name=name, fate=fate, way=samples["pipeline"].map(PIPELINES))
    ended = [
        f"{PIPELINES[pipeline]}, seed {seed}: {each['reason'] or 'every round ran; more could follow'}"
        for (pipeline, seed), each in results.stops.items()
    ]
    return section(
        "Accuracy against size",
        image("accuracy_size", "Validation accuracy against parameters and FLOPs"),
        "Each point is a pruned architecture after retraining (its name: the round, and the threshold or the share "
        "of the original that was reached); the line joins the means over the seeds that came as far as the sample, "
        "so a single seed can bend it; stars are the models of the table above with their intervals; a cross marks "
        "a sample whose retraining collapsed.",
        frame_table(
            "sample | pipeline | seed | latent neurons kept | parameters | FLOPs | validation, % | ",
            samples,
            "name way seed latent_kept params flops accuracy fate",
        ),
        "How the rounds ended (Algorithm 1):",
        bullets(ended),
    )


def draw_samples(results: Results, folder: Path) -> None:
    """Validation accuracy against parameters and FLOPs: every sample of every seed, and the models' means."""
    samples = results.rows("samples", pipeline=PUSHED)
    samples = samples.assign(percent=100 * samples["accuracy"])
    collapsed = samples[samples["collapsed"] == 1]
    scores = results.estimates("scores", "model", "split")
    with figure(folder, "accuracy_size", size=(9.5, 4.0), dpi=results.params.report.dpi) as drawing:
        axes = drawing.subplots(1, 2, sharey=True)
        for ax, (column, unit) in zip(axes, SIZES.items(), strict=True):
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
            if len(collapsed):
                at = collapsed[column], collapsed["percent"]
                ax.scatter(*at, color="#D55E00", marker="x", s=40, label="collapsed in retraining")
            kept = samples[samples["collapsed"] == 0]
            means = kept.groupby(["round", "target"])[[column, "percent"]].mean().sort_values(column)
            ax.plot(means[column], means["percent"], color="#0072B2", lw=1, label="pruned samples, mean")
            for name, label in results.main_models().items():
                interval = scores[name, "validation"]
                error = 100 * np.array([[interval.mean - interval.low], [interval.high - interval.mean]])
                style: dict[str, Any] = {"marker": "*", "ms": 11, "lw": 0, "elinewidth": 1.2, "capsize": 2.5}
                x, y = results.size(name, column), 100 * interval.mean
                ax.errorbar(x, y, yerr=error, color=COLORS[name], label=f"{label}, mean", **style)
            scale_by_size(ax)
            label_axes(ax, x=f"{unit} (log scale)")
        axes[0].set_ylabel("validation accuracy (%)")
        drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _selected(results: Results) -> str:
    rows = []
    for found, kind in product(results.selections.items(), ("accuracy_first", "parameter_first")):
        (pipeline, seed), selection = found
        original, chosen = (selection[each]["n_correct"] / selection[each]["n"] for each in (ORIGINAL, kind))
        name = kind if pipeline == PUSHED else f"{pipeline}_{kind}"
        sample = f"{selection[kind]['round']}, {selection[kind]['sample']}"
        row = [LABELS[name], seed, sample, thousands(selection[kind]["params"]), percent(chosen)]
        met = selection["within_drop"] or kind == "accuracy_first"
        rows.append(
            [*row, percent(chosen - original, signed=True), "yes" if met else "no sample within the drop"]
        )
    return section(
        "Selected models",
        "Accuracy first: the best sample on validation. Parameter first: the smallest within "
        f"{percent(results.params.select.max_drop)} points of the original on validation.",
        table(
            "model | seed | sample | parameters | validation, % | against the original, points | condition met",
            rows,
        ),
    )


def _growth(results: Results) -> str:
    if results.params.grow is None:
        return section("Growth", "Nothing was grown (`grow` is null): the original is the base.")
    growth = results.tables["growth"]
    full = np.where(growth["iteration"] == 0, "base", "grown: the best candidate, trained in full")
    quick = np.where(growth["chosen"], "best of the iteration", "")
    growth = growth.assign(what=np.where(growth["training"] == "full", full, quick))
    return section(
        "Growth",
        image("growth", "Validation accuracy of every candidate, and of the base and the grown net"),
        "Algorithm 2: in each iteration a module is tried in every stage and the best candidate is extended "
        "further. Candidates are trained quickly and compared with each other alone; the best of all is then "
        "trained in full and is the original of all that follows, even where the base is better.",
        frame_table(
            "iteration | seed | net | modules per stage | parameters | FLOPs | validation, % | ",
            growth,
            "iteration seed name stages params flops accuracy what",
        ),
    )


def draw_growth(results: Results, folder: Path) -> None:
    """Validation accuracy of candidates, base and grown net, and the path of Algorithm 2; nothing without growth."""
    if results.params.grow is None:
        return
    with figure(folder, "growth", size=(6.5, 3.8), dpi=results.params.report.dpi) as drawing:
        ax = drawing.subplots()
        for idx, (seed, rows) in enumerate(results.tables["growth"].groupby("seed")):
            quick, full = (rows[rows["training"] == training] for training in ("quick", "full"))
            path, color = quick[quick["chosen"] == 1], f"C{idx}"
            x, y = quick["params"], 100 * quick["accuracy"]
            ax.scatter(x, y, color=color, s=16, alpha=0.5, label=f"seed {seed}, candidates")
            x, y = path["params"], 100 * path["accuracy"]
            ax.plot(x, y, color=color, marker="o", label=f"seed {seed}, best of each iteration")
            x, y = full["params"], 100 * full["accuracy"]
            ax.plot(x, y, color=color, marker="*", ms=9, ls=":", label=f"seed {seed}, base and grown net")
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
