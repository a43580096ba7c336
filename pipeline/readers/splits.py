"""How images become training, validation and test part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from sklearn.model_selection import train_test_split

from pipeline.errors import InputError
from pipeline.params.data import (
    FirstImages,
    FirstPerClass,
    FractionSplit,
    LastSharePerClass,
    StratifiedShare,
    ValidationRule,
)

if TYPE_CHECKING:
    from pipeline.images.image_set import Indices, Labels, SplitName


def split_by_fractions(labels: Labels, params: FractionSplit) -> dict[SplitName, Indices]:
    """A stratified split of all images by seed; the fractions are of all images.

    Raises:
        InputError: if there are too few images of a class for that.
    """
    rest, test = draw_share(
        labels, np.arange(len(labels)), params.test_fraction, params.split_seed, "data.test_fraction"
    )
    # `rest` stays in the order in which it was drawn: that is part of what the seed means for the second draw.
    share = params.validation_fraction / (1 - params.test_fraction)
    train, validation = draw_share(labels, rest, share, params.split_seed, "data.validation_fraction")
    return {"train": np.sort(train), "validation": np.sort(validation), "test": np.sort(test)}


def one_after_another(sizes: Mapping[SplitName, int]) -> dict[SplitName, Indices]:
    """The indices of parts of these sizes in the set that joins them in this order."""
    ends = np.cumsum(list(sizes.values())).tolist()
    return {name: np.arange(end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}


def hold_out(labels: Labels, rule: ValidationRule) -> tuple[Indices, Indices]:
    """Training and validation images among those that a data set offers for training.

    Args:
        labels: (n,) of these images, in the data set's official order, which three of the rules count in.
        rule: `first`: the first images are for validation; `first_per_class`: the first of each class;
            `last_share_per_class`: the last of each class, its number of images times the share, rounded to
            the nearest whole number, halves up; `stratified`: a share of each class drawn by seed, whose
            rounding is scikit-learn's (the total up, then spread over the classes).

    Returns:
        Indices (n_train,) and (n_validation,) into `labels`, each in rising order, together 0 to n - 1.

    Raises:
        InputError: if there are too few images for the rule. That `first`, which looks at no class, and
            `stratified`, which rounds, leave every class in both parts is for `check_image_set` to see.
    """
    match rule:
        case FirstImages():
            if rule.images >= len(labels):
                raise InputError(
                    f"data.validation.images: expected fewer than the {len(labels)} training images "
                    f"(got {rule.images})"
                )
            validation = np.arange(rule.images)
        case FirstPerClass():
            validation = _of_each_class(labels, partial(_first, rule))
        case LastSharePerClass():
            validation = _of_each_class(labels, partial(_last, rule))
        case StratifiedShare():
            _, drawn = draw_share(
                labels, np.arange(len(labels)), rule.share, rule.seed, "data.validation.share"
            )
            validation = np.sort(drawn)
    return np.setdiff1d(np.arange(len(labels)), validation), validation


def _of_each_class(labels: Labels, take: Callable[[Indices, int], Indices]) -> Indices:
    taken = [take(np.flatnonzero(labels == label), int(label)) for label in np.unique(labels)]
    return np.sort(np.concatenate(taken))


def _first(rule: FirstPerClass, of_class: Indices, label: int) -> Indices:
    if rule.images >= len(of_class):
        raise InputError(
            f"data.validation.images: expected fewer than the {len(of_class)} training images of class {label} "
            f"(got {rule.images})"
        )
    return of_class[: rule.images]


def _last(rule: LastSharePerClass, of_class: Indices, label: int) -> Indices:
    # round() takes halves to the even neighbour: half of 5 images would be 2 and half of 7 would be 4.
    n = math.floor(rule.share * len(of_class) + 0.5)
    if not 0 < n < len(of_class):
        raise InputError(
            f"data.validation.share: expected some of the {len(of_class)} training images of class {label} "
            f"and not all of them, got {n} (share {rule.share})"
        )
    return of_class[-n:]


def draw_share(labels: Labels, idx: Indices, share: float, seed: int, key: str) -> tuple[Indices, Indices]:
    """The images `idx` without a share of each class, and that share, both in the order of the draw.

    Raises:
        InputError: naming `key`, if there are too few images for that.
    """
    try:
        rest, drawn = train_test_split(idx, test_size=share, random_state=seed, stratify=labels[idx])
    except ValueError as error:  # a class with one image, or fewer images than classes
        raise InputError(f"{key}: {len(idx)} images cannot be split so ({error})") from None
    return rest, drawn
