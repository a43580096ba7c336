"""How sure an accuracy, or a difference of accuracies, is: seeds and images count together.

A number of a report is a mean over seeds s and images i of values x_si: hits (0 or 1), or differences of hits on the
same image. Both were drawn: the seeds of training, and the images, which are the same for every seed. With x_s the
mean of a seed and x_i that of an image,

    variance of the mean = var(x_s) / n_seeds + var(x_i) / n_images

as a crossed bootstrap over seeds and images ("pigeonhole", Owen 2007) finds on average, without resampling. What is
particular to one seed on one image counts twice. Each term has a Student's t of its own,

    half of the interval = sqrt(t(n_seeds - 1)^2 var(x_s) / n_seeds + t(n_images - 1)^2 var(x_i) / n_images)

which covers at least as often as it says (Banerjee 1960): intervals are rather too wide than too short. Assumed is that
seeds, and images, are independent draws. Two seeds come out equal by luck often enough, and then look as if seeds never
mattered: of two, var(x_s) is at least what single images alone make of it, r / n_images, where r is the mean square of
what seeds and images do not explain (x_si - x_s - x_i + x). That is zero where both are right on the same images. With
one seed the interval is that of the images alone: it speaks of that seed's model, and of no other.

A p value is read from the same intervals: 1 less the confidence of the one that ends at the value in question. Of
equivalence it is that of two one-sided tests (TOST, Schuirmann 1987): the mean lies above minus a margin, and below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

Hits = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]
_Parts = list[tuple[int, float]]

# So that no table of hits is read as numbers.
_PACKED = "x"
# No p value is said to be smaller.
_LEAST_P = 1e-15


@dataclass(frozen=True)
class Interval:
    """A mean, its confidence interval, and the `n` seeds and `n_images` images behind it."""

    mean: float
    low: float
    high: float
    n: int
    n_images: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below zero, 0 where that is undecided; one seed decides nothing."""
        return int(self.low > 0) - int(self.high < 0) if self.n > 1 else 0

    def percent(self, *, signed: bool = False) -> str:
        """For a table: `98.52 [97.31, 99.20]`, in percent; a dash where nothing was measured."""
        mean, low, high = (percent(each, signed=signed) for each in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]" if self.n else "-"


NOTHING = Interval(float("nan"), float("nan"), float("nan"), 0, 0)


def accuracy_interval(hits: Hits, *, confidence: float) -> Interval:
    """Of the mean of `hits` (seeds, images): Wilson's interval for as many images as would be so uncertain.

    That number is at most that of the images. The interval lies within 0 and 1, and always has a length.

    Raises:
        ValueError: if there are no hits.
    """
    n_seeds, n_images = _shape(hits)
    mean, t = float(hits.mean()), _quantile(max(n_images, 2), 1 - confidence)
    half_sq = _half_sq(_parts(hits), 1 - confidence)
    n = max(1.0, min(n_images, t**2 * mean * (1 - mean) / half_sq)) if half_sq else float(n_images)
    center = (mean + t**2 / (2 * n)) / (1 + t**2 / n)
    half = t / (1 + t**2 / n) * float(np.sqrt(mean * (1 - mean) / n + t**2 / (4 * n**2)))
    # Where all are hits, the upper end is 1 but for rounding.
    low, high = max(0.0, min(mean, center - half)), min(1.0, max(mean, center + half))
    return Interval(mean, low, high, n_seeds, n_images)


def difference_interval(values: Values, *, confidence: float, unit: float = 1.0) -> Interval:
    """Of the mean of differences of hits (seeds, images).

    Two images more, one a whole hit better and one a whole hit worse, count in the images' variance (Bonett and Price
    2012, for McNemar's table): that no image differs among so many does not show that none ever will. `unit` is what a
    whole hit weighs: 1, or more where values are of few of the images and scaled to them.

    Raises:
        ValueError: if there are no values.
    """
    n_seeds, n_images = _shape(values)
    half = float(np.sqrt(_half_sq(_parts(values, unit, -unit), 1 - confidence)))
    mean = float(values.mean())
    return Interval(mean, mean - half, mean + half, n_seeds, n_images)


