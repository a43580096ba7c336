"""Corruption errors: what noise makes a model err, as a share of what it makes the original err."""

from __future__ import annotations

from functools import cache, partial
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compared import ORIGINAL
from pipeline.report.hits import hits_of
from pipeline.report.markdown import grid, section
from pipeline.report.summary import labelled, over_seeds
from pipeline.uncertainty import NOTHING, Interval, Values

if TYPE_CHECKING:
    from pipeline.report.results import Results


def corruption_errors(results: Results, model: str) -> dict[str, Interval]:
    """CE of a model by kind of noise and, as `mean`, their mean (Hendrycks and Dietterich 2019, section 4.1).

    CE is the sum of errors over severities by that of the reference, which is the original here and AlexNet there:
    below 1 the model errs less under this noise than the original does. Nothing where the original never errs.
    """
    of_family: dict[str, list[str]] = {}
    for each in results.conditions():
        if each.kind == "noise":
            of_family.setdefault(each.family, []).append(each.name)
    pairs = {}
    for family, names in of_family.items():
        misses = (
            np.mean(
                [1 - hits_of(results.rows("accuracy", model=name, condition=each)) for each in names], axis=0
            )
            for name in (model, ORIGINAL)
        )
        pairs[family] = tuple(misses)
    found = {family: _ratio(results, [pair]) for family, pair in pairs.items()}
    return found | {"mean": _ratio(results, [*pairs.values()])}


def _ratio(results: Results, pairs: list[tuple[Values, ...]]) -> Interval:
    """The mean of ratios of mean errors (seeds, images), linearised: what an image errs more than its ratio's share."""
    scales = [float(reference.mean()) for _, reference in pairs]
    if not pairs or min(scales) == 0:
        return NOTHING
    ratios = [float(errors.mean()) / scale for (errors, _), scale in zip(pairs, scales, strict=True)]
    # In units of an image that errs in every noise, as `difference_interval` adds two of these.
    unit = 1 / float(np.mean([1 / scale for scale in scales]))
    parts = zip(pairs, ratios, scales, strict=True)
    more = np.mean([(errors - ratio * ref) * unit / scale for (errors, ref), ratio, scale in parts], axis=0)
    half = results.difference(more)
    mean = float(np.mean(ratios))
    return Interval(mean, max(0.0, mean + half.low / unit), mean + half.high / unit, half.n, half.n_images)


def corruption_section(results: Results) -> str:
    """Corruption errors of the main models, by kind of noise, and their mean; without noise empty."""
    if not results.params.noise:
        return ""
    errors = cache(partial(corruption_errors, results))
    names = {name: name for name in errors(ORIGINAL)}
    names["mean"] = "**mean (mCE)**"

    def cell(name: str, model: str) -> str:
        found = errors(model)[name]
        if model == ORIGINAL or not isfinite(found.mean):
            return "1" if isfinite(found.mean) else "-"
        return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"

    return section(
        "Corruption error",
        "Errors under all strengths of a noise over those of the original (Hendrycks and Dietterich 2019, with the "
        f"original as reference), {over_seeds(results)}: below 1 a model errs less than the original does. It counts "
        "errors, not their growth: the drops above are taken from each model's own clean accuracy.",
        grid("noise", names, labelled(results, results.main_models()), cell),
    )
