"""What the pages are made of: sections, tables, images, and numbers with their intervals over seeds."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

Names = Mapping[str, str]
# What begins markup somewhere: each may stand behind a backslash (CommonMark 2.4).
_MARKUP = re.compile(r"[\\`*_{}\[\]<>#|~$&!^]|:(?=[\w+-]+:)")
_BARE_PIPE = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its confidence interval; without one (NaN) where there is a single seed."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half of the interval's length; the interval is symmetric around the mean."""
        return (self.high - self.low) / 2

    def percent(self, *, signed: bool = False) -> str:
        """For a table: `98.52 ± 0.40`, in percent; the mean alone where there is one seed."""
        mean = percent(self.mean, signed=signed)
        return mean if np.isnan(self.half_width) else f"{mean} ± {100 * self.half_width:.2f}"


def mean_interval(values: Sequence[float], *, confidence: float) -> Interval:
    """The mean and Student's t interval of it, one value a seed.

    Raises:
        ValueError: if there are no values.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        raise ValueError("expected at least one value, got none")
    mean = float(sample.mean())
    if sample.size == 1:
        return Interval(mean, float("nan"), float("nan"), 1)
    standard_error = float(stats.sem(sample))
    if standard_error == 0:
        return Interval(mean, mean, mean, sample.size)
    low, high = stats.t.interval(confidence, sample.size - 1, loc=mean, scale=standard_error)
    return Interval(mean, float(low), float(high), int(sample.size))


def section(title: str, *blocks: str) -> str:
    """A heading and the blocks below it, with blank lines between them; empty blocks are left out."""
    return "\n\n".join([f"## {title}", *filter(None, blocks)]) + "\n"


def table(header: str, rows: Iterable[Sequence[object]]) -> str:
    """A table with a header such as `model | seed`; the first column left, the others right."""
    alignment = [":--", *["--:"] * header.count(" | ")]
    cells = ([_BARE_PIPE.sub(r"\\|", str(cell)) for cell in row] for row in rows)
    return "\n".join(f"| {line} |" for line in (header, *(" | ".join(each) for each in (alignment, *cells))))


def frame_table(header: str, frame: pd.DataFrame, columns: str) -> str:
    """A table of a frame's columns: sizes with commas, accuracies in percent, all else as it is."""
    cells = [map(_FORMATS.get(name.split(".")[0], str), frame[name]) for name in columns.split()]
    return table(header, zip(*cells, strict=True))


def grid(corner: str, rows: Names, columns: Names, cell: Callable[[str, str], str]) -> str:
    """A table of what `cell` says of each row and column, both by name with their names for readers."""
    cells = ([label, *(cell(row, column) for column in columns)] for row, label in rows.items())
    return table(" | ".join([corner, *columns.values()]), cells)


def literal(text: str) -> str:
    """Text from outside, such as names of classes and files, as Markdown and HTML show it letter by letter."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def bullets(sentences: Iterable[str]) -> str:
    """A list, a line for each sentence."""
    return "\n".join(f"* {sentence}" for sentence in sentences)


def image(name: str, alternative: str) -> str:
    """A figure by its PNG, with the SVG one click away."""
    return f"[![{alternative}](figures/{name}.png)](figures/{name}.svg)"


def percent(fraction: float, *, signed: bool = False) -> str:
    """`98.52` or `+0.28`, in percent; what rounds to nothing is `+0.00`."""
    value = round(100 * fraction, 2) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{value:+.2f}" if signed else f"{value:.2f}"


def thousands(count: float) -> str:
    """`12,345`."""
    return f"{round(count):,}"


def counted(n: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


_FORMATS: dict[str, Callable[[Any], str]]
_FORMATS = {"params": thousands, "flops": thousands, "accuracy": percent}
