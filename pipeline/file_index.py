"""Image files that stay where they are: an array-like index, which decodes what it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from pipeline.errors import InputError

Pixels = npt.NDArray[np.uint8]

# What Pillow raises for files that are no images, cut off, or larger than it is willing to unpack.
UNREADABLE = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)


def decode_image(path: Path, size_px: int) -> Pixels:
    """One image file as RGB (3, size_px, size_px) uint8, its whole area resized to the square (thesis 3.3).

    Raises:
        OSError: or another of `UNREADABLE`, if the file is no whole image.
    """
    with Image.open(path) as file:
        image = file.convert("RGB").resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


@dataclass(frozen=True)
class FileIndex:
    """Image files below a folder, indexed like an array (n, 3, resize_px, resize_px) of uint8.

    `paths` are relative to `root`; `sizes` are in bytes; `hashes` are SHA-256 of the files, in hexadecimal.
    """

    root: Path
    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    hashes: tuple[str, ...]
    resize_px: int

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

    def take(self, idx: Sequence[int] | npt.NDArray[np.int64]) -> "FileIndex":
        """The index of some of the files."""
        return replace(
            self,
            paths=tuple(self.paths[i] for i in idx),
            sizes=tuple(self.sizes[i] for i in idx),
            hashes=tuple(self.hashes[i] for i in idx),
        )

    def _decode(self, at: int) -> Pixels:
        path = self.root / self.paths[at]
        advice = "after a change of the images run `dvc repro --force prepare`"
        try:
            size = path.stat().st_size
            if size != self.sizes[at]:
                raise InputError(f"{path}: expected {self.sizes[at]} bytes, got {size}; {advice}")
            return decode_image(path, self.resize_px)
        except UNREADABLE as error:
            raise InputError(f"{path}: expected the image that was prepared ({error}); {advice}") from None
