"""What training minimises: cross-entropy, with auxiliary heads or with the push loss beside it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.models.inception import Inception

if TYPE_CHECKING:
    from pipeline.models.classifier import Classifier
    from pipeline.params.training import Auxiliary

log = logging.getLogger(__name__)


class Objective(nn.Module):
    """Cross-entropy. Subclasses add terms; parameters of theirs are trained beside the model's.

    Args:
        label_smoothing: the share of a label spread over all classes (LSR, "Rethinking Inception" section 7).
    """

    # Whether torch.compile can take a step of it.
    compilable = True

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The scalar to minimise under `total`, and detached scalars to log beside it."""
        return {"total": self.cross_entropy(model(images), labels)}

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy with this objective's label smoothing."""
        return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


class AuxiliaryObjective(Objective):
    """Cross-entropy plus `weight` times that of each auxiliary head (CVIU section 4). The heads stay here.

    Args:
        net: the Inception net inside the model that will be trained.
        example_images: (n >= 2, channels, height, width) normalised images, for the heads' shapes.
        weight: of each head's cross-entropy.
        batch_norm: whether the heads' hidden layers are batch-normalised ("Rethinking Inception" section 4).
        label_smoothing: as in `Objective`.
    """

    def __init__(
        self,
        net: Inception,
        example_images: Tensor,
        *,
        weight: float,
        batch_norm: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(label_smoothing=label_smoothing)
        self.weight = weight
        tapped = net.auxiliary_heads(batch_norm_hidden=batch_norm)
        self._taps: Sequence[nn.Module] = tuple(tap for tap, _ in tapped)
        self.heads = nn.ModuleList([head for _, head in tapped]).to(example_images.device)
        net.eval()  # batch statistics of the example are no one's business
        with torch.no_grad():
            self._head_logits(net, example_images)

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Adds `auxiliary`, the mean cross-entropy of the heads."""
        logits, head_logits = self._head_logits(model, images)
        loss = self.cross_entropy(logits, labels)
        auxiliary = torch.stack([self.cross_entropy(each, labels) for each in head_logits])
        return {"total": loss + self.weight * auxiliary.sum(), "auxiliary": auxiliary.mean().detach()}

    def _head_logits(self, model: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps: dict[int, Tensor] = {}

        def keep(tap: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            maps[id(tap)] = output

        with ExitStack() as hooks:
            for tap in self._taps:
                hooks.enter_context(tap.register_forward_hook(keep))
            logits = model(images)
        return logits, [head(maps[id(tap)]) for tap, head in zip(self._taps, self.heads, strict=True)]


def training_objective(
    model: Classifier, images: Tensor, auxiliary: Auxiliary | None, *, label_smoothing: float
) -> Objective:
    """Cross-entropy, with auxiliary heads where they have a weight and the net has places for them.

    `images`, two or more in [0, 1], are for the shapes of the heads.
    """
    if auxiliary is None or auxiliary.weight == 0 or not isinstance(model.net, Inception):
        return Objective(label_smoothing=label_smoothing)
    normalized = (images - model.mean) / model.std
    return AuxiliaryObjective(
        model.net,
        normalized,
        weight=auxiliary.weight,
        batch_norm=auxiliary.batch_norm,
        label_smoothing=label_smoothing,
    )
