"""How wide each layer stays: from utilities to one score for every channel, on a scale that eta cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.machine.float64 import float64
from pipeline.models.classifier import output_layer
from pipeline.prune.groups import best_first

if TYPE_CHECKING:
    from pipeline.deconv import Utility
    from pipeline.params.pruning import CostUnit, Widths
    from pipeline.prune.plan import ChannelPlan


@dataclass(frozen=True)
class Ranking:
    """Scores (N,) of a plan's root channels, those that eta has no say over (N,), and which of those go (N,).

    `units`: for each layer's name the utility that a score of one stands for; none where scores are ranks.
    """

    score: Tensor
    decided: Tensor
    dropped: Tensor
    units: Mapping[str, float]

    def removed(self, eta: float) -> Tensor:
        """Mask (N,) of what goes: scores under eta, and those that are not positive whatever eta is."""
        return torch.where(self.decided, self.dropped, (self.score < eta) | (self.score <= 0))


def rank_channels(
    plan: ChannelPlan,
    utilities: Mapping[str, Utility],
    *,
    widths: Widths,
    per_cost: CostUnit | None = None,
    latent_kept: Tensor | int | None = None,
    latent_order: Tensor | None = None,
) -> Ranking:
    """Score every channel, and decide the latent layer.

    Coupled layers (a residual sum, a depthwise convolution) are one group, and go by the average of their
    utilities in their layers' own units (CVIU 5.4). The scores' scale gives eta its meaning:

    * `layer`: in units of the standard deviation of the layer's non-zero utilities, so that eta is Eq. 3.13's.
    * `global`: each layer's utilities over their L2 norm, in units of the standard deviation of all of these;
      eta is one threshold over all layers. With `per_cost` what a channel saves at the unpruned net divides its
      score before the deviation is taken: eta then weighs utility per parameter, or per FLOP.
    * `uniform`: the channel's rank in its layer, from 0 for the worst to 1 for the best; eta is the share that
      goes. The latent layer is left out: it stays as it is unless `latent_kept` says otherwise.

    Args:
        plan: of the model.
        utilities: by layer; the map's spatial maximum is a channel's utility.
        widths, per_cost: see above; `per_cost` for `global` alone.
        latent_kept: a mask (d,) over the output layer's inputs: a channel that no kept input reads goes, the others
            stay, and eta has no say. Or how many inputs: the best by their own utility. None: cut like any layer.
        latent_order: (d,) discriminating power, by which rounding gives latent channels back; None: their utility.

    Raises:
        ValueError: for a mask of another shape.
    """
    norms = {name: _norm(utility.channels) for name, utility in utilities.items()}
    normed = plan.average({name: each.channels / norms[name] for name, each in utilities.items()})
    channels, neurons = plan.latent
    decided = torch.zeros(plan.n_channels, dtype=torch.bool)
    decided[channels] = widths == "uniform" or latent_kept is not None
    if widths == "layer":
        units = {name: utility_spread(utility) for name, utility in utilities.items()}
        score = plan.average({name: _in_spreads(each, units[name]) for name, each in utilities.items()})
    elif widths == "global":
        score = normed if per_cost is None else normed / _saved(plan, per_cost)
        spread = _deviation(score[~decided]) or 1.0
        score, units = score / spread, {name: norm * spread for name, norm in norms.items()}
        units = units if per_cost is None else {}
    else:
        score, units = _shares(plan, normed), {}
    dropped = torch.zeros_like(decided)
    if latent_kept is not None:
        order = normed[channels] if latent_order is None else float64(latent_order).cpu()[neurons]
        dropped[channels] = True
        dropped[channels[_kept_inputs(plan, latent_kept, normed)[neurons]]] = False
        best = torch.full_like(score, -torch.inf).scatter_reduce(0, channels, order, "amax")
        score = torch.where(decided, best.masked_fill(~dropped, torch.inf), score)
    return Ranking(score, decided, dropped, units)


def utility_spread(utility: Utility) -> float:
    """The standard deviation in Eq. 3.13: over all positions of the map with non-zero utility."""
    return _deviation(utility.map[utility.map != 0])


def _in_spreads(utility: Utility, spread: float) -> Tensor:
    channels = float64(utility.channels).cpu()
    # Without spread there is no scale: any positive utility is above the threshold of zero.
    return channels / spread if spread > 0 else torch.where(channels > 0, torch.inf, 0.0)


def _norm(channels: Tensor) -> float:
    return float(float64(channels).norm()) or 1.0


def _deviation(values: Tensor) -> float:
    return float(values.std(correction=1)) if values.numel() > 1 else 0.0


def _saved(plan: ChannelPlan, per_cost: CostUnit) -> Tensor:
    return plan.costs.savings[0 if per_cost == "params" else 1].clamp_min(1)


def _shares(plan: ChannelPlan, score: Tensor) -> Tensor:
    """Ranks within each layer: the share of its channels that is worse, half a channel added."""
    shares = torch.zeros_like(score)
    for group, at in zip(plan.groups, plan.slices, strict=True):
        for channels, _ in group.segments:
            ranks = torch.arange(len(channels), dtype=torch.float64)
            shares[at.start + best_first(channels, score[at])] = 1 - (ranks + 0.5) / len(channels)
    return shares


def _kept_inputs(plan: ChannelPlan, latent_kept: Tensor | int, score: Tensor) -> Tensor:
    """The mask (d,) of the output layer's inputs that stay; as many as asked for, by the scores of who writes them."""
    last = output_layer(plan.model)
    d = last.in_features if isinstance(last, nn.Linear) else last.in_channels
    if isinstance(latent_kept, Tensor):
        if latent_kept.dtype != torch.bool or latent_kept.shape != (d,):
            raise ValueError(
                f"expected latent_kept as a boolean mask ({d},), got {latent_kept.dtype} {tuple(latent_kept.shape)}"
            )
        return latent_kept.cpu()
    channels, neurons = plan.latent
    by_input = torch.full((d,), -torch.inf, dtype=torch.float64)
    by_input[neurons] = score[channels]
    kept = torch.zeros(d, dtype=torch.bool)
    kept[torch.argsort(by_input, descending=True, stable=True)[:latent_kept]] = True
    return kept
