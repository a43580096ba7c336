"""The thesis's claims on robustness held against a run: supported, not supported, or undecided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compared import OURS_AT_SIZE, at_size
from pipeline.report.figures import LABELS
from pipeline.report.markdown import counted, percent, section, table
from pipeline.report.robustness_tables import drop_interval, drop_values, headline_of, label_of
from pipeline.robustness.paired import CONFIDENCE_LEVEL

if TYPE_CHECKING:
    from pipeline.report.results import Results
    from pipeline.report.statistics import Interval

_PRUNED = ("accuracy_first", "parameter_first")


def claims_section(results: Results) -> str:
    """A sentence for each claim of thesis 5.3: pruning along discriminants loses no more than the original."""
    lines = []
    for condition in headline_of(results):
        for name in _PRUNED:
            gain = _gain(results, "base", name, condition)
            lines.append(
                f"* {condition}: {LABELS[name]}, loses less than the base "
                f"({_drop(results, name, condition)} against {_drop(results, 'base', condition)} points, "
                f"difference {gain.percent(signed=True)}): **{verdict(gain)}**."
            )
    return section(
        "Claims",
        "The thesis finds that pruning along discriminants lowers the accuracy drop under noise and transferred "
        "attacks (section 5.3); public studies disagree on whether pruning helps or harms. Here: supported where "
        "the interval of the difference in drop over seeds lies above zero, not supported where it lies below, "
        f"undecided at this sample size ({counted(len(results.params.seeds), 'seed')}) otherwise.",
        "",
        *lines,
        "",
    )


def verdict(gain: Interval) -> str:
    """Whether a gain in robustness is there, by its interval."""
    if gain.low > 0:
        return "supported"
    return "not supported" if gain.high < 0 else "undecided"


def same_size_section(results: Results) -> str:
    """Ours against its competitors at one size: whose accuracy drops less; empty where there are none."""
    lineup = results.params.lineup
    if lineup is None or not lineup.competitors:
        return ""
    rows = []
    for condition in headline_of(results):
        cells = [_drop(results, OURS_AT_SIZE, condition)]
        for name in lineup.competitors:
            gain = _gain(results, at_size(name), OURS_AT_SIZE, condition)
            cells.append(f"{_drop(results, at_size(name), condition)} ({gain.percent(signed=True)})")
        rows.append([condition, *cells])
    header = [
        "perturbation",
        *(label_of(results, name) for name in (OURS_AT_SIZE, *map(at_size, lineup.competitors))),
    ]
    return section(
        "At the same size",
        f"Models of {percent(lineup.fraction)} % of the base's parameters, with as many filters in every layer: mean "
        "change of accuracy in points, and in parentheses how much less ours loses (mean and interval over seeds).",
        "",
        table(header, rows),
    )


def pairs_section(results: Results) -> str:
    """Within a seed: paired bootstrap over images, and McNemar's test."""
    rows = []
    for condition in headline_of(results):
        for second in _PRUNED:
            mine = results.rows("pairs", first="base", second=second, condition=condition)
            for _, row in mine.iterrows():
                rows.append(
                    [
                        condition,
                        LABELS[second],
                        int(row["seed"]),
                        f"{percent(row['change'], signed=True)} [{percent(row['low'], signed=True)}, "
                        f"{percent(row['high'], signed=True)}]",
                        int(row["only_first"]),
                        int(row["only_second"]),
                        f"{row['p_value']:.3g}",
                    ]
                )
    header = [
        "perturbation",
        "against the base",
        "seed",
        "change, points",
        "right: only base",
        "right: only pruned",
        "McNemar p",
    ]
    return section(
        "Pair by pair, on the same images",
        f"Change: how much less accuracy the pruned model loses than the base, with a {CONFIDENCE_LEVEL:.0%} "
        f"interval from {results.params.robustness.bootstrap_resamples} paired resamples of the images within the "
        "seed. McNemar's exact test compares the two models' hits on the perturbed images. No correction is made "
        "for the number of tests. All pairs and conditions: `tables/pairs.csv`.",
        "",
        table(header, rows),
    )


def _gain(results: Results, first: str, second: str, condition: str) -> Interval:
    """How much less the second model loses than the first, paired by seed."""
    pairs = zip(drop_values(results, second, condition), drop_values(results, first, condition), strict=True)
    return results.interval(a - b for a, b in pairs)


def _drop(results: Results, name: str, condition: str) -> str:
    return percent(drop_interval(results, name, condition).mean, signed=True)
