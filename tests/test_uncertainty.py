"""Intervals against scipy, the formula of two-way tables, and draws whose truth is known."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from pipeline.report.markdown import spread
from pipeline.uncertainty import (
    NOTHING,
    Interval,
    accuracy_interval,
    counts_of,
    difference_interval,
    percent,
    unpack_hits,
)

Table = npt.NDArray[np.bool_]


def same_in_every_seed(n_right: int, n: int, n_seeds: int) -> Table:
    return np.tile(np.arange(n) < n_right, (n_seeds, 1))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize(("n_right", "n"), [(355, 360), (9_800, 10_000), (50, 100)])
@pytest.mark.parametrize("n_seeds", [1, 3])
def test_the_interval_of_an_accuracy_that_no_seed_changes_is_wilsons(
    n_right: int, n: int, n_seeds: int, confidence: float
) -> None:
    expected = stats.binomtest(n_right, n).proportion_ci(confidence, method="wilson")
    found = accuracy_interval(same_in_every_seed(n_right, n, n_seeds), confidence=confidence)
    # Student's t for the normal, and n - 1 for n.
    assert found.low == pytest.approx(expected.low, abs=0.02 * (expected.high - expected.low))
    assert found.high == pytest.approx(expected.high, abs=0.02 * (expected.high - expected.low))
    assert (found.mean, found.n, found.n_images) == (n_right / n, n_seeds, n)


def test_where_seeds_differ_much_and_images_do_not_the_interval_of_an_accuracy_is_that_of_the_seeds() -> None:
    shares = [0.70, 0.72, 0.66, 0.68]
    random = np.random.default_rng(0)
    hits = np.stack([random.permutation(50_000) < share * 50_000 for share in shares])
    student = stats.t.interval(0.95, 3, loc=np.mean(shares), scale=stats.sem(shares))
    found = accuracy_interval(hits, confidence=0.95)
    assert (found.low, found.high) == pytest.approx(student, abs=0.002)


@pytest.mark.parametrize("n_seeds", [1, 2, 3, 10])
@pytest.mark.parametrize("n_right", [0, 1, 180, 359, 360])
def test_an_accuracys_interval_is_within_0_and_1_and_has_a_length(n_right: int, n_seeds: int) -> None:
    hits = same_in_every_seed(n_right, 360, n_seeds)
    found = accuracy_interval(hits, confidence=0.95)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.high - found.low > 0.005
    # One seed that is wrong everywhere: as uncertain as can be, and still an accuracy.
    hits[0] = False
    found = accuracy_interval(hits, confidence=0.95)
    assert 0 <= found.low <= found.mean <= found.high <= 1


def test_more_seeds_do_not_make_more_images() -> None:
    few, many = (accuracy_interval(same_in_every_seed(340, 360, n), confidence=0.95) for n in (2, 50))
    assert (few.low, few.high) == (many.low, many.high)


def by_hand(values: npt.NDArray[np.float64], confidence: float) -> float:
    """Half of the interval of a difference, cell by cell."""
    n_seeds, n_images = values.shape
    seeds = [sum(row) / n_images for row in values]
    images = [sum(column) / n_seeds for column in values.T] + [1.0, -1.0]
    total = 0.0
    for means in (seeds, images):
        n = len(means)
        center = sum(means) / n
        variance = sum((mean - center) ** 2 for mean in means) / (n - 1) / n
        total += stats.t.ppf((1 + confidence) / 2, n - 1) ** 2 * variance
    return math.sqrt(total)


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_interval_of_a_difference_is_the_sum_of_seeds_and_images_written_out(confidence: float) -> None:
    values = np.random.default_rng(1).integers(-1, 2, size=(4, 30)).astype(np.float64)
    found = difference_interval(values, confidence=confidence)
    half = by_hand(values, confidence)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half))


@pytest.mark.parametrize("n_seeds", [2, 3, 10])
def test_the_same_single_image_in_every_seed_decides_nothing(n_seeds: int) -> None:
    values = np.zeros((n_seeds, 360))
    values[:, 7] = 1
    found = difference_interval(values, confidence=0.95)
    assert found.mean == pytest.approx(1 / 360)
    assert found.low < 0 < found.high
    assert found.sign == 0


@pytest.mark.parametrize("n", [1, 10, 20])
def test_two_seeds_that_come_out_equal_on_different_images_decide_nothing(n: int) -> None:
    """Better on so many of 360 images in each: the same ones, or others, when luck alone makes such counts differ."""
    same, others = np.zeros((2, 360)), np.zeros((2, 360))
    same[:, :n] = others[0, :n] = others[1, n : 2 * n] = 1
    sure, unsure = (difference_interval(each, confidence=0.95) for each in (same, others))
    assert sure.mean == unsure.mean == pytest.approx(n / 360)
    assert (sure.sign, unsure.sign) == (int(n > 1), 0)
    # Bernoulli's variance of a share, by Student's t of two seeds.
    chance = math.sqrt(n / 360 * (1 - n / 360) / 360 / 2) * stats.t.ppf(0.975, 1)
    assert unsure.high - unsure.mean > 0.95 * chance


def test_a_difference_on_no_image_at_all_has_an_interval() -> None:
    found = difference_interval(np.zeros((3, 360)), confidence=0.95)
    assert -found.low == found.high == pytest.approx(0.0077, abs=1e-4)


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
@pytest.mark.parametrize(("of_seeds", "of_images"), [(0.0, 1.5), (0.2, 2.0), (0.5, 1.0), (0.3, 0.0)])
def test_intervals_cover_the_truth_at_least_as_often_as_they_say(
    n_seeds: int, of_seeds: float, of_images: float
) -> None:
    """A net is right where a threshold, a seed's ability, an image's ease and chance add up to more than zero."""
    random, level, n_images, n_draws = np.random.default_rng(2), 1.5, 200, 400
    truth = stats.norm.cdf(level / math.sqrt(1 + of_seeds**2 + of_images**2))
    covered = [0, 0]
    for _ in range(n_draws):
        ease = level + random.normal(0, of_images, (1, n_images))
        first, second = (
            ease + random.normal(0, of_seeds, (n_seeds, 1)) + random.normal(size=(n_seeds, n_images)) > 0
            for _ in range(2)
        )
        accuracy = accuracy_interval(first, confidence=0.95)
        difference = difference_interval(first * 1.0 - second, confidence=0.95)
        covered[0] += accuracy.low <= truth <= accuracy.high
        covered[1] += difference.low <= 0 <= difference.high
    # Binomial(400, 0.95): mean 380, standard deviation 4.4.
    assert min(covered) >= 380 - 3 * 4.4


def test_one_seeds_interval_is_of_its_images_and_decides_nothing() -> None:
    found = difference_interval(np.ones((1, 50)), confidence=0.95)
    assert found.low > 0
    assert (found.n, found.sign) == (1, 0)


@pytest.mark.parametrize(
    ("low", "high", "n", "sign"), [(0.1, 0.3, 2, 1), (-0.3, -0.1, 2, -1), (0, 0.1, 3, 0), (0.1, 0.3, 1, 0)]
)
def test_the_sign_is_that_of_the_whole_interval(low: float, high: float, n: int, sign: int) -> None:
    assert Interval((low + high) / 2, low, high, n, 100).sign == sign


@pytest.mark.parametrize("shape", [(0, 10), (3, 0), (5,)])
def test_nothing_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least one, got"):
        accuracy_interval(np.zeros(shape, dtype=np.bool_), confidence=0.95)
    with pytest.raises(ValueError, match="at least one, got"):
        difference_interval(np.zeros(shape), confidence=0.95)


def test_percent_prints_two_decimals_with_the_ends_of_the_interval() -> None:
    assert Interval(0.98521, 0.98121, 0.98921, 3, 9).percent() == "98.52 [98.12, 98.92]"
    assert Interval(-0.0125, -0.015, 0.001, 3, 9).percent(signed=True) == "-1.25 [-1.50, +0.10]"
    assert NOTHING.percent() == "-"
    assert percent(-0.00001, signed=True) == "+0.00"  # what rounds to nothing has no minus
    assert percent(-0.00001) == "0.00"


@pytest.mark.parametrize("n", [1, 7, 8, 9, 360])
def test_packed_hits_come_back_and_are_no_number(n: int) -> None:
    hits = np.random.default_rng(n).random(n) < 0.5
    row = counts_of(hits, "test_")
    assert (row["test_n"], row["test_n_correct"]) == (n, int(hits.sum()))
    assert np.array_equal(unpack_hits(row["test_hits"], n), hits)
    with pytest.raises(ValueError, match="could not convert"):
        float(row["test_hits"])


def test_what_is_no_share_of_images_shows_its_seeds() -> None:
    assert spread([0.01, 0.03, 0.02], percent) == "2.00 (1.00 to 3.00)"
    assert spread([0.01], percent) == "1.00"
