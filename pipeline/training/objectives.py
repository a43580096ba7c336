"""What training minimises: cross-entropy, with auxiliary heads beside it and beside the push."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.models.classifier import Classifier
from pipeline.models.inception import Inception

if TYPE_CHECKING:
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

    def at(self, progress: float) -> None:
        """Told before each step how far training is, from 0 to 1; cross-entropy is the same all along."""

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy with this objective's label smoothing."""
        return cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


class AuxiliaryObjective(Objective):
    """Another objective plus `weight` times the cross-entropy of each auxiliary head (CVIU section 4).

    The heads stay here, and their state is part of the outcome of a training.

    Args:
        main: what is minimised beside.
        net: the Inception net inside the model that will be trained.
        example_images: (n >= 2, channels, height, width) normalised images, for the heads' shapes.
        weight: of each head's cross-entropy.
        batch_norm: whether the heads' hidden layers are batch-normalised ("Rethinking Inception" section 4).
        inherited: state of earlier heads; what fits by name and shape is where these start from.
    """

    def __init__(
        self,
        main: Objective,
        net: Inception,
        example_images: Tensor,
        *,
        weight: float,
        batch_norm: bool = False,
        inherited: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(label_smoothing=main.label_smoothing)
        self.main, self.weight, self.compilable = main, weight, main.compilable
        tapped = net.auxiliary_heads(batch_norm_hidden=batch_norm)
        self._taps: Sequence[nn.Module] = tuple(tap for tap, _ in tapped)
        self.heads = nn.ModuleList([head for _, head in tapped]).to(example_images.device)
        net.eval()  # batch statistics of the example are no one's business
        with torch.no_grad(), self._tapped() as maps:
            net(example_images)
            self._head_logits(maps)
        fresh = self.state_dict()
        fit = {
            name: t for name, t in (inherited or {}).items() if name in fresh and t.shape == fresh[name].shape
        }
        self.load_state_dict(fit, strict=False)

    def at(self, progress: float) -> None:
        """Handed on to the main objective."""
        self.main.at(progress)

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Adds `auxiliary`, the mean cross-entropy of the heads, to the main objective's terms."""
        with self._tapped() as maps:
            terms: dict[str, Tensor] = self.main(model, images, labels)
        auxiliary = torch.stack([self.cross_entropy(each, labels) for each in self._head_logits(maps)])
        total = terms["total"] + self.weight * auxiliary.sum()
        return terms | {"total": total, "auxiliary": auxiliary.mean().detach()}

    @contextmanager
    def _tapped(self) -> Iterator[dict[int, Tensor]]:
        """Inside the block a forward pass leaves here what each tapped module gave, by the module's id."""
        maps: dict[int, Tensor] = {}

        def keep(tap: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            maps[id(tap)] = output

        with ExitStack() as hooks:
            for tap in self._taps:
                hooks.enter_context(tap.register_forward_hook(keep))
            yield maps

    def _head_logits(self, maps: Mapping[int, Tensor]) -> list[Tensor]:
        return [head(maps[id(tap)]) for tap, head in zip(self._taps, self.heads, strict=True)]


def with_auxiliary_heads(
    main: Objective,
    model: nn.Module,
    images: Tensor,
    auxiliary: Auxiliary | None,
    *,
    deep_only: bool = False,
) -> Objective:
    """An objective with auxiliary heads beside it where they have a weight and the net has places for them.

    They start from those that the model has been trained with (`heads_of`), as far as they fit: surgery leaves less for
    a head to read, whose first layer is then fresh. Fresh weights come from torch's global generator.

    Args:
        main: the objective.
        model: a classifier, pruned or not.
        images: two or more in [0, 1], for the shapes of the heads.
        auxiliary: section of the params; None for no heads.
        deep_only: only where "after the first module of the second stage and before the last" are two places, as they
            are in the grown nets that the papers train with heads (CVIU section 4).
    """
    if auxiliary is None or not isinstance(model, Classifier) or not isinstance(model.net, Inception):
        return main
    if deep_only and len(model.net.auxiliary_heads()) < 2:
        return main
    return AuxiliaryObjective(
        main,
        model.net,
        (images - model.mean) / model.std,
        weight=auxiliary.weight,
        batch_norm=auxiliary.batch_norm,
        inherited=heads_of(model),
    )


def heads_of(model: nn.Module) -> dict[str, Tensor]:
    """The state of the auxiliary heads that a model was last trained with, on the CPU; empty without any."""
    found: dict[str, Tensor] = getattr(model, "heads", {})
    return found


def set_heads(model: nn.Module, heads: Mapping[str, Tensor]) -> None:
    """Remember a model's auxiliary heads; a plain attribute, as they are no part of the net that they have served."""
    model.heads = dict(heads)  # type: ignore[assignment]
