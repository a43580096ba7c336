"""Who loses less, who is more accurate: the papers' claims with their verdicts, and pairs of models within a seed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.compared import ORIGINAL, OURS_AT_SIZE, at_size
from pipeline.report.accuracy_claims import accuracy_families
from pipeline.report.figures import LABELS
from pipeline.report.markdown import counted, grid, literal, percent, section, table
from pipeline.report.robust_claims import doubt, gain, robust_families
from pipeline.report.summary import footnotes, labelled, marked, over_seeds
from pipeline.report.verdicts import TOGETHER, holm, judged
from pipeline.robustness.paired import CONFIDENCE_LEVEL

if TYPE_CHECKING:
    from pipeline.report.results import Results

_PRUNED = ("accuracy_first", "parameter_first")
SIGNS = (
    "Above zero is in the claim's favour, and where models are compared the pruned one, ours, is the better"
)


def claims_table(results: Results) -> pd.DataFrame:
    """`claims.csv`: what the papers claim and this run says of it, a row for each claim (`verdicts.judged`)."""
    return judged([*robust_families(results), *accuracy_families(results)], results.params.report)


def claims_section(results: Results, found: pd.DataFrame) -> str:
    """`claims_table`, family by family, in points."""
    report, blocks = results.params.report, []
    for family, rows in found.groupby("family", sort=False):
        average = found[
            (found["family"] == TOGETHER) & found["test"].str.contains(f"\u201c{family}\u201d", regex=False)
        ]
        blocks += [f"### {str(family).capitalize()}", _table(rows), _directions(average)]
    counts = ", ".join(f"{n} {verdict}" for verdict, n in found["verdict"].value_counts().items())
    return section(
        "Claims",
        "What the papers claim (thesis 5.3, CVIU 5) and this run says of it; public studies disagree on whether "
        f"pruning helps or harms robustness. {counted(len(found), 'claim')}: {counts}.",
        f"{SIGNS}. Effects are in points, with {report.confidence:.0%} intervals of seeds and images together; "
        "p values come from the same model, and Holm's correction is made within each family; the intervals are not "
        f"corrected. Supported or refuted: the corrected p is at most {1 - report.confidence:.2g}. Equivalent: two "
        "one-sided tests, corrected likewise, say that the effect is within "
        f"{percent(report.equivalence_margin)} points of zero. Undecided otherwise, and always of a single seed. No "
        "claim is made where a net is at chance on clean images, or where an attack had no hold on more than "
        f"{percent(report.max_untouched)} % of the images that it had to move. All columns: `tables/claims.csv`.",
        *blocks,
        footnotes(results),
    )


def _table(rows: pd.DataFrame) -> str:
    cells = []
    for row in rows.to_dict("records"):
        effect, low, high = (_number(row[each], _points) for each in ("effect", "low", "high"))
        interval = f"{effect} [{low}, {high}]" if effect != "-" else effect
        p = [_number(row[each], "{:.3g}".format) for each in ("p", "p_holm")]
        verdict = f"**{row['verdict']}**" + (f" ({literal(row['note'])})" if row["note"] else "")
        n = f"{row['n_seeds']} x {row['n_images']}"
        cells.append([literal(row["claim"]), interval, *p, verdict, n, row["source"]])
    return table("claim | effect, points | p | p, Holm | verdict | seeds x images | source", cells)


def _directions(average: pd.DataFrame) -> str:
    """What a family's average says; empty where none was taken."""
    return " ".join(
        f"All together {_points(row['effect'])} [{_points(row['low'])}, {_points(row['high'])}] points, "
        f"{row['verdict']}; {row['note']}."
        for row in average.to_dict("records")
    )


def _number(value: float, written: Callable[[float], str]) -> str:
    return "-" if pd.isna(value) else written(value)


def _points(value: float) -> str:
    return percent(value, signed=True)


def same_size_section(results: Results) -> str:
    """Ours against its competitors at one size: whose accuracy drops less; empty where there are none."""
    lineup = results.params.lineup
    if lineup is None or not lineup.competitors:
        return ""

    def cell(condition: str, model: str) -> str:
        if model == OURS_AT_SIZE:
            return _drop(results, model, condition)
        why = doubt(results, (OURS_AT_SIZE, model), condition)
        better = results.difference(gain(results, OURS_AT_SIZE, model, condition)).percent(signed=True)
        return f"{_drop(results, model, condition)} ({f'no claim, {why}' if why else better})"

    models = [OURS_AT_SIZE, *map(at_size, lineup.competitors)]
    columns = labelled(results, {name: label for name, label in results.models().items() if name in models})
    return section(
        "At the same size",
        f"Models of {percent(lineup.fraction)} % of the original's parameters, with as many filters in every layer: "
        "mean change of accuracy in points, and in parentheses how much less ours loses, above zero where it does "
        f"({over_seeds(results)}). The verdicts, corrected for their number, are among the claims.",
        grid("perturbation", {name: marked(results, name) for name in results.headline()}, columns, cell),
    )


def pairs_section(results: Results) -> str:
    """Within a seed: the images' interval, pair by pair, and McNemar's test."""
    pairs = results.rows("pairs", first=ORIGINAL)
    pairs = pairs[pairs["condition"].isin(results.headline()) & pairs["second"].isin(_PRUNED)]
    pairs = pairs.assign(corrected=holm(pairs["p_value"]))
    rows = []
    for condition, name in product(results.headline(), _PRUNED):
        for _, row in pairs[(pairs["condition"] == condition) & (pairs["second"] == name)].iterrows():
            change, low, high = (percent(row[each], signed=True) for each in ("change", "low", "high"))
            cells = [condition, LABELS[name], row["seed"], f"{change} [{low}, {high}]"]
            p = [f"{row[each]:.3g}" for each in ("p_value", "corrected")]
            rows.append([*cells, row["only_first"], row["only_second"], *p])
    header = "perturbation | against the original | seed | change, points | "
    header += "right: only original | right: only pruned | McNemar p | p, Holm"
    return section(
        "Pair by pair, on the same images",
        f"Change: how much less accuracy the pruned model loses than the original, with the {CONFIDENCE_LEVEL:.0%} "
        "interval of the images within the seed, image by image. McNemar's exact test compares the two models' hits "
        f"on the perturbed images; Holm's correction is over the {len(rows)} tests of this table. A seed's test is of "
        "its two nets, not of pruning. All pairs and conditions, uncorrected: `tables/pairs.csv`.",
        table(header, rows),
    )


def _drop(results: Results, name: str, condition: str) -> str:
    return percent(results.drop(name, condition).mean, signed=True)
