"""Charts of what noise and attacks do: changes of accuracy, strength by strength, calibration; and of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd

from pipeline.compared import ORIGINAL
from pipeline.report.charts.chart import (
    GREY,
    INK,
    Figure,
    Key,
    Panel,
    beside,
    color,
    data,
    forest,
    keys_of,
    layered,
    shape,
    value_axis,
)
from pipeline.report.latency import EXPECTED_SHARE, Measured, measured, speedups, timed_models
from pipeline.report.robustness.calibration import KINDS, by_kind
from pipeline.report.robustness.strengths import ITSELF, WORST

if TYPE_CHECKING:
    from pipeline.report.results import Results

# Bins of confidence with fewer images than this say nothing.
_LEAST_IMAGES = 10


def drops_figure(results: Results) -> Figure:
    """Change of accuracy of every model under every perturbation of the headline, a panel for each.

    Noise has one scale and attacks another: beside attacks that take half of all hits, noise would be a flat line.
    """
    keys, kinds = keys_of(results.main_models()), {each.name: each.kind for each in results.conditions()}
    panels = {condition: pd.DataFrame(_drops(results, condition)) for condition in results.headline()}
    drawn = []
    for condition, rows in panels.items():
        alike = pd.concat([each for name, each in panels.items() if kinds[name] == kinds[condition]])
        domain = min(0.0, alike["low"].min()), max(0.0, alike["high"].max())
        axis = "points (left: loses more)"
        drawn.append(forest(rows, keys, title=condition, axis=axis, domain=domain))
    return Figure("drops", drawn, columns=2)


def _drops(results: Results, condition: str) -> Iterator[dict[str, Any]]:
    for name, label in results.main_models().items():
        drop = results.drop(name, condition)
        mean, low, high = (100 * each for each in (drop.mean, drop.low, drop.high))
        told = f"{label} under {condition}: {drop.percent(signed=True)} points"
        yield {"label": label, "who": label, "mean": mean, "low": low, "high": high, "told": told}


def severities_figure(results: Results, table: pd.DataFrame) -> Figure | None:
    """`strengths_table`, a panel for each noise and attack that comes in several strengths; None without any.

    Attacks stand transferred and on the model itself, and last the worst of all on it where a norm has several. One
    without a budget has no place on such an axis; it has its row in the tables.
    """
    names = results.main_models()
    table = table[table["model"].isin(names)] if len(table) else table
    if table.empty:
        return None
    # Of a single curve the worst case would be that curve once more.
    n_curves = table[table["source"] == ITSELF].groupby("norm")["family"].nunique()
    table = table[(table["family"] != WORST) | table["norm"].isin(n_curves.index[n_curves > 2])]
    keys, banded = keys_of(names), [results.labels[name] for name in (ORIGINAL, "parameter_first")]
    told = (
        f"{names[m]}, {c}: {100 * a:.2f} %"
        for m, c, a in table[["model", "condition", "accuracy"]].to_numpy()
    )
    table = table.assign(who=table["model"].map(names), told=[*told])
    table[["accuracy", "low", "high"]] *= 100
    curves = [*table.groupby(["kind", "family", "source", "norm", "unit"], sort=False)]
    swept = [each for each in curves if each[1]["strength"].nunique() > 2]  # clean is one of them
    panels = []
    for (_, family, source, norm, unit), rows in swept or curves:
        x, y = alt.X("strength:Q", title=unit), value_axis("accuracy", "test accuracy (%)")
        base = alt.Chart(data(rows[["who", "strength", "accuracy", "low", "high", "told"]])).encode(x=x)
        # Bands of two models: more would hide each other.
        band = (
            base.transform_filter(alt.FieldOneOfPredicate("who", banded))
            .mark_area(opacity=0.15)
            .encode(y=value_axis("low", "test accuracy (%)"), y2="high:Q", color=color(keys))
        )
        line = base.mark_line(strokeWidth=1.5).encode(y=y, color=color(keys))
        points = base.mark_point(filled=True, size=45, opacity=1).encode(
            y=y, color=color(keys), shape=shape(keys), tooltip="told:N"
        )
        several = f"transferred from {source}" if source and len(results.params.sources) > 1 else ""
        several = several or ("transferred" if source else "")
        where = f"on the model itself ({norm})" if source == ITSELF else several
        # In two lines, as a phone is narrow.
        title = alt.TitleParams(text=[*filter(None, (family, where))])
        panels.append(layered(line, band, points, height=220, title=title))
    return Figure("severities", panels, keys, columns=3)


def reliability_figure(results: Results) -> Figure:
    """Accuracy against confidence on clean, noisy and attacked images, all seeds together."""
    names = ("original", "pushed", "accuracy_first", "parameter_first")
    keys, panels = keys_of({name: results.labels[name] for name in names}), []
    for kind, rows in by_kind(results, "reliability").items():
        points = []
        for name in names:
            bins = rows[rows["model"] == name].groupby("bin")[["n", "n_correct", "confidence"]].sum()
            for n, n_correct, confidence in bins[bins["n"] >= _LEAST_IMAGES].to_numpy():
                said = {"x": 100 * confidence / n, "y": 100 * n_correct / n, "told": f"{n:.0f} images"}
                points.append(said | {"who": results.labels[name], "n": n})
        ends = [{"x": each, "y": each} for each in (0, 100)]
        x = alt.X("x:Q", title="confidence (%)", scale=alt.Scale(domain=[0, 100]))
        y = alt.Y("y:Q", title="accuracy (%)", scale=alt.Scale(domain=[0, 100]))
        line = alt.Chart(data(ends)).mark_line(color=GREY, strokeDash=[2, 3]).encode(x=x, y=y)
        base = alt.Chart(data(points)).encode(x=x, y=y, color=color(keys))
        drawn = [base.mark_line(strokeWidth=1.5)]
        drawn.append(
            base.mark_point(filled=False, strokeWidth=2, opacity=1).encode(
                shape=shape(keys),
                tooltip="told:N",
                size=alt.Size("n:Q", scale=alt.Scale(range=[20, 110]), legend=None),
            )
        )
        title = f"{KINDS[kind]} images"
        panels.append(layered(line, *(drawn if points else ()), title=title, height=230))
    return Figure("reliability", panels, keys, columns=3)


def latency_figure(results: Results) -> Figure | None:
    """Times faster against times fewer FLOPs, a panel for each runtime and batch; None without times."""
    if results.params.latency is None:
        return None
    keys = keys_of(timed_models(results))
    panels = [_runtime(results, of, batch, keys) for of in measured(results) for batch in of.timings]
    return Figure("latency", panels, keys, columns=2)


def _runtime(results: Results, of: Measured, batch: int, keys: list[Key]) -> Panel:
    timings = of.timings[batch]
    found, original, rows = speedups(results, timings), timings[ORIGINAL].median, []
    for name, label in timed_models(results).items():
        time = timings[name]
        row = {"who": label, "flops": found[name].flops, "faster": found[name].time}
        row |= {"low": original / time.p90, "high": original / time.p10}
        rows.append(row | {"told": f"{label}: {time.median:.3g} ms [{time.p10:.3g}, {time.p90:.3g}]"})
    table = pd.DataFrame(rows)
    table = table.assign(place=table["flops"] * beside(table, "flops", apart=1.06))
    farthest = max(1.01, float(table["flops"].max()))
    ends = [
        {"place": each, "faster": each * part, "part": part}
        for part in (1.0, EXPECTED_SHARE)
        for each in (1.0, farthest)
    ]
    axis = alt.Axis(format="~g", tickCount=5)
    log = alt.Scale(type="log", nice=False, padding=12)
    x = alt.X("place:Q", title="times fewer FLOPs (log scale, equal ones side by side)", scale=log, axis=axis)
    y = alt.Y("faster:Q", title="times faster (log scale)", scale=log, axis=axis)
    dash = alt.condition("datum.part == 1", alt.value([1, 0]), alt.value([2, 3]))
    lines = (
        alt.Chart(data(ends))
        .mark_line(color=INK, opacity=0.5)
        .encode(x=x, y=y, detail="part:N", strokeDash=dash)
    )
    base = alt.Chart(data(table)).encode(x=x, color=color(keys))
    spread = base.mark_rule(strokeWidth=1.5).encode(
        y=alt.Y("low:Q", scale=log, title="times faster (log scale)"), y2="high:Q"
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(y=y, shape=shape(keys), tooltip="told:N")
    images = "1 image" if batch == 1 else f"{batch} images"
    return layered(lines, spread, points, title=f"{of.words}, {images}", height=230)
