"""The report's section on what pays, from hand-made counts: effects, intervals, verdicts, what is left out."""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_builders import results_with
from scipy import stats
from tiny_params import ABLATE, params_of

from pipeline.report.ablation import Effect, ablation_section, effects
from pipeline.report.results import Results

N = 1000
SEEDS = (0, 1, 2)
# Hits that a part adds, by seed: better without doubt, worse without doubt, and now this, now that.
ADDED = {
    "pushed": (20, 22, 24),
    "saliency": (-30, -31, -35),
    "global": (10, -12, 3),
    "ramped": (1, 1, 1),
    "saliency_noisy": (-33, -34, -38),
}
LEVELS = {
    "start": ("pushed", "control"),
    "score": ("deconvolution", "saliency", "deconvolution_noisy", "saliency_noisy"),
    "widths": ("layer", "global"),
    "training": ("none", "ramped"),
}


def table(n_seeds: int = len(SEEDS)) -> pd.DataFrame:
    """Every part adds its hits whatever the others are; under noise 100 less, but where noise was traced."""
    rows: list[dict[str, Any]] = []
    for seed, levels in product(SEEDS[:n_seeds], product(*LEVELS.values())):
        hits = 900 + sum(ADDED[each][seed] for each in levels if each in ADDED)
        noisy = hits - (40 if levels[1].endswith("_noisy") else 100)
        labels = dict(zip(LEVELS, levels, strict=True)) | {"step": 0, "params": 1234, "epochs": 9}
        counts = {"test_n": N, "test_n_correct": hits, "noisy_n": N, "noisy_n_correct": noisy}
        rows.append({"seed": seed, **labels, "collapsed": 0, **counts})
    return pd.DataFrame(rows)


def results(rows: pd.DataFrame, *, noise: str | None = "gaussian") -> Results:
    section = ABLATE | {"scores": ["deconvolution", "saliency"], "noise": noise}
    params = params_of(("seeds", sorted(set(rows["seed"]))), ("ablate", section))
    return results_with(params, {"ablation": rows})


def found(rows: pd.DataFrame) -> dict[str, Effect]:
    return {each.words: each for each in effects(results(rows))}


PUSH = "the push before pruning"
SALIENCY = "saliency, not deconvolution"
GLOBAL = "one threshold over all layers, not Eq. 3.13"
RAMPED = "the ramped push in retraining"


def test_an_effect_is_the_mean_change_between_matching_nets_with_its_interval_over_seeds() -> None:
    by_words = found(table())
    for words, part in ((PUSH, "pushed"), (SALIENCY, "saliency"), (GLOBAL, "global"), (RAMPED, "ramped")):
        changes = np.array(ADDED[part]) / N
        change = by_words[words].change
        assert change.mean == pytest.approx(changes.mean())
        # At least as wide as the seeds' own interval: the images come on top of it.
        half = stats.t.ppf(0.975, 2) * changes.std(ddof=1) / np.sqrt(3)
        assert (change.high - change.low) / 2 > half
        assert (change.n, change.n_images) == (len(SEEDS), N)
        # Of each seed eight: the three other parts have two levels each, as noisy scores are looked at apart.
        assert (by_words[words].n_pairs, by_words[words].n_collapsed) == (24, 0)


def test_tracing_on_noise_is_held_against_tracing_on_clean_images_on_both() -> None:
    by_words = found(table())
    on_clean = by_words["saliency traced under gaussian, tested clean"]
    on_noise = by_words["saliency traced under gaussian, tested under gaussian"]
    assert on_clean.change.mean == pytest.approx(-0.003)
    assert on_noise.change.mean == pytest.approx(-0.003 + 0.06)
    assert not [each for each in effects(results(table(), noise=None)) if "gaussian" in each.words]


