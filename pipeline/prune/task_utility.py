"""Steps 1 and 2 of pruning: task utility, from the latent space back through all layers (thesis Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.deconv import Utility, trace_utility
from pipeline.lda import discriminants, discriminants_decorrelated
from pipeline.machine.float64 import float64
from pipeline.machine.seeding import generator
from pipeline.prune.latent import LatentChoice, choose_latent
from pipeline.saliency import trace_saliency
from pipeline.training.predict import latent_features

if TYPE_CHECKING:
    from pipeline.images.parts import Images
    from pipeline.params.pruning import Surgery
    from pipeline.params.training import Lda

# From features (n, d) and labels (n,) to the discriminating power (d,) of each neuron.
Discriminants = Callable[[Tensor, Tensor], Tensor]


def discriminants_by(lda: Lda, *, after_the_fact: bool) -> Discriminants:
    """Eq. 12, of a pushed net, or Eq. 3.8, after the fact."""
    if after_the_fact:
        return discriminants_decorrelated
    return partial(discriminants, ridge=lda.ridge, active_variance=lda.active_variance)


@dataclass(frozen=True)
class TaskUtility:
    """The discriminating power (d,) of each latent neuron, which are kept, and each layer's utility from those.

    `images` are those that were traced.
    """

    v: Tensor
    choice: LatentChoice
    utilities: dict[str, Utility]
    images: Images


def unravel_utility(
    model: nn.Module,
    ranked_by: Discriminants,
    *,
    train: Images,
    validation: Images,
    surgery: Surgery,
    lda: Lda,
    seed: int,
    batch_size: int,
) -> TaskUtility:
    """Unravel the task utility in the latent space, and trace it back across all layers (thesis 3.2.1-3.2.2).

    It is traced as `surgery.utility` says: by the papers' deconvolution, or by our saliency of the separation.

    Args:
        model: left as it was.
        ranked_by: what gives v: `discriminants_by`.
        train: discriminants and utilities come from it; `seed` draws the traced images.
        validation: the choice of latent neurons comes from it.
        lda: the ridge of the separation, and its class-balanced batches.
    """
    features = latent_features(model, train, batch_size=batch_size)
    v = ranked_by(features, train.labels)
    held_out = latent_features(model, validation, batch_size=batch_size)
    variance = float64(features).var(0)
    choice = choose_latent(model, v, variance, held_out, validation.labels, surgery.latent)
    images = trace_images(train, surgery.trace_images_per_class, seed=seed)
    if surgery.utility == "deconvolution":
        utilities = trace_utility(model, images, choice.kept, batch_size=batch_size)
    else:
        utilities = trace_saliency(
            model,
            images,
            images.labels,
            choice.kept,
            ridge=lda.ridge,
            samples_per_class=lda.samples_per_class,
            classes_per_batch=lda.classes_per_batch,
            seed=seed,
            batch_size=batch_size,
        )
    return TaskUtility(v, choice, utilities, images)


def trace_images(train: Images, per_class: int | None, *, seed: int) -> Images:
    """A per-class budget of training images (thesis 3.3.6); None for all of them (Eq. 3.11).

    Where a class has fewer, images of the other classes fill the gap, drawn at random (thesis Figure 3-20).
    """
    if per_class is None:
        return train
    random = generator(seed, "trace")
    chosen, left = [], []
    classes = torch.unique(train.labels)
    for label in classes:
        members = (train.labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=random).to(members.device)
        chosen.append(members[order[:per_class]])
        left.append(members[order[per_class:]])
    gap = per_class * len(classes) - sum(len(each) for each in chosen)
    spare = torch.cat(left)
    chosen.append(spare[torch.randperm(len(spare), generator=random).to(spare.device)[:gap]])
    return train.take(torch.cat(chosen))
