"""The page's sections on models: what growing, pushing and pruning did to accuracy and size."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compared import ORIGINAL, PUSHED
from pipeline.report.figures import LABELS, PIPELINES
from pipeline.report.markdown import (
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
from pipeline.report.summary import INTERVALS, expectations, label_with_collapse, over_seeds, sizes

if TYPE_CHECKING:
    from pipeline.report.results import Results


def head_section(results: Results) -> str:
    """On what data, with which seeds, intervals, versions and processor."""
    data, environment, params = results.dataset, results.environment, results.params
    counts = ", ".join(f"{n} {name}" for name, n in data["counts"].items())
    size = "x".join(str(n) for n in data["image_shape"])
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    with_gpu = f" and one {environment['gpu']}" if "gpu" in environment else ""
    blocks = (
        f"{counted(len(params.seeds), 'seed')} ({', '.join(map(str, params.seeds))}); {len(data['classes'])} classes, "
        f"images {size} (channels, height, width): {counts}. Models are chosen on validation; the test part "
        f"chooses nothing.\nOf the {params.report.confidence:.0%} intervals: {INTERVALS} "
        "Parameters are those of convolutions and linear layers; FLOPs are 2 x multiply-accumulates for one "
        "image.",
        f"Computed with Python {environment['python']} on {environment['cores']} cores of "
        f"{literal(environment['processor'] + with_gpu)}, {counted(params.numerics.threads, 'thread')} a job "
        f"({packages}). SHA-256 of the images as they were read: `{data['sha256']}`.",
        "To make this page again: [params.yaml](params.yaml) in the place of the project's own, then `make repro`. "
        "When and of which commit this copy was made, and how long each stage took: "
        "[provenance.md](provenance.md). How to cite: CITATION.cff.",
    )
    return section("Data, machine, versions", *blocks)


def models_section(results: Results) -> str:
    """Every model of the main flow, over seeds and seed by seed."""
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
        "Models, seed by seed",
        expectations(results),
        f"Accuracies: {over_seeds(results)}; the validation images chose the pruned models.",
        table("model | parameters (of original) | FLOPs (of original) | validation, % | test, %", rows),
        "Per seed:",
        table("model | seed | parameters | FLOPs | validation, % | test, %", per_seed),
    )


def samples_section(results: Results) -> str:
    """Every pruned sample of every round, and how the rounds ended."""
    samples = results.tables["samples"]
    name = samples["round"] + ", " + samples["sample"]
    fate = np.where(samples["chosen"], "next round", np.where(samples["acceptable"], "acceptable", ""))
    fates = [
        f"{each}, collapsed in retraining".removeprefix(", ") if lost else each
        for each, lost in zip(fate, samples["collapsed"], strict=True)
    ]
    samples = samples.assign(name=name, fate=fates, way=samples["pipeline"].map(PIPELINES))
    ended = [
        f"{PIPELINES[pipeline]}, seed {seed}: {each['reason'] or 'every round ran; more could follow'}"
        for (pipeline, seed), each in results.stops.items()
    ]
    return section(
        "Accuracy against size",
        image(
            "accuracy_size", "Change of validation accuracy against parameters and FLOPs, sample by sample"
        ),
        "Each point is a pruned architecture of one seed after retraining (its name: the round, and the threshold or "
        "the share of the original that was reached); open marks are the models of every seed. A cross marks a sample "
        "whose retraining collapsed: at chance, or, accurate or not, the push had one discriminant take "
        f"{percent(results.params.lda.collapse_share)} % of the separation in most batches; what is far below all "
        "others stands at the lower edge.",
        frame_table(
            "sample | pipeline | seed | latent neurons kept | parameters | FLOPs | validation, % | ",
            samples,
            "name way seed latent_kept params flops accuracy fate",
        ),
        "How the rounds ended (Algorithm 1):",
        bullets(ended),
    )


def selected_section(results: Results) -> str:
    """Which samples are the accuracy-first and the parameter-first model."""
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


def growth_section(results: Results) -> str:
    """Every candidate of Algorithm 2 (thesis Table 4-1)."""
    if results.params.grow is None:
        return section("Growth", "Nothing was grown (`grow` is null): the original is the base.")
    growth = results.tables["growth"]
    full = np.where(growth["iteration"] == 0, "base", "grown: the best candidate, trained in full")
    quick = np.where(growth["chosen"], "best of the iteration", "")
    growth = growth.assign(what=np.where(growth["training"] == "full", full, quick))
    return section(
        "Growth",
        image(
            "growth",
            "The tree of Algorithm 2: every candidate, joined to the net that it was grown from",
        ),
        "Algorithm 2: in each iteration a module is tried in every stage and the best candidate is extended further "
        "(numbers in the figure: modules per stage). Candidates are trained quickly and compared with each other "
        "alone; the best of all is then trained in full and is the original of all that follows, even where the base "
        "is better.",
        frame_table(
            "iteration | seed | net | modules per stage | parameters | FLOPs | validation, % | ",
            growth,
            "iteration seed name stages params flops accuracy what",
        ),
    )


def settings_section(results: Results) -> str:
    """The weights of the push, which no source states, and where all other settings are."""
    lda = results.params.lda
    return section(
        "Settings",
        f"Push weights (gamma, lambda, beta) = ({lda.gamma:g}, {lda.lambda_:g}, {lda.beta:g}), scatter matrices "
        f"divided by n, ridge {lda.ridge:g}. The sources state no weights; these were chosen on validation. "
        "All settings: [params.yaml](params.yaml); all numbers: [tables](tables/).",
    )
