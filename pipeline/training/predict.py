"""What a model makes of images: logits, scores, latent features; nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.machine.memory import in_fitting_batches
from pipeline.models.classifier import evaluation_mode, latent_and_logits

if TYPE_CHECKING:
    from pipeline.images.parts import Images


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


@torch.no_grad()
def predict_logits(model: nn.Module, images: Tensor, *, batch_size: int) -> Tensor:
    """Logits (n, classes) in evaluation mode, for images in [0, 1]; the model's mode is restored."""

    def forward(size: int) -> Tensor:
        return torch.cat([model(batch) for batch in torch.split(images, size)])

    with evaluation_mode(model):
        return in_fitting_batches(forward, batch_size)


def evaluate(model: nn.Module, data: Images, *, batch_size: int) -> Score:
    """Score a model on images and labels."""

    def forward(size: int) -> Tensor:
        return torch.cat([model(images) for images in data.in_batches(size)])

    with evaluation_mode(model), torch.no_grad():
        logits = in_fitting_batches(forward, batch_size)
    loss = nn.functional.cross_entropy(logits, data.labels)
    return Score(len(data), int((logits.argmax(1) == data.labels).sum()), float(loss))


@torch.no_grad()
def latent_features(model: nn.Module, images: Images, *, batch_size: int) -> Tensor:
    """Latent features (n, d) in evaluation mode of a part of a data set."""

    def forward(size: int) -> Tensor:
        return torch.cat([latent_and_logits(model, batch)[0] for batch in images.in_batches(size)])

    with evaluation_mode(model):
        return in_fitting_batches(forward, batch_size)
