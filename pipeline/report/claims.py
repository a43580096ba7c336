"""Who loses less: the claims of thesis 5.3, competitors at the same size, and pairs of models within a seed."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from pipeline.compared import ORIGINAL, OURS_AT_SIZE, at_size
from pipeline.report.figures import LABELS
from pipeline.report.page import bullets, counted, grid, percent, section, table
from pipeline.report.summary import (
    ALL_TEST_IMAGES,
    footnotes,
    labelled,
    marked,
    n_images,
    over_seeds,
)
from pipeline.robustness.paired import CONFIDENCE_LEVEL

if TYPE_CHECKING:
    from pipeline.report.results import Results
    from pipeline.uncertainty import Interval

_PRUNED = ("accuracy_first", "parameter_first")


def claims_section(results: Results) -> str:
    """A sentence for each claim of thesis 5.3: pruning along discriminants loses no more than the original."""
    lines = []
    for condition, name in product(results.headline(), _PRUNED):
        gain = _gain(results, name, ORIGINAL, condition)
        doubt = _doubt(results, condition, name, ORIGINAL)
        lines.append(
            f"{condition}: {LABELS[name]}, loses less than the original "
            f"({_drop(results, name, condition)} against {_drop(results, ORIGINAL, condition)} points, "
            f"difference {gain.percent(signed=True)}): **{doubt or verdict(gain)}**."
        )
    return section(
        "Claims",
        "The thesis finds that pruning along discriminants lowers the accuracy drop under noise and transferred "
        "attacks (section 5.3); public studies disagree on whether pruning helps or harms. Here: supported where "
        "the interval of the difference in drop lies above zero, not supported where it lies below, undecided "
        f"otherwise ({counted(len(results.params.seeds), 'seed')}, "
        f"{counted(n_images(results, *ALL_TEST_IMAGES[1]), 'image')}; a single seed decides nothing). No claim is made "
        f"where a net is at chance on clean images, or where an attack had no hold on "
        f"more than {percent(results.params.report.max_untouched)} % of its source's images.",
        bullets(lines),
        footnotes(results),
    )


def _doubt(results: Results, condition: str, *models: str) -> str:
    """Why no claim is made on these models under a condition; empty where one may be."""
    if results.is_idle(results.untouched(condition)):
        return "no claim, the attack had no hold on too many images"
    return "no claim, a net is at chance" if any(map(results.collapsed, models)) else ""


def verdict(gain: Interval) -> str:
    """Whether a gain in robustness is there, by its interval; one seed's is of its nets, not of pruning."""
    return {1: "supported", 0: "undecided", -1: "not supported"}[gain.sign]


def same_size_section(results: Results) -> str:
    """Ours against its competitors at one size: whose accuracy drops less; empty where there are none."""
    lineup = results.params.lineup
    if lineup is None or not lineup.competitors:
        return ""

    def cell(condition: str, model: str) -> str:
        if model == OURS_AT_SIZE:
            return _drop(results, model, condition)
        doubt = _doubt(results, condition, OURS_AT_SIZE, model)
        gain = _gain(results, OURS_AT_SIZE, model, condition).percent(signed=True)
        return f"{_drop(results, model, condition)} ({doubt or gain})"

    models = [OURS_AT_SIZE, *map(at_size, lineup.competitors)]
    columns = labelled(results, {name: label for name, label in results.models().items() if name in models})
    return section(
        "At the same size",
        f"Models of {percent(lineup.fraction)} % of the original's parameters, with as many filters in every layer: "
        f"mean change of accuracy in points, and in parentheses how much less ours loses ({over_seeds(results)}).",
        grid("perturbation", {name: marked(results, name) for name in results.headline()}, columns, cell),
    )


def pairs_section(results: Results) -> str:
    """Within a seed: the images' interval, pair by pair, and McNemar's test."""
    pairs, rows = results.rows("pairs", first=ORIGINAL), []
    for condition, name in product(results.headline(), _PRUNED):
        for _, row in pairs[(pairs["condition"] == condition) & (pairs["second"] == name)].iterrows():
            change, low, high = (percent(row[each], signed=True) for each in ("change", "low", "high"))
            cells = [condition, LABELS[name], row["seed"], f"{change} [{low}, {high}]"]
            rows.append([*cells, row["only_first"], row["only_second"], f"{row['p_value']:.3g}"])
    header = "perturbation | against the original | seed | change, points | "
    header += "right: only original | right: only pruned | McNemar p"
    return section(
        "Pair by pair, on the same images",
        f"Change: how much less accuracy the pruned model loses than the original, with the {CONFIDENCE_LEVEL:.0%} "
        "interval of the images within the seed, image by image. McNemar's exact test compares the two models' hits "
        "on the perturbed images. No correction is made for the number of tests. All pairs and "
        "conditions: `tables/pairs.csv`.",
        table(header, rows),
    )


def _gain(results: Results, model: str, other: str, condition: str) -> Interval:
    """How much less a model loses than the other, on the same images, seed by seed."""
    return results.difference(results.changes(model, condition) - results.changes(other, condition))


def _drop(results: Results, name: str, condition: str) -> str:
    return percent(results.drop(name, condition).mean, signed=True)
