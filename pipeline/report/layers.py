"""The page's sections on layers: how much of each one is left, beside what the papers show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from pipeline.report.figures import LABELS
from pipeline.report.markdown import frame_table, image, percent, section, table

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


def profile(results: Results, model: str) -> dict[int, pd.Series[float]]:
    """By seed the share of its filters that each layer keeps, in the order of the net, but the last's."""
    shares = {}
    for seed in results.params.seeds:
        before, after = layerwise(results, model, seed)
        shares[seed] = (after["out"] / before["out"]).iloc[:-1]
    return shares


def profile_section(results: Results) -> str:
    """Whether first layers are hardly pruned and last ones almost entirely, as the papers' figures show."""
    rows = []
    for model in pruned_models(results):
        ends = []
        # Seed by seed: each may have grown other modules, so that its thirds are of other layers.
        for shares in profile(results, model).values():
            third = -(-len(shares) // 3)
            ends.append((shares.iloc[:third].mean(), shares.iloc[-third:].mean()))
        first, last = map(float, pd.DataFrame(ends).mean())
        words = "first layers keep more, as there" if first > last else "last layers keep more, unlike there"
        rows.append([LABELS[model], percent(first), percent(last), words])
    header = "model | first third of the layers, % | last third, % | profile"
    return section(
        "Which layers are pruned",
        image("profile", "The share of its filters that each layer keeps"),
        "The papers' figures (CVIU 8-10, thesis 3-14 to 3-18) show first layers hardly pruned and the last modules "
        "almost entirely. Here, the share of its filters that a layer keeps, mean over layers and seeds:",
        table(header, rows),
    )


def pruned_models(results: Results) -> list[str]:
    """Those of the main flow that were cut from another one."""
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
