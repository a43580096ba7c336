"""What the papers print, beside what a run produced; never mixed with it.

Accuracies and drops in percent, parameters as printed. A row names the model of this project that it is held
against: one of the main flow, `ours` or a competitor of the comparison at matched sizes (the size nearest to the
printed one).
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Literal, NamedTuple

from pipeline.compared import AFTER_THE_FACT
from pipeline.report.figures import LABELS
from pipeline.report.markdown import section, table, thousands

if TYPE_CHECKING:
    from pipeline.params.params import PublishedName
    from pipeline.report.results import Results


class PublishedScore(NamedTuple):
    """An accuracy in percent; `params` is None where the source prints none."""

    what: str
    model: str
    split: Literal["validation", "test"]
    accuracy: float
    params: float | None
    source: str


def _faces(
    number: str, base: float, *, first: float, small: float, **rows: tuple[float, float]
) -> list[PublishedScore]:
    """A table of chapter 3: Han, Li and after the fact, accuracy first and parameter first."""
    source = f"thesis Table {number}"
    scores = [PublishedScore("base", "original", "test", base, None, source)]
    for what, (high, low) in rows.items():
        of_two = what == AFTER_THE_FACT
        for kind, accuracy, params in (("accuracy_first", high, first), ("parameter_first", low, small)):
            words = f"{what}, {kind}".replace("_", " ")
            model = f"{what}_{kind}" if of_two else what
            scores.append(PublishedScore(words, model, "test", accuracy, params, source))
    return scores


SCORES: dict[PublishedName, list[PublishedScore]] = {
    "mnist": [
        PublishedScore("base", "original", "validation", 97.9, 4.0e6, "thesis 4.3.1"),
        PublishedScore("pushed", "pushed", "validation", 98.3, 4.0e6, "thesis 4.3.1"),
        PublishedScore("base", "original", "test", 98.1, 4.0e6, "thesis Table 4-2"),
        PublishedScore("single weights (Han et al.)", "han", "test", 96.9, 38.6e3, "thesis Table 4-2"),
        PublishedScore("pushed and pruned", "ours", "test", 97.6, 38.6e3, "thesis Table 4-2"),
        PublishedScore("pushed and pruned", "parameter_first", "test", 97.6, 38.6e3, "thesis Table 4-2"),
    ],
    "cifar10": [
        PublishedScore("base", "original", "validation", 95.19, 134.3e6, "thesis 4.3.2"),
        PublishedScore("pushed", "pushed", "validation", 95.72, 134.3e6, "thesis 4.3.2"),
        PublishedScore("most accurate pruned", "accuracy_first", "validation", 96.01, 118e6, "thesis 4.3.2"),
        PublishedScore("base", "original", "test", 94.3, 134.3e6, "thesis Table 4-4"),
        PublishedScore("MobileNet", "mobilenet", "test", 92.5, 3.2e6, "thesis Table 4-4"),
        PublishedScore("activation-based", "activation_mean", "test", 87.2, 3.5e6, "thesis Table 4-4"),
        PublishedScore("after the fact", "lda_after_the_fact", "test", 92.6, 3.2e6, "thesis Table 4-4"),
        PublishedScore("pushed and pruned", "ours", "test", 92.8, 3.0e6, "thesis Table 4-4"),
    ],
    "cifar100": [
        PublishedScore("base", "original", "test", 78, 6.1e6, "thesis Table 3-3"),
        PublishedScore("MobileNet", "mobilenet", "test", 76, 4.3e6, "thesis Table 3-3"),
        PublishedScore("SqueezeNet", "squeezenet", "test", 71, 1.3e6, "thesis Table 3-3"),
        PublishedScore("Han et al., accuracy first", "han", "test", 78, 4.8e6, "thesis Table 3-3"),
        PublishedScore("Han et al., parameter first", "han", "test", 73, 2.6e6, "thesis Table 3-3"),
        PublishedScore("Li et al., accuracy first", "l1", "test", 78, 4.8e6, "thesis Table 3-3"),
        PublishedScore("Li et al., parameter first", "l1", "test", 74, 2.6e6, "thesis Table 3-3"),
        PublishedScore(
            "after the fact, accuracy first",
            "after_the_fact_accuracy_first",
            "test",
            80,
            4.8e6,
            "thesis Table 3-3",
        ),
        PublishedScore(
            "after the fact, parameter first",
            "after_the_fact_parameter_first",
            "test",
            77,
            2.6e6,
            "thesis Table 3-3",
        ),
    ],
    "imagenet": [
        PublishedScore("Inception-88", "original", "test", 75.01, 25.1e6, "thesis 4.3.3"),
        PublishedScore("pushed", "pushed", "test", 75.20, 25.1e6, "thesis 4.3.3"),
        PublishedScore("about 6 % pruned", "accuracy_first", "test", 75.36, None, "thesis 4.3.3"),
    ],
    "imagenet_mobilenet_v2": [
        PublishedScore("base", "original", "test", 72.01, None, "CVIU 5.4"),
        PublishedScore("pushed", "pushed", "test", 72.12, None, "CVIU 5.4"),
    ],
    "lfwa_gender": _faces(
        "3-1", 91, first=6.5e6, small=3.1e6, han=(89, 83), l1=(88, 85), after_the_fact=(93, 92)
    ),
    "lfwa_smile": _faces(
        "3-1", 91, first=18e6, small=1.8e6, han=(91, 81), l1=(91, 83), after_the_fact=(93, 90)
    ),
    "adience_age": _faces(
        "3-2", 55, first=2.3e6, small=1.1e6, han=(56, 43), l1=(56, 46), after_the_fact=(58, 54)
    ),
}


class PublishedLatency(NamedTuple):
    """Milliseconds of a forward pass; the source names the machine, and no batch."""

    what: str
    params: float
    flops: float
    gpu_ms: float
    cpu_ms: float
    source: str


# The original and its smallest pruned model of comparable accuracy.
LATENCIES: dict[PublishedName, tuple[PublishedLatency, PublishedLatency]] = {
    "imagenet": (
        PublishedLatency("Inception-88", 25.1e6, 10.7e9, 53.5, 432.4, "CVIU Table 2"),
        PublishedLatency("pruned", 8.4e6, 5.1e9, 39.8, 189.0, "CVIU Table 2"),
    ),
}


def _drops_after_the_fact(
    original: tuple[float, ...], pruned: tuple[float, ...]
) -> dict[str, tuple[float, ...]]:
    """Tables 5-1 and 5-2 are on chapter 3's pruned models (T:1178); their parameter-first one stands here."""
    return {"original": original, f"{AFTER_THE_FACT}_parameter_first": pruned}


