"""What a claim is, and what becomes of it: p values, Holm's correction within a family, equivalence, a verdict.

A claim says that a mean of differences, image by image and seed by seed, is above zero. One convention of signs: above
zero is in the claim's favour, and every claim that compares models is put so that the pruned one, ours, is the better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.uncertainty import Values, difference_interval, p_equivalence, p_value

if TYPE_CHECKING:
    from pipeline.params.params import Report

SUPPORTED, REFUTED, UNDECIDED, EQUIVALENT, NO_CLAIM = (
    "supported",
    "refuted",
    "undecided",
    "equivalent",
    "no claim",
)
TOGETHER = "all together"
# What rounding may leave of a mean that is zero.
HAIR = 1e-12
_COLUMNS = (
    *("family", "claim", "source", "test", "effect", "low", "high", "p", "p_holm", "verdict"),
    *("n_seeds", "n_images", "note", "p_equivalence", "p_equivalence_holm"),
)


@dataclass(frozen=True)
class Claim:
    """A sentence that holds where the mean of `values` (seeds, images) is above `null`.

    `source`: who says so; `test`: what the values are; `doubt`: why nothing is claimed on them, empty where something
    is; `unit`: see `difference_interval`.
    """

    sentence: str
    source: str
    test: str
    values: Values
    null: float = 0.0
    unit: float = 1.0
    doubt: str = ""
    note: str = ""


@dataclass(frozen=True)
class Family:
    """Claims that are corrected together; `together`: what holds on average where they do, empty where nothing."""

    name: str
    claims: Sequence[Claim]
    together: str = ""


def judged(families: Sequence[Family], report: Report) -> pd.DataFrame:
    """A row for each claim, family by family, and a last family of their averages.

    Columns: `effect`, the mean, as a fraction, above zero in the claim's favour; `low` and `high`, its interval of
    `report.confidence`, not corrected; `p`, two-sided, and `p_holm`, after Holm's correction within the family;
    `verdict`: supported or refuted where `p_holm` is at most 1 - `report.confidence`, by the sign; equivalent where the
    tests of equivalence say so, corrected likewise among themselves (`p_equivalence_holm`): the effect is within
    `report.equivalence_margin` of zero; no claim where there is a doubt, undecided otherwise, and always of one seed.
    """
    averages = [average for each in families if (average := _average(each)) is not None]
    tables = [_family(each, report) for each in (*families, Family(TOGETHER, averages)) if each.claims]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*_COLUMNS])


def _family(family: Family, report: Report) -> pd.DataFrame:
    rows = [_row(each, report) for each in family.claims]
    table = pd.DataFrame(rows).assign(family=family.name)
    for column in ("p", "p_equivalence"):
        table[f"{column}_holm"] = holm(table[column])
    table["verdict"] = [_verdict(each, 1 - report.confidence) for each in table.to_dict("records")]
    notes = zip(table.to_dict("records"), family.claims, strict=True)
    table["note"] = ["; ".join(_notes(row, claim, report)) for row, claim in notes]
    return table[[*_COLUMNS]]


def _row(claim: Claim, report: Report) -> dict[str, Any]:
    row: dict[str, Any] = {"claim": claim.sentence, "source": claim.source, "test": claim.test}
    row |= {"n_seeds": claim.values.shape[0], "n_images": claim.values.shape[1], "above": np.nan}
    row |= dict.fromkeys(("effect", "low", "high", "p", "p_equivalence"), np.nan)
    if claim.doubt:
        return row
    found = difference_interval(claim.values, confidence=report.confidence, unit=claim.unit)
    row |= {"effect": found.mean, "low": found.low, "high": found.high, "above": found.mean > claim.null}
    row["p"] = p_value(claim.values, null=claim.null, unit=claim.unit)
    if claim.null == 0:
        margin = report.equivalence_margin
        row["p_equivalence"] = p_equivalence(claim.values, margin=margin, unit=claim.unit)
    return row


def holm(p: pd.Series[float]) -> pd.Series[float]:
    """Holm's correction (1979) of those that are numbers: the k-th smallest of n times n - k + 1, at most 1.

    None comes out below a smaller one. (`statsmodels` has it too, and collects all garbage at each call: 0.2 s.)
    """
    ordered = p.dropna().sort_values()
    scaled = ordered * np.arange(len(ordered), 0, -1)
    return scaled.cummax().clip(upper=1.0).reindex(p.index)


def _verdict(row: dict[Any, Any], level: float) -> str:
    if np.isnan(row["effect"]):
        return NO_CLAIM
    if row["p_holm"] <= level:  # NaN is not
        return SUPPORTED if row["above"] else REFUTED
    return EQUIVALENT if row["p_equivalence_holm"] <= level else UNDECIDED


def _notes(row: dict[Any, Any], claim: Claim, report: Report) -> list[str]:
    """What a reader of the verdict has to know beside it."""
    level, decided = 1 - report.confidence, row["verdict"] in (SUPPORTED, REFUTED)
    remarks = {
        claim.doubt: bool(claim.doubt),
        "one seed decides nothing about methods": row["n_seeds"] == 1 and not claim.doubt,
        "decided alone, not after Holm's correction": row["p"] <= level < row["p_holm"],
        f"and within {report.equivalence_margin:g} of zero": decided and row["p_equivalence_holm"] <= level,
        claim.note: bool(claim.note),
    }
    return [text for text, said in remarks.items() if said]


def _average(family: Family) -> Claim | None:
    """The claim that a family holds on average; None of fewer than two that can be averaged."""
    kept = [each for each in family.claims if not each.doubt]
    if not family.together or len({each.values.shape for each in kept}) != 1 or len(kept) < 2:
        return None
    ahead, behind, level = directions([float(each.values.mean()) for each in kept])
    return replace(
        kept[0],
        sentence=f"On average over {len(kept)} comparisons: {family.together}",
        source="ours",
        test=f"mean over the family \u201c{family.name}\u201d, image by image",
        values=np.mean([each.values for each in kept], axis=0),
        null=0.0,
        unit=max(each.unit for each in kept),
        note=f"by the means as claimed in {ahead} of {len(kept)}, the other way in {behind}, "
        f"level in {level}",
    )


def directions(effects: Sequence[float]) -> tuple[int, int, int]:
    """How many lie above zero, below it, and at it, whether decided or not."""
    ahead, behind = (sum(sign * each > HAIR for each in effects) for sign in (1, -1))
    return ahead, behind, len(effects) - ahead - behind
