"""The reports' sections that hold a run against what the papers print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compared import MODELS
from pipeline.report.figures import LABELS
from pipeline.report.markdown import section, table, thousands
from pipeline.report.published import DROPS, SCORES, PublishedScore
from pipeline.report.robustness_tables import conditions_of, drop_interval
from pipeline.report.summary import mean_size, score_interval

if TYPE_CHECKING:
    from pipeline.report.results import Results


def published_scores(results: Results) -> str:
    """Accuracy and size, published and of this run; empty where `report.published` is null."""
    name = results.params.report.published
    if name is None:
        return ""
    rows = []
    for row in SCORES[name]:
        accuracy, params, label = _ours(results, row)
        size = "" if row.params is None else thousands(row.params)
        rows.append([row.what, row.source, row.split, f"{row.accuracy:g}", size, label, accuracy, params])
    header = [
        "published",
        "where",
        "part",
        "published accuracy, %",
        "published parameters",
        "ours",
        "our accuracy, %",
        "our parameters",
    ]
    return section(
        "Beside the published numbers",
        "The published columns are the papers', ours are this run's; the settings differ where the papers state "
        "none, and where the preset's first lines say so. Competitors stand at the size of the comparison that is "
        "nearest to the published one.",
        "",
        table(header, rows),
    )


def published_drops(results: Results) -> str:
    """Accuracy drops, published and of this run; empty where the papers print none."""
    name = results.params.report.published
    if name is None or name not in DROPS:
        return ""
    known = {each.name for each in conditions_of(results)}
    rows = [
        [
            row.perturbation,
            LABELS[row.model],
            row.source,
            f"{row.drop:+.1f}",
            drop_interval(results, row.model, row.perturbation).percent(signed=True)
            if row.perturbation in known
            else "not in this run",
        ]
        for row in DROPS[name]
    ]
    header = ["perturbation", "model", "where", "published, points", "ours, points"]
    return section(
        "Beside the published drops",
        "The papers state no strength for the attacks, so that only the noise is comparable in size.",
        "",
        table(header, rows),
    )


def _ours(results: Results, row: PublishedScore) -> tuple[str, str, str]:
    """Accuracy, parameters and name of what a published row is held against."""
    if row.model in MODELS:
        accuracy = score_interval(results, row.model, row.split).percent()
        return accuracy, thousands(mean_size(results, row.model, "params")), LABELS[row.model]
    if results.params.compare is None or (mine := results.rows("comparison", method=row.model)).empty:
        return "not in this run", "", row.model
    if row.params is not None:
        sizes = mine.groupby("step")["params"].mean()
        mine = mine[mine["step"] == (sizes - row.params).abs().idxmin()]
    accuracy = results.interval(mine[f"{row.split}_n_correct"] / mine[f"{row.split}_n"]).percent()
    return accuracy, thousands(mine["params"].mean()), f"{row.model}, in the comparison"
