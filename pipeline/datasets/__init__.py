"""Readers of data sets: from their source to an `ImageSet`, split and checked."""

from dataclasses import replace

import numpy as np

from pipeline.data import SPLITS, ImageSet, Indices, SplitName, check_image_set
from pipeline.datasets.arrays import read_arrays
from pipeline.datasets.benchmarks import read_benchmark
from pipeline.datasets.digits import read_digits
from pipeline.errors import InputError
from pipeline.params import Data, DigitsData, ImagesPerClass
from pipeline.params.data import ArraysData, BenchmarkData


def read_dataset(params: Data) -> ImageSet:
    """The data set that `data.source` names.

    Raises:
        InputError: if a file is missing or not what it should be.
    """
    data = _read(params)
    data = replace(data, crop_px=params.crop_px, perturbed_per_class=params.images_per_class.perturbed)
    data = limit_images(data, params.images_per_class)
    check_image_set(data, f"data set {params.source}")
    return data


def limit_images(data: ImageSet, limits: ImagesPerClass) -> ImageSet:
    """The set with at most so many images of each class in each part, the first ones; others are dropped."""
    wanted = {name: getattr(limits, name) for name in SPLITS}
    if not any(wanted.values()):
        return data
    split: dict[SplitName, Indices] = {
        name: data.split[name][_first_per_class(data.labels[data.split[name]], n)]
        for name, n in wanted.items()
    }
    kept = np.sort(np.concatenate([split[name] for name in SPLITS]))
    images = data.images[kept] if isinstance(data.images, np.ndarray) else data.images.take(kept)
    moved = {name: np.searchsorted(kept, idx) for name, idx in split.items()}
    return replace(data, images=images, labels=data.labels[kept], split=moved)


def _first_per_class(labels: Indices, n: int | None) -> Indices:
    if n is None:
        return np.arange(len(labels))
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:n] for label in np.unique(labels)]))


def _read(params: Data) -> ImageSet:
    match params:
        case DigitsData():
            return read_digits(params)
        case BenchmarkData():
            return read_benchmark(params)
        case ArraysData():
            return read_arrays(params)
        case _:
            raise InputError(f"data.source: {params.source} has no reader")
