"""What charts are made of: one look, a colour and a shape for every method, and the static copies for papers.

Colours are those of Okabe and Ito's palette, which hold under the usual deficiencies of colour vision; a shape goes
with each, so that no two methods are told apart by colour alone. `currentColor` is the colour of the text around it:
black on paper, light on a dark page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from pipeline.compared import is_variant

INK, GREY, VIOLET = "currentColor", "#8A8A8A", "#9467BD"
ORANGE, SKY, GREEN, BLUE, RED, PINK = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
# The colour and the shape of every model and method; of what has none here (a fixed net, a source) by its place.
_LOOKS = {
    "original": (INK, "square"),
    "base": (ORANGE, "triangle-down"),
    "control": (PINK, "diamond"),
    "pushed": (SKY, "triangle-up"),
    "accuracy_first": (GREEN, "triangle-right"),
    "parameter_first": (RED, "circle"),
    "after_the_fact_accuracy_first": (GREEN, "cross"),
    "after_the_fact_parameter_first": (RED, "cross"),
    "ours": (BLUE, "circle"),
    "l1": (ORANGE, "square"),
    "taylor": (GREEN, "square"),
    "activation_mean": (PINK, "square"),
    "activation_variance": (PINK, "triangle-up"),
    "apoz": (PINK, "triangle-down"),
    "fpgm": (SKY, "square"),
    "random": (GREY, "circle"),
    "lda_after_the_fact": (BLUE, "cross"),
    "han": (SKY, "diamond"),
    "scratch": (VIOLET, "diamond"),
    "l1_own": (ORANGE, "triangle-right"),
    "taylor_own": (GREEN, "triangle-left"),
    "random_own": (GREY, "triangle-right"),
}
# Ours by another utility or other widths are blue, too.
_VARIANTS = [
    (BLUE, shape) for shape in ("square", "triangle-up", "diamond", "triangle-down", "triangle-left")
]
_MORE = [
    (color, shape)
    for shape in ("triangle-left", "diamond", "cross")
    for color in (INK, ORANGE, PINK, SKY, GREEN, RED)
    if (color, shape) not in _LOOKS.values()
]
SHORT_NUMBER = "replace(format(datum.value, '~s'), 'G', 'B')"
_WITHOUT_AUTHORS = "replace(datum.label, / [(][^)]*[)]/, '')"
_LONG = 28  # letters, that a line of the margin holds
_IN_TWO_LINES = f"length(datum.label) > {_LONG} ? split({_WITHOUT_AUTHORS}, ', ') : {_WITHOUT_AUTHORS}"
_WIDTHS = {1: 620, 2: 330, 3: 230}
_FONT = "Liberation Sans, Arial, sans-serif"
_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        "gridOpacity": 0.4,
        "labelLimit": 190,
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 11,
    },
    "title": {"fontSize": 12, "anchor": "start", "fontWeight": "bold"},
}
_LEGEND = {
    "title": None,
    "orient": "bottom",
    "columns": 4,
    "labelLimit": 300,
    "symbolLimit": 0,
    "symbolSize": 80,
    "symbolOpacity": 1,
}

# A Vega-Lite specification of one view, its data within it.
Panel = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    label: str
    color: str
    shape: str


@dataclass(frozen=True)
class Figure:
    """A chart of one panel or more.

    Attributes:
        name: of its files below `figures/`, and of its place on the page.
        panels: each without a width, which the page or the static copy gives it.
        keys: the legend that they share.
        columns: panels beside each other, at most.
    """

    name: str
    panels: Sequence[Panel]
    keys: Sequence[Key] = ()
    columns: int = 1

    def specs(self) -> list[Panel]:
        """Of the page, a specification for each panel, as wide as its place; the legend stands beside them."""
        config = _CONFIG | {"legend": {"disable": True}, "font": "system-ui, sans-serif"}
        return [panel | {"width": "container", "config": config} for panel in self.panels]

    def write(self, folder: Path, *, dpi: int) -> None:
        """The static copies, `<name>.svg` and `<name>.png`; the same bytes from the same tables."""
        width, hoisted = _WIDTHS[min(self.columns, 3)], {"datasets": dict[str, Any](), "params": list[Any]()}
        for panel in self.panels:
            hoisted["datasets"] |= panel["datasets"]
            hoisted["params"] += panel.get("params", [])
        legend = _LEGEND | ({} if self.keys else {"disable": True})
        whole = hoisted | {
            "concat": [
                {k: v for k, v in panel.items() if k not in hoisted} | {"width": width}
                for panel in self.panels
            ],
            "columns": self.columns,
            "resolve": {"scale": {"color": "shared", "shape": "shared"}},
            "config": _CONFIG | {"legend": legend, "font": _FONT, "background": "white", "padding": 10},
        }
        svg = vl_convert.vegalite_to_svg(whole)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.name}.svg").write_text(svg, encoding="utf-8")
        (folder / f"{self.name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=dpi / 72))


def data(rows: pd.DataFrame | Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows for a chart, numbers to six digits behind the point."""
    return (rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))).round(6)


