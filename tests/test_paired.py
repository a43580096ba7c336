"""The paired bootstrap against scipy, McNemar's test against binomial coefficients, and arithmetic by hand."""

from math import comb

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats

from pipeline.robustness.outcomes import Predictions
from pipeline.robustness.paired import (
    CONFIDENCE_LEVEL,
    Hits,
    PairedComparison,
    compare_pair,
    compare_pairs,
)

Pair = tuple[Hits, Hits]


def hits(text: str) -> Hits:
    return np.array([letter == "1" for letter in text])


def drawn(n: int, clean: float, perturbed: float, random: np.random.Generator) -> Pair:
    return random.random(n) < clean, random.random(n) < perturbed


def two_models(seed: int = 0, n: int = 300) -> tuple[Pair, Pair]:
    random = np.random.default_rng(seed)
    return drawn(n, 0.98, 0.7, random), drawn(n, 0.95, 0.8, random)


def compare(first: Pair, second: Pair, *, confidence: float = 0.95, seed: int = 0) -> PairedComparison:
    return compare_pair(first, second, confidence=confidence, n_resamples=500, seed=seed)


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
@pytest.mark.parametrize("seed", [0, 3])
def test_the_interval_is_scipys_percentile_bootstrap_of_the_mean(confidence: float, seed: int) -> None:
    first, second = two_models()
    expected = stats.bootstrap(
        (by_image(first, second),),
        np.mean,
        n_resamples=500,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    found = compare(first, second, confidence=confidence, seed=seed)
    assert (found.low, found.high) == (expected.low, expected.high)


def test_the_interval_is_about_that_of_the_normal_approximation() -> None:
    first, second = two_models(n=1000)
    values = by_image(first, second)
    half = 1.96 * values.std() / np.sqrt(len(values))
    found = compare_pair(first, second, confidence=0.95, n_resamples=4000, seed=0)
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


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


def test_identical_models_change_by_zero_within_zero_with_p_one() -> None:
    first, _ = two_models()
    found = compare(first, (first[0].copy(), first[1].copy()))
    assert found == PairedComparison(300, 0.0, 0.0, 0.0, 0, 0, 1.0)


def test_a_difference_on_every_image_has_an_interval_of_length_zero() -> None:
    yes, no = np.ones(30, dtype=np.bool_), np.zeros(30, dtype=np.bool_)
    found = compare((yes, no), (yes, yes))
    assert (found.change, found.low, found.high) == (1.0, 1.0, 1.0)
    assert found.p_value == pytest.approx(2 / 2**30)


def test_a_single_image_is_enough() -> None:
    yes, no = np.ones(1, dtype=np.bool_), np.zeros(1, dtype=np.bool_)
    assert compare((yes, no), (yes, yes)) == PairedComparison(1, 1.0, 1.0, 1.0, 0, 1, 1.0)


def test_a_seed_gives_the_same_interval_and_another_seed_another() -> None:
    first, second = two_models()
    assert compare(first, second, seed=4) == compare(first, second, seed=4)
    assert compare(first, second, seed=4) != compare(first, second, seed=5)


def test_global_generators_do_not_matter() -> None:
    first, second = two_models()
    np.random.seed(0)
    found = compare(first, second)
    np.random.seed(1)
    assert compare(first, second) == found


def test_swapping_the_models_flips_the_sign_and_the_counts() -> None:
    first, second = two_models()
    found, swapped = compare(first, second), compare(second, first)
    assert swapped.change == pytest.approx(-found.change, abs=1e-12)
    # The same resamples: the percentiles mirror each other.
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
    for seed in range(200):
        pair = [drawn(150, 0.97, 0.75, random) for _ in range(2)]
        found = compare_pair(pair[0], pair[1], confidence=0.95, n_resamples=300, seed=seed)
        left_out += not found.low <= 0 <= found.high
    # Binomial(200, 0.05): mean 10, standard deviation 3.1; the percentile bootstrap is a little short.
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


def test_pairs_of_models_are_compared_by_their_names_each_with_a_seed_of_its_own() -> None:
    first, second = two_models()
    third = two_models(seed=1)[1]
    hits_of = {"base": first, "pushed": second, "l1_at_size": third}
    before, after = ({name: said(pair[at]) for name, pair in hits_of.items()} for at in (0, 1))
    labels = torch.zeros(len(first[0]), dtype=torch.int64)
    pairs = [("base", "pushed"), ("l1_at_size", "pushed")]
    seeds = {("base", "pushed"): 3, ("l1_at_size", "pushed"): 4}

    rows = compare_pairs(
        pairs, before, after, labels, n_resamples=500, seed_of=lambda first, second: seeds[first, second]
    )

    assert [(row["first"], row["second"]) for row in rows] == pairs
    for row in rows:
        one, other = row.pop("first"), row.pop("second")
        expected = compare(hits_of[one], hits_of[other], confidence=CONFIDENCE_LEVEL, seed=seeds[one, other])
        assert PairedComparison(**row) == expected
