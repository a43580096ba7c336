"""Random crops, shifts and mirror images, each as a plain loop would do it."""

import pytest
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.images.augmentation import augment_images, center_crop


def shift(images: Tensor, max_px: int, random: torch.Generator) -> Tensor:
    return augment_images(images, crop_px=None, shift_px=max_px, mirror=False, random=random)


def shifted_by_loop(image: Tensor, dy: int, dx: int) -> Tensor:
    """Pixel (y, x) comes from (y + dy, x + dx), or is zero where that lies outside."""
    channels, height, width = image.shape
    out = torch.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    out[c, y, x] = image[c, y + dy, x + dx]
    return out


def random_images(n: int) -> Tensor:
    return 0.1 + torch.rand(n, 2, 5, 6, generator=torch.Generator().manual_seed(1))


def shifts_found(images: Tensor, max_px: int, seed: int) -> list[tuple[int, int]]:
    shifted = shift(images, max_px, torch.Generator().manual_seed(seed))
    assert shifted.shape == images.shape
    steps = range(-max_px - 1, max_px + 2)
    found = []
    for image, result in zip(images, shifted, strict=True):
        fits = [(y, x) for y in steps for x in steps if torch.equal(shifted_by_loop(image, y, x), result)]
        assert len(fits) == 1
        found += fits
    return found


@pytest.mark.parametrize("max_px", [1, 2])
def test_each_image_is_shifted_as_a_plain_loop_would_by_at_most_the_bound(max_px: int) -> None:
    found = shifts_found(random_images(24), max_px, seed=0)
    assert all(abs(dy) <= max_px and abs(dx) <= max_px for dy, dx in found)
    assert len(set(found)) > 4


def test_all_shifts_occur_about_equally_often() -> None:
    image = torch.zeros(1800, 1, 3, 3)
    image[:, :, 1, 1] = 1
    places = shift(image, 1, torch.Generator().manual_seed(0)).flatten(1).argmax(1)
    counts = torch.bincount(places, minlength=9)
    # Binomial(1800, 1/9): mean 200, standard deviation 13.3.
    assert counts.min() > 140
    assert counts.max() < 260


def test_shifts_depend_on_the_generator_alone() -> None:
    images = random_images(12)
    torch.manual_seed(0)
    first = shifts_found(images, 1, seed=4)
    torch.manual_seed(1)
    assert first == shifts_found(images, 1, seed=4)
    assert first != shifts_found(images, 1, seed=5)


@pytest.mark.parametrize(("max_px", "crop_px"), [(4, None), (1_000, None), (2, 3)])
def test_a_shift_that_leaves_less_than_half_of_an_image_is_one_line(max_px: int, crop_px: int | None) -> None:
    random, images = torch.Generator().manual_seed(0), random_images(2)
    with pytest.raises(InputError, match=rf"^shift_px: expected at most half of the .* \(got {max_px}\)$"):
        augment_images(images, crop_px=crop_px, shift_px=max_px, mirror=False, random=random)


def test_no_shift_leaves_images_and_generator_alone() -> None:
    random = torch.Generator().manual_seed(0)
    before, images = random.get_state(), random_images(3)
    assert torch.equal(shift(images, 0, random), images)
    assert torch.equal(random.get_state(), before)


def places(n: int, height: int, width: int) -> Tensor:
    """Images whose pixels say where they lie: row in the first channel, column in the second."""
    rows = torch.arange(height)[:, None].expand(height, width)
    columns = torch.arange(width)[None].expand(height, width)
    return torch.stack([rows, columns]).float().expand(n, 2, height, width)


def test_random_crops_are_squares_of_the_image_from_everywhere_in_it() -> None:
    random = torch.Generator().manual_seed(0)
    cut = augment_images(places(600, 5, 7), crop_px=3, shift_px=0, mirror=False, random=random)
    assert cut.shape == (600, 2, 3, 3)
    top, left = cut[:, 0, 0, 0], cut[:, 1, 0, 0]
    for image, y, x in zip(cut, top, left, strict=True):
        assert torch.equal(image, places(1, 5, 7)[0, :, int(y) : int(y) + 3, int(x) : int(x) + 3])
    assert set(top.tolist()) == {0, 1, 2}
    assert set(left.tolist()) == {0, 1, 2, 3, 4}
    counts = torch.bincount((top * 5 + left).long(), minlength=15)
    # Binomial(600, 1/15): mean 40, standard deviation 6.1.
    assert counts.min() > 15
    assert counts.max() < 65


def test_shifted_crops_may_hold_the_zeros_that_move_in() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.ones(400, 1, 4, 4)
    cut = augment_images(images, crop_px=4, shift_px=1, mirror=False, random=random)
    assert cut.shape == (400, 1, 4, 4)
    assert {int(n) for n in cut.sum((1, 2, 3))} == {9, 12, 16}


def test_about_half_of_the_images_are_mirrored_each_by_itself() -> None:
    images = places(1000, 2, 5)
    found = augment_images(
        images, crop_px=None, shift_px=0, mirror=True, random=torch.Generator().manual_seed(0)
    )
    mirrored = found[:, 1, 0, 0] == 4
    assert torch.equal(found[mirrored], images[mirrored].flip(3))
    assert torch.equal(found[~mirrored], images[~mirrored])
    # Binomial(1000, 1/2): standard deviation 15.8.
    assert 420 < int(mirrored.sum()) < 580


@pytest.mark.parametrize(("size", "first"), [(4, 0), (3, 0), (2, 1)])
def test_the_centre_crop_is_the_square_in_the_middle(size: int, first: int) -> None:
    cut = center_crop(places(1, 4, 4), size)
    assert cut.shape == (1, 2, size, size)
    assert (int(cut[0, 0, 0, 0]), int(cut[0, 1, 0, 0])) == (first, first)


def test_no_crop_is_the_whole_image() -> None:
    images = places(1, 4, 6)
    assert center_crop(images, None) is images
