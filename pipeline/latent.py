"""Which latent neurons to keep: M' by sensitivity on validation, features frozen (thesis 3.2.1, 3.3.5)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.models.classifier import decision_layer, evaluation_mode, latent_and_logits


@dataclass(frozen=True)
class LatentChoice:
    """The kept neurons and how the choice came about.

    `kept` (d,) boolean; `order` (d,) neurons by descending discriminating power; `n_correct` (d,) validation
    hits with the first 1, 2, ... of that order; `n` validation images.
    """

    kept: Tensor
    order: Tensor
    n_correct: Tensor
    n: int


@torch.no_grad()
def latent_features(model: nn.Module, images: Tensor, *, batch_size: int) -> Tensor:
    """Latent features (n, d) in evaluation mode, for images in [0, 1]."""
    with evaluation_mode(model):
        return torch.cat([latent_and_logits(model, batch)[0] for batch in torch.split(images, batch_size)])


@torch.no_grad()
def choose_latent(
    model: nn.Module, v: Tensor, features: Tensor, labels: Tensor, *, max_drop: float
) -> LatentChoice:
    """Keep the fewest top neurons whose validation accuracy stays within `max_drop` of all neurons'.

    The features are frozen and so is the decision layer: dropping a neuron sets its column to zero.

    Args:
        model: gives the decision layer.
        v: (d,) discriminating power of each neuron, from training features.
        features: (n, d) validation features.
        labels: (n,) their labels.
        max_drop: accuracy that may be lost, as a fraction.
    """
    decision = decision_layer(model)
    order = torch.argsort(v, descending=True, stable=True)
    contributions = features[:, order, None] * decision.weight.T[order]
    logits = contributions.cumsum(1)
    if decision.bias is not None:
        logits = logits + decision.bias
    n_correct = (logits.argmax(2) == labels[:, None]).sum(0)
    needed = n_correct[-1] - max_drop * len(labels)
    # Compared as counts; the tolerance forgives the float product only.
    n_kept = int((n_correct >= needed - 1e-9 * len(labels)).nonzero()[0]) + 1
    kept = torch.zeros_like(v, dtype=torch.bool)
    kept[order[:n_kept]] = True
    return LatentChoice(kept, order, n_correct, len(labels))
