"""The pruning report's sections on the latent space."""

import numpy as np

from pipeline.markdown import image, percent, table
from pipeline.results import Results


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
    return "\n".join(
        [
            "## Discriminants before and after pushing",
            "",
            image("discriminants", "The largest discriminants before and after pushing"),
            "Bars: mean over seeds, whiskers from the lowest to the highest seed. On training images.",
            "",
            image("covariances", "Covariance of the latent space before and after pushing"),
            table(header, rows),
            image("pushing", "The push over its epochs"),
        ]
    )


def sensitivity_section(results: Results) -> str:
    """How many of the top latent neurons are needed (thesis 3.3.5)."""
    return "\n".join(
        [
            "## How many latent neurons are needed",
            "",
            image("latent_sensitivity", "Validation accuracy against the number of latent neurons"),
            "The pushed model with only its top neurons, nothing retrained. Dotted: the fewest that stay within "
            f"{percent(results.params.prune.latent_max_drop)} points of all of them; utilities are traced from those.",
            "",
        ]
    )
