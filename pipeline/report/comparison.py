"""The comparison at matched sizes: ours against every competitor (thesis 3.3.3, CVIU Figures 5 and 6)."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pipeline.compared import ORIGINAL, OURS
from pipeline.params.pruning import FILTER_CRITERIA
from pipeline.report.figures import MARKERS, figure, label_axes, scale_by_size
from pipeline.report.page import Names, bullets, grid, image, percent, section, table, thousands
from pipeline.report.summary import over_seeds

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

_Accuracies = dict[tuple[str, str], list[float]]


def accuracies(rows: pd.DataFrame, part: str = "test") -> pd.Series[float]:
    """Of rows of the comparison's table, on a part of the data."""
    return rows[f"{part}_n_correct"] / rows[f"{part}_n"]


def comparison_section(results: Results) -> str:
    """Test accuracy of every method at every size, and the difference to ours; empty where nothing is compared."""
    compare = results.params.compare
    if compare is None:
        return ""
    # By method and step the accuracies by seed; the methods and sizes by their names for readers.
    methods = {name: _LABELS[name] for name in (OURS, *compare.competitors)}
    ours = results.rows("comparison", method=OURS).groupby("step")["params"].mean()
    sizes = {str(step): f"{thousands(ours.loc[step])} parameters" for step in range(len(compare.sizes))}
    found = {
        (name, step): accuracies(results.rows("comparison", method=name, step=int(step))).tolist()
        for name, step in product(methods, sizes)
    }
    return section(
        "Ours and others at the same sizes",
        image("comparison", "Test accuracy against parameters for every method"),
        "Ours takes the pushed model through the sizes, one after another; at each, every criterion keeps as many "
        f"filters in every layer as ours and retrains for the same {compare.retraining.epochs} epochs on the same "
        "kind of batches. The others start from the original trained on for as many epochs without the push, "
        "and retrain with cross-entropy alone. Single weights (Han et al.) are zeros in the dense net: as many are "
        "left as ours has parameters, and no FLOP is saved. In the figure whiskers run from the lowest to the "
        f"highest seed. Test accuracy in %, {over_seeds(results)}:",
        grid("method", methods, sizes, lambda *key: results.interval(found[key]).percent()),
        *_differences(results, found, methods, sizes),
        *_fixed_nets(results, compare),
    )


def _differences(results: Results, found: _Accuracies, methods: Names, sizes: Names) -> list[str]:
    """Every competitor less ours, how many differences are decided, and who is best at each size."""
    if len(methods) == 1:
        return []
    signs = []

    def cell(name: str, step: str) -> str:
        interval = results.interval(found[name, step], less=found[OURS, step])
        # Of a difference whose interval leaves out zero.
        signs.append(int(interval.low > 0) - int(interval.high < 0))
        return f"**{interval.percent(signed=True)}**" if signs[-1] else interval.percent(signed=True)

    differences = grid("method", {name: methods[name] for name in methods if name != OURS}, sizes, cell)
    best = []
    for step, size in sizes.items():
        means = {name: float(np.mean(found[name, step])) for name in methods}
        ranked = sorted(means, key=lambda name: -means[name])
        best.append(
            f"{size}: best is {methods[ranked[0]]} ({percent(means[ranked[0]])} %), ours is number "
            f"{ranked.index(OURS) + 1} of {len(ranked)} ({percent(means[OURS])} %)"
        )
    return [
        "Less ours, in points, seed by seed (bold where the interval leaves out zero):",
        differences,
        f"Of {len(signs)} comparisons ours is better in {signs.count(-1)}, worse in {signs.count(1)} and undecided at "
        f"this number of seeds in {signs.count(0)}; no correction is made for their number. By the means:",
        bullets(best),
    ]


def _fixed_nets(results: Results, compare: Compare) -> list[str]:
    rows = []
    for name in compare.fixed_nets:
        mine = results.rows("comparison", method=name)
        sizes = [thousands(mine[column].mean()) for column in ("params", "flops", "epochs")]
        pretrained = getattr(compare.fixed_nets[name].model, "pretrained", False)
        begun = "torchvision's weights" if pretrained else "fresh weights"
        rows.append([name, begun, *sizes, results.interval(accuracies(mine)).percent()])
    words = "Fixed nets, trained for as many epochs as our smallest model has had in all:"
    return [words, table("net | from | parameters | FLOPs | epochs | test, %", rows)] if rows else []


def draw_comparison(results: Results, folder: Path) -> None:
    """Test accuracy against parameters: filter criteria on the left, other ways to a small net on the right."""
    compare = results.params.compare
    if compare is None:
        return
    filters: list[str] = [name for name in compare.competitors if name in FILTER_CRITERIA]
    others = [name for name in (*compare.competitors, *compare.fixed_nets) if name not in filters]
    panels: dict[str, list[str]] = {"which filters to keep": filters, "other ways to the same size": others}
    original = results.estimates("scores", "model", "split")[ORIGINAL, "test"].mean
    with figure(folder, "comparison", size=(9.5, 5.4), dpi=results.params.report.dpi) as drawing:
        axes = drawing.subplots(1, 2, sharey=True, sharex=True)
        for ax, (title, names) in zip(axes, panels.items(), strict=True):
            for idx, name in enumerate(names):
                _draw_method(ax, results, name, color=f"C{idx}", marker=MARKERS[idx % len(MARKERS)])
            _draw_method(ax, results, OURS, color="black", marker="o", width=2.4)
            ax.axhline(100 * original, color="grey", lw=0.8, ls=":", label="original, unpruned")
            scale_by_size(ax)
            label_axes(ax, x="parameters (log scale)", title=title)
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=7.5)
        axes[0].set_ylabel("test accuracy (%), mean over seeds")


def _draw_method(
    ax: Axes, results: Results, name: str, *, color: str, marker: str, width: float = 1.1
) -> None:
    rows = results.rows("comparison", method=name)
    by_step = rows.assign(accuracy=100 * accuracies(rows)).groupby("step")[["params", "accuracy"]]
    x, y = by_step.mean()["params"], by_step.mean()["accuracy"]
    spread = np.stack([y - by_step.min()["accuracy"], by_step.max()["accuracy"] - y])
    style: dict[str, Any] = {"marker": marker, "ms": 4 * width**0.5, "lw": width}
    if name not in _LABELS:  # a fixed net has one size: a star, and nothing to join
        style = {"marker": "*", "ms": 11, "lw": 0}
    style |= {
        "color": color,
        "elinewidth": 0.5 * width,
        "capsize": 1.5,
        "alpha": 1.0 if name == OURS else 0.8,
    }
    ax.errorbar(x, y, yerr=spread, label=_LABELS.get(name, name), **style)