def layered(*layers: alt.Chart, height: float, title: str | alt.TitleParams = "") -> Panel:
    """Layers as one panel; what is later lies above."""
    # Checking against Vega-Lite's schema takes longer than all else, and drawing fails on what is wrong.
    with alt.data_transformers.enable("default", max_rows=None):
        panel: Panel = alt.layer(*layers).properties(height=height, title=title).to_dict(validate=False)
    # The page and the copies are drawn by one version, vl-convert's.
    return {key: value for key, value in panel.items() if key not in ("$schema", "config")}


def keys_of(names: Mapping[str, str]) -> list[Key]:
    """Of models and methods by their names for readers."""
    variants, more = cycle(_VARIANTS), cycle(_MORE)
    return [
        Key(label, *(_LOOKS.get(_method(name)) or next(variants if is_variant(name) else more)))
        for name, label in names.items()
    ]


def ordered_keys(labels: Sequence[str]) -> list[Key]:
    """Of what is no model and no method, such as sizes and seeds: shapes alone, as every colour is somebody's."""
    shapes = cycle(("circle", "square", "diamond", "triangle-up", "cross", "triangle-down"))
    return [Key(label, INK, shape) for label, shape in zip(labels, shapes, strict=False)]


def _method(name: str) -> str:
    """A model at the size where robustness is compared looks like its method."""
    return name.removesuffix("_at_size")


def color(keys: Sequence[Key], field: str = "who") -> alt.Color:
    """The colour of whom a row is of."""
    scale = alt.Scale(domain=[key.label for key in keys], range=[key.color for key in keys])
    return alt.Color(f"{field}:N", scale=scale)


def shape(keys: Sequence[Key], field: str = "who") -> alt.Shape:
    """The shape of whom a row is of."""
    scale = alt.Scale(domain=[key.label for key in keys], range=[key.shape for key in keys])
    return alt.Shape(f"{field}:N", scale=scale)


def size_axis(field: str, title: str | None, *, padding: int = 18, labels: str = SHORT_NUMBER) -> alt.X:
    """A logarithmic axis of parameters, FLOPs, bytes: `20k`, `1.5M`; `padding`: pixels at its ends."""
    axis = alt.Axis(labelExpr=labels, tickCount=5, labelOverlap=True, labelSeparation=6, title=title)
    return alt.X(f"{field}:Q", scale=alt.Scale(type="log", nice=False, padding=padding), axis=axis)


def value_axis(field: str, title: str, **scale: Any) -> alt.Y:
    """A vertical axis that begins where its data do."""
    return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(**({"zero": False} | scale)))


def forest(
    rows: pd.DataFrame,
    keys: Sequence[Key],
    *,
    title: str,
    axis: str | list[str],
    domain: Sequence[float] | None = None,
) -> Panel:
    """Intervals of differences, one below the other, with a line at zero.

    Args:
        rows: `label`, `who`, `mean`, `low`, `high` (points) and `told`, for whoever points at one.
        keys: the looks of `who`.
        title: of the panel.
        axis: what the numbers are, and which side is better.
        domain: of the axis, where panels share it; bounds beyond are cut off there.
    """
    order = list(dict.fromkeys(rows["label"]))
    low, high = domain or (min(0.0, float(rows["low"].min())), max(0.0, float(rows["high"].max())))
    rows = rows.assign(**{name: rows[name].clip(low, high) for name in ("mean", "low", "high")})
    y = alt.Y(
        "label:N",
        sort=order,
        title=None,
        axis=alt.Axis(labelLimit=195, grid=True, labelExpr=_IN_TWO_LINES),
    )
    x_scale = alt.Scale(domain=[low, high], nice=True)
    base = alt.Chart(data(rows)).encode(y=y)
    zero = (
        alt.Chart(data([{"zero": 0}]))
        .mark_rule(color=INK, strokeWidth=1)
        .encode(x=alt.X("zero:Q", title=axis, scale=x_scale))
    )
    bars = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", scale=x_scale, title=axis), x2="high:Q", color=color(keys)
    )
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=alt.X("mean:Q", scale=x_scale, title=axis), color=color(keys), shape=shape(keys), tooltip="told:N"
    )
    return layered(
        zero,
        bars,
        points,
        title=title,
        height=(30 if max(map(len, order)) > _LONG else 22) * max(len(order), 2),
    )


def beside(rows: pd.DataFrame, group: str, *, apart: float) -> pd.Series[float]:
    """By what a logarithmic place is multiplied, so that nobody of a group hides another; neighbours are `apart`."""
    place, n = rows.groupby(group).cumcount(), rows.groupby(group)[group].transform("size")
    return apart ** (place - (n - 1) / 2)


def floor_of(values: Sequence[float], *, least_spread: float) -> float:
    """Where an axis of accuracies begins: below it stand those that collapsed, or are far from all others.

    Tukey's outer fence, three spreads of the middle half below it; never above `least_spread` below the middle half.
    """
    lower, upper = np.quantile(values, [0.25, 0.75])
    fence = float(lower - max(3 * (upper - lower), least_spread))
    return max(fence, float(np.min(values)) - 0.1 * least_spread)
