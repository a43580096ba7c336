"""Readers of data sets: from their source to an `ImageSet`, split and checked."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.images.copies import Copies
from pipeline.images.image_set import SPLITS, ImageSet, check_image_set
from pipeline.params.data import (
    AdienceData,
    ArraysData,
    BenchmarkData,
    Data,
    DigitsData,
    FolderData,
    ImageFolderData,
    ImageNetData,
    ImagesPerClass,
    LfwaData,
)
from pipeline.readers.adience import list_adience
from pipeline.readers.arrays import read_npz
from pipeline.readers.benchmarks import read_benchmark
from pipeline.readers.digits import read_digits
from pipeline.readers.folders import list_image_folder, list_imagenet
from pipeline.readers.lfwa import list_lfwa
from pipeline.readers.limits import limit_parts
from pipeline.readers.scan import scan_files


def read_dataset(params: Data, *, out: Path = Path()) -> ImageSet:
    """The data set that `data.source` names; `out` is where it will be written, whose disk has to have room.

    Raises:
        InputError: if a file is missing or not what it should be.
    """
    data = _read(params, out)
    limits = params.images_per_class
    data = replace(data, crop_px=params.crop_px)
    if limits:
        data = replace(data, perturbed_per_class=limits.perturbed, perturbed_seed=limits.seed)
    if limits and not isinstance(params, FolderData):  # whose files are limited before they are read
        data = limit_images(data, limits)
    check_image_set(data, f"data set {params.source}")
    return remark_copies(data, refuse=params.copies == "refuse")


def remark_copies(data: ImageSet, *, refuse: bool) -> ImageSet:
    """The set with remarks on exact copies in it, and their table.

    Raises:
        InputError: if `refuse`, and an image is in two parts of the split: what is trained on is no test.
    """
    copies = Copies(data)
    across = copies.across_parts()
    if across and refuse:
        raise InputError(
            f"{across}; take the copies out, or set data.copies: allow, which keeps and reports them"
        )
    found = filter(None, (copies.summary(), across, copies.under_two_labels()))
    return replace(data, remarks=(*data.remarks, *found), tables={**data.tables, "copies": copies.rows})


def limit_images(data: ImageSet, limits: ImagesPerClass) -> ImageSet:
    """The set with at most so many images of each class in each part, the first ones; others are dropped."""
    if not any(getattr(limits, name) for name in SPLITS):
        return data
    kept, split = limit_parts(data.labels, data.split, limits)
    images = data.images[kept] if isinstance(data.images, np.ndarray) else data.images.take(kept)
    return replace(data, images=images, labels=data.labels[kept], split=split)


def _read(params: Data, out: Path) -> ImageSet:
    match params:
        case DigitsData():
            return read_digits(params)
        case BenchmarkData():
            return read_benchmark(params)
        case ArraysData():
            return read_npz(Path(params.file).expanduser(), params.validation, params.resize_px)
        case ImageFolderData():
            return scan_files(list_image_folder(params), params, out=out)
        case ImageNetData():
            return scan_files(list_imagenet(params), params, out=out)
        case LfwaData():
            return scan_files(list_lfwa(params), params, out=out)
        case AdienceData():
            return scan_files(list_adience(params), params, out=out)
