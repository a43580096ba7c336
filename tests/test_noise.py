"""Noise: its strength in numbers, its bits from the seed and the image's place alone."""

from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from skimage.util import random_noise

from pipeline.images.file_index import Pixels
from pipeline.params.perturbations import (
    GaussianNoise,
    ImpulseNoise,
    LocalVarianceNoise,
    Noise,
    PoissonNoise,
    SpeckleNoise,
)
from pipeline.robustness.noise import add_noise

GAUSSIAN = GaussianNoise(kind="gaussian", std=5.0)
SPECKLE = SpeckleNoise(kind="speckle", strength=0.05)
POISSON = PoissonNoise(kind="poisson", peak=255.0)
SALT = ImpulseNoise(kind="salt", amount=0.1)
PEPPER = ImpulseNoise(kind="pepper", amount=0.1)
LOCAL_VARIANCE = LocalVarianceNoise(kind="local_variance", strength=0.1)
EVERY_KIND = pytest.mark.parametrize(
    "noise", [GAUSSIAN, SPECKLE, POISSON, SALT, PEPPER, LOCAL_VARIANCE], ids=lambda n: str(n.kind)
)


def grey(level: int, *, n: int = 40) -> Pixels:
    return np.full((n, 1, 32, 32), level, dtype=np.uint8)


def textured(n: int) -> Pixels:
    return np.random.default_rng(5).integers(0, 256, size=(n, 3, 8, 8), dtype=np.uint8)


def noise_on(images: Pixels, noise: Noise, *, seed: int = 0) -> npt.NDArray[np.float32]:
    return add_noise(images, noise, seed=seed)


def assert_mean_and_std(values: np.ndarray, mean: float, std: float) -> None:
    # Five standard errors: of the mean std / sqrt(n), of the deviation about std / sqrt(2 n).
    n = values.size
    assert abs(values.mean() - mean) < 5 * std / np.sqrt(n)
    assert abs(values.std() - std) < 5 * std / np.sqrt(2 * n)


@pytest.mark.parametrize("std", [5.0, 12.0])
def test_gaussian_noise_has_its_deviation_on_the_0_to_255_scale(std: float) -> None:
    noisy = noise_on(grey(128), GaussianNoise(kind="gaussian", std=std)) * 255.0
    assert_mean_and_std(noisy.astype(np.float64), 128, std)


