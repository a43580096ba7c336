"""The paired interval against Bonett and Price's formula and a bootstrap, McNemar's test, and arithmetic by hand."""

from math import comb

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats

from pipeline.robustness.outcomes import Predictions
from pipeline.robustness.paired import CONFIDENCE_LEVEL, PairedComparison, compare_pair, compare_pairs
from pipeline.uncertainty import Hits

Pair = tuple[Hits, Hits]


def hits(text: str) -> Hits:
    return np.array([letter == "1" for letter in text])


def drawn(n: int, clean: float, perturbed: float, random: np.random.Generator) -> Pair:
    return random.random(n) < clean, random.random(n) < perturbed


def two_models(seed: int = 0, n: int = 300) -> tuple[Pair, Pair]:
    random = np.random.default_rng(seed)
    return drawn(n, 0.98, 0.7, random), drawn(n, 0.95, 0.8, random)


def compare(first: Pair, second: Pair, *, confidence: float = 0.95) -> PairedComparison:
    return compare_pair(first, second, confidence=confidence)


def by_image(first: Pair, second: Pair) -> npt.NDArray[np.float64]:
    return (second[1].astype(float) - second[0]) - (first[1].astype(float) - first[0])


def test_the_change_is_the_difference_of_accuracy_changes_by_hand() -> None:
    first = (hits("1111111110"), hits("1111100000"))  # 90 % to 50 %: loses 40 points
    second = (hits("1111111100"), hits("1110111010"))  # 80 % to 70 %: loses 10
    found = compare(first, second)
    assert found.n == 10
    assert found.change == pytest.approx(0.3, abs=1e-15)
    # Right under the perturbation: only the first image 3; only the second images 5, 6, 8.
    assert (found.only_first, found.only_second) == (1, 3)


@pytest.mark.parametrize("seed", range(5))
def test_the_change_is_the_difference_of_accuracy_changes(seed: int) -> None:
    first, second = two_models(seed)
    change = (second[1].mean() - second[0].mean()) - (first[1].mean() - first[0].mean())
    assert compare(first, second).change == pytest.approx(change, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_covers_the_change(seed: int) -> None:
    found = compare(*two_models(seed))
    assert found.low < found.change < found.high


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_interval_is_that_of_a_bootstrap_of_many_images(confidence: float) -> None:
    first, second = two_models(n=2000)
    expected = stats.bootstrap(
        (by_image(first, second),),
        np.mean,
        n_resamples=4000,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = compare(first, second, confidence=confidence)
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.05 * width)
    assert found.high == pytest.approx(expected.high, abs=0.05 * width)


@pytest.mark.parametrize(("n_lost", "n_won"), [(0, 0), (1, 0), (0, 3), (7, 4)])
def test_of_one_perturbed_part_the_interval_is_bonett_and_prices_of_mcnemars_table(
    n_lost: int, n_won: int
) -> None:
    n = 360
    clean, right = np.ones(n, dtype=np.bool_), np.arange(n) >= n_lost
    other = np.ones(n, dtype=np.bool_)
    other[n - n_won :] = n_won == 0
    found = compare((clean, other), (clean, right))
    # Bonett and Price 2012: a half is added to each of the four cells; Student's t stands for the normal here.
    p_won, p_lost = (n_won + 1) / (n + 2), (n_lost + 1) / (n + 2)
    variance = (p_won + p_lost - (p_won - p_lost) ** 2) / (n + 2)
    half = 1.9665 * variance**0.5
    assert found.change == pytest.approx((n_won - n_lost) / n)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=3e-3)


def test_pairing_makes_the_interval_shorter_where_the_models_agree() -> None:
    first, _ = two_models()
    second = (first[0].copy(), first[1].copy())
    second[1][:10] = ~second[1][:10]
    shuffled = np.random.default_rng(1).permutation(len(first[0]))
    paired = compare(first, second)
    unpaired = compare(first, (second[0][shuffled], second[1][shuffled]))
    assert paired.change == pytest.approx(unpaired.change, abs=1e-12)
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


@pytest.mark.parametrize("seed", range(5))
def test_the_p_value_is_twice_the_binomial_tail_of_the_discordant_pairs(seed: int) -> None:
    first, second = two_models(seed, n=80)
    found = compare(first, second)
    only_first = int(np.sum(first[1] & ~second[1]))
    only_second = int(np.sum(second[1] & ~first[1]))
    assert (found.only_first, found.only_second) == (only_first, only_second)
    differing = only_first + only_second
    tail = sum(comb(differing, k) for k in range(min(only_first, only_second) + 1)) / 2**differing
    expected = min(1.0, 2 * tail)
    assert found.p_value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("only_first", "only_second", "p_value"), [(0, 1, 1.0), (5, 0, 2 / 32), (3, 3, 1.0)])
