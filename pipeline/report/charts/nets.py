"""Charts of the inside of a net: its layers before and after pruning, its latent space, and the push."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import numpy as np
import pandas as pd

from pipeline.report.charts.chart import (
    BLUE,
    GREY,
    INK,
    RED,
    SKY,
    Figure,
    Key,
    Panel,
    color,
    data,
    keys_of,
    layered,
    ordered_keys,
    shape,
    value_axis,
)
from pipeline.report.figures import PIPELINES, SIZES
from pipeline.report.layers import layerwise, profile, pruned_models

if TYPE_CHECKING:
    from pipeline.report.results import Results

# The pair of CVIU Figures 3 and 4, and what both were trained on from.
_STATES = {"original": "original", "control": "trained on without the push", "pushed": "pushed"}
_KINDS = {False: "convolutions", True: "fully connected layers"}
_GONE = "gone with its branch"


def layers_figure(results: Results) -> Figure:
    """Parameters and FLOPs of each layer before and after (thesis 3-14 to 3-18, 4-10, 4-12, 4-13), the first seed's.

    The axis is logarithmic, so that what remains of a layer is seen beside what was there; convolutions stand apart
    from fully connected layers, and layers of one module share a stripe.
    """
    seed = results.params.seeds[0]
    before, after = layerwise(results, "parameter_first", seed)
    keys = [Key("before: pushed", GREY, "square"), Key("after: parameter first", RED, "circle")]
    keys.append(Key(_GONE, INK, "triangle-down"))
    modules = [name.rsplit(".branch", 1)[0] for name in before.index]
    stripe = {module: idx % 2 for idx, module in enumerate(dict.fromkeys(modules))}
    panels = []
    for connected, kind in _KINDS.items():
        of_kind = (before["kind"] == "linear") == connected
        if not of_kind.any():
            continue
        for column, unit in SIZES.items():
            was, left = before[column][of_kind], after[column][of_kind]
            rows = pd.DataFrame({"layer": was.index, "was": was.to_numpy(), "left": left.to_numpy()})
            parity = [stripe[module] for module, mine in zip(modules, of_kind, strict=True) if mine]
            least = max(1.0, 0.5 * float(min(left[left > 0].min() if (left > 0).any() else 1, was.min())))
            share = (rows["left"] / rows["was"]).map("{:.1%}".format)
            told = (
                rows["layer"]
                + ": "
                + rows["left"].map("{:,.0f}".format)
                + " of "
                + rows["was"].map("{:,.0f}".format)
            )
            rows = rows.assign(
                parity=parity,
                shown=rows["left"].clip(lower=least),
                who=np.where(rows["left"] > 0, keys[1].label, _GONE),
                before=keys[0].label,
                told=told + f" {unit} (" + share + ")",
            )
            panels.append(_layer_panel(rows, keys, f"{kind}: {unit}", unit, least))
    return Figure("layers", panels, keys, columns=1)


def _layer_panel(rows: pd.DataFrame, keys: list[Key], title: str, unit: str, least: float) -> Panel:
    scale = alt.Scale(type="log", domain=[least, 1.3 * float(rows["was"].max())], nice=False)
    y = alt.Y("was:Q", scale=scale, title=f"{unit} (log scale)", axis=alt.Axis(format="~s", tickCount=5))
    base = alt.Chart(data(rows)).encode(x=_layer_axis([*rows["layer"]]))
    return layered(
        base.transform_filter("datum.parity == 1").mark_rect(color=GREY, opacity=0.13),
        base.mark_rule(color=GREY, strokeWidth=2).encode(y=y, y2="shown:Q"),
        base.mark_point(filled=True, size=40, opacity=1).encode(
            y=y, color=color(keys, "before"), shape=shape(keys, "before")
        ),
        base.mark_point(filled=True, size=50, opacity=1).encode(
            y=alt.Y("shown:Q", scale=scale, title=f"{unit} (log scale)"),
            color=color(keys),
            shape=shape(keys),
            tooltip="told:N",
        ),
        title=title,
        height=200 if len(rows) > 3 else 110,
    )


def _layer_axis(layers: list[str]) -> alt.X:
    """Layers from the first to the last, without what every name begins or ends with."""
    label = "replace(replace(datum.label, /^net[.]/, ''), /[.]conv$/, '')"
    axis = alt.Axis(labelAngle=-90, labelLimit=170, labelFontSize=9, labelExpr=label, labelOverlap=True)
    return alt.X("layer:N", sort=layers, scale=alt.Scale(domain=layers), title=None, axis=axis)


def profile_figure(results: Results) -> Figure:
    """The share of its filters that each layer keeps, from the first layer to the last: mean, and every seed."""
    names = {name: label for name, label in results.main_models().items() if name in pruned_models(results)}
    keys, rows, layers = keys_of(names), [], list[str]()
    for name, label in names.items():
        for seed, share in profile(results, name).items():
            _merge(layers, [*map(str, share.index)])
            shares = [{"layer": layer, "seed": seed, "share": 100 * each} for layer, each in share.items()]
            rows += [row | {"who": label, "told": f"{label}, {row['layer']}, seed {seed}"} for row in shares]
    x = _layer_axis(layers)
    base = alt.Chart(data(rows)).encode(x=x, xOffset=alt.XOffset("who:N", sort=[key.label for key in keys]))
    title = "filters kept (%): mean, lowest to highest seed"
    y = alt.Y("mean(share):Q", title=title, scale=alt.Scale(domain=[0, 100]))
    ranges = base.mark_rule(strokeWidth=1.5).encode(
        y=alt.Y("min(share):Q", title=title), y2="max(share):Q", color=color(keys)
    )
    points = base.mark_point(filled=True, size=45, opacity=1).encode(
        y=y, color=color(keys), shape=shape(keys)
    )
    return Figure("profile", [layered(points, ranges, height=240)], keys)


def _merge(layers: list[str], more: list[str]) -> None:
    """Put layers that are not there yet behind those that they follow: seeds may have grown other modules."""
    at = 0
    for layer in more:
        if layer not in layers:
            layers.insert(at, layer)
        at = layers.index(layer) + 1


def discriminants_figure(results: Results) -> Figure:
    """The discriminants with and without the push, on one scale: their ranks, a histogram, their running share.

    Thesis Figures 3-4, 3-5 and 4-6, CVIU Figure 4. Every seed is drawn; ranks are thinned far from the first.
    """
    keys, ranked, counted = keys_of(_STATES), [], []
    # What is below this share of the largest is drawn there: no discriminant at all has no logarithm.
    largest = max(
        float(space[f"{state}.v"].max()) for space in results.latent_spaces.values() for state in _STATES
    )
    least = max(largest, 1e-12) * 1e-4
    bins = np.geomspace(least, max(largest, 1e-12) * 1.0001, 25)
    for seed, space in results.latent_spaces.items():
        for state, words in _STATES.items():
            v = np.sort(np.maximum(space[f"{state}.v"], 0))[::-1].astype(np.float64)
            running = 100 * v.cumsum() / max(float(v.sum()), 1e-30)
            shown = np.unique(np.r_[np.arange(min(50, len(v))), np.geomspace(1, len(v), 60).astype(int) - 1])
            ranked += [
                {"rank": int(idx) + 1, "v": max(float(v[idx]), least), "running": float(running[idx])}
                | {"who": words, "line": f"{words}{seed}"}
                for idx in shown
            ]
            n, edges = np.histogram(np.maximum(v, least), bins)
            counted += [
                {"who": words, "low": low, "high": high, "n": int(each), "line": f"{words}{seed}"}
                for low, high, each in zip(edges[:-1], edges[1:], n, strict=True)
            ]
    log_v = alt.Scale(type="log", domain=[least, 1.3 * largest if largest else 1], nice=False)
    x = alt.X("rank:Q", scale=alt.Scale(type="log", nice=False), title="latent neuron, by rank (log scale)")
    power = alt.Y(
        "v:Q",
        scale=log_v,
        title="discriminating power v_j (Eq. 12, log scale)",
        axis=alt.Axis(format="~g", tickCount=6),
    )
    base = alt.Chart(data(ranked)).mark_line(strokeWidth=1.5, opacity=0.85)
    panels = [
        base.encode(x=x, y=power, color=color(keys), detail="line:N").properties(title="ranked"),
        base.encode(
            x=x, y=value_axis("running", "running share of the sum (%)"), color=color(keys), detail="line:N"
        ).properties(title="running share"),
        alt.Chart(data(counted))
        .mark_line(interpolate="step-after", strokeWidth=1.5, opacity=0.85)
        .encode(
            x=alt.X(
                "low:Q",
                scale=log_v,
                title="discriminating power v_j (log scale)",
                axis=alt.Axis(format="~g", tickCount=6),
            ),
            y=alt.Y("n:Q", title="latent neurons"),
            color=color(keys),
            detail="line:N",
        )
        .properties(title="histogram"),
    ]
    return Figure("discriminants", [layered(each, height=240) for each in panels], keys, columns=3)


def sensitivity_figure(results: Results) -> Figure:
    """Validation accuracy against the latent neurons kept, by LDA and by PCA (thesis Figure 3-19), first round.

    Of the pushed net, and of the original: as the push has not seen it, or as it was pruned after the fact.
    """
    keys, panels = (
        [Key("by discriminants (LDA)", BLUE, "circle"), Key("by variance (PCA)", GREY, "square")],
        [],
    )
    first = {
        words: results.rows("latent", pipeline=each, round="round1") for each, words in PIPELINES.items()
    }
    for words, rows in {"the original": results.tables["sensitivity"], **first}.items():
        if rows.empty:
            continue
        both = {keys[0].label: rows["accuracy"], keys[1].label: rows["n_correct_pca"] / rows["n"]}
        long = pd.concat([rows.assign(who=who, percent=100 * each) for who, each in both.items()])
        long = long.assign(line=long["who"] + long["seed"].astype(str))[["rank", "percent", "who", "line"]]
        kept = rows.groupby("seed")["kept"].sum().reset_index()
        kept = kept.assign(label=[f"{n} kept" for n in kept["kept"]])
        x = alt.X(
            "rank:Q", scale=alt.Scale(type="log", nice=False), title="top latent neurons used (log scale)"
        )
        line = alt.Chart(data(long)).mark_line(strokeWidth=1.5)
        cut = alt.Chart(data(kept)).mark_rule(color=INK, strokeDash=[2, 3], opacity=0.7)
        panels.append(
            layered(
                line.encode(
                    x=x,
                    y=value_axis("percent", "validation accuracy (%)"),
                    color=color(keys),
                    detail="line:N",
                ),
                cut.encode(x=alt.X("kept:Q", title="top latent neurons used (log scale)"), tooltip="label:N"),
                title=words,
                height=240,
            )
        )
    return Figure("latent_sensitivity", panels, keys, columns=2)


def pushing_figure(results: Results) -> Figure:
    """The push over its epochs: the terms of Eq. 11, active neurons, the largest discriminant's share, accuracy."""
    titles = {
        "train_l_lda": "l_lda (Eq. 7)",
        "train_l_cov": "l_cov (Eq. 8)",
        "train_l_align": "l_align (Eq. 10)",
        "train_n_active": "active neurons",
        "train_top_share": "largest eigenvalue over the sum (Eq. 6)",
        "percent": "validation accuracy (%)",
    }
    pushing = results.tables["pushing"]
    pushing = pushing.assign(
        percent=100 * pushing["validation_n_correct"] / pushing["validation_n"],
        who="seed " + pushing["seed"].astype(str),
    )
    keys = ordered_keys([*dict.fromkeys(pushing["who"])])
    panels = []
    for column, title in titles.items():
        # What never changes is said better in a table.
        if column not in pushing or pushing[column].nunique() < 2:
            continue
        rows = pushing[["epoch", column, "who"]]
        x = alt.X("epoch:Q", title="epoch of the push", axis=alt.Axis(tickMinStep=1, format="d"))
        base = alt.Chart(data(rows)).encode(x=x, y=value_axis(column, title))
        points = base.mark_point(filled=True, size=40, opacity=0.8, color=SKY).encode(shape=shape(keys))
        lines = base.mark_line(strokeWidth=1.5, color=SKY).encode(detail="who:N")
        panels.append(layered(lines, points, height=170))
    return Figure("pushing", panels, keys, columns=3)