def p_value(values: Values, *, null: float = 0.0, unit: float = 1.0) -> float:
    """Two-sided, of differences (seeds, images) whose mean is `null`; NaN of one seed, which decides nothing.

    `difference_interval` leaves out `null` where its confidence is below 1 less this.

    Raises:
        ValueError: if there are no values.
    """
    parts, distance_sq = _parts(values, unit, -unit), (float(values.mean()) - null) ** 2
    if len(values) == 1:
        return float("nan")

    def excess(log_p: float) -> float:
        return _half_sq(parts, float(np.exp(log_p))) - distance_sq

    lowest = float(np.log(_LEAST_P))
    if distance_sq == 0 or excess(lowest) <= 0:
        return 1.0 if distance_sq == 0 else _LEAST_P
    return float(np.exp(optimize.brentq(excess, lowest, 0.0)))


def p_equivalence(values: Values, *, margin: float, unit: float = 1.0) -> float:
    """Of differences (seeds, images) whose mean is `margin` or more from zero, either way: the larger of two p values.

    Raises:
        ValueError: if there are no values.
    """
    mean, one_sided = float(values.mean()), list[float]()
    for null in (-margin, margin):
        p = p_value(values, null=null, unit=unit) / 2
        one_sided.append(p if (mean - null) * null < 0 else 1 - p)
    return float(np.max(one_sided))  # NaN where one is


def _shape(values: npt.NDArray[Any]) -> tuple[int, int]:
    if values.ndim != 2 or not values.size:
        raise ValueError(f"expected values (seeds, images), at least one, got {values.shape}")
    return values.shape[0], values.shape[1]


def _parts(values: npt.NDArray[Any], *added: float) -> _Parts:
    """Of the means of seeds, and of those of images with some more: how many, and the variance of their mean."""
    _shape(values)
    by_seed, by_image = values.mean(1), np.append(values.mean(0), added)
    spreads = [float(each.var(ddof=1)) if len(each) > 1 else 0.0 for each in (by_seed, by_image)]
    if len(by_seed) == 2:
        rest = values - by_seed[:, None] - values.mean(0) + values.mean()
        spreads[0] = max(spreads[0], float((rest**2).sum()) / max(values.shape[1] - 1, 1) / values.shape[1])
    return [
        (len(each), spread / len(each)) for each, spread in zip((by_seed, by_image), spreads, strict=True)
    ]


def _half_sq(parts: _Parts, p: float) -> float:
    """The square of half of the interval whose confidence is 1 - p: Student's of each part."""
    return sum(_quantile(n, p) ** 2 * variance for n, variance in parts if n > 1)


def _quantile(n: int, p: float) -> float:
    return -float(special.stdtrit(n - 1, p / 2))


def counts_of(hits: Hits, name: str = "") -> dict[str, Any]:
    """Columns of a table: `n`, `n_correct` and `hits`, image by image and packed; their names begin with `name`."""
    return {f"{name}n": len(hits), f"{name}n_correct": int(hits.sum()), f"{name}hits": pack_hits(hits)}


def pack_hits(hits: Hits) -> str:
    """Image by image, four of them a letter."""
    return _PACKED + np.packbits(hits).tobytes().hex()


def unpack_hits(packed: str, n: int) -> Hits:
    """What `counts_of` packed of `n` images."""
    found = np.unpackbits(np.frombuffer(bytes.fromhex(packed.removeprefix(_PACKED)), dtype=np.uint8), count=n)
    return found.astype(np.bool_)


def percent(fraction: float, *, signed: bool = False) -> str:
    """`98.52` or `+0.28`, in percent; what rounds to nothing is `+0.00`."""
    value = round(100 * fraction, 2) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{value:+.2f}" if signed else f"{value:.2f}"
