"""What is claimed of accuracy: CVIU section 5, held against this run's test images.

In sources, C:358 is a line of the CVIU paper's text and T:553 one of the thesis's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compared import AFTER_THE_FACT, ORIGINAL, OURS, PUSHED
from pipeline.report.ablation import parts_family
from pipeline.report.claims.robustness import AT_CHANCE, doubt
from pipeline.report.claims.verdicts import Claim, Family
from pipeline.report.comparison import contest, contest_families
from pipeline.report.hits import more_hits
from pipeline.report.markdown import percent, thousands
from pipeline.report.methods import label_of, method_rows, step_labels, step_sizes, variants_of

if TYPE_CHECKING:
    from pipeline.report.results import Results
    from pipeline.uncertainty import Values

_MORE_RIGHT = "test accuracy less the other's, on the same images"


def accuracy_families(results: Results) -> list[Family]:
    """Every family on accuracy that this run has the numbers for."""
    found = [
        Family("pushing and pruning", [*_main_flow(results)]),
        *(family for name in (OURS, *variants_of(results.params)) for family in _contests(results, name)),
        Family("ours against fixed nets", [*_fixed_nets(results)]),
        Family(
            "the architecture alone",
            [*_architecture(results)],
            "our architecture, trained from scratch, is more accurate",
        ),
        Family("the smaller, the clearer", [*_gaps(results)]),
        Family("proactive against after the fact", [*_after_the_fact(results)]),
        parts_family(results),
    ]
    return [each for each in found if each.claims]


def _contests(results: Results, ours_by: str) -> list[Family]:
    return contest_families(contest(results, ours_by), step_labels(results), ours_by)


def _main_flow(results: Results) -> Iterator[Claim]:
    """Of pushed and pruned models (C:280, C:289, C:342, C:348, C:372)."""
    margin, labels = results.params.report.equivalence_margin, results.labels | {ORIGINAL: "the original"}
    for model, other, source in (
        (PUSHED, ORIGINAL, "CVIU 5.1 to 5.4 (C:289)"),
        (PUSHED, "control", "CVIU 5.1 (C:280)"),
        ("accuracy_first", ORIGINAL, "CVIU 5.3.2 (C:348)"),
    ):
        yield Claim(
            f"{labels[model]}: is more accurate than {labels[other]}",
            source,
            _MORE_RIGHT,
            _more_right(results, model, other),
            doubt=doubt(results, (model, other)),
        )
    yield Claim(
        f"{labels['parameter_first']}: is less than {percent(margin)} points worse than the original",
        "CVIU 5.3.2 (C:348), thesis 3.3.2 (T:553)",
        f"{_MORE_RIGHT}; held against a loss of that margin, not against zero",
        _more_right(results, "parameter_first", ORIGINAL),
        null=-margin,
        doubt=doubt(results, ("parameter_first", ORIGINAL)),
    )


def _more_right(results: Results, model: str, other: str) -> Values:
    mine, theirs = (results.rows("scores", model=each, split="test") for each in (model, other))
    return more_hits(mine, theirs)


def _fixed_nets(results: Results) -> Iterator[Claim]:
    """Ours at the size nearest to the net's."""
    compare, sizes = results.params.compare, step_sizes(results)
    for name in compare.fixed_nets if compare and sizes else ():
        fixed = results.rows("comparison", method=name)
        step = nearest_step(sizes, float(fixed["params"].mean()))
        ours = method_rows(results, OURS, step)
        yield Claim(
            f"At {thousands(sizes[step])} parameters ours is more accurate than {name}",
            "CVIU 5.2, 5.3.2 (C:291, C:363)",
            _MORE_RIGHT,
            more_hits(ours, fixed, "test_"),
            doubt=AT_CHANCE if ours["collapsed"].any() or fixed["collapsed"].any() else "",
            note=f"{name} has {thousands(fixed['params'].mean())} parameters",
        )


def nearest_step(sizes: dict[int, float], params: float) -> int:
    """The step of the comparison whose size is nearest, as a ratio."""
    return min(sizes, key=lambda step: abs(np.log(sizes[step] / params)))


def _architecture(results: Results) -> Iterator[Claim]:
    """Our architectures with fresh weights against criteria's own ones with inherited weights (C:358)."""
    compare, sizes = results.params.compare, step_sizes(results)
    if not (compare and "scratch" in compare.competitors):
        return
    own = [name for name in compare.competitors if name.endswith("_own")]
    for step, name in product(sizes, own):
        fresh, other = (method_rows(results, each, step) for each in ("scratch", name))
        yield Claim(
            f"At {thousands(sizes[step])} parameters our architecture, trained from scratch, is more accurate than "
            f"{label_of(name)}",
            "CVIU 5.3.2 (C:358)",
            _MORE_RIGHT,
            more_hits(fresh, other, "test_"),
            doubt=AT_CHANCE if fresh["collapsed"].any() or other["collapsed"].any() else "",
            note="the other keeps its weights",
        )


def _gaps(results: Results) -> Iterator[Claim]:
    """Ours against every pruning method, at the smallest size and at the largest (C:291)."""
    compare, sizes = results.params.compare, step_sizes(results)
    if not compare or len(sizes) < 2:
        return
    large, small = max(sizes, key=lambda step: sizes[step]), min(sizes, key=lambda step: sizes[step])
    gaps: dict[str, Values] = {}
    left_out: list[str] = []
    for name in compare.competitors:
        if name == "scratch":
            continue
        rows = {
            (each, step): method_rows(results, each, step)
            for each, step in product((OURS, name), (large, small))
        }
        if any(each["collapsed"].any() for each in rows.values()):
            left_out.append(label_of(name))
            continue
        at = {step: more_hits(rows[OURS, step], rows[name, step], "test_") for step in (large, small)}
        gaps[label_of(name)] = at[small] - at[large]
    if gaps:
        most = max(gaps, key=lambda name: float(gaps[name].mean()))
        notes = [f"most by {most}, {percent(float(gaps[most].mean()), signed=True)}"] if len(gaps) > 1 else []
        if others := [each for name, each in gaps.items() if name != most]:
            rest = results.difference(np.mean(others, axis=0))
            notes.append(f"without it {rest.percent(signed=True)}")
        notes += [f"left out, as a net collapsed: {', '.join(left_out)}"] if left_out else []
        yield Claim(
            f"Ours is farther ahead of other ways to prune at {thousands(sizes[small])} parameters than at "
            f"{thousands(sizes[large])}",
            "CVIU 5.2, 5.3.2 (C:291)",
            f"ours less the other at the first size, less the same at the second; mean of {len(gaps)} methods",
            np.mean([*gaps.values()], axis=0),
            note="; ".join(notes),
        )


def _after_the_fact(results: Results) -> Iterator[Claim]:
    """Grow-push-prune against chapter 3's pipeline, where that was run (C:291)."""
    if results.params.after_the_fact is None:
        return
    for model in ("accuracy_first", "parameter_first"):
        other = f"{AFTER_THE_FACT}_{model}"
        sizes = [thousands(results.size(each, "params")) for each in (model, other)]
        yield Claim(
            f"{results.labels[model]}: is more accurate than {results.labels[other]}",
            "CVIU 5.2 (C:291)",
            _MORE_RIGHT,
            _more_right(results, model, other),
            doubt=doubt(results, (model, other)),
            note=f"at {sizes[0]} against {sizes[1]} parameters",
        )
