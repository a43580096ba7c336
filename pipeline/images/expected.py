"""What params say of the images before any is read: their shape and how many classes they have."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from pipeline.params.data import (
    AdienceData,
    ArraysData,
    BenchmarkData,
    Data,
    DigitsData,
    ImageFolderData,
    ImageNetData,
)

Shape = tuple[int, int, int]

# (channels, height, width) and classes of the sets that everybody has.
_KNOWN: dict[str, tuple[Shape, int]] = {
    "digits": ((1, 8, 8), 10),
    "mnist": ((1, 28, 28), 10),
    "fashion_mnist": ((1, 28, 28), 10),
    "cifar10": ((3, 32, 32), 10),
    "cifar100": ((3, 32, 32), 100),
}
_AGE_GROUPS = 8
_IMAGENET_CLASSES = 1000


def expected_images(data: Data) -> tuple[Shape, int | None] | None:
    """(channels, height, width) of what a net will see, and the number of classes; None where only the images say it.

    Of an .npz archive the headers are read, of class folders the names; where these are not there yet, the number of
    classes is None.
    """
    try:
        found = _found(data)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None  # preparing says what is wrong with it
    side = data.crop_px or (None if isinstance(data, DigitsData) else data.resize_px)
    shape, n_classes = found
    return ((shape[0], side, side) if side else shape), n_classes


def _found(data: Data) -> tuple[Shape, int | None]:
    if isinstance(data, BenchmarkData):
        archive = Path(data.root).expanduser() / f"{data.source}.npz"
        return _of_archive(archive) if archive.exists() else _KNOWN[data.source]
    if isinstance(data, DigitsData):
        return _KNOWN[data.source]
    if isinstance(data, ArraysData):
        return _of_archive(Path(data.file).expanduser())
    shape = (3, data.resize_px, data.resize_px)
    root = Path(data.root).expanduser()
    if isinstance(data, ImageFolderData):
        train = root / data.folders.train
        folders = [each for each in train.iterdir() if each.is_dir()] if train.is_dir() else []
        return shape, len(folders) or None
    if isinstance(data, ImageNetData):
        return shape, _IMAGENET_CLASSES
    return shape, _AGE_GROUPS if isinstance(data, AdienceData) and data.attribute == "age" else 2


def _of_archive(path: Path) -> tuple[Shape, int]:
    with zipfile.ZipFile(path) as archive, archive.open("x_train.npy") as file:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, *_ = read(file)
    with np.load(path, allow_pickle=False) as arrays:
        n_classes = len(arrays["classes"]) if "classes" in arrays else int(arrays["y_train"].max()) + 1
    _, height, width, *channels = shape
    return (channels[0] if channels else 1, height, width), n_classes