@pytest.mark.parametrize(("noise", "deviation"), [(GAUSSIAN, 5 / 255), (SPECKLE, 0.05)])
def test_gaussian_and_speckle_noise_are_scikit_images_from_a_generator_an_image(
    noise: Noise, deviation: float
) -> None:
    images = textured(3)
    noisy = noise_on(images, noise)
    for idx, image in enumerate(images):
        random = np.random.default_rng([0, idx])
        expected = random_noise(image / 255, mode=noise.kind, rng=random, var=deviation**2)
        assert_allclose(noisy[idx], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("level", [64, 128])
def test_speckle_noise_is_proportional_to_the_image(level: int) -> None:
    noisy = noise_on(grey(level), SpeckleNoise(kind="speckle", strength=0.05)) * 255.0
    assert_mean_and_std(noisy.astype(np.float64), level, 0.05 * level)


def test_speckle_noise_leaves_black_black() -> None:
    assert not noise_on(grey(0), SPECKLE).any()


@pytest.mark.parametrize("level", [40, 128])
def test_poisson_variance_equals_the_mean_on_the_0_to_255_scale(level: int) -> None:
    noisy = noise_on(grey(level), POISSON).astype(np.float64) * 255
    assert_mean_and_std(noisy, level, np.sqrt(level))
    assert np.abs(noisy - noisy.round()).max() < 1e-4


def test_poisson_noise_does_not_get_coarser_for_images_with_few_grey_levels() -> None:
    two_levels = grey(100)
    two_levels[:, :, ::2] = 140
    noisy = noise_on(two_levels, POISSON).astype(np.float64) * 255
    assert_mean_and_std(noisy[:, :, 1::2], 100, 10)


@pytest.mark.parametrize("peak", [64.0, 500.0])
def test_poisson_variance_is_the_mean_times_255_over_the_peak(peak: float) -> None:
    noisy = noise_on(grey(128), PoissonNoise(kind="poisson", peak=peak)).astype(np.float64) * 255
    assert_mean_and_std(noisy, 128, np.sqrt(128 * 255 / peak))


@pytest.mark.parametrize(("kind", "value"), [("salt", 1.0), ("pepper", 0.0)])
@pytest.mark.parametrize("amount", [0.03, 0.25])
def test_impulse_noise_sets_its_share_of_the_pixels_and_no_other(
    kind: Literal["salt", "pepper"], value: float, amount: float
) -> None:
    images = grey(128)
    noisy = noise_on(images, ImpulseNoise(kind=kind, amount=amount))
    is_set = noisy == value
    share, deviation = is_set.mean(), np.sqrt(amount * (1 - amount) / is_set.size)
    assert abs(share - amount) < 5 * deviation
    assert_array_equal(noisy[~is_set], np.float32(128 / 255))


@pytest.mark.parametrize(("kind", "value"), [("salt", 1.0), ("pepper", 0.0)])
def test_impulse_noise_on_texture_changes_only_the_pixels_that_it_sets(
    kind: Literal["salt", "pepper"], value: float
) -> None:
    images = textured(20)
    noisy = noise_on(images, ImpulseNoise(kind=kind, amount=0.2))
    changed = noisy != (images / 255).astype(np.float32)
    assert changed.any()
    assert_array_equal(noisy[changed], np.float32(value))


@pytest.mark.parametrize(("level", "strength"), [(40, 0.05), (128, 0.05), (128, 0.15)])
def test_local_variance_on_a_flat_patch_is_strength_squared_times_the_level(
    level: int, strength: float
) -> None:
    noise = LocalVarianceNoise(kind="local_variance", strength=strength)
    noisy = noise_on(grey(level), noise).astype(np.float64)
    assert_mean_and_std(noisy, level / 255, strength * np.sqrt(level / 255))


def test_local_variance_follows_each_patch_and_channel_of_its_own() -> None:
    images = np.full((60, 2, 16, 16), 60, dtype=np.uint8)
    images[:, 0, :, 8:] = 120
    images[:, 1] = 180
    noise = LocalVarianceNoise(kind="local_variance", strength=0.1)
    noisy = noise_on(images, noise).astype(np.float64)
    # A pixel beside an edge has neighbours on its other side: only the inside of a patch is flat.
    for patch, level in ((noisy[:, 0, :, :7], 60), (noisy[:, 0, :, 9:], 120), (noisy[:, 1], 180)):
        assert_mean_and_std(patch, level / 255, 0.1 * np.sqrt(level / 255))
    # Left of the edge one third of the neighbourhood is the brighter patch.
    beside = (2 * 60 + 120) / 3
    assert_mean_and_std(noisy[:, 0, :, 7], 60 / 255, 0.1 * np.sqrt(beside / 255))


def test_local_variance_leaves_black_surroundings_black() -> None:
    images = grey(0, n=5)
    images[:, :, 16, 16] = 255
    noisy = noise_on(images, LOCAL_VARIANCE)
    noisy[:, :, 15:18, 15:18] = 0
    # The least variance, 1e-12, is a deviation of 0.00026 grey levels: within eight of them.
    assert float(noisy.max()) < 2e-3 / 255
    assert float(noise_on(grey(0), LOCAL_VARIANCE).max()) < 2e-3 / 255


@EVERY_KIND
def test_a_seed_gives_the_same_bits_and_another_seed_others(noise: Noise) -> None:
    images = textured(4)
    assert_array_equal(noise_on(images, noise), noise_on(images.copy(), noise))
    assert (noise_on(images, noise) != noise_on(images, noise, seed=1)).any()


@EVERY_KIND
def test_an_images_noise_depends_on_no_other_image(noise: Noise) -> None:
    images = textured(6)
    everything = noise_on(images, noise)
    changed = images.copy()
    changed[[0, 1, 2, 4, 5]] = 255 - changed[[4, 5, 0, 1, 2]]
    assert_array_equal(noise_on(changed, noise)[3], everything[3])
    assert_array_equal(noise_on(images[:4], noise), everything[:4])


@EVERY_KIND
def test_equal_images_get_unequal_noise(noise: Noise) -> None:
    noisy = noise_on(grey(128, n=3), noise)
    assert (noisy[0] != noisy[1]).any()
    assert (noisy[1] != noisy[2]).any()


@EVERY_KIND
def test_global_generators_neither_matter_nor_move(noise: Noise) -> None:
    images = textured(2)
    np.random.seed(0)
    first = noise_on(images, noise)
    state = np.random.get_state()[1].copy()
    np.random.seed(1)
    assert_array_equal(first, noise_on(images, noise))
    np.random.seed(0)
    assert_array_equal(state, np.random.get_state()[1])


@pytest.mark.parametrize(
    "noise",
    [
        GaussianNoise(kind="gaussian", std=200.0),
        SpeckleNoise(kind="speckle", strength=2.0),
        PoissonNoise(kind="poisson", peak=4.0),
        LocalVarianceNoise(kind="local_variance", strength=3.0),
    ],
    ids=lambda n: str(n.kind),
)
def test_noisy_images_are_float32_clipped_to_the_range(noise: Noise) -> None:
    noisy = noise_on(textured(20), noise)
    assert noisy.dtype == np.float32
    assert noisy.shape == (20, 3, 8, 8)
    assert (float(noisy.min()), float(noisy.max())) == (0.0, 1.0)


@EVERY_KIND
@pytest.mark.parametrize("level", [0, 1, 254, 255])
def test_black_and_white_images_give_finite_pixels_within_the_range(noise: Noise, level: int) -> None:
    noisy = noise_on(grey(level, n=2), noise)
    assert bool(np.isfinite(noisy).all())
    assert 0 <= float(noisy.min()) <= float(noisy.max()) <= 1


@EVERY_KIND
def test_an_images_noise_depends_on_its_place_and_not_on_the_order_of_the_others(noise: Noise) -> None:
    images = textured(6)
    everything = noise_on(images, noise)
    swapped = images[[4, 1, 5, 3, 0, 2]]
    found = noise_on(swapped, noise)
    assert_array_equal(found[[1, 3]], everything[[1, 3]])
    assert (found[0] != everything[4]).any()


@EVERY_KIND
def test_no_images_give_no_images(noise: Noise) -> None:
    assert noise_on(textured(0), noise).shape == (0, 3, 8, 8)


@EVERY_KIND
def test_the_given_images_are_left_as_they_were(noise: Noise) -> None:
    images = textured(3)
    before = images.copy()
    noise_on(images, noise)
    assert_array_equal(images, before)
