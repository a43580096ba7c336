"""From a list of image files to a data set: every file is read once, whole, before anything trains on it."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.files import check_space
from pipeline.images.copies import (
    LEAST_SIDE_FOR_NEAR_PX,
    MOST_FOR_NEAR,
    near_copies,
    near_summary,
    perceptual_hash,
)
from pipeline.images.file_index import (
    SHA256_BYTES,
    UNREADABLE,
    FileIndex,
    Pixels,
    decode_image,
    decoder_warnings,
    path_array,
    read_problem,
)
from pipeline.images.image_set import ImageSet, Indices, Labels, SplitName
from pipeline.progress import tell
from pipeline.readers.limits import limit_parts

if TYPE_CHECKING:
    from pipeline.params.data import FolderData

# Files that wait for each other: as many as keep all threads busy, few enough to lie in memory at once.
_AT_A_TIME = 256


@dataclass(frozen=True)
class Listing:
    """Image files that nobody has opened yet.

    `paths`: relative to `root`; `labels`: (n,) int64; `split`: the indices of each part. Files in no part are
    not read. `n_passed_over`: other files in these folders.
    """

    root: Path
    paths: Sequence[str]
    labels: Labels
    classes: tuple[str, ...]
    split: dict[SplitName, Indices]
    n_passed_over: int = 0


@dataclass(frozen=True)
class _File:
    size_bytes: int
    sha256: bytes
    pixels: Pixels
    look: int  # perceptual hash, 64 bits


def scan_files(listing: Listing, params: FolderData, *, out: Path = Path()) -> ImageSet:
    """Read all files and keep what `params.store` says: their pixels, or an index of them.

    The split is that of the list: a file that cannot be read is missing from its part and moves no other.

    Raises:
        InputError: if more than `max_unreadable_share` of the files cannot be read, or none of them can, or
            the pixels fit neither in memory nor on the disk of `out`, where they will be written.
    """
    if params.images_per_class:
        kept, split = limit_parts(listing.labels, listing.split, params.images_per_class)
        kept_paths = [listing.paths[i] for i in kept]
        listing = replace(listing, paths=kept_paths, labels=listing.labels[kept], split=split)
    n = len(listing.paths)
    if n == 0:
        raise InputError(f"{listing.root}: expected images, got none")
    pixels = _room(n, params, out) if params.store == "pixels" else None
    sizes, hashes = np.empty(n, dtype=np.int64), np.empty((n, SHA256_BYTES), dtype=np.uint8)
    looks, read = np.empty(n, dtype=np.uint64), np.zeros(n, dtype=bool)
    n_read, skipped = 0, list[tuple[str, str]]()
    for at, found in enumerate(_read_all(listing, params.resize_px)):
        if isinstance(found, str):
            shown = listing.paths[at].encode("utf-8", "backslashreplace").decode()
            skipped.append((shown, found))
            continue
        if pixels is not None:
            pixels[n_read] = found.pixels
        sizes[n_read], hashes[n_read] = found.size_bytes, np.frombuffer(found.sha256, dtype=np.uint8)
        looks[n_read], read[at] = found.look, True
        n_read += 1
    _refuse_too_many(skipped, n, listing.root, params.max_unreadable_share)
    images: Pixels | FileIndex
    if pixels is not None:
        images = pixels[:n_read]
    else:
        paths = path_array([listing.paths[i] for i in np.flatnonzero(read).tolist()])
        images = FileIndex(listing.root, paths, sizes[:n_read], hashes[:n_read], params.resize_px)
    moved = np.cumsum(read) - 1
    data = ImageSet(
        images=images,
        labels=listing.labels[read],
        classes=listing.classes,
        split={name: moved[idx[read[idx]]] for name, idx in listing.split.items()},
        skipped=tuple(skipped),
        names=None
        if pixels is None
        else path_array([listing.paths[i] for i in np.flatnonzero(read).tolist()]),
    )
    return _remarked(data, looks[:n_read], listing.n_passed_over)


def _remarked(data: ImageSet, looks: npt.NDArray[np.uint64], n_passed_over: int) -> ImageSet:
    """With what is odd about the files: those that cannot be read, those passed over, near copies."""
    near, remarks = list[dict[str, Any]](), list[str]()
    if data.skipped:
        remarks.append(f"{len(data.skipped)} files cannot be read, see unreadable.csv")
    if n_passed_over:
        remarks.append(f"{n_passed_over} files that are no images, or are hidden, were passed over")
    if len(looks) > MOST_FOR_NEAR:
        remarks.append(f"near copies were not looked for among more than {MOST_FOR_NEAR:,} images")
    elif data.images.shape[-1] >= LEAST_SIDE_FOR_NEAR_PX:
        near = near_copies(data, looks)
        remarks += filter(None, [near_summary(near)])
    return replace(data, remarks=tuple(remarks), tables={"near_copies": near})


def _room(n: int, params: FolderData, out: Path) -> Pixels:
    """Before hours of decoding: room in memory, and on the disk."""
    shape = (n, 3, params.resize_px, params.resize_px)
    try:
        pixels = np.empty(shape, dtype=np.uint8)
    except MemoryError:
        gigabytes = float(np.prod(shape, dtype=np.float64)) / 1e9
        raise InputError(
            f"data.store: expected pixels that fit in memory, got {gigabytes:,.0f} GB; take index"
        ) from None
    check_space(out, pixels.nbytes)
    return pixels


def _read_all(listing: Listing, size_px: int) -> Iterator[_File | str]:
    """What became of each file, in order: its contents, or why it cannot be read."""

    def read(path: str) -> _File | str:
        return _read_file(listing.root, path, size_px)

    with decoder_warnings(), ThreadPoolExecutor() as threads:
        for start in range(0, len(listing.paths), _AT_A_TIME):
            tell(f"image {start:,} of {len(listing.paths):,}")
            yield from threads.map(read, listing.paths[start : start + _AT_A_TIME])


def _read_file(root: Path, path: str, size_px: int) -> _File | str:
    try:
        path.encode()
    except UnicodeEncodeError:
        return "a name that is not UTF-8"
    file = root / path
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # a pipe would be waited for
            return "no regular file"
        content = file.read_bytes()
        if not content:
            return "an empty file"
        pixels = decode_image(BytesIO(content), size_px)
        look = perceptual_hash(pixels)
    except UNREADABLE as error:
        return read_problem(error)
    return _File(len(content), hashlib.sha256(content).digest(), pixels, look)


def _refuse_too_many(skipped: Sequence[tuple[str, str]], n: int, root: Path, allowed_share: float) -> None:
    if skipped and (len(skipped) > allowed_share * n or len(skipped) == n):
        path, reason = skipped[0]
        raise InputError(
            f"{root / path}: expected an image, got {reason}; {len(skipped)} of {n} files cannot be read, "
            f"data.max_unreadable_share is {allowed_share:g}"
        )
