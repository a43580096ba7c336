"""The page's sections on the latent space, with figures after CVIU 3 and 4 and thesis 3-19."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.params.pruning import SensitivityChoice
from pipeline.report.figures import PIPELINES, figure, label_axes
from pipeline.report.markdown import image, percent, section, table

if TYPE_CHECKING:
    from pipeline.report.results import Results


_SEPARATIONS = {"trace": "trace (Eq. 7)", "log_det": "log det (ours)"}
# The pair of CVIU Figures 3 and 4: from the original, equally long, without and with the push.
_PAIR = {"control": "trained without the push", "pushed": "trained with the push"}
_STATES = {"original": "original"} | _PAIR


def discriminants_section(results: Results) -> str:
    """Discriminants and covariances with and without the push (CVIU Figures 3 and 4)."""
    n_discriminants = len(results.dataset["classes"]) - 1
    rows = []
    for seed, space in results.latent_spaces.items():
        for state, words in _STATES.items():
            v = np.sort(np.maximum(space[f"{state}.v"], 0))[::-1]
            S_a = np.abs(space[f"{state}.S_a"])
            diagonal = S_a.diagonal().sum()
            shares = [percent(float(v[:n].sum() / v.sum())) for n in (2, n_discriminants)]
            row = [words, seed, int(space[f"{state}.active"].sum()), f"{v.sum():.4g}", f"{v[0]:.4g}", *shares]
            rows.append([*row, f"{(S_a.sum() - diagonal) / diagonal:.3g}"])
    header = (
        "latent space | seed | active neurons | sum of v | largest v | top 2, % of sum | "
        f"top {n_discriminants}, % of sum | off-diagonal over diagonal mass"
    )
    return section(
        "Discriminants with and without the push",
        image(
            "discriminants",
            "The discriminants with and without the push: ranks, running share, histogram",
        ),
        "The original, trained on for as many epochs without the push (control) and with it. "
        "A line for each seed, on training images; what is below a ten thousandth of the largest is drawn there.",
        image("covariances", "Covariance of the latent space with and without the push"),
        table(header, rows),
        image("pushing", "The push over its epochs"),
    )


def sensitivity_section(results: Results) -> str:
    """How many of the top latent neurons are needed (thesis 3.3.5)."""
    choice, rule = results.params.surgery.latent, "those above Otsu's threshold"
    if isinstance(choice, SensitivityChoice):
        rule = f"the fewest that stay within {percent(choice.max_drop)} points of all of them"
    return section(
        "How many latent neurons are needed",
        image("latent_sensitivity", "Validation accuracy against the number of latent neurons"),
        "The original, and the model that is pruned, with only their top neurons, nothing retrained: by discriminating "
        "power (LDA) and by variance, which does not look at labels (PCA). A line for each seed; dotted, a line for "
        f"each seed: {rule}. From those of the model that is pruned utilities are traced.",
        "Neurons kept in each round, a value for each seed:",
        table("pipeline | round | neurons kept", _kept_by_round(results)),
    )


def _kept_by_round(results: Results) -> list[list[str]]:
    """M' over the rounds of each pipeline: whether the choice is stable."""
    rows = []
    for pipeline, words in PIPELINES.items():
        for name, latent in results.rows("latent", pipeline=pipeline).groupby("round", sort=False):
            kept = latent.groupby("seed")["kept"].sum()
            rows.append([words, str(name), _by_seed(kept, "{:.0f}".format)])
    return rows


def variants_section(results: Results) -> str:
    """The paper's separation term and ours, at several strengths: which collapse; empty without variants."""
    params = results.params
    if not params.push.variants:
        return ""
    rows = []
    for name, weights in {"main": params.lda, **params.push.variants}.items():
        mine = results.rows("variants", variant=name)
        v_share = mine["v_top"] / mine["v_sum"].clip(lower=1e-30)
        weighting = f"{weights.gamma:g}, {weights.lambda_:g}, {weights.beta:g}"
        cells = [
            _by_seed(mine["n_active"], "{:.0f}".format),
            _by_seed(mine["v_sum"], "{:.3g}".format),
            *(_by_seed(values, percent) for values in (v_share, mine["collapsed"], mine["accuracy"])),
        ]
        push = "the main push" if name == "main" else name
        rows.append([push, _SEPARATIONS[weights.separation], weighting, *cells])
    header = (
        "push | separation | gamma, lambda, beta | active neurons | sum of eigenvalues | largest, % of sum | "
        "collapsed batches, % | validation, %"
    )
    return section(
        "Collapse: the paper's separation term and ours",
        "Eq. 7 rewards a large discriminant as much for growing as a small one, so that a strong push can end with "
        "a single one. `log_det` is ours: log(1 + v) in the place of v. From the original, the same batches and "
        "epochs; a value for each seed, a dash where it diverged; eigenvalues of Eq. 6 on training "
        "images; a batch counts as collapsed while one discriminant holds more than "
        f"{percent(params.lda.collapse_share)} % of the sum (last epoch).",
        table(header, rows),
    )


def _by_seed(values: pd.Series[float], written: Callable[[float], str]) -> str:
    """A value for each seed; a dash where the push diverged."""
    return ", ".join("-" if np.isnan(value) else written(value) for value in values)


def draw_covariances(results: Results, folder: Path) -> None:
    """Total scatter of the latent space with and without the push (CVIU Figure 3), for the first seed."""
    seed, space = next(iter(results.latent_spaces.items()))
    # One order for both, by the pushed model's variance, so that a neuron keeps its place.
    order = np.argsort(space["pushed.S_a"].diagonal())[::-1]
    with figure(folder, "covariances", size=(9.5, 4.4), dpi=results.params.report.dpi) as drawing:
        axes = drawing.subplots(1, 2)
        for ax, (state, title) in zip(axes, _PAIR.items(), strict=True):
            matrix = np.abs(space[f"{state}.S_a"][np.ix_(order, order)])
            logarithm = np.log10(np.maximum(matrix, 1e-8))
            shown = ax.imshow(logarithm, vmin=-8, vmax=max(0.0, float(logarithm.max())), cmap="viridis")
            ax.grid(visible=False)
            label_axes(ax, x="latent neuron", y="latent neuron", title=f"{title}, seed {seed}")
        drawing.colorbar(shown, ax=axes, label="log10 |covariance|, cut off at -8", shrink=0.85)


SECTIONS = (discriminants_section, variants_section, sensitivity_section)
