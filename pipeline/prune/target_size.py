"""Prune to a size, in what users pay: parameters, FLOPs or measured milliseconds.

Eta means something else for every model (Eq. 3.13), so that models are compared at sizes. The search is on masks,
whose costs are known without a cut (`plan.PlannedCosts`); the net is cut once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Generic

import torch
from torch import Tensor, nn

from pipeline.cost import count_params, measure_cost
from pipeline.errors import InputError
from pipeline.models.classifier import Net, evaluation_mode, output_layer, weight_layers
from pipeline.prune import LayerPruning, cut_selection
from pipeline.prune.groups import best_first, rounding_step
from pipeline.prune.plan import Selection
from pipeline.prune.surgery import Surgery
from pipeline.prune.widths import Ranking, rank_channels

if TYPE_CHECKING:
    from pipeline.deconv import Utility
    from pipeline.params.pruning import CostUnit, SizeUnit, Widths

# How near a size has to come to the one asked for, where whole channels allow it.
TOLERANCE = 0.02
# Images at a time, and runs of which the median counts, where milliseconds are measured.
TIMED_IMAGES, TIMED_RUNS = 32, 21
# FLOPs that are tried on the way to a number of milliseconds.
_TIMED_CUTS = 8


@dataclass(frozen=True)
class Target:
    """A size: parameters, FLOPs of one image, or milliseconds of a batch of `TIMED_IMAGES` images."""

    unit: SizeUnit
    value: float


def measure_size(model: nn.Module, unit: SizeUnit, image_shape: Sequence[int]) -> float:
    """A model's size; parameters and FLOPs as `measure_cost` counts them, milliseconds on the device where it is."""
    if unit == "params":
        return count_params(model)
    if unit == "flops":
        return measure_cost(model, image_shape).flops
    return _milliseconds(model, image_shape)


def prune_to_size(
    model: Net,
    utilities: Mapping[str, Utility],
    target: Target,
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
) -> tuple[Net, list[LayerPruning], float, float]:
    """`prune_model` at the smallest eta that is under the target, and the last channels by utility up to it.

    A step of eta may take several channels at once (rounding, ties, whole branches, channels without utility): the
    best of what goes are given back as long as they fit, until the size is within `TOLERANCE` of the target. Where
    no such channel fits, one that goes over stays if that is nearer.

    Args beside those of `prune_model`:
        target: the size to reach. To milliseconds it goes by way of the FLOPs that come nearest in a few trials.

    Returns:
        The smaller model, its rows, the eta, and the size that was reached, in the target's unit.

    Raises:
        InputError: if even the smallest net is larger than the target.
    """

    def begin() -> _Search[Net]:
        surgery = Surgery(model, utilities, example_input, keep=keep)
        ranking = rank_channels(
            surgery.plan,
            utilities,
            widths=widths,
            per_cost=per_cost,
            latent_kept=latent_kept,
            latent_order=latent_order,
        )
        return _Search(
            surgery, ranking, round_to=round_to, min_channels=min_channels, remove_branches=remove_branches
        )

    if target.unit == "milliseconds":
        return _to_milliseconds(begin, target.value, example_input.shape[1:])
    search = begin()
    selection, eta, reached = search.reach(target)
    return *search.cut(selection, eta), eta, reached


def smallest_cost(
    model: nn.Module,
    example_input: Tensor,
    *,
    round_to: int = 1,
    min_channels: int = 1,
    keep: Collection[str] = (),
    remove_branches: bool = False,
) -> dict[SizeUnit, float]:
    """Parameters and FLOPs under which no utility can prune a net; its weights do not matter.

    Every layer keeps its rounding's channels, the latent one too, and of every Inception module the branch that is
    cheapest in parameters.

    Raises:
        ValueError: if the architecture's channels cannot be cut.
    """
    last = output_layer(model)
    layers = [name for name, layer in weight_layers(model).items() if layer is not last]
    plan = Surgery(model, layers, example_input, keep=keep).plan
    least: dict[str, Any] = {"round_to": round_to, "min_channels": min_channels}
    everything = torch.ones(plan.n_channels, dtype=torch.bool)
    whole = plan.select(torch.zeros(plan.n_channels), everything, **least)
    score = plan.branch_scores(whole)
    selection = plan.select(score, everything, **least, remove_branches=remove_branches)
    params, flops = plan.cost(selection)
    return {"params": params, "flops": flops}


