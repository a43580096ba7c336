"""Image files that stay where they are: an array-like index, which decodes what it is asked for."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import InputError

Pixels = npt.NDArray[np.uint8]

# What Pillow raises for files that are no images, cut off, or larger than it is willing to unpack: its decoders
# let through what the parsing of nonsense leads to. The warning is an error where warnings are.
UNREADABLE = (
    OSError,  # and with it UnidentifiedImageError
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

SHA256_BYTES = 32


class UnsupportedImageError(ValueError):
    """A whole image whose values nobody can say the meaning of."""


def decode_image(file: Path | IO[bytes], size_px: int) -> Pixels:
    """One image file as RGB (3, size_px, size_px) uint8, its whole area resized to the square (thesis 3.3).

    It is turned upright, as the camera noted; of an animation the first frame is taken. Grey becomes three equal
    channels, 16 bits become 8, floats from 0 to 1 (or to 255) become 0 to 255, and transparency is dropped.

    Raises:
        OSError: or another of `UNREADABLE`, if the file is no whole image.
    """
    with Image.open(file) as image:
        rgb = _to_rgb(_upright(image)).resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(rgb, dtype=np.uint8).transpose(2, 0, 1))


@contextmanager
def decoder_warnings() -> Iterator[None]:
    """Inside, an image that Pillow suspects to be a bomb is unreadable, and odd metadata goes without comment.

    A line for each of a million files would bury everything else. Warnings are of the whole process: not for
    threads that come and go.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except UNREADABLE:
        image.load()  # a damaged note of the camera does not make a whole image unreadable
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        values = np.asarray(image)
        least, most = float(values.min()), float(values.max())
        if not 0 <= least <= most <= 255:  # nor is NaN
            raise UnsupportedImageError(
                f"floating-point values from {least:g} to {most:g}, not 0 to 1 or 0 to 255"
            )
        levels = np.rint(values * 255 if most <= 1 else values)
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode.startswith("I"):
        # Pillow clips at 255 what has 65,536 levels.
        levels = np.clip(np.asarray(image, dtype=np.int64) // 256, 0, 255)
        return Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # Pillow warns of the direct way
    return image.convert("RGB")


@dataclass(frozen=True)
class FileIndex:
    """Image files below a folder, indexed like an array (n, 3, resize_px, resize_px) of uint8.

    Arrays, as an ImageNet of Python strings takes ten times as long to hand on and is copied by every worker.

    `paths`: (n,) strings, relative to `root`; `sizes`: (n,) int64, in bytes; `hashes`: (n, 32) uint8, the
    files' SHA-256.
    """

    root: Path
    paths: npt.NDArray[Any]
    sizes: npt.NDArray[np.int64]
    hashes: Pixels
    resize_px: int

    @classmethod
    def of(
        cls, root: Path, paths: Sequence[str], sizes: Sequence[int], hashes: Sequence[str], *, resize_px: int
    ) -> FileIndex:
        """An index of lists; hashes are in hexadecimal.

        Raises:
            ValueError: if the lists differ in length or a hash is none.
        """
        digests = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8).reshape(-1, SHA256_BYTES)
        if not len(paths) == len(sizes) == len(digests):
            raise ValueError(f"{len(paths)} paths, {len(sizes)} sizes, {len(digests)} hashes")
        return cls(root, path_array(paths), np.array(sizes, dtype=np.int64), digests, resize_px)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, channels, height, width)."""
        return len(self), 3, self.resize_px, self.resize_px

    def __getitem__(self, idx: npt.NDArray[np.int64]) -> Pixels:
        """The images (len(idx), 3, resize_px, resize_px) at some indices, decoded now.

        Raises:
            InputError: if a file is gone, is not the one that was indexed, or cannot be read.
        """
        images = np.empty((len(idx), *self.shape[1:]), dtype=np.uint8)
        for place, at in enumerate(idx):
            images[place] = self._decode(int(at))
        return images

    def take(self, idx: Sequence[int] | npt.NDArray[np.int64]) -> FileIndex:
        """The index of some of the files."""
        places = np.asarray(idx, dtype=np.int64)
        return replace(self, paths=self.paths[places], sizes=self.sizes[places], hashes=self.hashes[places])

    def hex_hashes(self) -> list[str]:
        """The files' SHA-256 in hexadecimal."""
        digits = self.hashes.tobytes().hex()
        step = 2 * SHA256_BYTES
        return [digits[start : start + step] for start in range(0, len(digits), step)]

    def _decode(self, at: int) -> Pixels:
        path = self.root / str(self.paths[at])
        advice = "after a change of the images run `dvc repro --force prepare`"
        try:
            size = path.stat().st_size
            if size != self.sizes[at]:
                raise InputError(f"{path}: expected {self.sizes[at]} bytes, got {size}; {advice}")
            return decode_image(path, self.resize_px)
        except UNREADABLE as error:
            reason = read_problem(error)
            raise InputError(
                f"{path}: expected the image that was prepared, got {reason}; {advice}"
            ) from None


def path_array(paths: Sequence[str]) -> npt.NDArray[Any]:
    """Strings of any length as an array (n,)."""
    return np.array(paths, dtype=np.dtypes.StringDType())


def read_problem(error: BaseException) -> str:
    """Why a file cannot be read, in a few words on one line and without its path."""
    match error:
        case FileNotFoundError():
            return "no such file"
        case PermissionError():
            return "no permission to read it"
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return f"more than {Image.MAX_IMAGE_PIXELS} pixels"
        case UnsupportedImageError():
            return str(error)
        case UnidentifiedImageError():
            return "no image"
        case OSError(strerror=str(reason)):
            return reason
    words = " ".join(str(error).split())
    return f"a damaged image ({words or type(error).__name__})"
