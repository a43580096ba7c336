"""At most so many images of each class in each part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.images.image_set import SPLITS, Indices, Labels, SplitName, draw_per_class

if TYPE_CHECKING:
    from pipeline.params.data import ImagesPerClass


def limit_parts(
    labels: Labels, split: dict[SplitName, Indices], limits: ImagesPerClass
) -> tuple[Indices, dict[SplitName, Indices]]:
    """Images of each class in each part, drawn by the limits' seed, as many as `limits` allows.

    Args:
        labels: (n,), of all images.
        split: indices of each part.
        limits: a part without one is left as it is.

    Returns:
        Indices (n_kept,) of the images that are in a part still, rising, and the split in terms of these.
    """
    limited = {
        name: split[name][draw_per_class(labels[split[name]], getattr(limits, name), (limits.seed, part))]
        for part, name in enumerate(SPLITS)
    }
    kept = np.unique(np.concatenate([limited[name] for name in SPLITS]))
    return kept, {name: np.searchsorted(kept, idx) for name, idx in limited.items()}
