"""Image sets as they lie on disk and in memory: uint8 pixels or an index of files, labels, one split."""

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from pipeline.errors import InputError
from pipeline.files import write_csv, write_json
from pipeline.images.file_index import FileIndex, Pixels
from pipeline.tensors import save_tensors

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]

# Mean and deviation of files are taken from so many, evenly spaced: reading a million to know a mean to four
# digits would take an hour.
_FILES_FOR_NORMALIZATION = 10_000
_CHUNK = 1_000
_LEAST_DEVIATION = 1e-6
_INDEX_COLUMNS = ("path", "bytes", "sha256")


@dataclass(frozen=True)
class ImageSet:
    """Images (n, channels, height, width) uint8, labels (n,) int64, class names, and the split's indices.

    `resize_px` and `crop_px` say what becomes of an image before a net sees it: resized to a square, then
    cropped to one; None leaves it. `perturbed_per_class`: how many test images of each class noise and attacks
    are tried on; None for all. `known_normalization`: once it is known, images need not be read for it again.
    `skipped`: (path, reason) of each file that could not be read and is therefore not in the set. `names`: of
    image files whose pixels are kept. `remarks`: sentences on what is odd about the images, for the report, and
    `tables`, by name, the rows behind them. A set that was read back from disk has none of these four.
    """

    images: Pixels | FileIndex
    labels: Labels
    classes: tuple[str, ...]
    split: dict[SplitName, Indices]
    resize_px: int | None = None
    crop_px: int | None = None
    perturbed_per_class: int | None = None
    perturbed_seed: int = 0
    known_normalization: tuple[list[float], list[float]] | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    names: npt.NDArray[Any] | None = None
    remarks: tuple[str, ...] = ()
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what a net sees."""
        channels, height, width = self.images.shape[1:]
        side = self.crop_px or self.resize_px
        return (channels, side, side) if side else (channels, height, width)

    def name_of(self, i: int) -> str:
        """Of an image: its file, or its place in its part, counted from 0."""
        names = self.images.paths if isinstance(self.images, FileIndex) else self.names
        if names is not None:
            return str(names[i])
        for part, idx in self.split.items():
            if len(place := np.flatnonzero(idx == i)):
                return f"{part} image {place[0]}"
        return f"image {i}"

    def part(self, name: SplitName) -> tuple[Pixels, Labels]:
        """The images, neither resized nor cropped, and labels of a part of the split, in its order."""
        idx = self.split[name]
        return self.images[idx], self.labels[idx]

    def normalization(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel over the training images, for pixels in [0, 1].

        Of files, 10,000 are read at most, evenly spaced.
        """
        return self._measured if self.known_normalization is None else self.known_normalization

    @cached_property
    def _measured(self) -> tuple[list[float], list[float]]:
        # Kept, as checking and saving both ask, and reading ten thousand files takes a minute.
        idx = self.split["train"]
        if isinstance(self.images, FileIndex) and len(idx) > _FILES_FOR_NORMALIZATION:
            idx = idx[np.linspace(0, len(idx) - 1, _FILES_FOR_NORMALIZATION).astype(np.int64)]
        levels = np.zeros((self.images.shape[1], 256), dtype=np.int64)
        for start in range(0, len(idx), _CHUNK):
            chunk = self.images[idx[start : start + _CHUNK]]
            for channel in range(chunk.shape[1]):
                levels[channel] += np.bincount(chunk[:, channel].ravel(), minlength=256)
        values, shares = np.arange(256) / 255, levels / levels.sum(1, keepdims=True)
        mean = shares @ values
        std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(1))
        return mean.tolist(), std.tolist()

    def checksum(self) -> str:
        """SHA-256 over pixels (or the files' names and hashes), labels and split."""
        digest = hashlib.sha256()
        if isinstance(self.images, FileIndex):
            digest.update("\0".join(self.images.paths.tolist()).encode())
            digest.update(self.images.hashes.tobytes())
        else:
            digest.update(np.ascontiguousarray(self.images).tobytes())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        for name in SPLITS:
            digest.update(np.ascontiguousarray(self.split[name]).tobytes())
        return digest.hexdigest()


def draw_per_class(labels: Labels, n: int | None, seed: Sequence[int]) -> Indices:
    """Indices, rising, of `n` of each class, drawn by seed, or of all of a smaller one; None for all.

    Not the first ones: files and published sets lie in an order, by writer or by difficulty (MNIST's test part has the
    cleaner digits first).
    """
    if n is None or not len(labels):
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    classes = (np.flatnonzero(labels == label) for label in np.unique(labels))
    return np.sort(np.concatenate([random.permutation(idx)[:n] for idx in classes]))


def check_image_set(data: ImageSet, where: str) -> None:
    """Refuse sets that would only fail hours later.

    Raises:
        InputError: naming `where` for wrong shapes or types, labels out of range, a class without images in a
            part of the split, an index in two parts, training images that are all alike, or a crop larger
            than the images.
    """
    for problem in _problems(data):
        raise InputError(f"{where}: {problem}")


