"""Batches of image files, read by worker processes ahead of whoever wants them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.images.file_index import FileIndex


class FileReader:
    """Reads the files of a set, pass after pass, one pass at a time; its processes wait in between.

    Args:
        files: the set.
        workers: processes, started by the first pass; 0 reads in this one.
        pin_memory: whether batches come in pinned memory, from which a GPU copies while it computes.
    """

    def __init__(self, files: FileIndex, *, workers: int, pin_memory: bool) -> None:
        self._wanted: list[list[int]] = []
        self._loader = DataLoader(
            _Batches(files),
            sampler=self._wanted,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            # Of its own: a draw from the global one would give dropout other numbers than images in memory do.
            generator=torch.Generator(),
        )

    def __call__(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """For each batch of indices, its images uint8, not yet resized.

        Raises:
            InputError: if a file is not the one that was prepared.
        """
        self._wanted[:] = [batch.tolist() for batch in batches]
        for images in self._loader:
            if isinstance(images, InputError):
                try:
                    raise images
                finally:
                    # Else this frame and the error hold each other and the workers, which then take ten seconds to end.
                    del images
            yield images


class _Batches(Dataset[Tensor | InputError]):
    """Files behind the interface that a DataLoader asks for; an item is a batch, not an image.

    A file that cannot be read any more is an item too: raised in a worker, its error would arrive wrapped in
    that worker's traceback.
    """

    def __init__(self, files: FileIndex) -> None:
        self._files = files

    def __getitem__(self, idx: list[int]) -> Tensor | InputError:
        try:
            return torch.from_numpy(self._files[np.asarray(idx, dtype=np.int64)])
        except InputError as error:
            return error
