"""The result in one table and a few sentences; the README carries it too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.compared import ORIGINAL
from pipeline.report.hits import more_hits
from pipeline.report.markdown import bullets, counted, percent, table, thousands

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.report.results import Results
    from pipeline.uncertainty import Interval

# Beside numbers that no claim stands on; the pages say below what it means.
MARK = "\\*"


def over_seeds(results: Results) -> str:
    """What the cells of a table are: means with intervals, of several seeds or of one."""
    n_seeds, share = len(results.params.seeds), f"{results.params.report.confidence:.0%}"
    if n_seeds == 1:
        return f"one seed, and its {share} interval, which is that of the images alone"
    return f"mean and {share} interval over {n_seeds} seeds and their images"


INTERVALS = (
    "seeds and test images, which are the same for every seed, are both taken as drawn: the variance of a mean is that "
    "of the seeds' means over their number and that of the images' means over theirs, each with its Student's t "
    "(`pipeline/uncertainty.py`). Accuracies have Wilson's form of it, within 0 and 100 %; differences are taken image "
    "by image."
)


def sizes(results: Results, model: str, column: str) -> str:
    """A model's mean parameters or FLOPs, and the share of the original's."""
    size = results.size(model, column)
    return f"{thousands(size)} ({percent(size / results.size(ORIGINAL, column))} %)"


def summary(results: Results) -> str:
    """A table of models (size, accuracy, drops) and whether the expectations in the params were met."""
    conditions = {name: marked(results, name) for name in results.headline()}
    scores, rows = results.estimates("scores", "model", "split"), []
    for name, label in results.main_models().items():
        size = sizes(results, name, "params"), thousands(results.size(name, "flops"))
        drops = [results.drop(name, condition).percent(signed=True) for condition in conditions]
        rows.append(
            [label_with_collapse(results, name, label), *size, scores[name, "test"].percent(), *drops]
        )
    n_test, n_perturbed = (n_images(results, *which) for which in ALL_TEST_IMAGES)
    header = " | ".join(["model | parameters (of original) | FLOPs | test accuracy, %", *conditions.values()])
    untrained = results.params.train.training.epochs == 0
    yours = " *Yours* is the original: the base as it came, which was not trained here." if untrained else ""
    blocks = (
        table(header, rows),
        f"{over_seeds(results).capitalize()}. The accuracy is of {counted(n_test, 'test image')}; the columns after it "
        f"are the change of accuracy, in points, under each perturbation, on the same {n_perturbed} of them "
        f"when clean and when perturbed.{yours}",
        footnotes(results),
        expectations(results),
    )
    return "\n\n".join(filter(None, blocks)) + "\n"


# Where it stands how many test images there are, and how many of them are perturbed.
ALL_TEST_IMAGES: tuple[tuple[str, dict[str, str]], ...] = (("scores", {"split": "test"}), ("accuracy", {}))


def n_images(results: Results, name: str, values: dict[str, str]) -> int:
    """How many images the numbers of a table are of."""
    return int(results.rows(name, **values)["n"].iloc[0])


def marked(results: Results, condition: str) -> str:
    """A condition's name, with a mark where its attack had no hold on too many images."""
    return f"{condition} {MARK}" if results.is_idle(results.untouched(condition)) else condition


def label_with_collapse(results: Results, model: str, label: str) -> str:
    """A model's name for readers, saying in how many seeds it is at chance."""
    n = results.collapsed(model)
    return f"{label} (at chance in {n} of {counted(len(results.params.seeds), 'seed')})" if n else label


def labelled(results: Results, models: dict[str, str]) -> dict[str, str]:
    """The same models by name, with `label_with_collapse` of their names for readers."""
    return {name: label_with_collapse(results, name, label) for name, label in models.items()}


def how_trained(rows: pd.DataFrame) -> str:
    """What to add to the accuracy of nets that collapsed, at first or for good; empty where none did."""
    n_collapsed = int(rows["collapsed"].sum())
    n_saved = int(((rows["retried"] == 1) & (rows["collapsed"] == 0)).sum())
    states = {"collapsed": n_collapsed, "trained again at a tenth of the rate": n_saved}
    words = ", ".join(f"{n} {state}" for state, n in states.items() if n)
    return f" ({words})" if words else ""


def footnotes(results: Results) -> str:
    """What the marks at conditions mean, for each; empty without any."""
    lines = []
    for condition in results.headline():
        found = results.untouched(condition)
        if results.is_idle(found):
            lines.append(
                f"{MARK} {condition}: of {found.n_attacked} images that its source got right, over all seeds, "
                f"{found.n_untouched} were left as they were and {found.n_vanished} have a gradient of zero, or none "
                f"that is finite; the attack had no hold on {found.n_idle}. No claim is made."
            )
    return bullets(lines)


def expectations(results: Results) -> str:
    """A sentence for each expectation, saying whether this run met it on the test images, by the interval's side."""
    report, max_drop = results.params.report, results.params.select.max_drop
    scores = results.estimates("scores", "model", "split")
    target, original = report.target_original_test_accuracy, scores[ORIGINAL, "test"]
    fractions = [
        small / whole
        for small, whole in zip(
            *(_params(results, each) for each in ("parameter_first", ORIGINAL)), strict=True
        )
    ]
    drops = {part: _change(results, part) for part in ("test", "validation")}
    sides = [_side(drops["test"], -max_drop), *(each <= report.target_params_fraction for each in fractions)]
    return bullets(
        [
            f"Original: {original.percent()} % test accuracy; expected at least {percent(target)} %: "
            f"**{_met([_side(original, target)])}**. On validation {scores[ORIGINAL, 'validation'].percent()} %.",
            f"Parameter-first model: {percent(sum(fractions) / len(fractions))} % of the original's "
            "parameters (mean of the seeds' shares) at "
            f"{drops['test'].percent(signed=True)} points of the original's test accuracy; expected at most "
            f"{percent(report.target_params_fraction)} % in every seed, within {percent(max_drop)} points: "
            f"**{_met(sides)}**. On the validation images that chose it "
            f"{drops['validation'].percent(signed=True)} points.",
            "An expectation is met, or not, where the whole interval is on that side of it"
            + ("." if len(fractions) > 1 else "; one seed's interval speaks of its own models alone."),
        ]
    )


def _params(results: Results, model: str) -> list[int]:
    return [int(each) for each in results.rows("scores", model=model, split="test")["params"]]


def _change(results: Results, part: str) -> Interval:
    """Of accuracy, from the original to the parameter-first model."""
    small, original = (
        results.rows("scores", model=each, split=part) for each in ("parameter_first", ORIGINAL)
    )
    return results.difference(more_hits(small, original))


def _side(interval: Interval, least: float) -> bool | None:
    """Whether all of the interval is at least so much, or none of it; None: neither."""
    # Bounds are sums of ratios of counts: a hair forgives the arithmetic, not an image.
    if interval.low >= least - 1e-9:
        return True
    return False if interval.high < least else None


def _met(conditions: list[bool | None]) -> str:
    if False in conditions:
        return "not met"
    return "undecided" if None in conditions else "met"
