"""Two models on the same images: how sure can one be, within a seed, that one is more robust."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from pipeline.uncertainty import Hits, difference_interval

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.robustness.outcomes import Predictions

# Within a seed; of what stands for all seeds it is `report.confidence`.
CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class PairedComparison:
    """`change` of accuracy from clean to perturbed, the second model's less the first's, with its interval.

    Above zero the second loses less. `only_first` and `only_second` are hits on perturbed images that the other
    model misses, `p_value` McNemar's exact test of those two.
    """

    n: int
    change: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float


def compare_pair(
    first: tuple[Hits, Hits], second: tuple[Hits, Hits], *, confidence: float
) -> PairedComparison:
    """The difference in accuracy change with its interval over images (`difference_interval`), and McNemar's test.

    Args:
        first: hits (n,) of the first model on clean and on perturbed images.
        second: the same of the second model, on the same images.
        confidence: of the interval.

    Raises:
        ValueError: if the hits are not of one length, at least 1.
    """
    lengths = {len(hits) for hits in (*first, *second)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"expected hits of one length, at least 1, got {sorted(lengths)}")
    changes = [after.astype(np.int64) - before for before, after in (first, second)]
    by_image = (changes[1] - changes[0]).astype(np.float64)
    change = difference_interval(by_image[None], confidence=confidence)
    only_first = int((first[1] & ~second[1]).sum())
    only_second = int((~first[1] & second[1]).sum())
    differing = only_first + only_second
    p_value = float(stats.binomtest(only_first, differing).pvalue) if differing else 1.0
    interval = change.mean, change.low, change.high
    return PairedComparison(len(by_image), *interval, only_first, only_second, p_value)


def compare_pairs(
    pairs: Iterable[tuple[str, str]],
    before: Mapping[str, Predictions],
    after: Mapping[str, Predictions],
    labels: Tensor,
) -> list[dict[str, Any]]:
    """`compare_pair` of each pair of models by name, as rows.

    Args:
        pairs: names of a first and a second model.
        before: predictions on clean images by model.
        after: those on perturbed images.
        labels: (n,) the true labels.
    """
    rows = []
    for pair in pairs:
        first, second = (
            (before[name].hits(labels).numpy(), after[name].hits(labels).numpy()) for name in pair
        )
        compared = compare_pair(first, second, confidence=CONFIDENCE_LEVEL)
        rows.append({"first": pair[0], "second": pair[1]} | asdict(compared))
    return rows