class _Search(Generic[Net]):
    """The selections of a plan by eta, and what they cost."""

    def __init__(self, surgery: Surgery[Net], ranking: Ranking, **options: Any) -> None:
        self.surgery, self.ranking, self.plan = surgery, ranking, surgery.plan
        self._options = options
        at_stake = ranking.score[~ranking.decided & (ranking.score > 0) & ranking.score.isfinite()]
        distinct = torch.unique(at_stake).tolist()
        # Each keeps the channels at or above it; the last one leaves the best of every layer.
        self._etas: list[float] = [*distinct, 2 * distinct[-1]] if distinct else [1.0]

    def smallest(self, axis: int) -> float:
        """What the best of every layer cost."""
        return self.plan.cost(self._select(self._etas[-1]))[axis]

    def reach(self, target: Target) -> tuple[Selection, float, float]:
        """The selection whose parameters or FLOPs are nearest to the target, its eta, and what it costs."""
        axis = 0 if target.unit == "params" else 1
        if self.smallest(axis) > target.value:
            raise _unreachable(target.unit, f"{self.smallest(axis):,.0f}", f"{target.value:,.0f}")
        at = bisect_left(
            self._etas, True, key=lambda eta: self.plan.cost(self._select(eta))[axis] <= target.value
        )
        selection, reached = self._fill(self._select(self._etas[at]), target.value, axis)
        return selection, self._etas[at], reached

    def cut(self, selection: Selection, eta: float) -> tuple[Net, list[LayerPruning]]:
        return cut_selection(self.surgery, selection, self.ranking, eta)

    def _select(self, eta: float) -> Selection:
        return self.plan.select(self.ranking.score, self.ranking.removed(eta), **self._options)

    def _fill(self, selection: Selection, target: float, axis: int) -> tuple[Selection, float]:
        """Give back the best of what goes, one rounding step of a layer at a time, while it fits."""
        costs, left = self.plan.costs, self.plan.left(selection)
        lost, removed = costs.lost(self.plan.gone(selection)), selection.removed.clone()
        reached = costs.without(lost, left)[axis]
        nearest, over = removed, float("inf")
        too_large: set[int] = set()
        for segment, step in self._steps(selection):
            if reached >= (1 - TOLERANCE) * target:
                break
            if segment in too_large:
                continue
            with_step = lost - costs.taken[:, step].sum(1)
            cost = costs.without(with_step, left)[axis]
            if cost <= target:
                lost, reached = with_step, cost
                removed[step] = False
                continue
            too_large.add(segment)
            if cost < over:
                nearest, over = removed.clone(), cost
                nearest[step] = False
        if reached < (1 - TOLERANCE) * target and over - target < target - reached:
            removed, reached = nearest, over
        return Selection(removed, selection.branches), reached

    def _steps(self, selection: Selection) -> list[tuple[int, Tensor]]:
        """What goes and eta had a say over, by descending score: rounding steps, each with its segment's number."""
        steps: list[tuple[float, int, Tensor]] = []
        for group, at in self.plan.cuttable(selection):
            size = rounding_step(group, self._options["round_to"])
            for channels, _ in group.segments:
                goes = channels[(selection.removed & ~self.ranking.decided)[at][channels]]
                number = at.start + int(channels[0])
                if not len(goes):
                    continue
                for step in torch.split(best_first(goes, self.ranking.score[at]), size):
                    score = float(self.ranking.score[at][step].max())
                    steps.append((score, number, at.start + step))
        steps.sort(key=lambda each: -each[0])
        return [(number, step) for _, number, step in steps]


def _to_milliseconds(
    begin: Callable[[], _Search[Net]], target: float, image_shape: Sequence[int]
) -> tuple[Net, list[LayerPruning], float, float]:
    """Bisection over FLOPs, a cut and a measurement at each."""
    search = begin()
    low, high = search.smallest(1), search.plan.costs.whole[1]
    flops, best = low, None
    for _ in range(_TIMED_CUTS):
        selection, eta, _ = search.reach(Target("flops", flops))
        smaller, rows = search.cut(selection, eta)
        took = _milliseconds(smaller, image_shape)
        if best is None and took > (1 + TOLERANCE) * target:
            raise _unreachable("milliseconds", f"{took:.3g}", f"{target:.3g}")
        if best is None or abs(took - target) < abs(best[3] - target):
            best = smaller, rows, eta, took
        if abs(took - target) <= TOLERANCE * target:
            break
        low, high = (flops, high) if took < target else (low, flops)
        flops, search = (low * high) ** 0.5, begin()
    assert best is not None
    return best


@torch.no_grad()
def _milliseconds(model: nn.Module, image_shape: Sequence[int]) -> float:
    from torch.utils.benchmark import Timer  # slow to import, and tells of a missing CUDA

    reference = next(model.parameters())
    images = torch.rand(TIMED_IMAGES, *image_shape, device=reference.device, dtype=reference.dtype)
    with evaluation_mode(model):
        timer = Timer(
            "model(images)",
            globals={"model": model, "images": images},
            num_threads=torch.get_num_threads(),
        )
        return 1000 * median(timer.timeit(1).mean for _ in range(TIMED_RUNS))


def _unreachable(unit: SizeUnit, smallest: str, asked: str) -> InputError:
    name = {"params": "parameters", "flops": "FLOPs", "milliseconds": "milliseconds"}[unit]
    return InputError(
        f"prune.sizes or compare.sizes: expected a size that pruning can reach, at least {smallest} {name} here, "
        f"got {asked}"
    )
