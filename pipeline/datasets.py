"""Readers of data sets: from their source to an `ImageSet`."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from pipeline.data import ImageSet, check_image_set
from pipeline.params import Data

_DIGITS_WHITE = 16


def read_dataset(params: Data) -> ImageSet:
    """The data set that `data.source` names, split and checked.

    Raises:
        InputError: if it is not what it should be.
    """
    data = _read_digits(params)
    check_image_set(data, f"data set {params.source}")
    return data


def _read_digits(params: Data) -> ImageSet:
    """scikit-learn's handwritten digits: 1,797 images, 8x8, seventeen grey levels spread over 0-255."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / _DIGITS_WHITE)).astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    everything = np.arange(len(labels))
    rest, test = train_test_split(
        everything, test_size=params.test_fraction, random_state=params.split_seed, stratify=labels
    )
    train, validation = train_test_split(
        rest,
        test_size=params.validation_fraction / (1 - params.test_fraction),
        random_state=params.split_seed,
        stratify=labels[rest],
    )
    classes = tuple(str(name) for name in digits.target_names)
    split = {"train": np.sort(train), "validation": np.sort(validation), "test": np.sort(test)}
    return ImageSet(images, labels, classes, split)  # type: ignore[arg-type]
