"""Image sets as they lie on disk and in memory: uint8 pixels, integer labels, one split."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline.errors import InputError
from pipeline.files import write_json

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """Images (n, channels, height, width) uint8, labels (n,) int64, class names, and the split's indices."""

    images: Pixels
    labels: Labels
    classes: tuple[str, ...]
    split: dict[SplitName, Indices]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return cast(tuple[int, int, int], self.images.shape[1:])

    def part(self, name: SplitName) -> tuple[Pixels, Labels]:
        """The images and labels of one part of the split, in the order of its indices."""
        idx = self.split[name]
        return self.images[idx], self.labels[idx]

    def normalization(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel over the training images, for pixels in [0, 1]."""
        pixels = self.part("train")[0].astype(np.float64) / 255
        return pixels.mean(axis=(0, 2, 3)).tolist(), pixels.std(axis=(0, 2, 3)).tolist()

    def checksum(self) -> str:
        """SHA-256 over pixels, labels and split."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).tobytes())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        for name in SPLITS:
            digest.update(np.ascontiguousarray(self.split[name]).tobytes())
        return digest.hexdigest()


def check_image_set(data: ImageSet, where: str) -> None:
    """Refuse sets that would only fail hours later.

    Raises:
        InputError: naming `where` for wrong shapes or types, labels out of range, a class without images in a
            part of the split, or an index in two parts.
    """
    n = len(data.images)
    if data.images.ndim != 4 or data.images.dtype != np.uint8:
        raise InputError(
            f"{where}: expected uint8 images (n, channels, height, width), "
            f"got {data.images.dtype} {data.images.shape}"
        )
    if data.labels.shape != (n,):
        raise InputError(f"{where}: expected {n} labels, one an image, got shape {data.labels.shape}")
    if n == 0:
        raise InputError(f"{where}: expected images, got none")
    n_classes = len(data.classes)
    if n_classes < 2:
        raise InputError(f"{where}: expected at least 2 classes, got {n_classes}")
    if data.labels.min() < 0 or data.labels.max() >= n_classes:
        bad = data.labels[(data.labels < 0) | (data.labels >= n_classes)][0]
        raise InputError(f"{where}: expected labels from 0 to {n_classes - 1}, got {bad}")
    used = np.concatenate([data.split[name] for name in SPLITS])
    outside = used[(used < 0) | (used >= n)]
    if len(outside):
        raise InputError(f"{where}: expected indices from 0 to {n - 1} in the split, got {outside[0]}")
    if len(np.unique(used)) != len(used):
        raise InputError(f"{where}: expected every image in one part of the split at most, got repeats")
    for name in SPLITS:
        missing = set(range(n_classes)) - set(data.labels[data.split[name]].tolist())
        if missing:
            raise InputError(
                f"{where}: expected images of every class in the {name} part, "
                f"got none of {data.classes[min(missing)]!r}"
            )


def save_image_set(data: ImageSet, folder: Path) -> None:
    """Write `images.safetensors` (images, labels, split) and `images.json` (classes, counts, checksum)."""
    arrays: dict[str, npt.NDArray[Any]] = {"images": data.images, "labels": data.labels}
    arrays |= {f"split.{name}": data.split[name] for name in SPLITS}
    save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "images.safetensors"
    )
    mean, std = data.normalization()
    write_json(
        folder / "images.json",
        {
            "classes": list(data.classes),
            "counts": {name: len(data.split[name]) for name in SPLITS},
            "image_shape": list(data.image_shape),
            "normalization": {"mean": mean, "std": std},
            "sha256": data.checksum(),
        },
    )


def load_image_set(folder: Path) -> ImageSet:
    """Read what `save_image_set` wrote.

    Raises:
        InputError: if a file is missing or damaged, or the checksum does not match.
    """
    try:
        arrays = load_file(folder / "images.safetensors")
        info = json.loads((folder / "images.json").read_text(encoding="utf-8"))
        data = ImageSet(
            images=arrays["images"],
            labels=arrays["labels"],
            classes=tuple(info["classes"]),
            split={name: arrays[f"split.{name}"] for name in SPLITS},
        )
        expected = str(info["sha256"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: expected a prepared image set ({type(error).__name__}: {error})"
        ) from None
    if data.checksum() != expected:
        raise InputError(f"{folder}: expected checksum {expected[:12]}, got {data.checksum()[:12]}")
    return data
