"""Verdicts against hand counts, scipy's tests, and draws whose truth is known."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import stats
from tiny_params import params_of

from pipeline.report.claims.verdicts import TOGETHER, Claim, Family, holm, judged
from pipeline.uncertainty import difference_interval, p_equivalence, p_value

Values = npt.NDArray[np.float64]
REPORT = params_of(("report.confidence", 0.95), ("report.equivalence_margin", 0.01)).report


def images(n_better: int, n_worse: int = 0, *, n: int = 1000, n_seeds: int = 3) -> Values:
    """The same images in every seed."""
    values = np.zeros((n_seeds, n))
    values[:, :n_better], values[:, n - n_worse :] = 1, -1
    return values


def claim(values: Values, **others: float | str) -> Claim:
    return Claim("it is", "ours", "a test", values, **others)  # type: ignore[arg-type]


def verdicts(*claims: Claim, together: str = "") -> pd.DataFrame:
    return judged([Family("a family", claims, together)], REPORT)


@pytest.mark.parametrize("null", [0.0, 0.01, -0.02])
def test_where_seeds_agree_p_is_students_of_the_images_and_the_two_that_are_added(null: float) -> None:
    values = images(30, 10)
    expected = stats.ttest_1samp([*values[0], 1, -1], null)
    # The two added ones do not move the mean of the product's estimate.
    z = (values.mean() - null) / np.std([*values[0], 1, -1], ddof=1) * np.sqrt(1002)
    assert p_value(values, null=null) == pytest.approx(2 * stats.t.sf(abs(z), 1001), rel=1e-6)
    assert p_value(values, null=null) == pytest.approx(expected.pvalue, rel=0.05)


def test_where_seeds_differ_alone_p_is_students_of_the_seeds() -> None:
    random = np.random.default_rng(0)
    values = np.stack([random.permutation(50_000) < n for n in (1_000, 2_500, 1_700)]) * 1.0
    assert p_value(values) == pytest.approx(stats.ttest_1samp(values.mean(1), 0).pvalue, rel=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_an_interval_ends_at_zero_where_its_confidence_is_one_less_p(seed: int) -> None:
    values = np.random.default_rng(seed).choice([-1.0, 0.0, 0.0, 1.0, 1.0], size=(3, 60))
    found = difference_interval(values, confidence=1 - p_value(values))
    assert min(abs(found.low), abs(found.high)) == pytest.approx(0, abs=1e-9)


def test_equivalence_is_the_larger_of_two_one_sided_tests() -> None:
    values, margin = images(8, 4), 0.02
    spread = np.std([*values[0], 1, -1], ddof=1) / np.sqrt(1002)
    above, below = (stats.t.sf((margin - side * 0.004) / spread, 1001) for side in (-1, 1))
    assert p_equivalence(values, margin=margin) == pytest.approx(max(above, below), rel=1e-6)
    assert p_equivalence(-values, margin=margin) == pytest.approx(max(above, below), rel=1e-6)
    # Outside of the margin, either way, equivalence is not what is shown.
    assert p_equivalence(values, margin=0.003) > 0.5 < p_equivalence(-values, margin=0.003)


def test_one_seed_has_no_p_and_no_effect_at_all_has_one_of_1() -> None:
    assert np.isnan(p_value(np.ones((1, 50))))
    assert np.isnan(p_equivalence(np.zeros((1, 5000)), margin=0.01))
    assert p_value(np.zeros((2, 50))) == 1


def test_holms_correction_by_hand_and_by_its_definition() -> None:
    found = holm(pd.Series([0.01, np.nan, 0.04, 0.03, 0.005]))
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, then 0.04 and not below 0.06.
    assert found.tolist() == pytest.approx([0.03, np.nan, 0.06, 0.06, 0.02], nan_ok=True)
    random = np.random.default_rng(0)
    for _ in range(50):
        p = random.random(6) ** 3
        corrected = holm(pd.Series(p)).to_numpy()
        for level in (0.01, 0.05, 0.2):
            rejected = set[int]()
            for k, idx in enumerate(np.argsort(p)):  # step down, and stop at the first that is not rejected
                if p[idx] > level / (6 - k):
                    break
                rejected.add(int(idx))
            assert set(np.flatnonzero(corrected <= level)) == rejected
    assert holm(pd.Series([np.nan, np.nan])).isna().all()


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        (images(30), "supported"),
        (images(0, 30), "refuted"),
        (images(15, 15, n=300), "undecided"),
        (images(2, 2, n=5000), "equivalent"),
        (images(1), "equivalent"),  # the same single image: less than a point, and no more is said
        (images(1, n=300), "undecided"),
        (images(300, n_seeds=1), "undecided"),
        (images(0, n=10_000, n_seeds=1), "undecided"),
    ],
)
def test_a_claim_alone_stands_by_its_p_and_its_sign(values: Values, verdict: str) -> None:
    (row,) = verdicts(claim(values)).to_dict("records")
    assert row["verdict"] == verdict
    assert row["effect"] == pytest.approx(values.mean())
    assert (row["n_seeds"], row["n_images"]) == values.shape


def test_what_is_decided_alone_may_not_be_in_a_family_and_is_said_so() -> None:
    values = images(11, 3)
    assert verdicts(claim(values))["verdict"].tolist() == ["supported"]
    table = verdicts(*[claim(values)] * 2, *[claim(images(40, 40))] * 3)
    assert table["verdict"].tolist() == ["undecided"] * 5
    assert table["note"].tolist()[:2] == ["decided alone, not after Holm's correction"] * 2
    assert table["p_holm"].tolist()[0] == pytest.approx(5 * table["p"].tolist()[0])


def test_no_claim_is_made_on_a_doubt_and_it_is_none_of_the_tests() -> None:
    values = images(30)
    table = verdicts(claim(values), claim(values, doubt="a net is at chance"), together="it is")
    first, second = table.to_dict("records")  # and there is no average of one claim
    assert first["p_holm"] == first["p"]
    assert (second["verdict"], second["note"]) == ("no claim", "a net is at chance")
    assert all(np.isnan(second[each]) for each in ("effect", "low", "high", "p", "p_holm"))


def test_no_worse_than_a_margin_is_supported_refuted_or_undecided() -> None:
    values = (images(0, 4), images(0, 60), images(0, 8, n=400))
    table = verdicts(*(claim(each, null=-0.02) for each in values))
    assert table["verdict"].tolist() == ["supported", "refuted", "undecided"]
    assert table["effect"].tolist() == pytest.approx([-0.004, -0.06, -0.02])
    assert table["p_equivalence"].isna().all()


def test_a_family_has_an_average_that_counts_directions() -> None:
    effects = [*[images(6, 1)] * 4, images(0), images(1, 3)]
    table = verdicts(*map(claim, effects), together="it is")
    *_, average = table.to_dict("records")
    assert average["family"] == TOGETHER
    assert average["claim"] == "On average over 6 comparisons: it is"
    assert average["effect"] == pytest.approx((4 * 5 - 2) / 6 / 1000)
    assert average["note"].endswith("by the means as claimed in 4 of 6, the other way in 1, level in 1")
    assert verdicts(*map(claim, effects))["family"].tolist() == ["a family"] * 6


def test_few_of_the_images_scaled_to_them_decide_nothing() -> None:
    """A ratio over two of 400 images: without its unit it would look as sure as one over all."""
    values = np.full((3, 400), 0.5)
    assert p_value(values) < 1e-10
    assert p_value(values, unit=200.0) > 0.4


def drawn(
    random: np.random.Generator, mean: float, *, n_seeds: int, n_images: int, n_claims: int = 1
) -> Values:
    """Differences of hits (claims, seeds, images) whose mean is known: seeds, and images, have effects of their own.

    Better by 1 with probability 0.06 + mean / 2 + u_s + w_i, worse with 0.06 - mean / 2 - u_s - w_i.
    """
    of_seeds = random.uniform(-0.02, 0.02, (n_claims, n_seeds, 1))
    of_images = random.uniform(-0.03, 0.03, (1, 1, n_images))  # the same for every claim
    shift, chance = mean / 2 + of_seeds + of_images, random.random((n_claims, n_seeds, n_images))
    return (chance < 0.06 + shift) * 1.0 - (chance > 1 - (0.06 - shift))


@pytest.mark.parametrize(("n_seeds", "n_images"), [(2, 50), (2, 400), (3, 50), (5, 400)])
def test_equivalence_is_claimed_of_what_is_at_the_margin_no_more_often_than_its_level(
    n_seeds: int, n_images: int
) -> None:
    random, margin, n_draws = np.random.default_rng(3), 0.02, 300
    p = [
        p_equivalence(drawn(random, side, n_seeds=n_seeds, n_images=n_images)[0], margin=margin)
        for side in (margin, -margin)
        for _ in range(n_draws // 2)
    ]
    # Binomial(300, 0.05): mean 15, standard deviation 3.8.
    assert sum(each <= 0.05 for each in p) <= 15 + 3 * 3.8


def test_equivalence_is_claimed_where_there_is_none_and_images_are_many() -> None:
    random = np.random.default_rng(4)
    p = [p_equivalence(drawn(random, 0.0, n_seeds=5, n_images=4000)[0], margin=0.05) for _ in range(30)]
    assert sum(each <= 0.05 for each in p) >= 27


@pytest.mark.parametrize(("n_seeds", "n_images"), [(2, 50), (3, 200)])
def test_a_family_without_any_effect_has_a_verdict_no_more_often_than_its_level(
    n_seeds: int, n_images: int
) -> None:
    random, n_draws, n_wrong = np.random.default_rng(5), 200, 0
    for _ in range(n_draws):
        values = drawn(random, 0.0, n_seeds=n_seeds, n_images=n_images, n_claims=6)
        n_wrong += bool((holm(pd.Series([p_value(each) for each in values])) <= 0.05).any())
    # Binomial(200, 0.05): mean 10, standard deviation 3.1.
    assert n_wrong <= 10 + 3 * 3.1


def test_the_effects_of_a_family_that_has_some_are_found() -> None:
    random, found = np.random.default_rng(6), list[int]()
    for _ in range(20):
        true, false = (drawn(random, mean, n_seeds=5, n_images=2000, n_claims=3) for mean in (0.11, 0.0))
        corrected = holm(pd.Series([p_value(each) for each in (*true, *false)])) <= 0.05
        found.append(int(corrected[:3].sum()))
    assert sum(found) >= 0.9 * 60


def test_p_falls_as_an_effect_grows() -> None:
    p = [p_value(images(n)) for n in (1, 5, 10, 40)]
    assert all(smaller < larger for larger, smaller in pairwise(p))
    assert p_value(images(1000)) == 1e-15  # no smaller one is said
