"""Corruption errors: what noise makes a model err, as a share of what it makes the original err."""

from __future__ import annotations

from functools import cache, partial
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from pipeline.compared import ORIGINAL
from pipeline.report.hits import hits_of
from pipeline.report.markdown import grid, section
from pipeline.report.summary import labelled, over_seeds
from pipeline.uncertainty import NOTHING, Interval, Values

if TYPE_CHECKING:
    from pipeline.report.results import Results


def corruption_errors(results: Results, model: str, *, relative: bool = False) -> dict[str, Interval]:
    """CE of a model by kind of noise and, as `mean`, their mean (Hendrycks and Dietterich 2019, section 4.1).

    CE is the sum of errors over severities by that of the reference, which is the original here and AlexNet there:
    below 1 the model errs less under this noise than the original does. Nothing where the original never errs.
    Relative CE is the same of errors less those on clean images. Nothing where the original's are not surely more.
    """
    noises = [each for each in results.conditions() if each.kind == "noise"]

    def errors(name: str) -> Values:
        """Of each kind and image the mean over severities, 0 to 1, relative -1 to 1 (kinds, seeds, images)."""
        found: dict[str, list[Values]] = {}
        for noise in noises:
            rows = results.rows("accuracy", model=name, condition=noise.name)
            of_one = -results.changes(name, noise.name) if relative else 1 - hits_of(rows)
            found.setdefault(noise.family, []).append(of_one)
        return np.stack([np.mean(each, axis=0) for each in found.values()])

    mine, reference = errors(model), errors(ORIGINAL)
    kinds = {family: [idx] for idx, family in enumerate(dict.fromkeys(each.family for each in noises))}
    of_kinds = kinds | {"mean": [*range(len(kinds))]}
    return {name: _ratio(results, mine[k], reference[k], relative=relative) for name, k in of_kinds.items()}


def _ratio(results: Results, errors: Values, reference: Values, *, relative: bool) -> Interval:
    """The mean of ratios of mean errors (kinds, seeds, images), linearised: what an image errs beyond its ratio."""
    scales = reference.mean((1, 2), keepdims=True)
    least = [results.difference(each).low for each in reference] if relative else scales
    if np.min(least) <= 0:
        return NOTHING
    ratios = errors.mean((1, 2), keepdims=True) / scales
    # In units of an image that errs in every noise, as `difference_interval` adds two of these.
    unit = 1 / float(np.mean(1 / scales))
    half = results.difference(np.mean((errors - ratios * reference) * unit / scales, axis=0))
    mean = float(ratios.mean())
    low = max(-inf if relative else 0.0, mean + half.low / unit)
    return Interval(mean, low, mean + half.high / unit, half.n, half.n_images)


def corruption_section(results: Results) -> str:
    """Corruption errors of the main models, and relative ones, by kind of noise; without noise empty."""
    if not results.params.noise:
        return ""
    errors = cache(partial(corruption_errors, results))
    models, known = labelled(results, results.main_models()), errors(ORIGINAL, relative=True)
    names = {name: name for name in known} | {"mean": "**mean (mCE)**"}
    shown = any(each.n for each in known.values())

    def cell(name: str, model: str, *, relative: bool = False) -> str:
        found = errors(model, relative=relative)[name]
        ratio = "1" if model == ORIGINAL else f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"
        return ratio if found.n else "-"

    return section(
        "Corruption error",
        "Errors under all strengths of a noise over those of the original (Hendrycks and Dietterich 2019, with the "
        f"original as reference), {over_seeds(results)}: below 1 a model errs less than the original does. It counts "
        "errors, not their growth: the drops above are taken from each model's own clean accuracy.",
        grid("noise", names, models, cell),
        "Relative corruption error: how much more each errs than on its own clean images, summed and divided likewise. "
        "It is no number (`-`), nor is its mean, where the original does not surely err more under a noise than on "
        f"clean images: that would be divided by about zero.{'' if shown else ' Here that is so of every noise.'}",
        grid("noise, relative", names, models, partial(cell, relative=True)) if shown else "",
    )
