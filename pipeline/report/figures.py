"""Drawing: one style, PNG and SVG with the same bytes from the same tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers and on grey prints.
COLORS = {
    "base": "#000000",
    "grown": "#E69F00",
    "control": "#CC79A7",
    "pushed": "#56B4E9",
    "accuracy_first": "#009E73",
    "parameter_first": "#D55E00",
}
LABELS = {
    "base": "base",
    "grown": "grown",
    "control": "grown, trained on without the push",
    "pushed": "pushed",
    "accuracy_first": "pruned, accuracy first",
    "parameter_first": "pruned, parameter first",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9.0,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.hashsalt": "grow-push-prune",
    "svg.fonttype": "none",
}


@contextmanager
def figure(folder: Path, name: str, *, size: tuple[float, float], dpi: int) -> Iterator[Figure]:
    """A figure that is written as `folder/name.png` and `.svg` when the block ends, without dates in them."""
    with mpl.rc_context(_STYLE):
        drawing = Figure(figsize=size, layout="constrained")
        yield drawing
        folder.mkdir(parents=True, exist_ok=True)
        drawing.savefig(folder / f"{name}.png", dpi=dpi, metadata={"Software": None})
        drawing.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})


def label_axes(axes: Axes, *, x: str, y: str, title: str = "") -> None:
    """Axis labels (with units) and title in one call."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title, fontsize=10)


def short_number(value: float, _position: int) -> str:
    """A tick label such as `20K` or `1.5M`."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
