"""The comparison at matched sizes: ours against every competitor (thesis 3.3.3, CVIU Figures 5 and 6)."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.compared import OURS
from pipeline.report.claims.verdicts import (
    EQUIVALENT,
    NO_CLAIM,
    REFUTED,
    SUPPORTED,
    TOGETHER,
    UNDECIDED,
    Claim,
    Family,
    directions,
    judged,
)
from pipeline.report.hits import more_hits
from pipeline.report.markdown import Names, bullets, grid, image, percent, section, table, thousands
from pipeline.report.methods import cuts_of, label_of, method_rows, step_labels, traced_of, variants_of
from pipeline.report.summary import how_trained, over_seeds

if TYPE_CHECKING:
    from pipeline.params.pruning import Compare
    from pipeline.report.results import Results

# In what competitors at own widths are as large as ours: measured times do not repeat to the digit.
_MATCHED = {"params": "parameters", "flops": "FLOPs", "milliseconds": "FLOPs"}
_WIDTHS = {
    "layer": "a threshold for each layer (Eq. 3.13)",
    "global": "one threshold over all layers",
    "uniform": "the same share of every layer",
}

_Rows = dict[tuple[str, str], pd.DataFrame]


# Who says that ours is better than these; of the others the papers say nothing.
_SOURCES = {
    "l1": "thesis 3.3.3, Tables 3-1 to 3-3",
    "taylor": "thesis 3.3.4",
    "activation_mean": "CVIU 5.2 (C:291)",
    "activation_variance": "CVIU 5.2 (C:291)",
    "apoz": "CVIU 5.3.2 (C:352)",
    "lda_after_the_fact": "CVIU 5.2 (C:291)",
    "han": "thesis Tables 3-1 to 3-3, 4-2",
    "scratch": "CVIU 5.3.2 (C:358)",
}


def comparison_section(results: Results) -> str:
    """Test accuracy of every method at every size, and the difference to ours; empty where nothing is compared."""
    compare = results.params.compare
    if compare is None:
        return ""
    # By method and step the rows of the seeds; the methods and sizes by their names for readers.
    methods = {name: label_of(name) for name in (OURS, *variants_of(results.params), *compare.competitors)}
    sizes = _sizes(results)
    found = {(name, step): method_rows(results, name, int(step)) for name, step in product(methods, sizes)}
    return section(
        "Ours and others at the same sizes",
        "Ours, and its variants, take the pushed model through the sizes, one after another. At each size every other "
        "criterion keeps as many filters in every layer as ours, or, at own widths, as many "
        f"{_MATCHED[compare.unit]} at widths that are best for it, and retrains for the same "
        f"{compare.retraining.epochs} epochs on the same kind of batches; these start from the original, trained on "
        "for as many epochs without the push, and retrain with cross-entropy alone. From scratch: our architecture at "
        "each size with fresh weights, trained as the base was, as long as ours was in all. Single weights (Han et "
        "al.) are zeros in the dense net: as many are left as ours has parameters, and no FLOP is saved. A net whose "
        "training collapses is tried again at a tenth of the learning rate, with the same seed and as many epochs, "
        "ours too. "
        f"{_tuned(compare)}{_varied(results)}{_epochs(results)}"
        "Test accuracy in %, "
        f"{over_seeds(results)}:",
        grid("method", methods, sizes, lambda *key: _accuracy(results, found[key])),
        *_differences(results, found, methods, sizes),
        *_fixed_nets(results, compare),
        *_rates(results, compare, methods, sizes),
    )


def _sizes(results: Results) -> Names:
    return {str(step): label for step, label in step_labels(results).items()}


def _varied(results: Results) -> str:
    """What the variants of ours are."""
    cuts = cuts_of(results.params)
    said = [
        f"{label_of(name)}, by {cuts[name].utility}, {_WIDTHS[cuts[name].widths]}"
        for name in variants_of(results.params)
    ]
    mine = results.params.surgery
    return f"Ours is cut by {mine.utility}, {_WIDTHS[mine.widths]}; {'; '.join(said)}. " if said else ""


def _epochs(results: Results) -> str:
    """How long every net of a size was trained in all."""
    epochs = [
        f"{method_rows(results, OURS, step)['epochs'].mean():.0f} at {label}"
        for step, label in step_labels(results).items()
    ]
    words = "Epochs of training in all, from fresh weights on, are the same for every method"
    return f"{words}, means over seeds: {', '.join(epochs)}. "


def _tuned(compare: Compare) -> str:
    if len(compare.rate_factors) == 1:
        return "No learning rate was tuned: every method retrains at the same, from scratch at the base's. "
    factors = ", ".join(f"{each:g}" for each in compare.rate_factors)
    return (
        f"At every size each method tries {factors} times the learning rate, in every seed by itself, and goes on "
        "from the net that is best on validation. "
    )


def _rates(results: Results, compare: Compare, methods: Names, sizes: Names) -> list[str]:
    """The learning rates that were kept, where there was a choice."""
    if len(compare.rate_factors) == 1:
        return []

    def cell(name: str, step: str) -> str:
        return ", ".join(f"{each:g}" for each in method_rows(results, name, int(step))["learning_rate"])

    return [
        "The learning rates that were best on validation, seed by seed:",
        grid("method", methods, sizes, cell),
    ]


def _accuracy(results: Results, rows: pd.DataFrame) -> str:
    return results.accuracy(rows, "test_").percent() + how_trained(rows)


def tracing_section(results: Results) -> str:
    """Accuracy against the images of a class that utilities are traced from (thesis 3.3.6); empty without variants."""
    traced = {name: "all" if n is None else f"{n:,}" for name, n in traced_of(results.params).items()}
    if not traced:
        return ""
    return section(
        "Images in tracing",
        "Ours once more, its utilities traced from fewer images of each class, drawn by seed, and all else the same "
        f"(thesis 3.3.6). Test accuracy in %, {over_seeds(results)}:",
        image("tracing", "Test accuracy against the images of each class in tracing, with intervals"),
        grid(
            "images of each class",
            traced,
            _sizes(results),
            lambda name, step: _accuracy(results, method_rows(results, name, int(step))),
        ),
    )


def contest(results: Results, ours_by: str = OURS) -> dict[tuple[str, int], Claim]:
    """By method and step: ours, or a variant of it, is more accurate. Empty where nothing was compared."""
    compare, sizes = results.params.compare, step_labels(results)
    variants = variants_of(results.params) if ours_by == OURS else []
    methods = [] if compare is None else [*variants, *compare.competitors]
    claims = {}
    for (step, size), name in product(sizes.items(), methods):
        ours, theirs = (method_rows(results, each, step) for each in (ours_by, name))
        # A net at chance says nothing about its method, and leaving its seed out would choose among seeds.
        collapsed = ours["collapsed"].any() or theirs["collapsed"].any()
        claims[name, step] = Claim(
            f"At {size} {_subject(ours_by)} is more accurate than {label_of(name)}",
            _source(results, ours_by, name),
            "test accuracy less the other's, on the same images",
            more_hits(ours, theirs, "test_"),
            doubt="a net's training collapsed" if collapsed else "",
        )
    return claims


def _source(results: Results, ours_by: str, other: str) -> str:
    """The papers claim it of cuts by deconvolution; a cut by saliency is held to that, too."""
    source = _SOURCES.get(other.removesuffix("_own"), "ours")
    utility = cuts_of(results.params).get(ours_by, results.params.surgery).utility
    return f"ours, after {source}" if utility == "saliency" and source != "ours" else source


def contest_families(
    claims: dict[tuple[str, int], Claim], sizes: dict[int, str], ours_by: str = OURS
) -> list[Family]:
    """Ours, or a variant of it, against every method, a family for each size; ours alone on average, too."""
    return [
        Family(
            f"{_subject(ours_by)} against others at {size}",
            [each for (_, at), each in claims.items() if at == step],
            f"ours is more accurate, at {size}" if ours_by == OURS else "",
        )
        for step, size in sizes.items()
    ]


def _subject(ours_by: str) -> str:
    return "ours" if ours_by == OURS else f"{label_of(ours_by)},"


def judged_contest(results: Results, ours_by: str = OURS) -> dict[tuple[str, int], dict[Any, Any]]:
    """By method and step the row of its claim among the judged: `effect` above zero where ours is better."""
    claims = contest(results, ours_by)
    table = judged(contest_families(claims, step_labels(results), ours_by), results.params.report)
    rows = table[table["family"] != TOGETHER].to_dict("records") if claims else []
    return dict(zip(claims, rows, strict=True))


def _less_others(rows: dict[tuple[str, int], dict[Any, Any]], sizes: Names) -> str:
    """The rows of `judged_contest`, a method a line and a size a column."""

    def cell(name: str, step: str) -> str:
        row = rows[name, int(step)]
        if row["verdict"] == NO_CLAIM:
            return "collapsed, not compared"
        effect, low, high = (percent(row[each], signed=True) for each in ("effect", "low", "high"))
        text = f"{effect} [{low}, {high}]"
        return f"**{text}**" if row["verdict"] in (SUPPORTED, REFUTED) else text

    return grid("method", {name: label_of(name) for name, _ in rows}, sizes, cell)


def _differences(results: Results, found: _Rows, methods: Names, sizes: Names) -> list[str]:
    """Ours less every other, how many differences are decided, and who is best at each size."""
    if len(methods) == 1:
        return []
    rows = judged_contest(results)
    counts = Counter(row["verdict"] for row in rows.values())
    best = []
    for step, size in sizes.items():
        whole = [name for name in methods if not found[name, step]["collapsed"].any()]
        if OURS not in whole:
            best.append(f"{size}: ours collapsed, nothing is compared")
            continue
        means = {name: results.accuracy(found[name, step], "test_").mean for name in whole}
        ranked = sorted(means, key=lambda name: -means[name])
        best.append(
            f"{size}: best is {methods[ranked[0]]} ({percent(means[ranked[0]])} %), ours is number "
            f"{ranked.index(OURS) + 1} of {len(ranked)} ({percent(means[OURS])} %)"
        )
    effects = [row["effect"] for row in rows.values() if row["verdict"] != NO_CLAIM]
    ahead, behind, level = directions(effects)
    return [
        "Ours less theirs, in points, on the same images seed by seed: above zero ours is better (bold where that, or "
        "the reverse, is decided after Holm's correction within the size; the intervals are not corrected):",
        image("differences", "Ours less every other method in test accuracy at every size, with intervals"),
        _less_others(rows, sizes),
        f"Of {len(effects)} comparisons ours is better in {counts[SUPPORTED]}, worse in {counts[REFUTED]}, as good "
        f"within {percent(results.params.report.equivalence_margin)} points in {counts[EQUIVALENT]} and undecided at "
        f"this number of seeds and images in {counts[UNDECIDED]}; {counts[NO_CLAIM]} with a collapsed net are left "
        f"out. By the means alone it is ahead in {ahead}, behind in {behind} and level in {level}. "
        "Of methods without a collapsed net:",
        bullets(best),
        *_variants_less_others(results, sizes),
    ]


def _variants_less_others(results: Results, sizes: Names) -> list[str]:
    blocks = []
    for name in variants_of(results.params):
        if rows := judged_contest(results, name):
            words = f"{_subject(name).capitalize()} less theirs, in points, corrected within its own sizes:"
            blocks += [words, _less_others(rows, sizes)]
    return blocks


def _fixed_nets(results: Results, compare: Compare) -> list[str]:
    rows = []
    for name in compare.fixed_nets:
        mine = results.rows("comparison", method=name)
        sizes = [thousands(mine[column].mean()) for column in ("params", "flops", "epochs")]
        pretrained = getattr(compare.fixed_nets[name].model, "pretrained", False)
        begun = "torchvision's weights" if pretrained else "fresh weights"
        rows.append([name, begun, *sizes, _accuracy(results, mine)])
    words = "Fixed nets, trained for as many epochs as our smallest model has had in all:"
    return [words, table("net | from | parameters | FLOPs | epochs | test, %", rows)] if rows else []
