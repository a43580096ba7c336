"""The comparison at matched sizes: ours against every competitor (thesis 3.3.3, CVIU Figures 5 and 6)."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.compared import OURS, variant_name
from pipeline.report.hits import more_hits
from pipeline.report.page import Names, bullets, grid, image, percent, section, table, thousands
from pipeline.report.summary import how_trained, over_seeds

if TYPE_CHECKING:
    from pipeline.params.pruning import Compare
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

_Rows = dict[tuple[str, str], pd.DataFrame]


def label_of(name: str) -> str:
    """A method by its name for readers; a fixed net keeps its own."""
    if name.endswith("_own"):
        return f"{_LABELS[name.removesuffix('_own')]}, own widths"
    return f"ours, {name.removeprefix('ours_')}" if name.startswith("ours_") else _LABELS.get(name, name)


def comparison_section(results: Results) -> str:
    """Test accuracy of every method at every size, and the difference to ours; empty where nothing is compared."""
    compare = results.params.compare
    if compare is None:
        return ""
    # By method and step the rows of the seeds; the methods and sizes by their names for readers.
    methods = {name: label_of(name) for name in (OURS, *variants_of(compare), *compare.competitors)}
    ours = results.rows("comparison", method=OURS).groupby("step")["params"].mean()
    sizes = {str(step): f"{thousands(ours.loc[step])} parameters" for step in range(len(compare.fractions))}
    found = {
        (name, step): results.rows("comparison", method=name, step=int(step))
        for name, step in product(methods, sizes)
    }
    return section(
        "Ours and others at the same sizes",
        "Ours takes the pushed model through the sizes, one after another; at each, every criterion keeps as many "
        "filters in every layer as ours (at own widths as many parameters or FLOPs) and retrains for the same "
        f"{compare.retraining.epochs} epochs on the same kind of batches. The others start from the original "
        "trained on for as many epochs without the push, "
        "and retrain with cross-entropy alone. Single weights (Han et al.) are zeros in the dense net: as many are "
        "left as ours has parameters, and no FLOP is saved. A net whose training "
        "collapses is tried again at a tenth of the learning rate, with the same seed and as many epochs, ours too. "
        "Test accuracy in %, "
        f"{over_seeds(results)}:",
        grid("method", methods, sizes, lambda *key: _accuracy(results, found[key])),
        *_differences(results, found, methods, sizes),
        *_fixed_nets(results, compare),
    )


def _accuracy(results: Results, rows: pd.DataFrame) -> str:
    return results.accuracy(rows, "test_").percent() + how_trained(rows)


def variants_of(compare: Compare) -> list[str]:
    """The methods that are ours by another utility or other widths."""
    return [variant_name(name) for name in compare.variants]


def _differences(results: Results, found: _Rows, methods: Names, sizes: Names) -> list[str]:
    """Every competitor less ours, how many differences are decided, and who is best at each size."""
    if len(methods) == 1:
        return []
    signs, left_out = list[int](), list[str]()

    def cell(name: str, step: str) -> str:
        mine, ours = found[name, step], found[OURS, step]
        # A net at chance says nothing about its method, and leaving its seed out would choose among seeds.
        if mine["collapsed"].any() or ours["collapsed"].any():
            left_out.append(name)
            return "collapsed, not compared"
        interval = results.difference(more_hits(mine, ours, "test_"))
        signs.append(interval.sign)
        return f"**{interval.percent(signed=True)}**" if signs[-1] else interval.percent(signed=True)

    differences = grid("method", {name: methods[name] for name in methods if name != OURS}, sizes, cell)
    best = []
    for step, size in sizes.items():
        whole = [name for name in methods if not found[name, step]["collapsed"].any()]
        if OURS not in whole:
            best.append(f"{size}: ours collapsed, nothing is compared")
            continue
        means = {name: results.accuracy(found[name, step], "test_").mean for name in whole}
        ranked = sorted(means, key=lambda name: -means[name])
        best.append(
            f"{size}: best is {methods[ranked[0]]} ({percent(means[ranked[0]])} %), ours is number "
            f"{ranked.index(OURS) + 1} of {len(ranked)} ({percent(means[OURS])} %)"
        )
    return [
        "Less ours, in points, on the same images seed by seed (bold where the interval of several seeds leaves out "
        "zero):",
        image("differences", "Every method less ours in test accuracy at every size, with intervals"),
        differences,
        f"Of {len(signs)} comparisons ours is better in {signs.count(-1)}, worse in {signs.count(1)} and undecided at "
        f"this number of seeds and images in {signs.count(0)}; no correction is made for their number, and "
        f"{len(left_out)} with a collapsed net are left out. By the means, of methods without a collapsed net:",
        bullets(best),
    ]


def _fixed_nets(results: Results, compare: Compare) -> list[str]:
    rows = []
    for name in compare.fixed_nets:
        mine = results.rows("comparison", method=name)
        sizes = [thousands(mine[column].mean()) for column in ("params", "flops", "epochs")]
        pretrained = getattr(compare.fixed_nets[name].model, "pretrained", False)
        begun = "torchvision's weights" if pretrained else "fresh weights"
        rows.append([name, begun, *sizes, _accuracy(results, mine)])
    words = "Fixed nets, trained for as many epochs as our smallest model has had in all:"
    return [words, table("net | from | parameters | FLOPs | epochs | test, %", rows)] if rows else []
