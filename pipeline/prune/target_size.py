"""The eta that prunes to a given size, by bisection (Eq. 3.13's eta means something else for every model)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.cost import count_params
from pipeline.errors import InputError
from pipeline.prune import LayerPruning, prune_model

if TYPE_CHECKING:
    from pipeline.deconv import Utility
    from pipeline.models.classifier import Net

_SMALLEST_ETA = 1e-9


def prune_to_size(
    model: Net,
    utilities: Mapping[str, Utility],
    n_params: int,
    example_input: Tensor,
    *,
    round_to: int = 1,
    remove_branches: bool = False,
    tolerance: float = 0.01,
) -> tuple[Net, list[LayerPruning], float]:
    """`prune_model` with the smallest eta found whose model has at most `n_params` parameters.

    The size falls with eta in steps, so that it may end under the target by more than the tolerance: then
    no eta comes nearer from below, to six digits.

    Args beside those of `prune_model`:
        n_params: parameters of convolutions and linear layers, as `measure_cost` counts them.
        tolerance: the share of `n_params` that the model may be smaller before the search ends.

    Returns:
        The smaller model, its rows, and the eta.

    Raises:
        InputError: if even the best channel of every layer is more than `n_params`.
    """

    def prune(eta: float) -> tuple[Net, list[LayerPruning], int]:
        smaller, rows = prune_model(
            model, utilities, eta, example_input, round_to=round_to, remove_branches=remove_branches
        )
        return smaller, rows, count_params(smaller)

    low, high = 0.0, 0.25
    found = prune(high)
    while found[2] > n_params:
        if all(row.n_after <= max(1, round_to) for row in found[1]) or high > 1e9:
            raise InputError(
                "prune.sizes or compare.sizes: expected a size that pruning can reach, at least "
                f"{found[2]:,} parameters here, got {n_params:,}"
            )
        low, high = high, 2 * high
        found = prune(high)
    # Down to an eta at which only channels without any utility go.
    while found[2] < (1 - tolerance) * n_params and high - low > 1e-6 * high and high > _SMALLEST_ETA:
        middle = (low + high) / 2
        tried = prune(middle)
        if tried[2] > n_params:
            low = middle
        else:
            high, found = middle, tried
    return found[0], found[1], high
