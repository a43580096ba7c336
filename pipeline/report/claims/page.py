"""Who loses less, who is more accurate: the papers' claims with their verdicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.report.claims.accuracy import accuracy_families
from pipeline.report.claims.robustness import robust_families
from pipeline.report.claims.verdicts import TOGETHER, judged
from pipeline.report.markdown import bullets, counted, literal, percent, section, table
from pipeline.report.summary import footnotes

if TYPE_CHECKING:
    from pipeline.report.results import Results

# The families that answer whether the small model is as robust, and over what their average is taken.
_OVER = {
    "pruned against the original": "noise and transferred attacks of the headline",
    "pushed against the original": "the same",
    "white box": "attacks on the model itself",
    "at the same size": "the headline's, against the lineup",
}
SIGNS = "Above zero the claim holds by the mean: what it names first does better"


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
        f"{percent(report.max_untouched)} % of the images that it had to move. In the sources T:1194 is line "
        "1194 of the thesis's text, C:358 line 358 of the CVIU paper's. All columns: `tables/claims.csv`.",
        *blocks,
        footnotes(results),
    )


def robustness_in_short(found: pd.DataFrame) -> str:
    """What the families of robustness say on average, a line each; empty where there is no average."""
    quoted = found["test"].str.extract("\u201c(.*)\u201d", expand=False)
    rows = found.assign(quoted=quoted)[(found["family"] == TOGETHER) & quoted.isin(_OVER)]
    lines = [
        f"{literal(row['claim'])}: {_points(row['effect'])} [{_points(row['low'])}, {_points(row['high'])}] points, "
        f"**{row['verdict']}** ({literal(row['note'])}; {literal(_OVER[row['quoted']])})"
        for row in rows.to_dict("records")
    ]
    if not lines:
        return ""
    head = f"{SIGNS[0].lower()}{SIGNS[1:]}; attacks are transferred but where another word stands"
    return f"**In short**, on average ({head}):\n\n{bullets(lines)}\n"


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
