"""`pruning.md`: what growing, pushing and pruning did to accuracy, size and the latent space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.compared import MODELS
from pipeline.report import pruning_figures as draw
from pipeline.report.comparison import comparison_section, draw_comparison
from pipeline.report.figures import LABELS
from pipeline.report.latent import discriminants_section, sensitivity_section, variants_section
from pipeline.report.markdown import counted, image, percent, section, table, thousands
from pipeline.report.published_sections import published_scores
from pipeline.report.summary import expectations, mean_size, score_interval

if TYPE_CHECKING:
    from pipeline.report.results import Results


def pruning_report(results: Results, figures: Path) -> str:
    """Draw the figures and return the page."""
    draw.draw_accuracy_against_size(results, figures)
    draw_comparison(results, figures)
    draw.draw_layers(results, figures)
    draw.draw_discriminants(results, figures)
    draw.draw_covariances(results, figures)
    if results.params.grow is not None:
        draw.draw_growth(results, figures)
    draw.draw_latent_sensitivity(results, figures)
    draw.draw_pushing(results, figures)
    sections = (
        _conditions,
        _models,
        _samples,
        _selected,
        published_scores,
        _layers,
        comparison_section,
        discriminants_section,
        variants_section,
        sensitivity_section,
        _growth,
        _settings,
    )
    return "\n".join(text for each in sections if (text := each(results)))


def _conditions(results: Results) -> str:
    data, environment, params = results.dataset, results.environment, results.params
    counts = ", ".join(f"{n} {name}" for name, n in data["counts"].items())
    size = "x".join(str(n) for n in data["image_shape"])
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    with_gpu = f" and one {environment['gpu']}" if "gpu" in environment else ""
    lines = [
        f"# Pruning: {params.name}",
        "",
        f"{counted(len(params.seeds), 'seed')} ({', '.join(map(str, params.seeds))}); {len(data['classes'])} classes, "
        f"images {size} (channels, height, width): {counts}. Models are chosen on validation; the test part "
        "chooses nothing.",
        f"Intervals are {params.report.confidence:.0%} Student's t intervals of the mean over seeds. "
        "Parameters are those of convolutions and linear layers; FLOPs are 2 x multiply-accumulates for one "
        "image.",
        "",
        f"Computed with Python {environment['python']} on {environment['cores']} cores of "
        f"{environment['processor']}{with_gpu} ({packages}).",
        "",
        *(f"* {note}" for note in params.report.notes),
        *([""] if params.report.notes else []),
        "## Expectations",
        "",
        *(f"* {sentence}" for sentence in expectations(results)),
        "",
    ]
    return "\n".join(lines)


def _models(results: Results) -> str:
    base = mean_size(results, "base", "params"), mean_size(results, "base", "flops")
    rows, per_seed = [], []
    for name in MODELS:
        params, flops = (mean_size(results, name, column) for column in ("params", "flops"))
        rows.append(
            [
                LABELS[name],
                f"{thousands(params)} ({percent(params / base[0])} %)",
                f"{thousands(flops)} ({percent(flops / base[1])} %)",
                score_interval(results, name, "validation").percent(),
                score_interval(results, name, "test").percent(),
            ]
        )
        for seed in results.params.seeds:
            mine = results.rows("scores", seed=seed, model=name).set_index("split")
            per_seed.append(
                [
                    LABELS[name],
                    seed,
                    thousands(mine["params"].iloc[0]),
                    thousands(mine["flops"].iloc[0]),
                    percent(mine["accuracy"].loc["validation"]),
                    percent(mine["accuracy"].loc["test"]),
                ]
            )
    header = ["model", "parameters (of base)", "FLOPs (of base)", "validation, %", "test, %"]
    return section(
        "Models",
        table(header, rows),
        "Per seed:",
        "",
        table(["model", "seed", "parameters", "FLOPs", "validation, %", "test, %"], per_seed),
    )


def _samples(results: Results) -> str:
    rows = [
        [
            f"{row['round']}, eta {row['eta']:.4g}",
            int(row["seed"]),
            int(row["latent_kept"]),
            thousands(row["params"]),
            thousands(row["flops"]),
            percent(row["accuracy"]),
            "next round" if row["chosen"] else ("acceptable" if row["acceptable"] else ""),
        ]
        for _, row in results.tables["samples"].iterrows()
    ]
    header = ["sample", "seed", "latent neurons kept", "parameters", "FLOPs", "validation, %", ""]
    return section(
        "Accuracy against size",
        image("accuracy_size", "Validation accuracy against parameters and FLOPs"),
        "Each point is a pruned architecture after retraining (Eq. 3.13's eta and the round make the sample); "
        "the line joins the means over the seeds that came as far as the sample, so a single seed can bend it; "
        "stars are the models of the table above with their intervals.",
        "",
        table(header, rows),
        *_stops(results),
    )


def _stops(results: Results) -> list[str]:
    ended = [f"* seed {seed}: {each['reason']}" for seed, each in results.stops.items() if each["stopped"]]
    running = [str(seed) for seed, each in results.stops.items() if not each["stopped"]]
    if running:
        who = "seed" if len(running) == 1 else "seeds"
        ended.append(f"* {who} {', '.join(running)}: every round ran; more could follow")
    return ["How the rounds ended (Algorithm 1):", "", *ended, ""]


def _selected(results: Results) -> str:
    rows = []
    for seed, selection in results.selections.items():
        base = selection["base"]
        for name in ("accuracy_first", "parameter_first"):
            entry = selection[name]
            rows.append(
                [
                    LABELS[name],
                    seed,
                    f"{entry['round']}, eta {entry['eta']:.4g}",
                    thousands(entry["params"]),
                    percent(entry["n_correct"] / entry["n"]),
                    percent(entry["n_correct"] / entry["n"] - base["n_correct"] / base["n"], signed=True),
                    "yes"
                    if selection["within_drop"] or name == "accuracy_first"
                    else "no sample within the drop",
                ]
            )
    header = [
        "model",
        "seed",
        "sample",
        "parameters",
        "validation, %",
        "against base, points",
        "condition met",
    ]
    return section(
        "Selected models",
        "Accuracy first: the best sample on validation. Parameter first: the smallest within "
        f"{percent(results.params.select.max_drop)} points of the base on validation.",
        "",
        table(header, rows),
    )


def _layers(results: Results) -> str:
    seed = results.params.seeds[0]
    before, after = draw.layerwise(results, seed)
    rows = [
        [
            name,
            before["kind"].loc[name],
            before["out"].loc[name],
            after["out"].loc[name],
            thousands(before["params"].loc[name]),
            thousands(after["params"].loc[name]),
            thousands(before["flops"].loc[name]),
            thousands(after["flops"].loc[name]),
        ]
        for name in before.index
    ]
    header = [
        "layer",
        "kind",
        "out, before",
        "after",
        "parameters, before",
        "after",
        "FLOPs, before",
        "after",
    ]
    return section(
        "Layer by layer",
        image("layers", "Parameters and FLOPs of each layer before and after pruning"),
        f"The pushed and the parameter-first model of seed {seed}; every seed is in `tables/layers.csv`.",
        "",
        table(header, rows),
    )


def _growth(results: Results) -> str:
    if results.params.grow is None:
        return section("Growth", "Nothing was grown (`grow` is null): the grown model is the base.", "")
    rows = [
        [
            int(row["iteration"]),
            int(row["seed"]),
            row["name"],
            row["stages"],
            thousands(row["params"]),
            thousands(row["flops"]),
            percent(row["accuracy"]),
            "base" if row["iteration"] == 0 else ("best of the iteration" if row["chosen"] else ""),
        ]
        for _, row in results.tables["growth"].iterrows()
    ]
    header = ["iteration", "seed", "net", "modules per stage", "parameters", "FLOPs", "validation, %", ""]
    return section(
        "Growth",
        image("growth", "Validation accuracy of every candidate"),
        "Algorithm 2: in each iteration a module is tried in every stage and the best candidate is extended "
        "further; the grown model is the best of all, the base included.",
        "",
        table(header, rows),
    )


def _settings(results: Results) -> str:
    lda = results.params.lda
    return section(
        "Settings",
        f"Push weights (gamma, lambda, beta) = ({lda.gamma:g}, {lda.lambda_:g}, {lda.beta:g}), scatter matrices "
        f"divided by n, ridge {lda.ridge:g}. The sources state no weights; these were chosen on validation. "
        "All settings: [params.yaml](params.yaml); all numbers: [tables](tables).",
        "",
    )
