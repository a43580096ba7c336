"""What a model makes of images: logits, scores, latent features; nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.machine.memory import in_fitting_batches
from pipeline.models.classifier import evaluation_mode, latent_and_logits

if TYPE_CHECKING:
    from pipeline.images.parts import Images
    from pipeline.uncertainty import Hits

# Standard deviations of the hits of guessing, within which accuracy is no better than chance.
_CHANCE_SIGMAS = 2


@dataclass(frozen=True)
class Score:
    """Counts and mean cross-entropy of a model on a set."""

    n: int
    n_correct: int
    loss: float

    @property
    def accuracy(self) -> float:
        """n_correct / n."""
        return self.n_correct / self.n

    def as_dict(self) -> dict[str, float]:
        """Plain numbers, for a description."""
        return {"n": self.n, "n_correct": self.n_correct, "loss": self.loss}


def at_chance(n_correct: int, n_per_class: Tensor) -> bool:
    """Whether so many right are no better than always naming the largest class, within two deviations of guessing."""
    n, largest = int(n_per_class.sum()), int(n_per_class.max())
    share = largest / n
    return n_correct <= n * share + _CHANCE_SIGMAS * math.sqrt(n * share * (1 - share))


def predict_logits(model: nn.Module, images: Tensor, *, batch_size: int) -> Tensor:
    """Logits (n, classes) in evaluation mode, for images in [0, 1]; the model's mode is restored."""
    return _in_batches(model, model, partial(torch.split, images), batch_size)


def evaluate(model: nn.Module, data: Images, *, batch_size: int) -> Score:
    """Score a model on images and labels."""
    return score_logits(_in_batches(model, model, data.in_batches, batch_size), data)


def score_logits(logits: Tensor, data: Images) -> Score:
    """Score logits (n, classes) of these images, on their labels' device."""
    loss = nn.functional.cross_entropy(logits, data.labels)
    return Score(len(data), int((logits.argmax(1) == data.labels).sum()), float(loss))


def evaluate_closely(model: nn.Module, data: Images, *, batch_size: int) -> tuple[Score, Tensor]:
    """The score, and the confusion matrix (classes, classes): images of the row's class, called that of the column."""
    logits = _in_batches(model, model, data.in_batches, batch_size)
    n_classes = logits.shape[1]
    pairs = data.labels * n_classes + logits.argmax(1)
    return score_logits(logits, data), pairs.bincount(minlength=n_classes**2).view(n_classes, n_classes)


def hits_on(model: nn.Module, data: Images, *, batch_size: int) -> Hits:
    """Mask (n,) of the images whose label a model predicts, on the CPU."""
    logits = _in_batches(model, model, data.in_batches, batch_size)
    found: Hits = (logits.argmax(1) == data.labels).cpu().numpy()
    return found


def latent_features(model: nn.Module, images: Images, *, batch_size: int) -> Tensor:
    """Latent features (n, d) in evaluation mode of a part of a data set."""
    return _in_batches(model, lambda batch: latent_and_logits(model, batch)[0], images.in_batches, batch_size)


@torch.no_grad()
def _in_batches(
    model: nn.Module,
    compute: Callable[[Tensor], Tensor],
    batches: Callable[[int], Iterable[Tensor]],
    batch_size: int,
) -> Tensor:
    with evaluation_mode(model):
        return in_fitting_batches(lambda n: torch.cat([compute(batch) for batch in batches(n)]), batch_size)
