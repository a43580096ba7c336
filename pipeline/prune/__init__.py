"""Threshold and pruning: from utilities to a smaller model (thesis section 3.2.3, CVIU 3.2 and 5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.machine.float64 import float64
from pipeline.models.classifier import Blueprint, Net
from pipeline.prune.surgery import ChannelGroup, Cut, remove_channels

if TYPE_CHECKING:
    from pipeline.deconv import Utility


@dataclass(frozen=True)
class LayerPruning:
    """What became of one layer's output channels; `n_after` is 0 in a branch that was removed whole."""

    name: str
    group: str
    n_before: int
    n_after: int
    threshold: float


def utility_spread(utility: Utility) -> float:
    """The standard deviation in Eq. 3.13: over all positions of the map with non-zero utility."""
    return _deviation(utility.map[utility.map != 0])


def utility_threshold(utility: Utility, eta: float) -> float:
    """Eq. 3.13: t = eta x the standard deviation of the layer's non-zero utilities."""
    return eta * utility_spread(utility)


def prune_model(
    model: Net,
    utilities: Mapping[str, Utility],
    eta: float,
    example_input: Tensor,
    *,
    round_to: int = 1,
    remove_branches: bool = False,
) -> tuple[Net, list[LayerPruning]]:
    """Remove every channel whose utility is under its layer's threshold (Eq. 3.13).

    Coupled layers (a residual sum, a depthwise convolution) are pruned as one group by the average of their
    utilities, each in units of its own layer's standard deviation, so that one `eta` fits all (CVIU 5.4). A
    channel without positive utility goes at any `eta`. The best channel of every layer stays; a whole branch
    may go where `surgery.remove_channels` says.

    Args:
        model: the model to prune; it is left untouched.
        utilities: from `deconv.trace_utility`, for this model.
        eta: the threshold's factor, one for all layers.
        example_input: one image or more, as the model takes them, to trace the layers' connections.
        round_to: every layer keeps a multiple of this many channels, or all of them.
        remove_branches: whether branches of Inception modules may be removed whole.

    Returns:
        A new, smaller model in evaluation mode, and a row for each traced layer.

    Raises:
        ValueError: if eta is not positive, or the surgery fails on this architecture.
    """
    if eta <= 0:
        raise ValueError(f"expected a positive eta, got {eta}")
    in_spreads = {name: _in_spreads(utility, eta) for name, utility in utilities.items()}

    def under_threshold(group: ChannelGroup) -> Cut:
        mean = group.average(in_spreads)
        return Cut(mean, (mean < eta) | (mean <= 0))

    smaller, group_of = remove_channels(
        model, utilities, under_threshold, example_input, round_to=round_to, remove_branches=remove_branches
    )
    rows = [
        LayerPruning(
            name=name,
            group=group_of[name],
            n_before=n_channels(model, name),
            n_after=n_channels(smaller, name),
            threshold=utility_threshold(utility, eta),
        )
        for name, utility in utilities.items()
        if name in group_of
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

    def worst(group: ChannelGroup) -> Cut:
        mean = group.average(in_spreads)
        removed = torch.zeros(group.n_channels, dtype=torch.bool)
        for channels, members in group.segments():
            owner = min(members, key=lambda member: len(member.root_idx))
            n_kept = n_channels(reference, owner.name)
            if len(owner.root_idx) != len(channels) or n_kept > len(channels):
                raise ValueError(
                    f"expected a reference with at most {len(channels)} channels in {owner.name}, got {n_kept}"
                )
            by_score = sorted(channels, key=lambda c: (float(mean[c]), -c))
            removed[by_score[: len(channels) - n_kept]] = True
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


def n_channels(model: nn.Module, name: str) -> int:
    """Output channels of a layer by its name; 0 where the model does not have it (any more)."""
    for found, module in model.named_modules():
        if found == name:
            return len(module.weight)
    return 0


def _in_spreads(utility: Utility, eta: float) -> Tensor:
    """A layer's channel utilities in units of its standard deviation."""
    spread = utility_spread(utility)
    # Without spread there is no scale: any positive utility is above the threshold of zero.
    return utility.channels.cpu() / spread if spread > 0 else utility.channels.cpu().sign() * eta


def _deviation(values: Tensor) -> float:
    return float(values.std(correction=1)) if values.numel() > 1 else 0.0


def _spread(score: Tensor) -> float:
    spread = _deviation(score)
    return spread if spread > 0 else 1.0
