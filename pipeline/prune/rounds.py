"""One iteration of Algorithm 1: choose latent neurons, trace, then a sample for each eta, retrained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from pipeline.errors import InputError
from pipeline.models.classifier import output_layer, weight_layers
from pipeline.prune import LayerPruning, prune_model
from pipeline.prune.target_size import Target, measure_size, prune_to_size

if TYPE_CHECKING:
    from pipeline.cost import Cost
    from pipeline.models.classifier import Net
    from pipeline.params.pruning import Sizes, SizeUnit, Surgery
    from pipeline.prune.task_utility import TaskUtility
    from pipeline.training.fit import Outcome
    from pipeline.training.predict import Score


@dataclass(frozen=True)
class Sample:
    """A pruned and retrained architecture (CVIU section 5.3.2), and how its retraining went.

    `name` says the eta, or the size that was reached as a share of the original; `target` the eta or size asked for.
    """

    name: str
    eta: float
    target: str
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
        {"sample": sample.name, "target": sample.target, "eta": sample.eta, "latent_kept": latent_kept}
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
        | {"left_whole": row.left_whole}
        for sample in samples
        for row in sample.layers
    ]


def latent_rows(utility: TaskUtility) -> list[dict[str, Any]]:
    """The choice of latent neurons, by rank."""
    choice, v = utility.choice, utility.v
    ranked = zip(choice.order, choice.rows(), strict=True)
    return [row | {"neuron": int(neuron), "v": float(v[neuron])} for neuron, row in ranked]


def prune_round(
    model: Net,
    utility: TaskUtility,
    *,
    etas: Sequence[float],
    sizes: Sizes,
    original: Mapping[SizeUnit, float],
    surgery: Surgery,
    retrain: Callable[[Net, str], tuple[Outcome, Cost]],
) -> list[Sample]:
    """Step 3 and the retraining of one round: a sample for each eta, and for each size that is still ahead.

    Two sizes that lead to one, as whole channels allow no other, make one sample.

    Args:
        model: the pushed model to prune; left untouched.
        utility: of this model.
        etas: thresholds' factors.
        sizes: by unit, fractions of the original's size.
        original: its size in each of these units.
        retrain: from (pruned model, what was asked for) to the outcome of its retraining, in place, and its cost. Its
            random stream goes by what was asked for, whatever was reached.
    """
    example = utility.images.first(1)
    options = surgery_options(surgery, utility)
    pruned: dict[str, tuple[str, float, Net, list[LayerPruning]]] = {}
    for eta in etas:
        smaller, layers = prune_model(model, utility.utilities, eta, example, **options)
        pruned[f"eta{eta:g}"] = f"eta{eta:g}", eta, smaller, layers
    for unit, fractions in sizes.items():
        now = measure_size(model, unit, example.shape[1:])
        for fraction in fractions:
            target = Target(unit, fraction * original[unit])
            if target.value < now:
                found = prune_to_size(model, utility.utilities, target, example, **options)
                smaller, layers, eta, reached = found
                name = f"{unit}{reached / original[unit]:.3g}"
                pruned.setdefault(name, (f"{unit}{fraction:g}", eta, smaller, layers))
    samples = []
    for name, (target_name, eta, smaller, layers) in pruned.items():
        outcome, cost = retrain(smaller, target_name)
        samples.append(Sample(name, eta, target_name, smaller, cost, outcome, layers))
    return samples


def check_rounding(model: nn.Module, round_to: int) -> None:
    """Refuse a multiple of which no layer has two: nothing could ever go.

    Raises:
        InputError: naming the widest layer's channels.
    """
    last = output_layer(model)
    widest = max((len(each.weight) for each in weight_layers(model).values() if each is not last), default=0)
    if round_to >= widest:
        raise InputError(
            f"surgery.round_to: expected fewer than the {widest} channels of the widest layer (got {round_to})"
        )


def surgery_options(surgery: Surgery, utility: TaskUtility) -> dict[str, Any]:
    """What the section says and the latent choice gives, as `prune_model` and `prune_to_size` take it."""
    return {
        "widths": surgery.widths,
        "per_cost": surgery.per_cost,
        "latent_kept": utility.choice.kept,
        "latent_order": utility.v,
        **limits(surgery),
    }


def limits(surgery: Surgery) -> dict[str, Any]:
    """What the section says of the layers, whoever ranks their channels."""
    return {key: getattr(surgery, key) for key in ("round_to", "min_channels", "keep", "remove_branches")}
