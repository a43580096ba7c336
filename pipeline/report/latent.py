"""The pruning report's sections on the latent space."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.params.pruning import SensitivityChoice
from pipeline.report.markdown import image, percent, section, table

if TYPE_CHECKING:
    from pipeline.report.results import Results


def discriminants_section(results: Results) -> str:
    """Discriminants and covariances before and after pushing (CVIU Figures 3 and 4)."""
    rows = []
    for seed, space in results.latent_spaces.items():
        for state in ("before", "after"):
            v = np.sort(np.maximum(space[f"{state}.v"], 0))[::-1]
            S_a = np.abs(space[f"{state}.S_a"])
            diagonal = S_a.diagonal().sum()
            rows.append(
                [
                    f"{state} pushing",
                    seed,
                    int(space[f"{state}.active"].sum()),
                    f"{v.sum():.4g}",
                    f"{v[0]:.4g}",
                    percent(float(v[:2].sum() / v.sum())),
                    percent(float(v[: len(results.dataset["classes"]) - 1].sum() / v.sum())),
                    f"{(S_a.sum() - diagonal) / diagonal:.3g}",
                ]
            )
    n_discriminants = len(results.dataset["classes"]) - 1
    header = [
        "latent space",
        "seed",
        "active neurons",
        "sum of v",
        "largest v",
        "top 2, % of sum",
        f"top {n_discriminants}, % of sum",
        "off-diagonal over diagonal mass",
    ]
    return section(
        "Discriminants before and after pushing",
        image("discriminants", "The largest discriminants before and after pushing"),
        "Bars: mean over seeds, whiskers from the lowest to the highest seed. On training images.",
        "",
        image("covariances", "Covariance of the latent space before and after pushing"),
        table(header, rows),
        image("pushing", "The push over its epochs"),
    )


def sensitivity_section(results: Results) -> str:
    """How many of the top latent neurons are needed (thesis 3.3.5)."""
    return section(
        "How many latent neurons are needed",
        image("latent_sensitivity", "Validation accuracy against the number of latent neurons"),
        "The pushed model with only its top neurons, nothing retrained: by discriminating power (LDA, Eq. 12) "
        f"and by variance, which does not look at labels (PCA). Dotted: {_rule(results)}; utilities are traced "
        "from those.",
        "",
    )


def variants_section(results: Results) -> str:
    """The paper's separation term and ours, at several strengths: which collapse; empty without variants."""
    if not results.params.push.variants:
        return ""
    rows = []
    for name, weights in {"main": results.params.lda, **results.params.push.variants}.items():
        mine = results.rows("variants", variant=name)
        rows.append(
            [
                "the main push" if name == "main" else name,
                "trace (Eq. 7)" if weights.separation == "trace" else "log det (ours)",
                f"{weights.gamma:g}, {weights.lambda_:g}, {weights.beta:g}",
                _by_seed(mine["n_active"], lambda n: str(int(n))),
                _by_seed(mine["v_sum"], lambda v: f"{v:.3g}"),
                _by_seed(mine["v_top"] / mine["v_sum"].clip(lower=1e-30), percent),
                _by_seed(mine["collapsed"], percent),
                _accuracy(results, mine["accuracy"]),
            ]
        )
    header = [
        "push",
        "separation",
        "gamma, lambda, beta",
        "active neurons",
        "sum of eigenvalues",
        "largest, % of sum",
        "collapsed batches, %",
        "validation, %",
    ]
    return section(
        "Collapse: the paper's separation term and ours",
        "Eq. 7 rewards a large discriminant as much for growing as a small one, so that a strong push can end "
        "with a single one. `log_det` is ours: log(1 + v) in the place of v. From the grown model, the same "
        "batches and epochs; a value for each seed; eigenvalues of Eq. 6 on training images; a batch counts "
        "as collapsed while one discriminant holds more than "
        f"{percent(results.params.lda.collapse_share)} % of the sum (last epoch).",
        "",
        table(header, rows),
    )


def _by_seed(values: pd.Series[float], written: Callable[[float], str]) -> str:
    """A value for each seed; a dash where the push diverged."""
    return ", ".join("-" if np.isnan(value) else written(value) for value in values)


def _accuracy(results: Results, values: pd.Series[float]) -> str:
    """Mean and interval over the seeds that ended, and how many did not."""
    ended = values.dropna().tolist()
    if not ended:
        return "diverged"
    mean = results.interval(ended).percent()
    n_diverged = len(values) - len(ended)
    return f"{mean} ({n_diverged} of {len(values)} seeds diverged)" if n_diverged else mean


def _rule(results: Results) -> str:
    rule = results.params.surgery.latent
    if isinstance(rule, SensitivityChoice):
        return f"the fewest that stay within {percent(rule.max_drop)} points of all of them"
    return "those above Otsu's threshold"
