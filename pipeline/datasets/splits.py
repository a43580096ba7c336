"""How images become training, validation and test part."""

import numpy as np
from sklearn.model_selection import train_test_split

from pipeline.data import Indices, Labels, SplitName
from pipeline.params.data import FractionSplit


def split_by_fractions(labels: Labels, params: FractionSplit) -> dict[SplitName, Indices]:
    """A stratified split of all images by seed; the fractions are of all images."""
    rest, test = train_test_split(
        np.arange(len(labels)),
        test_size=params.test_fraction,
        random_state=params.split_seed,
        stratify=labels,
    )
    train, validation = train_test_split(
        rest,
        test_size=params.validation_fraction / (1 - params.test_fraction),
        random_state=params.split_seed,
        stratify=labels[rest],
    )
    return {"train": np.sort(train), "validation": np.sort(validation), "test": np.sort(test)}
