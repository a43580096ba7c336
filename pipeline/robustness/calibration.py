"""Confidence and calibration: the thesis's qualitative claim (5.3) made measurable."""

from typing import Any

import numpy as np
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from pipeline.machine.float64 import float64


def confidence_summary(probabilities: Tensor, labels: Tensor, *, n_bins: int) -> dict[str, Any]:
    """Expected calibration error, and mean confidence where a model is right and where it is wrong.

    Args:
        probabilities: (n, classes) softmax.
        labels: (n,) true classes.
        n_bins: of equal width, for the calibration error.

    Returns:
        `n`, `n_correct`, `ece`, and the sums of confidence over hits and misses: divided when read.
    """
    in_float64 = float64(probabilities)
    confidence, predicted = in_float64.max(1)
    hits = predicted == labels
    error = multiclass_calibration_error(
        # A confidence of 1 (in float32, as torchmetrics bins it) would get a bin beyond the last one.
        in_float64.clamp_max(1 - 1e-7),
        labels,
        num_classes=probabilities.shape[1],
        n_bins=n_bins,
        norm="l1",
    )
    return {
        "n": len(labels),
        "n_correct": int(hits.sum()),
        "ece": round(float(error), 6),
        "confidence_of_hits": round(float(confidence[hits].sum()), 6),
        "confidence_of_misses": round(float(confidence[~hits].sum()), 6),
    }


def reliability_rows(probabilities: Tensor, labels: Tensor, *, n_bins: int) -> list[dict[str, Any]]:
    """For each bin of confidence that holds an image: how many, their hits, their summed confidence."""
    confidence, predicted = probabilities.double().max(1)
    hits = (predicted == labels).numpy()
    values = confidence.numpy()
    bin_of = np.minimum((values * n_bins).astype(int), n_bins - 1)
    return [
        {
            "bin": idx,
            "n": int((bin_of == idx).sum()),
            "n_correct": int(hits[bin_of == idx].sum()),
            "confidence": round(float(values[bin_of == idx].sum()), 6),
        }
        for idx in np.unique(bin_of)
    ]
