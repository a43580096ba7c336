"""What the pages are made of: sections, tables, images, and numbers."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.uncertainty import percent as percent

Names = Mapping[str, str]
# What begins markup somewhere: each may stand behind a backslash (CommonMark 2.4).
_MARKUP = re.compile(r"[\\`*_{}\[\]<>#|~$&!^]|:(?=[\w+-]+:)")
_BARE_PIPE = re.compile(r"(?<!\\)\|")


def spread(values: Sequence[float], written: Callable[[float], str]) -> str:
    """What is no share of images has no interval: the mean over seeds, and the lowest and the highest seed."""
    mean, low, high = (written(float(of(values))) for of in (np.mean, np.min, np.max))
    return f"{mean} ({low} to {high})" if len(values) > 1 else mean


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


def thousands(count: float) -> str:
    """`12,345`."""
    return f"{round(count):,}"


def counted(n: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


_FORMATS: dict[str, Callable[[Any], str]]
_FORMATS = {"params": thousands, "flops": thousands, "accuracy": percent}