def test_pairs_with_a_collapsed_net_are_left_out_and_counted() -> None:
    rows = table()
    spoilt = (
        (rows["seed"] == 1)
        & (rows["start"] == "control")
        & (rows["score"] == "deconvolution")
        & (rows["widths"] == "layer")
    )
    rows.loc[spoilt, ["collapsed", "test_n_correct"]] = [1, 0]
    assert spoilt.sum() == 2
    by_words = found(rows)
    for words, n_left_out in ((PUSH, 2), (SALIENCY, 2), (GLOBAL, 2), (RAMPED, 1)):
        assert (by_words[words].n_pairs, by_words[words].n_collapsed) == (24 - n_left_out, n_left_out)
    assert by_words[PUSH].change.mean == pytest.approx(0.022)


def test_where_every_pair_has_collapsed_there_is_no_effect() -> None:
    rows = table().assign(collapsed=1)
    assert {each.n_pairs for each in effects(results(rows))} == {0}
    assert all(np.isnan(each.change.mean) for each in effects(results(rows)))
    assert "no claim" in ablation_section(results(rows))


def lines_of(text: str) -> dict[str, list[str]]:
    """The rows of all tables by their first cell."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    return {first: rest for first, *rest in cells}


def test_the_section_says_change_pairs_and_verdict_of_each_part() -> None:
    text = ablation_section(results(table()))
    assert text.startswith("## Which part pays\n")
    assert "has had 9 epochs of training in all" in text
    lines = lines_of(text)
    assert lines[PUSH] == ["+2.20 [+1.42, +2.98]", "24", "0", "helps"]
    assert lines[SALIENCY][-1] == "harms"
    assert lines[GLOBAL][-1] == "undecided"
    # The same single image in every seed: nothing is shown by it, but that it is less than ten of them.
    assert lines[RAMPED] == ["+0.10 [-0.18, +0.38]", "24", "0", "equivalent"]


def test_one_seed_leaves_everything_undecided() -> None:
    lines = lines_of(ablation_section(results(table(1))))
    assert lines[PUSH] == ["+2.00 [+1.41, +2.59]", "8", "0", "undecided"]
    assert lines[SALIENCY][-1] == "undecided"


def test_every_way_has_its_accuracy_in_a_table_of_its_start_and_training() -> None:
    rows = table()
    spoilt = (rows["score"] == "saliency") & (rows["seed"] == 0)
    rows.loc[spoilt, "collapsed"] = 1
    text = ablation_section(results(rows))
    for start, training in product(LEVELS["start"], LEVELS["training"]):
        assert f"size 0 (about 1,234 parameters), {start}, retrained with push {training}:" in text
    first = text.partition("pushed, retrained with push none:")[2].partition("Test accuracy")[0]
    lines = lines_of(first)
    assert lines["score"] == ["layer", "global"]
    assert lines["deconvolution"][0] == "92.20 [90.29, 93.76]"
    assert lines["saliency"][0].endswith(" (1 collapsed)")


def test_uniform_widths_from_scratch_are_held_against_the_retrained_net_of_their_score() -> None:
    """One net from scratch stands for all scores: it is in no pair of scores, widths or starts."""
    rows = table()
    retrained = rows[(rows["score"] == "deconvolution") & (rows["training"] == "none")]
    scratch = retrained.assign(training="scratch", test_n_correct=retrained["test_n_correct"] - 5)
    both = pd.concat([rows, scratch], ignore_index=True)
    by_words = found(both)
    from_scratch = by_words["the same nets from scratch, trained as long in all"]
    assert from_scratch.change.mean == pytest.approx(-0.005)
    assert from_scratch.n_pairs == len(scratch)
    assert by_words[SALIENCY] == found(rows)[SALIENCY]
    text = ablation_section(results(both))
    assert "control, from scratch:" in text


def test_where_nothing_is_taken_apart_that_is_said() -> None:
    found = ablation_section(results_with(params_of(("ablate", None)), {}))
    assert "This run does not take ours apart: `ablate` is null." in found
    assert "|" not in found
