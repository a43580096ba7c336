import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from skimage.util import random_noise

from pipeline.data import Pixels
from pipeline.noise import AnyNoise, add_noise
from pipeline.params import GaussianNoise, PoissonNoise, SpeckleNoise

GAUSSIAN = GaussianNoise(kind="gaussian", std=5.0, seed=0)
SPECKLE = SpeckleNoise(kind="speckle", strength=0.05, seed=0)
POISSON = PoissonNoise(kind="poisson", peak=255.0, seed=0)
EVERY_KIND = pytest.mark.parametrize("noise", [GAUSSIAN, SPECKLE, POISSON], ids=lambda n: str(n.kind))


def grey(level: int, *, n: int = 40) -> Pixels:
    return np.full((n, 1, 32, 32), level, dtype=np.uint8)


def textured(n: int) -> Pixels:
    return np.random.default_rng(5).integers(0, 256, size=(n, 3, 8, 8), dtype=np.uint8)


def reseeded(noise: AnyNoise, seed: int) -> AnyNoise:
    return noise.model_copy(update={"seed": seed})


def assert_mean_and_std(values: np.ndarray, mean: float, std: float) -> None:
    # Five standard errors: of the mean std / sqrt(n), of the deviation about std / sqrt(2 n).
    n = values.size
    assert abs(values.mean() - mean) < 5 * std / np.sqrt(n)
    assert abs(values.std() - std) < 5 * std / np.sqrt(2 * n)


@pytest.mark.parametrize("std", [5.0, 12.0])
def test_gaussian_noise_has_its_deviation_on_the_0_to_255_scale(std: float) -> None:
    noisy = add_noise(grey(128), GaussianNoise(kind="gaussian", std=std, seed=1)) * 255.0
    assert_mean_and_std(noisy.astype(np.float64), 128, std)


@pytest.mark.parametrize(("noise", "deviation"), [(GAUSSIAN, 5 / 255), (SPECKLE, 0.05)])
def test_gaussian_and_speckle_noise_are_scikit_images_from_a_generator_an_image(
    noise: AnyNoise, deviation: float
) -> None:
    images = textured(3)
    noisy = add_noise(images, noise)
    for idx, image in enumerate(images):
        random = np.random.default_rng([0, idx])
        expected = random_noise(image / 255, mode=noise.kind, rng=random, var=deviation**2)
        assert_allclose(noisy[idx], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("level", [64, 128])
def test_speckle_noise_is_proportional_to_the_image(level: int) -> None:
    noisy = add_noise(grey(level), SpeckleNoise(kind="speckle", strength=0.05, seed=1)) * 255.0
    assert_mean_and_std(noisy.astype(np.float64), level, 0.05 * level)


def test_speckle_noise_leaves_black_black() -> None:
    assert not add_noise(grey(0), SPECKLE).any()


@pytest.mark.parametrize("level", [40, 128])
def test_poisson_variance_equals_the_mean_on_the_0_to_255_scale(level: int) -> None:
    noisy = add_noise(grey(level), POISSON).astype(np.float64) * 255
    assert_mean_and_std(noisy, level, np.sqrt(level))
    assert np.abs(noisy - noisy.round()).max() < 1e-4


def test_poisson_noise_does_not_get_coarser_for_images_with_few_grey_levels() -> None:
    two_levels = grey(100)
    two_levels[:, :, ::2] = 140
    noisy = add_noise(two_levels, POISSON).astype(np.float64) * 255
    assert_mean_and_std(noisy[:, :, 1::2], 100, 10)


def test_fewer_photons_make_stronger_poisson_noise() -> None:
    noisy = add_noise(grey(128), PoissonNoise(kind="poisson", peak=64.0, seed=0)).astype(np.float64) * 64
    mean = 128 / 255 * 64
    assert_mean_and_std(noisy, mean, np.sqrt(mean))


@EVERY_KIND
def test_a_seed_gives_the_same_bits_and_another_seed_others(noise: AnyNoise) -> None:
    images = textured(4)
    assert_array_equal(add_noise(images, noise), add_noise(images.copy(), noise))
    assert (add_noise(images, noise) != add_noise(images, reseeded(noise, 1))).any()


@EVERY_KIND
def test_an_images_noise_depends_on_no_other_image(noise: AnyNoise) -> None:
    images = textured(6)
    everything = add_noise(images, noise)
    changed = images.copy()
    changed[[0, 1, 2, 4, 5]] = 255 - changed[[4, 5, 0, 1, 2]]
    assert_array_equal(add_noise(changed, noise)[3], everything[3])
    assert_array_equal(add_noise(images[:4], noise), everything[:4])


@EVERY_KIND
def test_equal_images_get_unequal_noise(noise: AnyNoise) -> None:
    noisy = add_noise(grey(128, n=3), noise)
    assert (noisy[0] != noisy[1]).any()
    assert (noisy[1] != noisy[2]).any()


@EVERY_KIND
def test_global_generators_neither_matter_nor_move(noise: AnyNoise) -> None:
    images = textured(2)
    np.random.seed(0)
    first = add_noise(images, noise)
    state = np.random.get_state()[1].copy()
    np.random.seed(1)
    assert_array_equal(first, add_noise(images, noise))
    np.random.seed(0)
    assert_array_equal(state, np.random.get_state()[1])


@pytest.mark.parametrize(
    "noise",
    [
        GaussianNoise(kind="gaussian", std=200.0, seed=0),
        SpeckleNoise(kind="speckle", strength=2.0, seed=0),
        PoissonNoise(kind="poisson", peak=4.0, seed=0),
    ],
    ids=lambda n: str(n.kind),
)
def test_noisy_images_are_float32_clipped_to_the_range(noise: AnyNoise) -> None:
    noisy = add_noise(textured(20), noise)
    assert noisy.dtype == np.float32
    assert noisy.shape == (20, 3, 8, 8)
    assert (float(noisy.min()), float(noisy.max())) == (0.0, 1.0)


@EVERY_KIND
def test_the_given_images_are_left_as_they_were(noise: AnyNoise) -> None:
    images = textured(3)
    before = images.copy()
    add_noise(images, noise)
    assert_array_equal(images, before)
