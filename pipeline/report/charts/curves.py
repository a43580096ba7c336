"""The learning curves of the comparison: a panel for each method, a line for each net."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt

from pipeline.report.charts.chart import (
    Figure,
    data,
    floor_of,
    keys_of,
    layered,
    ordered_keys,
    shape,
    value_axis,
)
from pipeline.report.curves import gained_at_last, learning_curves
from pipeline.report.methods import label_of, step_labels

if TYPE_CHECKING:
    from pipeline.report.results import Results


_DASHES = [[1, 0], [5, 3], [2, 2], [8, 2, 2, 2]]


def curves_figure(results: Results) -> Figure | None:
    """Validation accuracy after every epoch of the training that ends at a size; None where nothing is compared.

    What happens at the end is the question: a net ends in the mark of its size, which is hollow where it was not flat,
    and lines enter a panel from below.
    """
    curves = learning_curves(results)
    if curves.empty:
        return None
    names = {name: label_of(name) for name in curves["method"].unique()}
    sizes, by = step_labels(results), ["method", "step", "seed"]
    keys = ordered_keys([*sizes.values()])
    # Nets from scratch have many times the epochs of a retraining, so the axis is the share that is done.
    curves = curves.assign(
        who=curves["step"].map(sizes),
        net=curves["step"].astype(str) + "/" + curves["seed"].astype(str),
        percent=100 * curves["accuracy"],
        done=curves["epoch"] / curves.groupby(by)["epoch"].transform("max"),
        rising=gained_at_last(curves).gt(results.params.report.equivalence_margin).astype(int),
        told=curves["step"].map(sizes) + ", seed " + curves["seed"].astype(str),
    )
    panels = []
    for method, key in zip(names, keys_of(names), strict=True):
        mine = curves[curves["method"] == method]
        floor = max(0.0, floor_of([*mine[mine["done"] == 1]["percent"]], least_spread=5.0))
        bounds = {"domain": [floor, min(100.0, float(mine["percent"].max()) + 0.5)], "nice": False}
        columns = ["done", "percent", "who", "net", "told", "epoch", "rising"]
        chart = alt.Chart(data(mine[columns])).encode(
            x=alt.X(
                "done:Q", title="share of the training that is done", axis=alt.Axis(format="%", tickCount=3)
            ),
            y=value_axis("percent", "validation accuracy (%)", **bounds),
            detail="net:N",
            tooltip=["told:N", "epoch:Q", "percent:Q"],
        )
        ends = chart.transform_filter("datum.done == 1").encode(shape=shape(keys))
        solid = ends.transform_filter("datum.rising == 0")
        dashes = alt.StrokeDash(
            "who:N", scale=alt.Scale(domain=[*sizes.values()], range=_DASHES), legend=None
        )
        layers = [
            chart.encode(strokeDash=dashes).mark_line(
                opacity=0.6, strokeWidth=1.2, color=key.color, clip=True
            )
        ]
        layers.append(ends.mark_point(size=60, filled=False, strokeWidth=1.5, opacity=1, color=key.color))
        # A layer without rows has no place on an axis.
        if (mine["rising"] == 0).any():
            layers.append(solid.mark_point(size=60, filled=True, opacity=1, color=key.color))
        panels.append(layered(*layers, title=key.label, height=150))
    return Figure("curves", panels, keys, columns=3)
