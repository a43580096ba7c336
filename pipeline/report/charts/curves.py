"""The learning curves of the comparison: a line for each net, a panel for each size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt

from pipeline.report.charts.chart import Figure, color, data, floor_of, keys_of, layered, value_axis
from pipeline.report.comparison import label_of, step_labels
from pipeline.report.curves import learning_curves

if TYPE_CHECKING:
    from pipeline.report.results import Results


def curves_figure(results: Results) -> Figure | None:
    """Validation accuracy after every epoch of the training that ends at a size; None where nothing is compared."""
    curves = learning_curves(results)
    if curves.empty:
        return None
    names = {name: label_of(name) for name in curves["method"].unique()}
    keys = keys_of(names)
    # What happens at the end is the question: where lines begin lies below the axis for most of them.
    ends = curves.groupby(["method", "step", "seed"])["accuracy"].last()
    floor = max(0.0, floor_of([*(100 * ends)], least_spread=5.0))
    curves = curves.assign(
        who=curves["method"].map(names),
        net=curves["method"] + curves["seed"].astype(str),
        percent=(100 * curves["accuracy"]).clip(lower=floor),
        told=curves["method"].map(names) + ", seed " + curves["seed"].astype(str),
    )
    panels = []
    for step, size in step_labels(results).items():
        of_step = curves[curves["step"] == step]
        # Nets from scratch have many times the epochs of a retraining, so the axis is the share that is done.
        shown = of_step.assign(done=of_step["epoch"] / of_step.groupby("net")["epoch"].transform("max"))
        chart = alt.Chart(data(shown[["done", "percent", "who", "net", "told", "epoch"]])).encode(
            x=alt.X("done:Q", title="share of the training that is done", axis=alt.Axis(format="%")),
            y=value_axis("percent", "validation accuracy (%)"),
            color=color(keys),
            detail="net:N",
            tooltip=["told:N", "epoch:Q", "percent:Q"],
        )
        panels.append(
            layered(
                chart.mark_line(opacity=0.7, strokeWidth=1.2),
                chart.mark_point(size=12, filled=True),
                title=size,
                height=240,
            )
        )
    return Figure("curves", panels, keys, columns=2)