def test_the_p_value_of_few_discordant_pairs_by_hand(
    only_first: int, only_second: int, p_value: float
) -> None:
    clean = np.ones(20, dtype=np.bool_)
    first, second = clean.copy(), clean.copy()
    second[:only_first] = False
    first[only_first : only_first + only_second] = False
    found = compare((clean, first), (clean, second))
    assert found.p_value == pytest.approx(p_value, rel=1e-12)


def test_hits_on_clean_images_do_not_enter_mcnemars_test() -> None:
    first, second = two_models()
    everything = np.ones_like(first[0])
    found, other = compare(first, second), compare((everything, first[1]), (everything, second[1]))
    assert found.p_value == other.p_value
    assert found.change != other.change


def test_identical_models_change_by_zero_with_an_interval_that_hundreds_of_images_leave_open() -> None:
    first, _ = two_models()
    found = compare(first, (first[0].copy(), first[1].copy()))
    assert (found.change, found.only_first, found.only_second, found.p_value) == (0.0, 0, 0, 1.0)
    # No difference in n images leaves one of about 3/n open ("rule of three").
    assert -found.low == found.high == pytest.approx(3 / 300, rel=0.15)


@pytest.mark.parametrize("n", [1, 2, 360])
def test_no_interval_is_of_length_zero(n: int) -> None:
    yes, no = np.ones(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    one = yes.copy()
    one[0] = False
    for pair in ((yes, no), (yes, yes), (yes, one)):
        found = compare(pair, (yes, yes))
        assert found.low < found.change < found.high


def test_one_image_decides_nothing() -> None:
    yes, one = np.ones(360, dtype=np.bool_), np.arange(360) > 0
    found = compare((yes, one), (yes, yes))
    assert found.change == pytest.approx(1 / 360)
    assert found.low < 0 < found.high


def test_swapping_the_models_flips_the_sign_and_the_counts() -> None:
    first, second = two_models()
    found, swapped = compare(first, second), compare(second, first)
    assert swapped.change == pytest.approx(-found.change, abs=1e-12)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low), abs=1e-12)
    assert (swapped.only_first, swapped.only_second) == (found.only_second, found.only_first)
    assert swapped.p_value == pytest.approx(found.p_value, rel=1e-12)


@pytest.mark.parametrize("lengths", [(5, 5, 5, 4), (4, 5, 5, 5), (5, 5, 6, 6), (0, 0, 0, 0)])
def test_hits_of_different_lengths_or_none_are_refused(lengths: tuple[int, int, int, int]) -> None:
    a, b, c, d = (np.ones(n, dtype=np.bool_) for n in lengths)
    with pytest.raises(ValueError, match=r"one length, at least 1, got \["):
        compare((a, b), (c, d))


def test_the_given_hits_are_left_as_they_were() -> None:
    first, second = two_models()
    before = [each.copy() for each in (*first, *second)]
    compare(first, second)
    assert all(np.array_equal(a, b) for a, b in zip(before, (*first, *second), strict=True))


def test_without_a_difference_the_interval_leaves_out_zero_about_as_rarely_as_it_says() -> None:
    random = np.random.default_rng(20)
    left_out = 0
    for _ in range(200):
        pair = [drawn(150, 0.97, 0.75, random) for _ in range(2)]
        found = compare(pair[0], pair[1])
        left_out += not found.low <= 0 <= found.high
    # Binomial(200, 0.05): mean 10, standard deviation 3.1.
    assert 1 <= left_out <= 24


def test_a_real_difference_is_found() -> None:
    random = np.random.default_rng(21)
    first, second = drawn(600, 0.97, 0.6, random), drawn(600, 0.97, 0.85, random)
    found = compare(first, second)
    assert found.low > 0
    assert found.p_value < 1e-6


def said(right: Hits) -> Predictions:
    """Class 0, which is the label of all, where a model is right."""
    return Predictions(torch.from_numpy(~right).long(), torch.full((len(right),), 0.5, dtype=torch.float64))


def test_pairs_of_models_are_compared_by_their_names() -> None:
    first, second = two_models()
    third = two_models(seed=1)[1]
    hits_of = {"base": first, "pushed": second, "l1_at_size": third}
    before, after = ({name: said(pair[at]) for name, pair in hits_of.items()} for at in (0, 1))
    labels = torch.zeros(len(first[0]), dtype=torch.int64)
    pairs = [("base", "pushed"), ("l1_at_size", "pushed")]

    rows = compare_pairs(pairs, before, after, labels)

    assert [(row["first"], row["second"]) for row in rows] == pairs
    for row in rows:
        one, other = row.pop("first"), row.pop("second")
        expected = compare(hits_of[one], hits_of[other], confidence=CONFIDENCE_LEVEL)
        assert PairedComparison(**row) == expected
