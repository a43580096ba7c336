"""The result in one table and a few sentences; the README carries it too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compared import ORIGINAL
from pipeline.report.page import bullets, counted, percent, table, thousands

if TYPE_CHECKING:
    from pipeline.report.results import Results


def over_seeds(results: Results) -> str:
    """What the cells of a table are: means with intervals, or the numbers of a single seed."""
    n_seeds = len(results.params.seeds)
    if n_seeds == 1:
        return "one seed, therefore without an interval"
    return f"mean and {results.params.report.confidence:.0%} interval over {n_seeds} seeds"


def sizes(results: Results, model: str, column: str) -> str:
    """A model's mean parameters or FLOPs, and the share of the original's."""
    size = results.size(model, column)
    return f"{thousands(size)} ({percent(size / results.size(ORIGINAL, column))} %)"


def summary(results: Results) -> str:
    """A table of models (size, accuracy, drops) and whether the expectations in the params were met."""
    conditions = results.headline()
    scores, rows = results.estimates("scores", "model", "split"), []
    for name, label in results.main_models().items():
        size = sizes(results, name, "params"), thousands(results.size(name, "flops"))
        drops = [results.drop(name, condition).percent(signed=True) for condition in conditions]
        rows.append([label, *size, scores[name, "test"].percent(), *drops])
    untrained = results.params.train.training.epochs == 0
    yours = " *Yours* is the original: the base as it came, which was not trained here." if untrained else ""
    n_test = int(results.rows("scores", split="test")["n"].iloc[0])
    header = " | ".join(["model | parameters (of original) | FLOPs | test accuracy, %", *conditions])
    blocks = (
        table(header, rows),
        f"{over_seeds(results).capitalize()}; {counted(n_test, 'test image')}. The columns after the accuracy "
        f"are its change, in points, under each perturbation.{yours}",
        expectations(results),
    )
    return "\n\n".join(blocks) + "\n"


def expectations(results: Results) -> str:
    """A sentence for each expectation, saying whether this run met it."""
    report, max_drop = results.params.report, results.params.select.max_drop
    scores = results.estimates("scores", "model", "split")
    target = report.target_original_test_accuracy
    original, smallest = scores[ORIGINAL, "test"].mean, scores["parameter_first", "validation"].mean
    fraction = results.size("parameter_first", "params") / results.size(ORIGINAL, "params")
    drop = scores[ORIGINAL, "validation"].mean - smallest
    # Accuracies are ratios of counts: a hair forgives the division, not an image.
    within = drop <= max_drop + 1e-9 and fraction <= report.target_params_fraction
    return bullets(
        [
            f"Original: {percent(original)} % mean test accuracy; expected at least "
            f"{percent(target)} %: **{_met(original >= target)}**.",
            f"Parameter-first model: {percent(fraction)} % of the original's parameters at "
            f"{percent(-drop, signed=True)} points of the original's validation accuracy (means over seeds); expected "
            f"at most {percent(report.target_params_fraction)} % within {percent(max_drop)} points: "
            f"**{_met(within)}**.",
        ]
    )


def _met(condition: bool) -> str:
    return "met" if condition else "not met"
