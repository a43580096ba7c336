"""Charts of pruning and growing: accuracy against size and against traced images, and the tree of Algorithm 2."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
import pandas as pd

from pipeline.compared import ORIGINAL
from pipeline.report.charts.chart import (
    BLUE,
    GREY,
    INK,
    Figure,
    Key,
    beside,
    color,
    data,
    floor_of,
    keys_of,
    layered,
    ordered_keys,
    shape,
    size_axis,
    value_axis,
)
from pipeline.report.figures import PIPELINES, SIZES
from pipeline.report.methods import method_rows, step_labels, traced_of

if TYPE_CHECKING:
    from pipeline.report.results import Results

_COLLAPSED, _CHANGE = "collapsed in retraining", "validation accuracy, points above the original"


def samples_figure(results: Results) -> Figure:
    """Change of validation accuracy against parameters and FLOPs: every sample of every seed, and the models.

    As thesis Figures 3-9 to 3-13, 4-7, 4-9, 4-11 and CVIU Figures 5 to 7, whose zero is the unpruned net.
    """
    scores = results.rows("scores", split="validation")
    original = scores[scores["model"] == ORIGINAL].set_index("seed")["accuracy"]
    samples = results.tables["samples"]
    samples = samples.assign(
        change=100 * (samples["accuracy"] - samples["seed"].map(original)),
        way=samples["pipeline"].map(PIPELINES),
        who=np.where(samples["collapsed"] == 1, _COLLAPSED, samples["pipeline"].map(PIPELINES)),
        told=samples["round"] + ", " + samples["sample"] + ", seed " + samples["seed"].astype(str),
    )
    models = pd.DataFrame(
        [
            {"who": label, "seed": row["seed"], "change": 100 * (row["accuracy"] - original[row["seed"]])}
            | {"told": f"{label}, seed {row['seed']}", **{size: row[size] for size in SIZES}}
            for name, label in results.main_models().items()
            for _, row in scores[scores["model"] == name].iterrows()
        ]
    )
    looks = dict(zip(PIPELINES.values(), ((BLUE, "circle"), (GREY, "circle")), strict=True))
    ways = [Key(way, *looks[way]) for way in dict.fromkeys(samples["way"])]
    if (samples["collapsed"] == 1).any():
        ways.append(Key(_COLLAPSED, INK, "cross"))
    keys = [*ways, *keys_of(results.main_models())]
    floor = floor_of([*samples["change"], *models["change"]], least_spread=3.0)
    samples, models = (each.assign(change=each["change"].clip(lower=floor)) for each in (samples, models))
    panels = []
    for column, unit in SIZES.items():
        x, y = size_axis(column, f"{unit} (log scale)"), value_axis("change", _CHANGE)
        zero = (
            alt.Chart(data([{"zero": 0}]))
            .mark_rule(color=INK, opacity=0.6)
            .encode(y=value_axis("zero", _CHANGE))
        )
        dots = (
            alt.Chart(data(samples))
            .mark_point(filled=True, size=45, opacity=0.8)
            .encode(x=x, y=y, color=color(keys), shape=shape(keys), tooltip="told:N")
        )
        stars = (
            alt.Chart(data(models))
            .mark_point(size=110, strokeWidth=2)
            .encode(x=x, y=y, color=color(keys), shape=shape(keys), tooltip="told:N")
        )
        panels.append(layered(zero, dots, stars, height=280))
    return Figure("accuracy_size", panels, keys, columns=2)


def growth_figure(results: Results) -> Figure | None:
    """The tree of Algorithm 2 (thesis Figure 4-2): each candidate from the best of the iteration before it."""
    if results.params.grow is None:
        return None
    keys = [Key("candidate", GREY, "circle"), Key("best of its iteration", BLUE, "circle")]
    keys.append(Key("trained in full: the base, and the grown net", INK, "diamond"))
    panels = []
    for seed, rows in results.tables["growth"].groupby("seed"):
        rows = rows.assign(percent=100 * rows["accuracy"], told=rows["name"] + ": " + rows["stages"])
        quick, full = (rows[rows["training"] == training] for training in ("quick", "full"))
        best = quick[quick["chosen"] == 1].set_index("iteration")
        who = np.where(quick["chosen"] == 1, keys[1].label, keys[0].label)
        # The best lie above the others, and a net that was trained in full has its name below it.
        quick = quick.assign(who=who, below=0).sort_values("chosen", kind="stable")
        nodes = pd.concat([quick, full.assign(who=keys[2].label, below=1)])
        # The first candidates come from the base, which was trained in full.
        best = pd.concat([full[full["iteration"] == 0].set_index("iteration"), best])
        parents = [best.loc[n - 1] if n - 1 in best.index else None for n in quick["iteration"]]
        edges = [
            {"x": n, "y": y, "x2": n - 1, "y2": parent["percent"]}
            for n, y, parent in zip(quick["iteration"], quick["percent"], parents, strict=True)
            if parent is not None
        ]
        x_title, y_title = "iteration: modules added", "validation accuracy (%)"
        x = alt.X(
            "iteration:Q",
            title=x_title,
            axis=alt.Axis(values=[*range(rows["iteration"].max() + 1)], format="d"),
        )
        y = value_axis("percent", y_title, padding=16)
        base = alt.Chart(data(nodes)).encode(x=x, y=y)
        layers = [
            base.mark_point(filled=True, size=70, opacity=1).encode(
                color=color(keys), shape=shape(keys), tooltip="told:N"
            ),
            *(
                base.transform_filter(f"datum.who != '{keys[0].label}' && datum.below == {below}")
                .mark_text(dx=6, dy=dy, align="left", fontSize=10)
                .encode(text="stages:N")
                for below, dy in enumerate((-8, 10))
            ),
        ]
        if edges:
            branches = alt.Chart(data(edges)).mark_rule(color=GREY, opacity=0.7)
            layers.insert(
                0,
                branches.encode(
                    x=alt.X("x:Q", title=x_title), x2="x2:Q", y=alt.Y("y:Q", title=y_title), y2="y2:Q"
                ),
            )
        panels.append(layered(*layers, title=f"seed {seed}", height=240))
    return Figure("growth", panels, keys, columns=3)


def tracing_figure(results: Results) -> Figure | None:
    """Test accuracy against the images of each class that utilities are traced from (thesis Figure 3-20)."""
    traced = traced_of(results.params)
    if not traced:
        return None
    every = np.mean(results.dataset["train_counts"])  # of each class, where all images trace
    keys = ordered_keys([*step_labels(results).values()])
    rows = []
    for (step, key), (name, n) in product(enumerate(keys), traced.items()):
        found = results.accuracy(method_rows(results, name, step), "test_")
        shown = {each: 100 * getattr(found, each) for each in ("mean", "low", "high")}
        told = f"{key.label}: {found.percent()} %, {'all' if n is None else n} images of each class"
        rows.append(shown | {"n": every if n is None else n, "who": key.label, "told": told})
    table = pd.DataFrame(rows)
    table["n"] *= beside(table, "n", apart=1.06)
    axis = alt.Axis(values=sorted({row["n"] for row in rows}), format=".0f")
    title = "training images of each class in tracing (log scale)"
    x = alt.X("n:Q", title=title, scale=alt.Scale(type="log", nice=False, padding=24), axis=axis)
    y, low = (value_axis(each, "test accuracy (%)") for each in ("mean", "low"))
    base = alt.Chart(data(table)).encode(x=x)
    layers = (
        base.mark_rule(opacity=0.55, strokeWidth=1.5, color=BLUE).encode(y=low, y2="high:Q"),
        base.mark_point(filled=True, size=85, opacity=1, color=BLUE).encode(
            y=y, shape=shape(keys), tooltip="told:N"
        ),
    )
    return Figure("tracing", [layered(*layers, height=280)], keys)
