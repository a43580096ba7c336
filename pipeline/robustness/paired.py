"""Two models on the same images: how sure can one be, within a seed, that one is more robust."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import stats

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.robustness.outcomes import Predictions

# Of the paired bootstrap within a seed; those over seeds are `report.confidence`.
CONFIDENCE_LEVEL = 0.95
# Numbers that the bootstrap holds in memory at a time.
_RESAMPLED_AT_ONCE = 2_000_000

Hits = npt.NDArray[np.bool_]


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
    first: tuple[Hits, Hits], second: tuple[Hits, Hits], *, confidence: float, n_resamples: int, seed: int
) -> PairedComparison:
    """Paired bootstrap over images of the difference in accuracy change, and McNemar's test.

    Args:
        first: hits (n,) of the first model on clean and on perturbed images.
        second: the same of the second model, on the same images.
        confidence: of the interval (percentile bootstrap).
        n_resamples: of the images.
        seed: of the resamples.

    Raises:
        ValueError: if the hits are not of one length, at least 1.
    """
    lengths = {len(hits) for hits in (*first, *second)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"expected hits of one length, at least 1, got {sorted(lengths)}")
    changes = [after.astype(np.int64) - before for before, after in (first, second)]
    by_image = (changes[1] - changes[0]).astype(np.float64)
    low, high = _bootstrap_mean(by_image, confidence, n_resamples, seed)
    only_first = int((first[1] & ~second[1]).sum())
    only_second = int((~first[1] & second[1]).sum())
    differing = only_first + only_second
    p_value = float(stats.binomtest(only_first, differing).pvalue) if differing else 1.0
    change = float(by_image.mean())
    return PairedComparison(len(by_image), change, low, high, only_first, only_second, p_value)


def compare_pairs(
    pairs: Iterable[tuple[str, str]],
    before: Mapping[str, Predictions],
    after: Mapping[str, Predictions],
    labels: Tensor,
    *,
    n_resamples: int,
    seed_of: Callable[[str, str], int],
) -> list[dict[str, Any]]:
    """`compare_pair` of each pair of models by name, as rows.

    Args:
        pairs: names of a first and a second model.
        before: predictions on clean images by model.
        after: those on perturbed images.
        labels: (n,) the true labels.
        n_resamples: of the images.
        seed_of: from a pair to the seed of its resamples.
    """
    rows = []
    for pair in pairs:
        first, second = (
            (before[name].hits(labels).numpy(), after[name].hits(labels).numpy()) for name in pair
        )
        compared = compare_pair(
            first, second, confidence=CONFIDENCE_LEVEL, n_resamples=n_resamples, seed=seed_of(*pair)
        )
        rows.append({"first": pair[0], "second": pair[1]} | asdict(compared))
    return rows


def _bootstrap_mean(
    values: npt.NDArray[np.float64], confidence: float, n_resamples: int, seed: int
) -> tuple[float, float]:
    if (values == values[0]).all():  # nothing to resample: scipy would warn and give NaN
        return float(values[0]), float(values[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=n_resamples,
            batch=max(1, _RESAMPLED_AT_ONCE // len(values)),
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
