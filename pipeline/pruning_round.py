"""One iteration of Algorithm 1: choose latent neurons, trace, then a sample for each eta, retrained."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.cost import Cost
from pipeline.deconv import trace_utility
from pipeline.images import Images
from pipeline.latent import LatentChoice, choose_latent, latent_features
from pipeline.lda import discriminants
from pipeline.prune import LayerPruning, prune_model
from pipeline.seeding import generator
from pipeline.train import Score


@dataclass(frozen=True)
class Sample:
    """A pruned and retrained architecture (CVIU section 5.3.2), scored on validation."""

    eta: float
    model: nn.Module
    cost: Cost
    score: Score
    layers: list[LayerPruning]
    history: list[dict[str, Any]]


def smallest_acceptable(samples: Iterable[Sample], acceptable: float) -> Sample | None:
    """The fewest parameters among samples at or above an accuracy; the more accurate of equals."""
    good = [sample for sample in samples if sample.score.accuracy >= acceptable]
    return min(good, key=lambda sample: (sample.cost.params, -sample.score.n_correct), default=None)


def trace_images(train: Images, per_class: int, *, seed: int) -> Tensor:
    """A per-class budget of training images (thesis 3.3.6), in [0, 1]; all of a class that has fewer."""
    random = generator(seed, "trace")
    chosen = []
    for label in torch.unique(train.labels):
        members = (train.labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=random).to(members.device)
        chosen.append(members[order[:per_class]])
    return Images(train.images[torch.cat(chosen)], train.labels).scaled()


def sample_rows(
    samples: list[Sample], chosen: Sample | None, *, acceptable: float, latent_kept: int, seed: int, name: str
) -> list[dict[str, Any]]:
    """A round's samples as rows of `tables.SAMPLE_FIELDS`."""
    return [
        {"seed": seed, "round": name, "eta": sample.eta, "latent_kept": latent_kept}
        | {"params": sample.cost.params, "flops": sample.cost.flops}
        | {"n": sample.score.n, "n_correct": sample.score.n_correct}
        | {"acceptable": int(sample.score.accuracy >= acceptable), "chosen": int(sample is chosen)}
        for sample in samples
    ]


def layer_rows(samples: list[Sample], *, seed: int, name: str) -> list[dict[str, Any]]:
    """What the surgery did to each layer of each sample, as rows of `tables.LAYER_FIELDS`."""
    return [
        {"seed": seed, "round": name, "eta": sample.eta, "layer": row.name, "group": row.group}
        | {"threshold": row.threshold, "n_before": row.n_before, "n_after": row.n_after}
        for sample in samples
        for row in sample.layers
    ]


def latent_rows(choice: LatentChoice, v: Tensor, *, seed: int, name: str) -> list[dict[str, Any]]:
    """The choice of latent neurons, by rank, as rows of `tables.LATENT_FIELDS`."""
    return [
        {"seed": seed, "round": name, "rank": rank, "neuron": int(neuron), "v": float(v[neuron])}
        | {"n": choice.n, "n_correct": int(hits), "kept": int(choice.kept[neuron])}
        for rank, (neuron, hits) in enumerate(zip(choice.order, choice.n_correct, strict=True), start=1)
    ]


def prune_round(
    model: nn.Module,
    *,
    train: Images,
    validation: Images,
    etas: list[float],
    latent_max_drop: float,
    trace_images_per_class: int,
    ridge: float,
    seed: int,
    batch_size: int,
    retrain: Callable[[nn.Module, float], tuple[list[dict[str, Any]], Score, Cost]],
) -> tuple[LatentChoice, Tensor, list[Sample]]:
    """Steps of one round, from a pushed model to its samples.

    Args:
        model: the pushed model to prune; left untouched.
        train: discriminants (Eq. 12) and utilities come from it.
        validation: the choice of latent neurons comes from it.
        etas: thresholds' factors, a sample each.
        latent_max_drop: see `choose_latent`.
        trace_images_per_class: the tracing budget.
        ridge: see `discriminants`.
        seed: of the tracing images.
        batch_size: images at a time in evaluation and tracing.
        retrain: from (pruned model, eta) to its history, validation score and cost; trains in place.

    Returns:
        The choice of latent neurons, their discriminating power v (d,), and the samples.
    """
    features = latent_features(model, train.scaled(), batch_size=batch_size)
    v = discriminants(features, train.labels, ridge=ridge)
    held_out = latent_features(model, validation.scaled(), batch_size=batch_size)
    choice = choose_latent(model, v, held_out, validation.labels, max_drop=latent_max_drop)
    images = trace_images(train, trace_images_per_class, seed=seed)
    utilities = trace_utility(model, images, choice.kept, batch_size=batch_size)
    samples = []
    for eta in etas:
        pruned, layers = prune_model(model, utilities, eta, images[:1])
        history, score, cost = retrain(pruned, eta)
        samples.append(Sample(eta, pruned, cost, score, layers, history))
    return choice, v, samples
