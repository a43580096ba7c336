"""The page's first figure: test accuracy against size, ours and all others; and how far the others are from ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
import pandas as pd

from pipeline.compared import ORIGINAL, OURS
from pipeline.report.charts.chart import (
    INK,
    SHORT_NUMBER,
    Figure,
    Key,
    beside,
    color,
    data,
    floor_of,
    forest,
    keys_of,
    layered,
    shape,
    size_axis,
    value_axis,
)
from pipeline.report.hits import more_hits
from pipeline.report.markdown import thousands
from pipeline.report.methods import label_of, variants_of
from pipeline.report.model_rows import attacked_name, file_of

if TYPE_CHECKING:
    from pipeline.report.ablation import Effect
    from pipeline.report.results import Results

# What the horizontal axis may show, by the column of the chart's data.
MEASURES = {
    "params": "parameters",
    "flops": "FLOPs per image",
    "bytes": "bytes of the weights on disk",
    "milliseconds": "milliseconds for an image",
}
# Markers of the same size stand side by side: neighbours are so far apart on the logarithmic axis.
_APART = 1.03
_LABELS = f"measure == 'milliseconds' ? format(datum.value, '~r') : {SHORT_NUMBER}"
_TITLE = "log scale"


def trade_off(results: Results, models: pd.DataFrame) -> Figure:
    """Test accuracy against size; a signal, `measure`, says which size.

    Args:
        models: the recommendation's table: `model`, and who is `chosen`.
    """
    # Ours last: what is drawn later lies above.
    rows = pd.DataFrame([*_compared(results), *_main(results, models)])
    # Bytes and times differ by less than markers are wide, and stand where they are.
    apart = ("params", "flops")
    rows = rows.assign(
        **{f"beside_{each}": _side_by_side(rows[each]) if each in apart else 1.0 for each in MEASURES}
    )
    keys = keys_of(results.main_models() | dict(zip(rows["name"], rows["who"], strict=True)))
    original = rows[rows["name"] == ORIGINAL].iloc[0]
    comparable = original["accuracy"] - 100 * results.params.select.max_drop
    shown = [*rows["accuracy"], *([comparable] if comparable > 0 else ())]
    floor = max(0.0, floor_of(shown, least_spread=3.0))
    below = rows["accuracy"] < floor
    rows = rows.assign(
        y=rows["accuracy"].clip(lower=floor),
        low=rows["low"].clip(lower=floor),
        high=rows["high"].clip(lower=floor),
        edge=("\u2193 " + rows["accuracy"].map("{:.1f} %".format)).where(below),
    )
    top = float(max(rows["high"].max(), original["accuracy"]))
    bounds = {"domain": [floor, min(100.0, top + 0.05 * (top - floor))], "nice": False}
    y, low = (value_axis(each, "test accuracy (%)", **bounds) for each in ("y", "low"))
    base = (
        alt.Chart(data(rows))
        .transform_calculate(x="datum[measure] * datum['beside_' + measure]")
        .transform_filter("isValid(datum[measure]) && datum[measure] > 0")
        .encode(x=size_axis("x", None, padding=22, labels=_LABELS))
    )
    lines = [
        {"y": original["accuracy"], "label": f"{original['who']}\n{original['accuracy']:.2f} %", "dash": 1},
        {"y": comparable, "label": f"comparable\n{comparable:.2f} %", "dash": 0},
    ]
    end = alt.value("width")  # no marker is there
    rules = alt.Chart(data(line for line in lines if line["y"] > floor))
    away = alt.ExprRef("datum.dash ? -18 : 8")  # of each other: the rules may be closer than a line is high
    dash = alt.condition("datum.dash == 1", alt.value([6, 3]), alt.value([2, 3]))
    layers = [
        rules.mark_rule(color=INK, opacity=0.6).encode(y=y, strokeDash=dash),
        rules.mark_text(align="left", dx=4, dy=away, lineBreak="\n").encode(y=y, text="label:N", x=end),
        base.mark_rule(opacity=0.55, strokeWidth=1.5).encode(y=low, y2="high:Q", color=color(keys)),
        base.mark_point(filled=True, size=85, opacity=1).encode(
            y=y, color=color(keys), shape=shape(keys), tooltip="told:N"
        ),
    ]
    # A layer without rows has no place on an axis, and Vega says so aloud.
    if rows["chosen"].any():
        ring = base.transform_filter("datum.chosen == 1").mark_point(
            shape="circle", size=420, filled=False, color=INK
        )
        layers.append(ring.encode(y=y, tooltip="told:N"))
    if below.any():
        edge = base.transform_filter("isValid(datum.edge)").encode(y=y, text="edge:N")
        place: dict[str, Any] = {"align": "left", "dx": 8, "dy": -5, "fontSize": 10}
        layers += [edge.mark_text(stroke="white", strokeWidth=3, **place), edge.mark_text(**place)]
    titles = ", ".join(f"'{name}': '{words} ({_TITLE})'" for name, words in MEASURES.items())
    words = alt.ExprRef(f"({{{titles}}})[measure]")
    title = alt.TitleParams(words, orient="bottom", anchor="middle", fontWeight="normal", offset=6)
    chart = layered(*layers, title=title, height=380) | {"params": [{"name": "measure", "value": "params"}]}
    return Figure("comparison", [chart], keys)


def _side_by_side(sizes: pd.Series[float]) -> pd.Series[float]:
    """By what each is multiplied, so that no marker hides another; those that are apart stay where they are."""
    known = sizes.dropna().sort_values(kind="stable")
    known = known[known > 0]
    clusters = (known / known.shift() > _APART).cumsum()
    middle = known.groupby(clusters).transform(lambda each: np.exp(np.log(each).mean()))
    places = beside(clusters.to_frame("cluster"), "cluster", apart=_APART)
    return (middle / known * places).reindex(sizes.index)


def measured_by(models: pd.DataFrame) -> dict[str, str]:
    """The sizes that the figure can show: bytes and milliseconds where they were taken."""
    has = {name for name in ("bytes", "milliseconds") if name in models and models[name].notna().any()}
    return {name: words for name, words in MEASURES.items() if name in {"params", "flops"} | has}


def _main(results: Results, models: pd.DataFrame) -> Iterator[dict[str, Any]]:
    scores, chosen = results.estimates("scores", "model", "split"), set(models[models["chosen"]]["model"])
    for name, label in results.main_models().items():
        sizes = {each: results.size(name, each) for each in ("params", "flops")}
        yield _row(name, label, scores[name, "test"], sizes | _measured(results, name), chosen=name in chosen)


def _compared(results: Results) -> Iterator[dict[str, Any]]:
    compare = results.params.compare
    if compare is None:
        return
    for name in (OURS, *variants_of(results.params), *compare.competitors, *compare.fixed_nets):
        for step, rows in results.rows("comparison", method=name).groupby("step"):
            sizes = {each: float(rows[each].mean()) for each in ("params", "flops")}
            sizes |= _measured(results, attacked_name(results, name, int(str(step))))
            yield _row(name, label_of(name), results.accuracy(rows, "test_"), sizes)


def _measured(results: Results, name: str) -> dict[str, float]:
    return {each: file_of(results, name)[each] for each in ("bytes", "milliseconds")}


def _row(
    name: str, label: str, interval: Any, sizes: Mapping[str, float], *, chosen: bool = False
) -> dict[str, Any]:
    said = f"{label}: {interval.percent()} %, {thousands(sizes['params'])} parameters"
    return {
        "name": name,
        "who": label,
        "accuracy": 100 * interval.mean,
        "low": 100 * interval.low,
        "high": 100 * interval.high,
        "told": said,
        "chosen": int(chosen),
        **sizes,
    }


def differences(results: Results) -> Figure | None:
    """Ours less every other method at each size, in points, on the same images; None where nothing is compared."""
    compare = results.params.compare
    if compare is None or not (*variants_of(results.params), *compare.competitors):
        return None
    names = {name: label_of(name) for name in (*variants_of(results.params), *compare.competitors)}
    panels, keys = dict[str, pd.DataFrame](), keys_of(names)
    for step, ours in results.rows("comparison", method=OURS).groupby("step"):
        rows = []
        for name, label in names.items():
            mine = results.rows("comparison", method=name, step=step)
            if mine["collapsed"].any() or ours["collapsed"].any():
                continue
            found = results.difference(more_hits(ours, mine, "test_"))
            mean, low, high = (100 * each for each in (found.mean, found.low, found.high))
            told = f"ours less {label}: {found.percent(signed=True)} points"
            rows.append({"label": label, "who": label, "mean": mean, "low": low, "high": high, "told": told})
        if rows:
            panels[f"{thousands(ours['params'].mean())} parameters"] = pd.DataFrame(rows)
    axis = ["ours less theirs, points", "(right: ours better)"]
    charts = [forest(rows, keys, title=title, axis=axis) for title, rows in panels.items()]
    return Figure("differences", charts, columns=2) if charts else None


def effects_figure(effects: Sequence[Effect]) -> Figure:
    """What each part changed (`ablation.effects`)."""
    rows = [
        {
            "label": each.words,
            "who": "effect",
            "told": f"{each.words}: {each.change.percent(signed=True)} points",
        }
        | {name: 100 * getattr(each.change, name) for name in ("mean", "low", "high")}
        for each in effects
        if each.change.n
    ]
    axis = "points (right: helps)"
    return Figure(
        "ablation", [forest(pd.DataFrame(rows), [Key("effect", INK, "circle")], title="", axis=axis)]
    )
