"""One iteration of Algorithm 1: choose latent neurons, trace, then a sample for each eta, retrained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from pipeline.cost import Cost, count_params
from pipeline.prune import LayerPruning, prune_model
from pipeline.prune.target_size import prune_to_size

if TYPE_CHECKING:
    from pipeline.params.pruning import Surgery
    from pipeline.prune.task_utility import TaskUtility
    from pipeline.training.fit import Outcome
    from pipeline.training.predict import Score


@dataclass(frozen=True)
class Sample:
    """A pruned and retrained architecture (CVIU section 5.3.2), and how its retraining went."""

    name: str
    eta: float
    model: nn.Module
    cost: Cost
    outcome: Outcome
    layers: list[LayerPruning]

    @property
    def score(self) -> Score:
        """On validation, after retraining."""
        return self.outcome.validation


def smallest_acceptable(samples: Iterable[Sample], acceptable: float) -> Sample | None:
    """The fewest parameters among samples at or above an accuracy; the more accurate of equals."""
    good = [sample for sample in samples if sample.score.accuracy >= acceptable]
    return min(good, key=lambda sample: (sample.cost.params, -sample.score.n_correct), default=None)


def sample_rows(
    samples: list[Sample], chosen: Sample | None, *, acceptable: float, latent_kept: int
) -> list[dict[str, Any]]:
    """A round's samples, a row for each."""
    return [
        {"sample": sample.name, "eta": sample.eta, "latent_kept": latent_kept}
        | {"params": sample.cost.params, "flops": sample.cost.flops}
        | {"n": sample.score.n, "n_correct": sample.score.n_correct}
        | {"collapsed": int(sample.outcome.collapsed)}
        | {"acceptable": int(sample.score.accuracy >= acceptable), "chosen": int(sample is chosen)}
        for sample in samples
    ]


def history_rows(samples: list[Sample]) -> list[dict[str, Any]]:
    """Every epoch of every sample's retraining."""
    return [{"sample": sample.name} | row for sample in samples for row in sample.outcome.history]


def layer_rows(samples: list[Sample]) -> list[dict[str, Any]]:
    """What the surgery did to each layer of each sample."""
    return [
        {"sample": sample.name, "layer": row.name, "group": row.group}
        | {"threshold": row.threshold, "n_before": row.n_before, "n_after": row.n_after}
        for sample in samples
        for row in sample.layers
    ]


def latent_rows(utility: TaskUtility) -> list[dict[str, Any]]:
    """The choice of latent neurons, by rank."""
    choice, v = utility.choice, utility.v
    hits = zip(choice.order, choice.n_correct, choice.n_correct_pca, strict=True)
    return [
        {"rank": rank, "neuron": int(neuron), "v": float(v[neuron])}
        | {"n": choice.n, "n_correct": int(by_lda), "n_correct_pca": int(by_pca)}
        | {"kept": int(choice.kept[neuron])}
        for rank, (neuron, by_lda, by_pca) in enumerate(hits, start=1)
    ]


def prune_round(
    model: nn.Module,
    utility: TaskUtility,
    *,
    etas: Sequence[float],
    sizes: Sequence[float],
    surgery: Surgery,
    retrain: Callable[[nn.Module, str], tuple[Outcome, Cost]],
) -> list[Sample]:
    """Step 3 and the retraining of one round: a sample for each eta and for each size.

    Args:
        model: the pushed model to prune; left untouched.
        utility: of this model.
        etas: thresholds' factors.
        sizes: fractions of the model's parameters, for which eta is found by bisection.
        retrain: from (pruned model, sample's name) to the outcome of its retraining, in place, and its cost.
    """
    example = utility.images.first(1)
    options: dict[str, Any] = {"round_to": surgery.round_to, "remove_branches": surgery.remove_branches}
    pruned = []
    for eta in etas:
        smaller, layers = prune_model(model, utility.utilities, eta, example, **options)
        pruned.append((f"eta{eta:g}", eta, smaller, layers))
    for size in sizes:
        n_params = round(size * count_params(model))
        smaller, layers, eta = prune_to_size(model, utility.utilities, n_params, example, **options)
        pruned.append((f"size{size:g}", eta, smaller, layers))
    samples = []
    for name, eta, smaller, layers in pruned:
        outcome, cost = retrain(smaller, name)
        samples.append(Sample(name, eta, smaller, cost, outcome, layers))
    return samples
