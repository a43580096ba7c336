"""Confidence and calibration: the thesis's qualitative claim (5.3) made measurable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from pipeline.robustness.outcomes import Predictions


def confidence_summary(found: Predictions, labels: Tensor, *, n_bins: int) -> dict[str, Any]:
    """Expected calibration error, and mean confidence where a model is right and where it is wrong.

    Args:
        found: predicted classes and confidences (n,).
        labels: (n,) true classes.
        n_bins: of equal width, for the calibration error (Guo et al. 2017, Eq. 3).

    Returns:
        `n`, `n_correct`, `ece`, and the sums of confidence over hits and misses: divided when read.
    """
    hits = found.hits(labels)
    gaps = [abs(row["n_correct"] - row["confidence"]) for row in _bins(found, labels, n_bins)]
    return {
        "n": len(labels),
        "n_correct": int(hits.sum()),
        "ece": round(sum(gaps) / len(labels), 6),
        "confidence_of_hits": round(float(found.confidence[hits].sum()), 6),
        "confidence_of_misses": round(float(found.confidence[~hits].sum()), 6),
    }


def reliability_rows(found: Predictions, labels: Tensor, *, n_bins: int) -> list[dict[str, Any]]:
    """For each bin of confidence that holds an image: how many, their hits, their summed confidence."""
    return [row | {"confidence": round(row["confidence"], 6)} for row in _bins(found, labels, n_bins)]


def _bins(found: Predictions, labels: Tensor, n_bins: int) -> list[dict[str, Any]]:
    hits, values = found.hits(labels).numpy(), found.confidence.numpy()
    bin_of = np.minimum((values * n_bins).astype(int), n_bins - 1)
    return [
        {
            "bin": int(idx),
            "n": int((bin_of == idx).sum()),
            "n_correct": int(hits[bin_of == idx].sum()),
            "confidence": float(values[bin_of == idx].sum()),
        }
        for idx in np.unique(bin_of)
    ]
