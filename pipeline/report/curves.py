"""Whether the nets of the comparison were trained to the end: validation accuracy by epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from pipeline.compared import OURS
from pipeline.report.markdown import bullets, image, percent, section
from pipeline.report.methods import label_of, step_labels

if TYPE_CHECKING:
    from pipeline.report.results import Results


def learning_curves(results: Results) -> pd.DataFrame:
    """By seed, method, step and epoch the accuracy on validation; ours first. Empty where nothing was compared."""
    curves = results.tables["curves"]
    if curves.empty:
        return curves
    curves = curves.assign(accuracy=curves["validation_n_correct"] / curves["validation_n"])
    return curves.sort_values("method", key=lambda names: names != OURS, kind="stable")


def curves_section(results: Results) -> str:
    """The figure, and which nets were still gaining when their training ended; empty where nothing was compared."""
    curves = learning_curves(results)
    if curves.empty:
        return ""
    margin = results.params.report.equivalence_margin
    ends = curves.assign(gain=gained_at_last(curves)).groupby(["method", "step", "seed"], sort=False)
    gains = ends["gain"].first()
    rising = (gains > margin).groupby(level=["method", "step"], sort=False).agg(["sum", "size"]).reset_index()
    sizes = step_labels(results)
    lines = [
        f"{label_of(str(row['method']))} at {sizes[row['step']]}: {row['sum']} of {row['size']}"
        for row in rising[rising["sum"] > 0].to_dict("records")
    ]
    text = (
        "Validation accuracy after every epoch of the training that ends at a size. A net that gained more than "
        f"{percent(margin)} points in its last epoch is not flat, and might gain from a longer training: "
        f"{int((gains > margin).sum())} of {len(gains)} nets, whose line ends in a hollow mark. Each method's axis is "
        "its own, and begins near its ends: lines enter from below. From the first size on: whole lines that end in "
        "circles, dashes and squares, dots and diamonds, dots and dashes and triangles."
    )
    alternative = "Validation accuracy by epoch, a line for each net"
    return section("Learning curves", text, image("curves", alternative), bullets(lines))


def gained_at_last(curves: pd.DataFrame) -> pd.Series[float]:
    """Row by row, what that row's net gained in the last epoch of its training.

    A training of one epoch began with nothing to hold its end against, and counts as flat.
    """
    by = [curves[each] for each in ("method", "step", "seed")]
    gains = curves["accuracy"].groupby(by).diff().fillna(0.0)
    return gains.groupby(by).transform("last")
