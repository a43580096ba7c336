"""Unavoidable noise (thesis 5.2.2): the same noisy images for every model, whatever the batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter
from skimage.util import random_noise

from pipeline.params.perturbations import GaussianNoise, ImpulseNoise, LocalVarianceNoise, Noise, PoissonNoise

if TYPE_CHECKING:
    from pipeline.images.file_index import Pixels

# `random_noise` refuses a variance of zero, which black surroundings have.
_LEAST_VARIANCE = 1e-12

_Image = npt.NDArray[np.float64]


def add_noise(images: Pixels, noise: Noise, *, seed: int) -> npt.NDArray[np.float32]:
    """Noisy images (n, channels, height, width) in [0, 1], float32, clipped to the range.

    Image i draws from a generator of (seed, i) alone, so batches and order change nothing.

    All but Poisson noise is `skimage.util.random_noise`'s. Poisson noise is drawn at `peak` photons for
    white, as that function does for images of 256 levels; it would guess a coarser scale from an image that
    happens to have fewer, as digits have. The thesis states no level for it: the presets' 255 photons, a deviation
    of 11/255 at mid-grey, are ours, and twice its Gaussian noise where its Poisson drops are the smallest.

    Args:
        images: uint8.
        noise: kind and strength (0-255 scale where it has one).
        seed: of the noise.
    """
    noisy = np.empty(images.shape, dtype=np.float32)
    for idx, image in enumerate(images):
        noisy[idx] = _noisy(image / 255.0, noise, np.random.default_rng([seed, idx]))
    return noisy


def _noisy(image: _Image, noise: Noise, random: np.random.Generator) -> _Image:
    if isinstance(noise, PoissonNoise):
        return np.clip(random.poisson(image * noise.peak) / noise.peak, 0, 1)
    result: _Image
    if isinstance(noise, ImpulseNoise):
        result = random_noise(image, mode=noise.kind, rng=random, clip=True, amount=noise.amount)
    elif isinstance(noise, LocalVarianceNoise):
        around = uniform_filter(image, size=(1, 3, 3))
        variance = noise.strength**2 * around + _LEAST_VARIANCE
        result = random_noise(image, mode="localvar", rng=random, clip=True, local_vars=variance)
    else:
        deviation = noise.std / 255 if isinstance(noise, GaussianNoise) else noise.strength
        result = random_noise(image, mode=noise.kind, rng=random, clip=True, mean=0.0, var=deviation**2)
    return result
