"""A data set's parts as batches on the training device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.images.augmentation import center_crop
from pipeline.images.file_index import FileIndex
from pipeline.images.file_reader import FileReader
from pipeline.images.image_set import SPLITS, ImageSet, SplitName, draw_per_class, load_image_set

# Images that are read at a time where all are wanted.
_AT_A_TIME = 1_000


@dataclass(frozen=True)
class Images:
    """A part of a data set: images, and labels (n,) int64 on the device where batches are wanted.

    `images` are a uint8 tensor (n, c, h, w) on that device, or files that are read when they are needed, by
    `workers` processes: new ones each time, or a `reader`'s. `resize_px` and `crop_px` are those of `ImageSet`.
    """

    images: Tensor | FileIndex
    labels: Tensor
    resize_px: int | None = None
    crop_px: int | None = None
    workers: int = 0
    reader: FileReader | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where batches come to lie."""
        return self.labels.device

    def uncropped(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """For each batch of indices, its images (len(batch), c, h, w) uint8, resized and not yet cropped.

        Raises:
            InputError: if a file is not the one that was prepared.
        """
        found: Iterator[Tensor]
        if isinstance(self.images, Tensor):
            found = (self.images[batch.to(self.device)] for batch in batches)
        else:
            found = (self.reader or self._reader(self.images, min(self.workers, len(batches))))(batches)
        for images in found:
            yield _resize(images.to(self.device, non_blocking=True), self.resize_px)

    def with_reader(self) -> Images:
        """The same, for many passes, one at a time: processes that read files are started once."""
        if isinstance(self.images, Tensor):
            return self
        return replace(self, reader=self._reader(self.images, self.workers))

    def _reader(self, files: FileIndex, workers: int) -> FileReader:
        return FileReader(files, workers=workers, pin_memory=self.device.type == "cuda")

    def in_batches(self, batch_size: int) -> Iterator[Tensor]:
        """All images in order as float32 in [0, 1], cropped to the centre, `batch_size` at a time."""
        batches = torch.split(torch.arange(len(self)), batch_size)
        for images in self.uncropped(batches):
            yield center_crop(images, self.crop_px).float() / 255

    def scaled(self) -> Tensor:
        """All images at once, as float32 in [0, 1], cropped to the centre."""
        return torch.cat(list(self.in_batches(_AT_A_TIME)))

    def take(self, idx: Tensor) -> Images:
        """The part's images and labels at some indices."""
        if isinstance(self.images, Tensor):
            images: Tensor | FileIndex = self.images[idx.to(self.device)]
        else:
            images = self.images.take(idx.tolist())
        return replace(self, images=images, labels=self.labels[idx.to(self.device)], reader=None)

    def first(self, n: int) -> Tensor:
        """The first `n` images as float32 in [0, 1], cropped to the centre."""
        return self.take(torch.arange(min(n, len(self)))).scaled()

    def draw_per_class(self, n: int | None, seed: Sequence[int]) -> Images:
        """`n` images of each class, drawn by seed, in the part's order; None for all."""
        if n is None:
            return self
        return self.take(torch.from_numpy(draw_per_class(self.labels.cpu().numpy(), n, seed)))


@dataclass(frozen=True)
class Parts:
    """The three parts of a split, and the set that they come from."""

    train: Images
    validation: Images
    test: Images
    image_set: ImageSet

    @property
    def perturbed(self) -> Images:
        """The test images that noise and attacks are tried on."""
        # No part of the split draws with this second number.
        seed = (self.image_set.perturbed_seed, len(SPLITS))
        return self.test.draw_per_class(self.image_set.perturbed_per_class, seed)


def load_parts(folder: Path, device: torch.device, *, workers: int = 0) -> Parts:
    """Read what the stage `prepare` wrote onto a device; files stay where they are, for `workers` to read.

    Raises:
        InputError: if the set is missing or damaged.
    """
    data = load_image_set(folder)

    def part(name: SplitName) -> Images:
        idx = data.split[name]
        images: Tensor | FileIndex
        if isinstance(data.images, FileIndex):
            images = data.images.take(idx)
        else:
            images = torch.from_numpy(data.images[idx]).to(device)
        labels = torch.from_numpy(data.labels[idx]).to(device)
        return Images(images, labels, data.resize_px, data.crop_px, workers)

    return Parts(part("train"), part("validation"), part("test"), data)


def _resize(images: Tensor, side_px: int | None) -> Tensor:
    """uint8 images as squares of `side_px`, bilinear with antialiasing, whatever their shape was."""
    if side_px is None or images.shape[2:] == (side_px, side_px):
        return images
    resized = interpolate(images.float(), (side_px, side_px), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
