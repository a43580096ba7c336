"""The result in one table and a few sentences; the README carries it too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compared import MODELS
from pipeline.report.figures import LABELS
from pipeline.report.markdown import counted, percent, table, thousands
from pipeline.report.robustness_tables import drop_interval, headline_of

if TYPE_CHECKING:
    from pipeline.report.results import Results
    from pipeline.report.statistics import Interval


def score_interval(results: Results, model: str, split: str) -> Interval:
    """Accuracy of a model over seeds."""
    return results.interval(results.rows("scores", model=model, split=split)["accuracy"])


def mean_size(results: Results, model: str, column: str) -> float:
    """Mean parameters or FLOPs of a model over seeds."""
    return float(results.rows("scores", model=model)[column].mean())


def over_seeds(results: Results) -> str:
    """What the cells of a table are: means with intervals, or the numbers of a single seed."""
    n_seeds = len(results.params.seeds)
    if n_seeds == 1:
        return "one seed, therefore without an interval"
    return f"mean and {results.params.report.confidence:.0%} interval over {n_seeds} seeds"


def summary(results: Results) -> str:
    """A table of models (size, accuracy, drops) and whether the expectations in the params were met."""
    conditions = headline_of(results)
    base_params = mean_size(results, "base", "params")
    rows = []
    for name in MODELS:
        params = mean_size(results, name, "params")
        cells = [drop_interval(results, name, c).percent(signed=True) for c in conditions]
        rows.append(
            [
                LABELS[name],
                f"{thousands(params)} ({percent(params / base_params)} %)",
                thousands(mean_size(results, name, "flops")),
                score_interval(results, name, "test").percent(),
                *cells,
            ]
        )
    n_test = int(results.rows("scores", split="test")["n"].iloc[0])
    header = ["model", "parameters (of base)", "FLOPs", "test accuracy, %", *conditions]
    return "\n".join(
        [
            table(header, rows),
            f"{over_seeds(results).capitalize()}; {counted(n_test, 'test image')}. The columns after the accuracy "
            "are its change, in points, under each perturbation.",
            "",
            *(f"* {sentence}" for sentence in expectations(results)),
            "",
        ]
    )


def expectations(results: Results) -> list[str]:
    """A sentence for each expectation, saying whether this run met it."""
    report, max_drop = results.params.report, results.params.select.max_drop
    base = score_interval(results, "base", "test")
    fraction = mean_size(results, "parameter_first", "params") / mean_size(results, "base", "params")
    drop = (
        score_interval(results, "base", "validation").mean
        - score_interval(results, "parameter_first", "validation").mean
    )
    # Accuracies are ratios of counts: a hair forgives the division, not an image.
    within = drop <= max_drop + 1e-9 and fraction <= report.target_params_fraction
    base_met = base.mean >= report.target_base_test_accuracy
    return [
        f"Base: {percent(base.mean)} % mean test accuracy; expected at least "
        f"{percent(report.target_base_test_accuracy)} %: **{_met(base_met)}**.",
        f"Parameter-first model: {percent(fraction)} % of the base's parameters at "
        f"{percent(-drop, signed=True)} points of the base's validation accuracy (means over seeds); expected "
        f"at most {percent(report.target_params_fraction)} % within {percent(max_drop)} points: "
        f"**{_met(within)}**.",
    ]


def _met(condition: bool) -> str:
    return "met" if condition else "not met"
