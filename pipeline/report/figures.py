"""Pictures by Matplotlib: PNG and SVG with the same bytes from the same tables; how the models are called."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.compared import AFTER_THE_FACT, PUSHED

# The models of the main flow by their names for readers.
LABELS = {
    "original": "original",
    "base": "before growing",
    "control": "trained on without the push",
    "pushed": "pushed",
    "accuracy_first": "pruned, accuracy first",
    "parameter_first": "pruned, parameter first",
    "after_the_fact_accuracy_first": "after the fact, accuracy first",
    "after_the_fact_parameter_first": "after the fact, parameter first",
}
# The two ways to a pruned model, for readers.
PIPELINES = {PUSHED: "grow, push, prune", AFTER_THE_FACT: "after the fact (chapter 3)"}
SIZES = {"params": "parameters", "flops": "FLOPs per image"}

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
        with warnings.catch_warnings():
            # Of names in letters that the font lacks: boxes in the PNG, and right in the SVG, which keeps text.
            warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
            drawing.savefig(folder / f"{name}.png", dpi=dpi, metadata={"Software": None})
            drawing.set_layout_engine("none")  # what the first format has laid out stays
            drawing.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})


def label_axes(axes: Axes, *, x: str = "", y: str = "", title: str = "") -> None:
    """Axis labels (with units) and title in one call."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title, fontsize=10)


def literal(text: str, *, most: int) -> str:
    """A name from outside as Matplotlib shows it letter by letter, cut to `most` of them; the tables have it whole.

    What cannot be seen, such as the end of a line or blanks alone, is a box; a dollar begins no formula.
    """
    shown = "".join(letter if letter.isprintable() else "\u25a1" for letter in text)
    if not shown.strip():
        shown = "\u25a1" * len(shown)
    if len(shown) > most:
        shown = f"{shown[: most - 1]}\u2026"
    return shown.replace("$", r"\$")