def _problems(data: ImageSet) -> Iterator[str]:
    n, n_classes = len(data.images), len(data.classes)
    if isinstance(data.images, np.ndarray) and (data.images.ndim != 4 or data.images.dtype != np.uint8):
        got = f"{data.images.dtype} {data.images.shape}"
        yield f"expected uint8 images (n, channels, height, width), got {got}"
    if data.labels.shape != (n,):
        yield f"expected {n} labels, one an image, got shape {data.labels.shape}"
    if n == 0:
        yield "expected images, got none"
    if n_classes < 2:
        yield f"expected at least 2 classes, got {n_classes}"
    if len(set(data.classes)) != n_classes:
        yield f"expected different class names, got {', '.join(map(repr, data.classes))}"
    for name in data.classes:
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # half of a letter, which no file can hold
            yield f"expected class names that are text, got {name!a}"
    if data.labels.min() < 0 or data.labels.max() >= n_classes:
        bad = data.labels[(data.labels < 0) | (data.labels >= n_classes)][0]
        yield f"expected labels from 0 to {n_classes - 1}, got {bad}"
    used = np.concatenate([data.split[name] for name in SPLITS])
    outside = used[(used < 0) | (used >= n)]
    if len(outside):
        yield f"expected indices from 0 to {n - 1} in the split, got {outside[0]}"
    if len(np.unique(used)) != len(used):
        yield "expected every image in one part of the split at most, got repeats"
    for name in SPLITS:
        missing = set(range(n_classes)) - set(data.labels[data.split[name]].tolist())
        if missing:
            yield f"expected images of every class in the {name} part, got none of {data.classes[min(missing)]!r}"
    height, width = (data.resize_px,) * 2 if data.resize_px else data.images.shape[2:]
    if data.crop_px is not None and data.crop_px > min(height, width):
        yield f"data.crop_px: expected at most the images' {height}x{width}, got {data.crop_px}"
    if max(data.normalization()[1]) < _LEAST_DEVIATION:
        yield "expected training images with some contrast, got the same value in every pixel"


def save_image_set(data: ImageSet, folder: Path) -> None:
    """Write `images.safetensors` (images, labels, split) and `images.json` (classes, counts, checksum).

    The images of an index are not in it; their paths, sizes and hashes are in `files.csv`. `unreadable.csv` is
    there if files were skipped, and each table that is not empty.
    """
    arrays: dict[str, npt.NDArray[Any]] = {"labels": data.labels}
    arrays |= {f"split.{name}": data.split[name] for name in SPLITS}
    files = data.images if isinstance(data.images, FileIndex) else None
    if files is None:
        arrays["images"] = cast(Pixels, data.images)
    else:
        _write_index(folder / "files.csv", files)
    if data.skipped:
        skipped = [{"path": path, "reason": reason} for path, reason in data.skipped]
        write_csv(folder / "unreadable.csv", skipped)
    for name, rows in data.tables.items():
        if rows:
            write_csv(folder / f"{name}.csv", rows)
    save_tensors(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "images.safetensors"
    )
    mean, std = data.normalization()
    write_json(
        folder / "images.json",
        {
            "classes": list(data.classes),
            "counts": {name: len(data.split[name]) for name in SPLITS},
            "train_counts": np.bincount(
                data.labels[data.split["train"]], minlength=len(data.classes)
            ).tolist(),
            "remarks": list(data.remarks),
            "image_shape": list(data.image_shape),
            "resize_px": data.resize_px,
            "crop_px": data.crop_px,
            "perturbed_per_class": data.perturbed_per_class,
            "perturbed_seed": data.perturbed_seed,
            "files": files and {"root": files.root.as_posix(), "resize_px": files.resize_px},
            "normalization": {"mean": mean, "std": std},
            "sha256": data.checksum(),
        },
    )


def load_image_set(folder: Path) -> ImageSet:
    """Read what `save_image_set` wrote; the files of an index are not touched.

    Raises:
        InputError: if a file is missing or damaged, or the checksum does not match.
    """
    try:
        arrays = load_file(folder / "images.safetensors")
        info = json.loads((folder / "images.json").read_text(encoding="utf-8"))
        data = ImageSet(
            images=_read_index(folder, info["files"]) if info["files"] else arrays["images"],
            labels=arrays["labels"],
            classes=tuple(info["classes"]),
            split={name: arrays[f"split.{name}"] for name in SPLITS},
            resize_px=info["resize_px"],
            crop_px=info["crop_px"],
            perturbed_per_class=info["perturbed_per_class"],
            perturbed_seed=info["perturbed_seed"],
            known_normalization=(info["normalization"]["mean"], info["normalization"]["std"]),
        )
        expected = str(info["sha256"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: expected a prepared image set ({type(error).__name__}: {error})"
        ) from None
    if data.checksum() != expected:
        raise InputError(f"{folder}: expected checksum {expected[:12]}, got {data.checksum()[:12]}")
    return data


def _write_index(file: Path, files: FileIndex) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(_INDEX_COLUMNS)
        writer.writerows(zip(files.paths.tolist(), files.sizes.tolist(), files.hex_hashes(), strict=True))


def _read_index(folder: Path, about: dict[str, Any]) -> FileIndex:
    with (folder / "files.csv").open(newline="", encoding="utf-8") as opened:
        reader = csv.reader(opened)
        if tuple(next(reader, ())) != _INDEX_COLUMNS:
            raise ValueError(f"files.csv: expected the columns {', '.join(_INDEX_COLUMNS)}")
        paths, sizes, hashes = list[str](), list[int](), list[str]()
        # A list for each column: a million tuples keep the garbage collector busy for as long as all the rest.
        for path, size, of_file in reader:
            paths.append(path)
            sizes.append(int(size))
            hashes.append(of_file)
    return FileIndex.of(Path(about["root"]), paths, sizes, hashes, resize_px=int(about["resize_px"]))
