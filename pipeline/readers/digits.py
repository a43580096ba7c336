"""scikit-learn's handwritten digits, which come with the library."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.datasets import load_digits

from pipeline.images.image_set import ImageSet
from pipeline.readers.splits import split_by_fractions

if TYPE_CHECKING:
    from pipeline.params.data import DigitsData

_WHITE = 16


def read_digits(params: DigitsData) -> ImageSet:
    """1,797 images, 8x8, seventeen grey levels spread over 0-255."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / _WHITE)).astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    classes = tuple(str(name) for name in digits.target_names)
    return ImageSet(images, labels, classes, split_by_fractions(labels, params))
