"""Calibration error and reliability against a plain loop over bins and scikit-learn's calibration curve."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from torch import Tensor

from pipeline.robustness import calibration
from pipeline.robustness.outcomes import Predictions

torch.set_num_threads(1)  # on tensors this small two threads spend their time waiting


def probabilities_of(confidences: list[float], classes: list[int], n_classes: int = 4) -> Tensor:
    """Rows whose class has its confidence, the rest shared out evenly."""
    confidence = torch.tensor(confidences, dtype=torch.float64)
    rows = ((1 - confidence) / (n_classes - 1))[:, None].repeat(1, n_classes)
    rows[torch.arange(len(rows)), torch.tensor(classes)] = confidence
    return rows


def random_case(n: int = 500, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, 4, generator=random, dtype=torch.float64)
    return logits.softmax(1), torch.randint(4, (n,), generator=random)


def calibrated_case(n: int = 20_000) -> tuple[Tensor, Tensor]:
    """Labels drawn from the probabilities themselves."""
    random = np.random.default_rng(0)
    probabilities = random.dirichlet([0.4] * 4, size=n)
    drawn = (random.random((n, 1)) > probabilities.cumsum(1)).sum(1).clip(max=3)
    return torch.from_numpy(probabilities), torch.from_numpy(drawn)


def predictions(probabilities: Tensor) -> Predictions:
    confidence, predicted = probabilities.double().max(1)
    return Predictions(predicted, confidence)


def confidence_summary(probabilities: Tensor, labels: Tensor, *, n_bins: int) -> dict[str, Any]:
    return calibration.confidence_summary(predictions(probabilities), labels, n_bins=n_bins)


def reliability_rows(probabilities: Tensor, labels: Tensor, *, n_bins: int) -> list[dict[str, Any]]:
    return calibration.reliability_rows(predictions(probabilities), labels, n_bins=n_bins)


def ece_by_loop(probabilities: Tensor, labels: Tensor, n_bins: int) -> float:
    """The weighted mean of |accuracy - confidence| over bins of equal width, 1.0 in the last."""
    total = 0.0
    for idx in range(n_bins):
        confidences, hits = [], []
        for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
            confidence = max(row)
            if min(int(confidence * n_bins), n_bins - 1) == idx:
                confidences.append(confidence)
                hits.append(row.index(confidence) == label)
        if hits:
            total += abs(sum(hits) / len(hits) - sum(confidences) / len(hits)) * len(hits)
    return total / len(labels)


def ece(probabilities: Tensor, labels: Tensor, n_bins: int) -> float:
    return float(confidence_summary(probabilities, labels, n_bins=n_bins)["ece"])


def ece_of_rows(probabilities: Tensor, labels: Tensor, n_bins: int) -> float:
    rows = reliability_rows(probabilities, labels, n_bins=n_bins)
    return sum(abs(row["n_correct"] - row["confidence"]) for row in rows) / len(labels)


@pytest.mark.parametrize("n_bins", [2, 5, 10, 15])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_error_equals_a_plain_loop_over_bins(n_bins: int, seed: int) -> None:
    probabilities, labels = random_case(seed=seed)
    expected = ece_by_loop(probabilities, labels, n_bins)
    assert expected > 0.1
    assert ece(probabilities, labels, n_bins) == pytest.approx(expected, abs=1e-6)  # stored to six places


@pytest.mark.parametrize("n_bins", [2, 5, 10, 15])
def test_the_rows_are_scikit_learns_calibration_curve(n_bins: int) -> None:
    probabilities, labels = random_case()
    confidence, predicted = probabilities.max(1)
    accuracies, confidences = calibration_curve(predicted == labels, confidence, n_bins=n_bins)
    rows = reliability_rows(probabilities, labels, n_bins=n_bins)
    assert [row["n_correct"] / row["n"] for row in rows] == pytest.approx(accuracies, abs=1e-12)
    assert [row["confidence"] / row["n"] for row in rows] == pytest.approx(confidences, abs=1e-6)


@pytest.mark.parametrize("n_bins", [2, 5, 15])
def test_the_error_of_the_reliability_rows_is_the_summarys(n_bins: int) -> None:
    probabilities, labels = random_case()
    expected = ece(probabilities, labels, n_bins)
    assert ece_of_rows(probabilities, labels, n_bins) == pytest.approx(expected, abs=1e-5)


def test_a_perfectly_calibrated_model_has_an_error_near_zero() -> None:
    probabilities, labels = calibrated_case()
    # 15 bins of about 1,300: the error of a mean of so many draws is about 0.01.
    assert ece(probabilities, labels, 15) < 0.01
    assert ece(probabilities, labels.roll(1), 15) > 0.3


@pytest.mark.parametrize("confidence", [1.0, 0.999])
def test_an_always_confident_model_that_is_right_half_the_time_has_an_error_of_a_half(
    confidence: float,
) -> None:
    probabilities = probabilities_of([confidence] * 100, [0] * 100)
    labels = torch.tensor([0, 1] * 50)
    assert ece(probabilities, labels, 15) == pytest.approx(confidence - 0.5, abs=1e-5)


def test_a_model_that_is_always_right_and_sure_has_no_error() -> None:
    labels = torch.tensor([0, 1, 2, 3] * 5)
    found = confidence_summary(probabilities_of([1.0] * 20, labels.tolist()), labels, n_bins=10)
    assert found == {
        "n": 20,
        "n_correct": 20,
        "ece": 0.0,
        "confidence_of_hits": 20.0,
        "confidence_of_misses": 0.0,
    }


def test_a_confidence_of_one_shares_the_last_bin_with_those_just_below() -> None:
    # 1.0 wrong and 0.95 right: |1/2 - 0.975| in one bin; in two bins it would be (1 + 0.05) / 2.
    probabilities, labels = probabilities_of([1.0, 0.95], [0, 0]), torch.tensor([1, 0])
    assert reliability_rows(probabilities, labels, n_bins=10) == [
        {"bin": 9, "n": 2, "n_correct": 1, "confidence": 1.95}
    ]
    assert ece(probabilities, labels, 10) == pytest.approx(0.475, abs=1e-5)


@pytest.mark.parametrize("n_bins", [2, 5, 10, 15])
def test_a_saturated_float32_softmax_is_binned_alike_in_both_tables(n_bins: int) -> None:
    random = torch.Generator().manual_seed(0)
    probabilities = (12 * torch.randn(400, 4, generator=random)).softmax(1)
    confidence, labels = probabilities.max(1)
    labels[confidence == 1] += torch.randint(2, (int((confidence == 1).sum()),), generator=random)
    labels %= 4  # right below a confidence of one, half wrong at it
    assert bool((confidence == 1).any()), "expected confidences of exactly one"
    expected = ece_by_loop(probabilities, labels, n_bins)
    assert ece_of_rows(probabilities, labels, n_bins) == pytest.approx(expected, abs=1e-5)
    assert ece(probabilities, labels, n_bins) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("n_bins", [2, 5, 15])
def test_reliability_counts_and_confidences_sum_to_the_whole(n_bins: int) -> None:
    probabilities, labels = random_case()
    rows = reliability_rows(probabilities, labels, n_bins=n_bins)
    summary = confidence_summary(probabilities, labels, n_bins=n_bins)
    assert sum(row["n"] for row in rows) == summary["n"] == 500
    assert sum(row["n_correct"] for row in rows) == summary["n_correct"]
    together = summary["confidence_of_hits"] + summary["confidence_of_misses"]
    assert sum(row["confidence"] for row in rows) == pytest.approx(together, abs=1e-4)


def test_reliability_rows_are_the_bins_that_hold_images_in_order() -> None:
    probabilities = probabilities_of([0.3, 0.35, 0.95, 0.55, 0.92], [0, 1, 2, 3, 0])
    labels = torch.tensor([0, 0, 2, 3, 0])
    assert reliability_rows(probabilities, labels, n_bins=10) == [
        {"bin": 3, "n": 2, "n_correct": 1, "confidence": 0.65},
        {"bin": 5, "n": 1, "n_correct": 1, "confidence": 0.55},
        {"bin": 9, "n": 2, "n_correct": 2, "confidence": 1.87},
    ]


def test_every_rows_mean_confidence_lies_within_its_bin() -> None:
    probabilities, labels = random_case()
    rows = reliability_rows(probabilities, labels, n_bins=15)
    assert len(rows) > 5
    for row in rows:
        mean = row["confidence"] / row["n"]
        assert row["bin"] / 15 - 1e-6 <= mean <= (row["bin"] + 1) / 15 + 1e-6
        assert 0 <= row["n_correct"] <= row["n"]


def test_confidence_is_summed_over_hits_and_over_misses() -> None:
    probabilities = probabilities_of([0.9, 0.8, 0.7, 0.6], [0, 1, 2, 3])
    found = confidence_summary(probabilities, torch.tensor([0, 1, 0, 0]), n_bins=10)
    assert (found["n"], found["n_correct"]) == (4, 2)
    assert found["confidence_of_hits"] == pytest.approx(1.7)
    assert found["confidence_of_misses"] == pytest.approx(1.3)
    # Bins of one image each: |1 - 0.9|, |1 - 0.8|, 0.7 and 0.6.
    assert found["ece"] == pytest.approx((0.1 + 0.2 + 0.7 + 0.6) / 4)


def test_float32_and_float64_probabilities_give_the_same_summary() -> None:
    probabilities, labels = random_case()
    single = confidence_summary(probabilities.float(), labels, n_bins=15)
    double = confidence_summary(probabilities, labels, n_bins=15)
    assert single["n_correct"] == double["n_correct"]
    assert single["ece"] == pytest.approx(double["ece"], abs=2e-5)


def test_the_order_of_the_images_does_not_matter() -> None:
    probabilities, labels = random_case()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    assert confidence_summary(probabilities[order], labels[order], n_bins=15) == pytest.approx(
        confidence_summary(probabilities, labels, n_bins=15), abs=2e-5
    )
