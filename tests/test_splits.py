"""Which images are for validation: the papers' rules to the index, against plain loops."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from pipeline.errors import InputError
from pipeline.images.image_set import Labels
from pipeline.params.data import (
    FirstImages,
    FirstPerClass,
    FractionSplit,
    LastSharePerClass,
    StratifiedShare,
    ValidationRule,
)
from pipeline.readers.splits import hold_out, split_by_fractions


def _labels(n: int, n_classes: int, seed: int = 0) -> Labels:
    """About as many of each class, in no order."""
    return np.random.default_rng(seed).integers(0, n_classes, n)


def _shuffled(n_per_class: int, n_classes: int) -> Labels:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(n_classes), n_per_class))


def _check_partition(train: Labels, validation: Labels, n: int) -> None:
    assert train.dtype == validation.dtype == np.int64
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(n))
    assert train.tolist() == sorted(train.tolist())
    assert validation.tolist() == sorted(validation.tolist())


def test_mnist_holds_out_the_first_thousand_of_each_class() -> None:
    labels = _labels(60_000, 10)
    train, validation = hold_out(labels, FirstPerClass(rule="first_per_class", images=1000))
    seen, expected = [0] * 10, []
    for idx, label in enumerate(labels.tolist()):
        if seen[label] < 1000:
            expected.append(idx)
        seen[label] += 1
    assert validation.tolist() == expected
    assert len(expected) == 10_000
    _check_partition(train, validation, 60_000)


def test_cifar10_holds_out_the_first_ten_thousand() -> None:
    labels = _shuffled(5000, 10)
    train, validation = hold_out(labels, FirstImages(rule="first", images=10_000))
    assert validation.tolist() == list(range(10_000))
    assert train.tolist() == list(range(10_000, 50_000))


def test_cifar100_holds_out_the_last_fifth_of_each_class() -> None:
    labels = _shuffled(500, 100)
    train, validation = hold_out(labels, LastSharePerClass(rule="last_share_per_class", share=0.2))
    seen, expected = [0] * 100, []
    for idx in reversed(range(50_000)):
        label = int(labels[idx])
        if seen[label] < 100:
            expected.append(idx)
        seen[label] += 1
    assert validation.tolist() == expected[::-1]
    assert np.bincount(labels[train]).tolist() == [400] * 100
    _check_partition(train, validation, 50_000)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.29, 0.8])
def test_shares_are_rounded_class_by_class_halves_up(share: float) -> None:
    labels = np.repeat(np.arange(5), [5, 7, 10, 25, 100])
    _, validation = hold_out(labels, LastSharePerClass(rule="last_share_per_class", share=share))
    exact = Fraction(str(share))
    expected = [math.floor(exact * n + Fraction(1, 2)) for n in (5, 7, 10, 25, 100)]
    assert np.bincount(labels[validation]).tolist() == expected


def test_stratified_is_a_draw_by_seed_of_the_same_share() -> None:
    labels = _shuffled(50, 4)
    draws = [hold_out(labels, StratifiedShare(rule="stratified", share=0.2, seed=seed)) for seed in (0, 0, 1)]
    for train, validation in draws:
        assert np.bincount(labels[validation]).tolist() == [10] * 4
        _check_partition(train, validation, 200)
    assert np.array_equal(draws[0][1], draws[1][1])
    assert not np.array_equal(draws[0][1], draws[2][1])


RULES: list[ValidationRule] = [
    FirstImages(rule="first", images=2),
    FirstPerClass(rule="first_per_class", images=2),
    LastSharePerClass(rule="last_share_per_class", share=0.4),
    StratifiedShare(rule="stratified", share=0.4, seed=0),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule)
def test_one_class_is_split_too(rule: ValidationRule) -> None:
    train, validation = hold_out(np.zeros(5, dtype=np.int64), rule)
    assert len(validation) == 2
    _check_partition(train, validation, 5)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule)
def test_a_rule_does_not_change_the_labels(rule: ValidationRule) -> None:
    labels = _shuffled(5, 3)
    labels.setflags(write=False)
    _check_partition(*hold_out(labels, rule), 15)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (FirstImages(rule="first", images=12), "data.validation.images: expected fewer than the 12 .*got 12"),
        (FirstImages(rule="first", images=99), "data.validation.images: .*got 99"),
        (FirstPerClass(rule="first_per_class", images=3), "than the 3 training images of class 1 .*got 3"),
        (
            LastSharePerClass(rule="last_share_per_class", share=0.9),
            "data.validation.share: .*class 0.* got 5",
        ),
        (
            LastSharePerClass(rule="last_share_per_class", share=0.1),
            "data.validation.share: .*class 1.* got 0",
        ),
        (StratifiedShare(rule="stratified", share=0.1, seed=0), "data.validation.share: 12 images cannot"),
        (StratifiedShare(rule="stratified", share=0.99, seed=0), "data.validation.share: 12 images cannot"),
    ],
)
def test_too_many_or_too_few_is_one_line(rule: ValidationRule, message: str) -> None:
    with pytest.raises(InputError) as error:
        hold_out(np.repeat(np.arange(3), [5, 3, 4]), rule)
    assert re.match(f".*{message}", str(error.value))
    assert "\n" not in str(error.value)


def test_fractions_draw_what_scikit_learn_draws() -> None:
    """Test images first, then validation among the rest as they were drawn; prepared sets depend on it."""
    labels = _shuffled(30, 3)
    split = split_by_fractions(
        labels, FractionSplit(split_seed=3, validation_fraction=0.2, test_fraction=0.3)
    )
    rest, test = train_test_split(np.arange(90), test_size=0.3, random_state=3, stratify=labels)
    train, validation = train_test_split(rest, test_size=0.2 / 0.7, random_state=3, stratify=labels[rest])
    assert split["test"].tolist() == sorted(test)
    assert split["validation"].tolist() == sorted(validation)
    assert split["train"].tolist() == sorted(train)


def test_fractions_of_too_few_images_are_one_line() -> None:
    rule = FractionSplit(split_seed=0, validation_fraction=0.2, test_fraction=0.2)
    with pytest.raises(InputError, match=r"^data\.test_fraction: 4 images cannot be split so \(.*\)$"):
        split_by_fractions(np.array([0, 0, 0, 1]), rule)
