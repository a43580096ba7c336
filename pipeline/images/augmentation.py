"""What training does to images so that the net sees each in many ways: crops, shifts, mirror images."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.errors import InputError


def augment_images(
    images: Tensor, *, crop_px: int | None, shift_px: int, mirror: bool, random: torch.Generator
) -> Tensor:
    """Crop at random, shift by up to `shift_px` pixels each way, mirror half of them.

    Args:
        images: (n, channels, height, width).
        crop_px: side of the square that is cut out; None for the whole image.
        shift_px: zeros move in at the edges.
        mirror: about the vertical axis.
        random: draws for every image by itself.

    Returns:
        (n, channels, crop_px, crop_px), or the height and width of `images`.

    Raises:
        InputError: for shifts by more than half of an image, of which too little would be left to learn from.
    """
    height, width = (crop_px, crop_px) if crop_px else images.shape[2:]
    if shift_px > min(height, width) // 2:
        raise InputError(
            f"shift_px: expected at most half of the images' {height}x{width} pixels (got {shift_px})"
        )
    padded = pad(images, [shift_px] * 4) if shift_px else images
    cut = _random_crop(padded, height, width, random)
    if not mirror:
        return cut
    chosen = torch.rand(len(cut), generator=random).to(cut.device) < 0.5
    return torch.where(chosen[:, None, None, None], cut.flip(3), cut)


def center_crop(images: Tensor, crop_px: int | None) -> Tensor:
    """The square in the middle; None for the whole image."""
    if crop_px is None:
        return images
    top, left = ((size - crop_px) // 2 for size in images.shape[2:])
    return images[:, :, top : top + crop_px, left : left + crop_px]


def _random_crop(images: Tensor, height: int, width: int, random: torch.Generator) -> Tensor:
    n, _, full_height, full_width = images.shape
    if (height, width) == (full_height, full_width):
        return images
    top = torch.randint(0, full_height - height + 1, (n,), generator=random).to(images.device)
    left = torch.randint(0, full_width - width + 1, (n,), generator=random).to(images.device)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    image_idx = torch.arange(n, device=images.device)[:, None, None]
    # Advanced indices around the channel slice put the channels last.
    return images[image_idx, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
