"""Threshold and pruning: from utilities to a smaller model (thesis section 3.2.3, CVIU 3.2 and 5.4)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.machine.float64 import float64
from pipeline.models.classifier import Blueprint, Net, weight_layers
from pipeline.prune.groups import best_first
from pipeline.prune.surgery import Cut, Surgery, remove_channels
from pipeline.prune.widths import Ranking, rank_channels, utility_spread

if TYPE_CHECKING:
    from pipeline.deconv import Utility
    from pipeline.params.pruning import CostUnit, Widths
    from pipeline.prune.groups import ChannelGroup
    from pipeline.prune.plan import Selection


@dataclass(frozen=True)
class LayerPruning:
    """What became of one layer's output channels; `n_after` is 0 in a branch that was removed whole.

    `threshold` is in units of the layer's utility; not a number where channels went by rank, by cost or by v_j.
    `left_whole` says why a layer could lose none.
    """

    name: str
    group: str
    n_before: int
    n_after: int
    threshold: float
    left_whole: str = ""


def utility_threshold(utility: Utility, eta: float) -> float:
    """Eq. 3.13: t = eta x the standard deviation of the layer's non-zero utilities."""
    return eta * utility_spread(utility)


def prune_model(
    model: Net,
    utilities: Mapping[str, Utility],
    eta: float,
    example_input: Tensor,
    *,
    widths: Widths = "layer",
    per_cost: CostUnit | None = None,
    latent_kept: Tensor | int | None = None,
    latent_order: Tensor | None = None,
    round_to: int = 1,
    min_channels: int = 1,
    keep: Collection[str] = (),
    remove_branches: bool = False,
) -> tuple[Net, list[LayerPruning]]:
    """Remove every channel whose utility is under its layer's threshold (Eq. 3.13), or by other `widths`.

    A channel without positive utility goes at any `eta`, but by rank. The best channel of every layer stays; a
    whole branch may go where `surgery.remove_channels` says. The latent layer is cut by v_j and M' alone where
    `latent_kept` is given (thesis 3.2.1): its channels are those that a kept neuron reads, whatever `eta` is.

    Args:
        model: the model to prune; it is left untouched.
        utilities: from `deconv.trace_utility`, for this model.
        eta: the threshold's factor, one for all layers; see `widths.rank_channels` for its meaning in each.
        example_input: one image or more, as the model takes them, to trace the layers' connections.
        widths, per_cost, latent_kept, latent_order: as for `widths.rank_channels`.
        round_to: every layer keeps a multiple of this many channels, or all of them.
        min_channels: and no fewer than this, or all of them.
        keep: patterns over the names of modules whose layers are left whole (`whole.kept_layers`).
        remove_branches: whether branches of Inception modules may be removed whole.

    Returns:
        A new, smaller model in evaluation mode, and a row for each traced layer.

    Raises:
        ValueError: if eta is not positive, or the surgery fails on this architecture.
    """
    if eta <= 0:
        raise ValueError(f"expected a positive eta, got {eta}")
    surgery = Surgery(model, utilities, example_input, keep=keep)
    ranking = rank_channels(
        surgery.plan,
        utilities,
        widths=widths,
        per_cost=per_cost,
        latent_kept=latent_kept,
        latent_order=latent_order,
    )
    selection = surgery.plan.select(
        ranking.score,
        ranking.removed(eta),
        round_to=round_to,
        min_channels=min_channels,
        remove_branches=remove_branches,
    )
    return cut_selection(surgery, selection, ranking, eta)


def cut_selection(
    surgery: Surgery[Net], selection: Selection, ranking: Ranking, eta: float
) -> tuple[Net, list[LayerPruning]]:
    """Cut, and a row for each layer, those that could lose no channels included."""
    plan = surgery.plan
    decided = {
        member.name
        for group, at in zip(plan.groups, plan.slices, strict=True)
        for member in group.members
        if bool(ranking.decided[at][member.root_idx].all())
    }
    n_before = n_channels(plan.model)
    smaller = surgery.cut(selection)
    n_after = n_channels(smaller)
    rows = [
        LayerPruning(
            name=name,
            group=plan.group_of.get(name, name),
            n_before=n_before[name],
            n_after=n_after.get(name, 0),
            threshold=eta * ranking.units[name]
            if name in ranking.units and name not in decided and name not in plan.whole
            else math.nan,
            left_whole=plan.whole.get(name, ""),
        )
        for name in plan.layers
        if name in n_before  # auxiliary heads are not cut, but dropped
    ]
    return smaller, rows


def prune_like(model: Net, scores: Mapping[str, Tensor], reference: nn.Module, example_input: Tensor) -> Net:
    """Prune by any scores to as many channels in every layer as `reference` has (thesis 3.3.3's protocol).

    Coupled layers go by the average of their scores, each in units of its layer's standard deviation. The
    reference is a pruned model of the same architecture; branches that it lacks are removed.

    Args:
        model, example_input: as for `prune_model`.
        scores: for each layer's name the scores (channels,) of its channels, the higher the better.
        reference: gives the number of channels of every layer, none more than the model has.

    Raises:
        ValueError: if the reference is no smaller model of this architecture, or the surgery fails.
    """
    in_spreads = {name: float64(score) / _spread(float64(score)) for name, score in scores.items()}
    _check_layers(model, reference)
    counts = n_channels(reference)

    def worst(group: ChannelGroup) -> Cut:
        mean = group.average(in_spreads)
        removed = torch.zeros(group.n_channels, dtype=torch.bool)
        for channels, members in group.segments:
            owner = min(members, key=lambda member: len(member.root_idx))
            n_kept = counts.get(owner.name, 0)
            if len(owner.root_idx) != len(channels) or n_kept > len(channels):
                raise ValueError(
                    f"expected a reference with at most {len(channels)} channels in {owner.name}, got {n_kept}"
                )
            removed[best_first(channels, mean)[n_kept:]] = True
        return Cut(mean, removed)

    return remove_channels(model, scores, worst, example_input, remove_branches=True)[0]


def _check_layers(model: nn.Module, reference: nn.Module) -> None:
    """Refuse a reference whose layers are not the model's, but for the branches that it was built without."""
    names, found = ({name for name, _ in each.named_modules()} for each in (model, reference))
    blueprint = getattr(reference, "blueprint", None) or getattr(
        getattr(reference, "net", None), "blueprint", None
    )
    without = tuple(blueprint.options.get("without", ())) if isinstance(blueprint, Blueprint) else ()
    missing = {name for name in names - found if not any(f"{branch}." in f"{name}." for branch in without)}
    if missing or found - names:
        differing = min(missing or found - names)
        raise ValueError(
            f"expected a reference of the same layers as the model's, {differing!r} is in one alone"
        )


def n_channels(model: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer by name."""
    return {name: len(layer.weight) for name, layer in weight_layers(model).items()}


def _spread(score: Tensor) -> float:
    spread = float(score.std(correction=1)) if score.numel() > 1 else 0.0
    return spread if spread > 0 else 1.0
