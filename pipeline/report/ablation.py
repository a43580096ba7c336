"""The pruning report's section on what pays: each part's effect, all others being equal (CVIU section 5.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.report.page import grid, image, section, table, thousands
from pipeline.report.summary import how_trained, over_seeds
from pipeline.uncertainty import NOTHING, Interval

if TYPE_CHECKING:
    from pipeline.report.results import Results

_KEYS = ("step", "start", "score", "widths", "training")
_WORDS = {
    "pushed": "the push before pruning",
    "saliency": "saliency in the place of deconvolution",
    "lda_after_the_fact": "Eq. 3.8 in the place of Eq. 12",
    "l1": "L1 norm in the place of deconvolution",
    "taylor": "Taylor in the place of deconvolution",
    "random": "random filters in the place of deconvolution",
    "global": "one threshold over all layers in the place of Eq. 3.13",
    "uniform": "uniform widths in the place of Eq. 3.13",
    "ramped": "the ramped push in retraining",
    "scratch": "training the same architecture from scratch, as long in all",
}


@dataclass(frozen=True)
class Effect:
    """What a part changed, in points of accuracy over the matching nets of each seed, with its interval."""

    words: str
    change: Interval
    n_pairs: int
    n_collapsed: int


def ablation_section(results: Results) -> str:
    """A sentence for each part, and the accuracy of every way; empty where nothing was taken apart."""
    if results.params.ablate is None:
        return ""
    ablation = results.tables["ablation"]
    epochs = ", ".join(map(str, sorted(set(ablation["epochs"]))))
    rows = [
        [each.words, each.change.percent(signed=True), each.n_pairs, each.n_collapsed, _verdict(each.change)]
        for each in effects(results)
    ]
    return section(
        "Which part pays",
        "Every way to the same size, crossed: the start, what ranks filters, how wide layers stay, retraining. Every "
        f"net was cut once and has had {epochs} epochs of training in all. An effect is the mean change of test "
        "accuracy between nets that differ in that part alone, in points, image by image. Pairs with a net whose "
        "training collapsed, at a tenth of the learning rate too, are left out and counted. No correction is made "
        "for their number.",
        image("ablation", "The effect of every part on test accuracy, with intervals"),
        table("part | change, points | pairs | left out | verdict", rows),
        *_grids(results),
    )


def _verdict(change: Interval) -> str:
    return {1: "helps", 0: "undecided", -1: "harms"}[change.sign]


def effects(results: Results) -> Iterator[Effect]:
    """Each part against its counterpart, all others being equal."""
    ablation = results.tables["ablation"]
    clean = ablation[~ablation["score"].str.endswith("_noisy")]
    for column, counterpart in (
        ("start", "control"),
        ("score", "deconvolution"),
        ("widths", "layer"),
        ("training", "none"),
    ):
        for level in dict.fromkeys(clean[column]):
            # Uniform widths have one net from scratch for every score.
            of_pair = clean if level == "scratch" else clean[clean["training"] != "scratch"]
            if level != counterpart and counterpart in set(of_pair[column]):
                yield _effect(results, of_pair, column, level, counterpart, "test", _WORDS[level])
    noise = results.params.ablate.noise if results.params.ablate else None
    for score in ("deconvolution", "saliency") if noise else ():
        pair = ablation[(ablation["training"] != "scratch")]
        for part, on in (("test", "clean images"), ("noisy", f"images under {noise}")):
            words = f"{score} traced on images under {noise}, on {on}"
            yield _effect(results, pair, "score", f"{score}_noisy", score, part, words)


def _effect(
    results: Results, rows: pd.DataFrame, column: str, level: str, counterpart: str, part: str, words: str
) -> Effect:
    keys = ["seed", *(key for key in _KEYS if key != column)]
    first, second = (rows[rows[column] == each].set_index(keys) for each in (level, counterpart))
    pairs = first.merge(second, left_index=True, right_index=True, suffixes=("", ".other"))
    whole = pairs[(pairs["collapsed"] == 0) & (pairs["collapsed.other"] == 0)]
    change = [
        np.mean(np.stack([*each[f"{part}_hits"]]) * 1.0 - np.stack([*each[f"{part}_hits.other"]]), axis=0)
        for _, each in whole.groupby(level="seed")
    ]
    interval = results.difference(np.stack(change)) if change else NOTHING
    return Effect(words, interval, len(whole), len(pairs) - len(whole))


def _grids(results: Results) -> Iterator[str]:
    """Test accuracy by score and widths, a table for each size, start and training."""
    ablation = results.tables["ablation"]
    for (step, start, training), rows in ablation.groupby(["step", "start", "training"], sort=False):
        scores, widths = ({name: name for name in dict.fromkeys(rows[key])} for key in ("score", "widths"))

        def cell(score: str, width: str, rows: pd.DataFrame = rows) -> str:
            mine = rows[(rows["score"] == score) & (rows["widths"] == width)]
            if mine.empty:
                return ""
            return results.accuracy(mine, "test_").percent() + how_trained(mine)

        size = thousands(rows["params"].mean())
        how = "from scratch" if training == "scratch" else f"retrained with push {training}"
        yield f"Test accuracy, %, {over_seeds(results)}: size {step} (about {size} parameters), {start}, {how}:"
        yield grid("score", scores, widths, cell)
