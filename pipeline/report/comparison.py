"""The comparison at matched sizes: ours against every competitor (thesis 3.3.3, CVIU Figures 5 and 6)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pipeline.compared import OURS
from pipeline.params.pruning import FILTER_CRITERIA
from pipeline.report.figures import MARKERS, figure, label_axes, short_number
from pipeline.report.markdown import image, percent, section, table, thousands
from pipeline.report.summary import over_seeds, score_interval

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


def comparison_section(results: Results) -> str:
    """Test accuracy of every method at every size, and the difference to ours; empty where nothing is compared."""
    compare = results.params.compare
    if compare is None:
        return ""
    steps = range(len(compare.sizes))
    sizes = [f"{thousands(_n_params(results, step))} parameters" for step in steps]
    accuracies = [
        [_LABELS[name], *(results.interval(_accuracies(results, name, step)).percent() for step in steps)]
        for name in (OURS, *compare.competitors)
    ]
    return section(
        "Ours and others at the same sizes",
        image("comparison", "Test accuracy against parameters for every method"),
        "Ours takes the pushed model through the sizes, one after another; at each, every criterion keeps as "
        "many filters in every layer as ours and retrains for the same "
        f"{compare.retraining.epochs} epochs on the same kind of batches. The others start from the grown model "
        "trained on for as many epochs without the push, and retrain with cross-entropy alone. Single weights (Han "
        "et al.) are zeros in the dense net: as many are left as ours has parameters, and no FLOP is saved. In "
        "the figure whiskers run from the lowest to the highest seed. Test "
        f"accuracy in %, {over_seeds(results)}:",
        "",
        table(["method", *sizes], accuracies),
        *_differences(results, compare, steps, sizes),
        *_fixed_nets(results, compare),
    )


def draw_comparison(results: Results, folder: Path) -> None:
    """Test accuracy against parameters: filter criteria on the left, other ways to a small net on the right."""
    compare = results.params.compare
    if compare is None:
        return
    filters = [name for name in compare.competitors if name in FILTER_CRITERIA]
    others = [name for name in (*compare.competitors, *compare.fixed_nets) if name not in filters]
    with figure(folder, "comparison", size=(9.5, 5.4), dpi=results.params.report.dpi) as drawing:
        axes = drawing.subplots(1, 2, sharey=True, sharex=True)
        for ax, names, title in (
            (axes[0], filters, "which filters to keep"),
            (axes[1], others, "other ways to the same size"),
        ):
            for idx, name in enumerate(names):
                _draw_method(ax, results, name, color=f"C{idx}", marker=MARKERS[idx % len(MARKERS)])
            _draw_method(ax, results, OURS, color="black", marker="o", width=2.4)
            base = score_interval(results, "base", "test").mean
            ax.axhline(100 * base, color="grey", lw=0.8, ls=":", label="base, unpruned")
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            ax.xaxis.set_major_formatter(FuncFormatter(short_number))
            ax.xaxis.set_minor_formatter(NullFormatter())
            label_axes(ax, x="parameters (log scale)", y="", title=title)
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize=7.5)
        axes[0].set_ylabel("test accuracy (%), mean over seeds")


def _draw_method(
    ax: Axes, results: Results, name: str, *, color: str, marker: str, width: float = 1.1
) -> None:
    rows = results.rows("comparison", method=name)
    accuracy = 100 * rows["test_n_correct"] / rows["test_n"]
    means = rows.assign(accuracy=accuracy).groupby("step")[["params", "accuracy"]]
    middle, low, high = means.mean(), means.min()["accuracy"], means.max()["accuracy"]
    spread = np.stack([middle["accuracy"] - low, high - middle["accuracy"]])
    fixed = name not in _LABELS
    ax.errorbar(
        middle["params"],
        middle["accuracy"],
        yerr=spread,
        color=color,
        marker="*" if fixed else marker,
        ms=11 if fixed else 4 * width**0.5,
        lw=0 if fixed else width,
        elinewidth=0.5 * width,
        capsize=1.5,
        alpha=1.0 if name == OURS else 0.8,
        label=_LABELS.get(name, name),
    )


def _n_params(results: Results, step: int) -> float:
    return float(results.rows("comparison", method=OURS, step=step)["params"].mean())


def _accuracies(results: Results, name: str, step: int) -> list[float]:
    rows = results.rows("comparison", method=name, step=step)
    return (rows["test_n_correct"] / rows["test_n"]).tolist()


def _differences(results: Results, compare: Compare, steps: range, sizes: list[str]) -> list[str]:
    """Every competitor less ours, how many differences are decided, and who is best at each size."""
    if not compare.competitors:
        return []
    rows, signs = [], []
    for name in compare.competitors:
        found = [_difference(results, name, step) for step in steps]
        rows.append([_LABELS[name], *(cell for cell, _ in found)])
        signs += [sign for _, sign in found]
    best = []
    for step, size in zip(steps, sizes, strict=True):
        means = {
            name: float(np.mean(_accuracies(results, name, step))) for name in (OURS, *compare.competitors)
        }
        ranked = sorted(means, key=lambda name: -means[name])
        best.append(
            f"* {size}: best is {_LABELS[ranked[0]]} ({percent(means[ranked[0]])} %), ours is number "
            f"{ranked.index(OURS) + 1} of {len(ranked)} ({percent(means[OURS])} %)"
        )
    return [
        "Less ours, in points, seed by seed (bold where the interval leaves out zero):",
        "",
        table(["method", *sizes], rows),
        f"Of {len(signs)} comparisons ours is better in {signs.count(-1)}, worse in {signs.count(1)} and undecided at "
        f"this number of seeds in {signs.count(0)}; no correction is made for their number. By the means:",
        "",
        *best,
        "",
    ]


def _difference(results: Results, name: str, step: int) -> tuple[str, int]:
    """A cell, and the sign of a difference whose interval leaves out zero (0 where it does not)."""
    theirs, ours = _accuracies(results, name, step), _accuracies(results, OURS, step)
    interval = results.interval(a - b for a, b in zip(theirs, ours, strict=True))
    sign = 1 if interval.low > 0 else (-1 if interval.high < 0 else 0)
    cell = interval.percent(signed=True)
    return (f"**{cell}**" if sign else cell), sign


def _fixed_nets(results: Results, compare: Compare) -> list[str]:
    if not compare.fixed_nets:
        return []
    rows = []
    for name in compare.fixed_nets:
        mine = results.rows("comparison", method=name)
        sizes = [thousands(mine[column].mean()) for column in ("params", "flops", "epochs")]
        rows.append([name, *sizes, results.interval(mine["test_n_correct"] / mine["test_n"]).percent()])
    return [
        "Fixed nets, trained from scratch for as many epochs as our smallest model has had in all:",
        "",
        table(["net", "parameters", "FLOPs", "epochs", "test, %"], rows),
    ]
