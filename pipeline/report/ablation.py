"""The page's section on what pays: each part's effect, all others being equal (CVIU section 5.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.report.claims.verdicts import REFUTED, SUPPORTED, Claim, Family, judged
from pipeline.report.markdown import grid, image, section, table, thousands
from pipeline.report.summary import how_trained, over_seeds
from pipeline.uncertainty import NOTHING, Interval, Values

if TYPE_CHECKING:
    from pipeline.report.results import Results

_KEYS = ("step", "start", "score", "widths", "training")
_WORDS = {
    "pushed": "the push before pruning",
    "saliency": "saliency, not deconvolution",
    "lda_after_the_fact": "Eq. 3.8, not Eq. 12",
    "l1": "L1 norm, not deconvolution",
    "taylor": "Taylor, not deconvolution",
    "random": "random filters, not deconvolution",
    "global": "one threshold over all layers, not Eq. 3.13",
    "uniform": "uniform widths, not Eq. 3.13",
    "ramped": "the ramped push in retraining",
    "scratch": "the same nets from scratch, trained as long in all",
}


# Levels that are somebody else's: the papers claim that their counterpart, ours, is the better.
_OTHERS = ("lda_after_the_fact", "l1", "taylor", "random", "uniform", "scratch")


@dataclass(frozen=True)
class Effect:
    """What a part changed, in points of accuracy over the matching nets of each seed, with its interval.

    `values` (seeds, images) are what that is the mean of; None where every pair has a collapsed net.
    """

    words: str
    level: str
    change: Interval
    values: Values | None = field(compare=False)
    n_pairs: int
    n_collapsed: int


def ablation_section(results: Results) -> str:
    """A sentence for each part, and the accuracy of every way; empty where nothing was taken apart."""
    if results.params.ablate is None:
        return section("Which part pays", "This run does not take ours apart: `ablate` is null.")
    ablation = results.tables["ablation"]
    epochs = ", ".join(map(str, sorted(set(ablation["epochs"]))))
    verdicts = judged([parts_family(results)], results.params.report)["verdict"]
    rows = [
        [
            each.words,
            each.change.percent(signed=True),
            each.n_pairs,
            each.n_collapsed,
            _verdict(each, verdict),
        ]
        for each, verdict in zip(effects(results), verdicts, strict=True)
    ]
    return section(
        "Which part pays",
        "Every way to the same size, crossed: the start, what ranks filters, how wide layers stay, retraining. Every "
        f"net was cut once and has had {epochs} epochs of training in all. An effect is the mean change of test "
        "accuracy between nets that differ in that part alone, in points, image by image. Pairs with a net whose "
        "training collapsed, at a tenth of the learning rate too, are left out and counted. Verdicts are after "
        "Holm's correction for the number of parts; the intervals are not corrected. Above zero the part named helps.",
        image("ablation", "The effect of every part on test accuracy, with intervals"),
        table("part | change, points | pairs | left out | verdict", rows),
        *_grids(results),
    )


def _verdict(effect: Effect, verdict: str) -> str:
    """Of the part, where that of the claim is of the papers'."""
    helps = {SUPPORTED: effect.level not in _OTHERS, REFUTED: effect.level in _OTHERS}
    return verdict if verdict not in helps else "helps" if helps[verdict] else "harms"


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
        for part, on in (("test", "clean"), ("noisy", f"under {noise}")):
            words = f"{score} traced under {noise}, tested {on}"
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
    values = np.stack(change) if change else None
    interval = NOTHING if values is None else results.difference(values)
    return Effect(words, level, interval, values, len(whole), len(pairs) - len(whole))


def parts_family(results: Results) -> Family:
    """A claim for each part of ours that it helps, and for each of the others that it does not."""
    claims = []
    for each in effects(results) if results.params.ablate and len(results.tables["ablation"]) else ():
        helps, sign = ("does not help", -1.0) if each.level in _OTHERS else ("helps", 1.0)
        n_seeds, doubt = (
            len(results.params.seeds),
            "" if each.values is not None else "every pair has a collapsed net",
        )
        claims.append(
            Claim(
                f"{each.words[0].upper()}{each.words[1:]}: {helps}",
                "CVIU 5.3.2 (C:358)" if each.level == "scratch" else "ours",
                "change of test accuracy by this part alone, all others being equal"
                + (", with its sign turned" if sign < 0 else ""),
                sign * each.values if each.values is not None else np.zeros((n_seeds, 1)),
                doubt=doubt,
                note=f"{each.n_pairs} pairs of nets, {each.n_collapsed} left out as one collapsed",
            )
        )
    return Family("which part pays", claims)


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