# The changes of accuracy, in points, under these perturbations, and the thesis's tables that print them.
PERTURBATIONS = ("gaussian", "poisson", "speckle", "fgsm", "newton_fool")
DROPS: dict[PublishedName, dict[str, tuple[float, ...]]] = {
    "cifar100": _drops_after_the_fact((-2.5, -0.1, -3.7, -8.1, -6.1), (-2.0, 0.0, -3.1, -7.4, -3.9)),
    "adience_age": _drops_after_the_fact((-0.5, -0.3, -1.5, -0.4, -4.5), (-0.1, 0.0, -1.0, -0.4, -1.7)),
    "lfwa_gender": _drops_after_the_fact((-5.2, 0.0, -0.5, 0.0, -0.2), (-4.2, 0.0, -0.2, 0.0, -0.1)),
    "lfwa_smile": _drops_after_the_fact((-1.4, 0.0, -0.2, -0.1, -3.1), (-1.2, 0.0, 0.0, 0.0, -2.5)),
    "imagenet": {
        "original": (-1.2, 0.0, -2.2, -2.0, -4.3),
        "pushed": (-1.2, 0.0, -2.1, -2.0, -3.8),
        "parameter_first": (-1.0, 0.0, -1.6, -1.8, -4.1),
    },
}
_TABLES = dict(zip(DROPS, ("5-1", "5-1", "5-2", "5-2", "5-3"), strict=True))


def published_scores(results: Results) -> str:
    """Accuracy and size, published and of this run; empty where `report.published` is null."""
    name = results.params.report.published
    if name is None:
        return ""
    header = (
        "published | where | part | published accuracy, % | published parameters | ours | our accuracy, % | "
        "our parameters"
    )
    rows = []
    for row in SCORES[name]:
        size = "" if row.params is None else thousands(row.params)
        rows.append([row.what, row.source, row.split, f"{row.accuracy:g}", size, *_ours(results, row)])
    return section(
        "Beside the published numbers",
        "The published columns are the papers', ours are this run's; the settings differ where the papers state "
        "none, and where the preset's first lines say so. Competitors stand at the size of the comparison that is "
        "nearest to the published one.",
        table(header, rows),
    )


def published_drops(results: Results) -> str:
    """Accuracy drops, published and of this run; empty where the papers print none."""
    published = results.params.report.published
    if published is None or published not in DROPS:
        return ""
    known = {each.name for each in results.conditions()}
    rows = []
    for (idx, name), (model, drops) in product(enumerate(PERTURBATIONS), DROPS[published].items()):
        here = name in known and model in results.main_models()
        ours = results.drop(model, name).percent(signed=True) if here else "not in this run"
        rows.append([name, LABELS[model], f"thesis Table {_TABLES[published]}", f"{drops[idx]:+.1f}", ours])
    return section(
        "Beside the published drops",
        "The papers state no strength for the attacks and no level for the Poisson noise, whose level here is ours, "
        "so that only Gaussian and speckle noise are comparable in size.",
        table("perturbation | model | where | published, points | ours, points", rows),
    )


def _ours(results: Results, row: PublishedScore) -> tuple[str, str, str]:
    """Name, accuracy and parameters of what a published row is held against."""
    if row.model in results.main_models():
        accuracy = results.estimates("scores", "model", "split")[row.model, row.split].percent()
        return results.labels[row.model], accuracy, thousands(results.size(row.model, "params"))
    if (
        row.model in LABELS
        or results.params.compare is None
        or (mine := results.rows("comparison", method=row.model)).empty
    ):
        return row.model, "not in this run", ""
    if row.params is not None:
        sizes = mine.groupby("step")["params"].mean()
        mine = mine[mine["step"] == (sizes - row.params).abs().idxmin()]
    accuracy = results.accuracy(mine, f"{row.split}_").percent()
    return f"{row.model}, in the comparison", accuracy, thousands(mine["params"].mean())
