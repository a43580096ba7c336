"""Means and intervals over seeds, from counts: sum first, divide once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.report.markdown import percent


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its confidence interval; without one (NaN) where there is a single seed."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half of the interval's length; the interval is symmetric around the mean."""
        return (self.high - self.low) / 2

    def percent(self, *, signed: bool = False) -> str:
        """For a table: `98.52 ± 0.40`, in percent; the mean alone where there is one seed."""
        mean = percent(self.mean, signed=signed)
        return mean if np.isnan(self.half_width) else f"{mean} ± {100 * self.half_width:.2f}"


def mean_interval(values: Sequence[float], *, confidence: float) -> Interval:
    """The mean and Student's t interval of it, one value a seed.

    Raises:
        ValueError: if there are no values.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        raise ValueError("expected at least one value, got none")
    mean = float(sample.mean())
    if sample.size == 1:
        return Interval(mean, float("nan"), float("nan"), 1)
    standard_error = float(stats.sem(sample))
    if standard_error == 0:
        return Interval(mean, mean, mean, sample.size)
    low, high = stats.t.interval(confidence, sample.size - 1, loc=mean, scale=standard_error)
    return Interval(mean, float(low), float(high), int(sample.size))
