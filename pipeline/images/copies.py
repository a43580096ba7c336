"""Copies within a data set: an image in training and test, one under two labels, one resized or recompressed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.images.file_index import FileIndex, Pixels

if TYPE_CHECKING:
    from pipeline.images.image_set import ImageSet, Indices

# Of the 64 bits of a perceptual hash: among 650 photographs of flowers six pairs differ by no more, all of them copies.
NEAR_BITS = 6
# Every pair is looked at, which takes a minute for so many images.
MOST_FOR_NEAR = 60_000
# Thumbnails of one class look alike.
LEAST_SIDE_FOR_NEAR_PX = 32
_SHOWN = 3
_ROWS_AT_A_TIME = 1_000

Row = dict[str, Any]


class Copies:
    """The exact copies in the parts of a data set: the same pixels, or the same bytes of indexed files."""

    def __init__(self, data: ImageSet) -> None:
        self._data = data
        self._part = parts_of(data)
        self.groups = [idx for idx in _equal(_digests(data)) if (self._part[idx] != "").sum() > 1]

    @property
    def rows(self) -> list[Row]:
        """A row for each image that has a copy: group, part, class, name."""
        return [
            {"group": number, "part": self._part[i], "class": self._class(i), "image": self._data.name_of(i)}
            for number, idx in enumerate(self.groups)
            for i in idx.tolist()
        ]

    def across_parts(self) -> str | None:
        """What is in two parts, in a few words; None if nothing is."""
        return self._say(lambda idx: set(self._part[idx]), "in two parts of the split")

    def under_two_labels(self) -> str | None:
        """What has two labels, in a few words; None if nothing has."""
        return self._say(lambda idx: set(self._data.labels[idx].tolist()), "under two labels")

    def summary(self) -> str | None:
        """How many images repeat an earlier one, by class; None without copies."""
        repeats = Counter(self._class(i) for idx in self.groups for i in idx[1:].tolist())
        if not repeats:
            return None
        by_class = ", ".join(f"{name} {n}" for name, n in sorted(repeats.items()))
        return f"{sum(repeats.values())} images repeat another one exactly ({by_class}): see copies.csv"

    def _say(self, kinds: Any, what: str) -> str | None:
        found = [idx for idx in self.groups if len(kinds(idx)) > 1]
        if not found:
            return None
        shown = "; ".join(
            " = ".join(
                f"{self._data.name_of(i)} ({self._class(i)}, {self._part[i]})" for i in idx[:3].tolist()
            )
            for idx in found[:_SHOWN]
        )
        return f"{len(found)} images {what}: {shown}{'; ...' if len(found) > _SHOWN else ''}"

    def _class(self, i: int) -> str:
        name: str = self._data.classes[int(self._data.labels[i])]
        return name


def parts_of(data: ImageSet) -> npt.NDArray[np.object_]:
    """(n,) the name of each image's part, empty for images in none."""
    part = np.full(len(data.images), "", dtype=object)
    for name, idx in data.split.items():
        part[idx] = name
    return part


def perceptual_hash(pixels: Pixels) -> int:
    """64 bits of the low frequencies (pHash) of an image (3, height, width); copies differ in few of them."""
    found = imagehash.phash(Image.fromarray(pixels.transpose(1, 2, 0)))
    return int.from_bytes(np.packbits(found.hash).tobytes(), "big")


def near_copies(data: ImageSet, hashes: npt.NDArray[np.uint64]) -> list[Row]:
    """Pairs of images that look alike and are no exact copies, in a part each, other than the same one.

    Args:
        data: the set.
        hashes: (n,) the images' perceptual hashes (64 bits).

    Returns:
        A row for each pair: images, classes, parts and the number of bits that differ; at most `NEAR_BITS`.
    """
    part, exact = parts_of(data), _digests(data)
    used = np.flatnonzero(part != "")
    rows = []
    for one, other, bits in _near_pairs(hashes[used]):
        i, j = int(used[one]), int(used[other])
        if exact[i] != exact[j]:
            row: Row = {"bits": bits}
            for number, at in enumerate((i, j), 1):
                name = data.classes[data.labels[at]]
                row |= {
                    f"image_{number}": data.name_of(at),
                    f"class_{number}": name,
                    f"part_{number}": part[at],
                }
            rows.append(row)
    return rows


def _near_pairs(hashes: npt.NDArray[np.uint64]) -> Iterator[tuple[int, int, int]]:
    for start in range(0, len(hashes), _ROWS_AT_A_TIME):
        block = hashes[start : start + _ROWS_AT_A_TIME]
        bits = np.bitwise_count(block[:, None] ^ hashes[None, start:])
        for one, other in np.argwhere(bits <= NEAR_BITS).tolist():
            if other > one:
                yield start + one, start + other, int(bits[one, other])


def near_summary(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """How many pairs look alike, and how many of them across parts or classes; None without any."""
    if not rows:
        return None
    across = sum(row["part_1"] != row["part_2"] for row in rows)
    labels = sum(row["class_1"] != row["class_2"] for row in rows)
    return (
        f"{len(rows)} pairs look alike (resized or recompressed?), {across} of them across parts, "
        f"{labels} across classes: see near_copies.csv"
    )


def _digests(data: ImageSet) -> list[bytes]:
    if isinstance(data.images, FileIndex):
        return [row.tobytes() for row in data.images.hashes]
    return [hashlib.sha256(image.tobytes()).digest() for image in data.images]


def _equal(digests: Sequence[bytes]) -> list[Indices]:
    """The indices of each digest that occurs more than once, in order of the first."""
    places: dict[bytes, list[int]] = {}
    for i, digest in enumerate(digests):
        places.setdefault(digest, []).append(i)
    return [np.array(found) for found in places.values() if len(found) > 1]
