import math

import numpy as np
import pytest
from scipy import stats

from pipeline.report.page import Interval, mean_interval


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_interval_equals_students_t_written_out(confidence: float) -> None:
    values = [0.981, 0.975, 0.990, 0.962]
    mean = sum(values) / 4
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 3)
    half = stats.t.ppf((1 + confidence) / 2, 3) * deviation / math.sqrt(4)
    interval = mean_interval(values, confidence=confidence)
    assert interval.n == 4
    assert interval.mean == pytest.approx(mean, rel=1e-14)
    assert interval.low == pytest.approx(mean - half, rel=1e-12)
    assert interval.high == pytest.approx(mean + half, rel=1e-12)
    assert interval.half_width == pytest.approx(half, rel=1e-10)


def test_interval_of_two_values_uses_one_degree_of_freedom() -> None:
    interval = mean_interval([0.0, 2.0], confidence=0.95)
    # t(0.975, 1) = 12.7062, standard error 1.
    assert (interval.mean, interval.n) == (1.0, 2)
    assert interval.half_width == pytest.approx(12.7062, abs=1e-4)


def test_interval_of_normal_samples_covers_the_truth_as_often_as_it_says() -> None:
    samples = np.random.default_rng(0).normal(3.0, 2.0, size=(1500, 5))
    intervals = [mean_interval(list(sample), confidence=0.9) for sample in samples]
    covered = sum(i.low <= 3.0 <= i.high for i in intervals)
    # Binomial(1500, 0.9): mean 1350, standard deviation 11.6.
    assert 1300 < covered < 1400


def test_one_seed_has_a_mean_and_no_interval() -> None:
    interval = mean_interval([0.25], confidence=0.95)
    assert (interval.mean, interval.n) == (0.25, 1)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_equal_values_have_an_interval_of_length_zero() -> None:
    assert mean_interval([0.5, 0.5, 0.5], confidence=0.95) == Interval(0.5, 0.5, 0.5, 3)


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([], confidence=0.95)


def test_percent_prints_two_decimals_with_the_half_width_where_there_is_one() -> None:
    assert Interval(0.98521, 0.98121, 0.98921, 3).percent() == "98.52 ± 0.40"
    assert Interval(0.98521, float("nan"), float("nan"), 1).percent() == "98.52"


def test_signed_percent_shows_the_sign_of_a_gain_and_of_a_drop() -> None:
    assert Interval(0.0125, 0.01, 0.015, 3).percent(signed=True) == "+1.25 ± 0.25"
    assert Interval(-0.0125, -0.015, -0.01, 3).percent(signed=True) == "-1.25 ± 0.25"


def test_what_rounds_to_nothing_has_no_minus() -> None:
    assert mean_interval([-0.00001, 0.0], confidence=0.95).percent(signed=True).startswith("+0.00 ")
    assert mean_interval([-0.00001], confidence=0.95).percent() == "0.00"
    assert mean_interval([-0.001], confidence=0.95).percent(signed=True) == "-0.10"
