"""Images that an attack cannot move, or did not: a saturated net looks robust, as its gradient vanishes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.machine.memory import in_fitting_batches
from pipeline.models.classifier import evaluation_mode


def count_untouched(
    model: nn.Module,
    labels: Tensor,
    clean: Tensor,
    attacked: Tensor,
    *,
    right: Tensor,
    still_right: Tensor,
    batch_size: int,
) -> dict[str, int]:
    """Of the images that a net gets right, which are all that an attack on it has to move.

    Args:
        model: the net that was attacked.
        labels: (n,) the true labels, on its device.
        clean: (n, channels, height, width) images in [0, 1].
        attacked: the same images under the attack.
        right: (n,) mask of those that the net gets right when clean.
        still_right: (n,) mask of those that it gets right under the attack.
        batch_size: images at a time; halved when memory runs out.

    Returns:
        `n_attacked`, the number of these images; `n_untouched`, those of them whose pixels are, in half precision, what
        they were; `n_vanished`, those whose gradient of the cross-entropy is zero or not finite; `n_idle`, those that
        the attack had no hold on: left as they were, or without a gradient and right still (a random start moves images
        that no gradient then leads anywhere, and Newton Fool needs no gradient of the cross-entropy).
    """
    right, still_right = right.cpu(), still_right.cpu()
    same = (clean.half() == attacked.half()).flatten(1).all(1).cpu()
    vanished = vanishing(model, clean, labels, batch_size=batch_size)
    counts = {"n_attacked": right, "n_untouched": right & same, "n_vanished": right & vanished}
    counts["n_idle"] = right & (same | vanished & still_right)
    return {name: int(mask.sum()) for name, mask in counts.items()}


def vanishing(model: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int) -> Tensor:
    """Mask (n,), on the CPU, of the images at which the gradient of the cross-entropy is zero or not finite."""

    def compute(size: int) -> Tensor:
        found = []
        for batch, wanted in zip(torch.split(images, size), torch.split(labels, size), strict=True):
            x = batch.detach().requires_grad_(True)
            (grad,) = torch.autograd.grad(cross_entropy(model(x), wanted, reduction="sum"), x)
            grad = grad.flatten(1)
            found.append(~grad.isfinite().all(1) | (grad == 0).all(1))
        return torch.cat(found).cpu()

    with evaluation_mode(model):
        return in_fitting_batches(compute, batch_size)
