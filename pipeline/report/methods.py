"""The methods of a comparison: their names for readers, their sizes, and their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from pipeline.compared import OURS, variant_name
from pipeline.report.markdown import thousands

if TYPE_CHECKING:
    from pipeline.params.params import Params
    from pipeline.params.pruning import Widened
    from pipeline.report.results import Results

# A fixed net has its own name.
_LABELS = {
    OURS: "push and prune (ours)",
    "l1": "L1 norm (Li et al.)",
    "taylor": "first-order Taylor (Molchanov et al.)",
    "activation_mean": "mean activation",
    "activation_variance": "activation variance",
    "apoz": "APoZ (Hu et al.)",
    "fpgm": "FPGM (He et al.)",
    "random": "random filters",
    "lda_after_the_fact": "deep LDA after the fact",
    "han": "single weights (Han et al.)",
    "scratch": "ours, trained from scratch",
}


def label_of(name: str) -> str:
    """A method by its name for readers; a fixed net keeps its own."""
    if name.endswith("_own"):
        return f"{_LABELS[name.removesuffix('_own')]}, own widths"
    return (
        f"ours, {name.removeprefix('ours_').replace('_', ' ')}"
        if name.startswith("ours_")
        else _LABELS.get(name, name)
    )


def variants_of(params: Params) -> list[str]:
    """The methods that are ours by another utility or other widths; not those of `traced_of`, ours but for a sample."""
    return [name for name in cuts_of(params) if name not in traced_of(params)]


def traced_of(params: Params) -> dict[str, int | None]:
    """By method, ours and its variants that differ in nothing else, how many images of each class trace; None: all.

    Empty where there is no such variant.
    """
    own, same = params.surgery, dict[str, int | None]()
    for name, each in cuts_of(params).items():
        if (each.utility, each.widths) == (own.utility, own.widths):
            same[name] = each.trace_images_per_class
    return {OURS: own.trace_images_per_class} | same if same else {}


def cuts_of(params: Params) -> dict[str, Widened]:
    """By method what ours is cut by in its place; empty where nothing is compared."""
    return (
        {variant_name(name): each for name, each in params.compare.variants.items()} if params.compare else {}
    )


def step_sizes(results: Results) -> dict[int, float]:
    """By step the mean parameters of ours; empty where nothing was compared."""
    table = results.tables["comparison"]
    if results.params.compare is None or table.empty:
        return {}
    sizes = table[table["method"] == OURS].groupby("step")["params"].mean()
    return dict(zip(map(int, sizes.index), map(float, sizes), strict=True))


def step_labels(results: Results) -> dict[int, str]:
    """By step its size for readers."""
    return {step: f"{thousands(size)} parameters" for step, size in step_sizes(results).items()}


def method_rows(results: Results, method: str, step: int) -> pd.DataFrame:
    """A method's rows at a size, one for each seed."""
    return results.rows("comparison", method=method, step=step)
