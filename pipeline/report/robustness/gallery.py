"""Galleries of attacked images (thesis Figures 5-2 to 5-5)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from pipeline.report.figures import figure, literal
from pipeline.report.markdown import image, section

if TYPE_CHECKING:
    from pipeline.report.results import Results

# Of a class's name above an image of the gallery.
_LETTERS = 14
# Of changes: red is brighter than it was, blue darker.
_SIGNED = "RdBu_r"
_FOOLED = {"only_original": "fooled the original, not the pruned model", "only_pruned": "the reverse"}


def galleries_section(results: Results, figures: Path) -> str:
    """Draw the galleries (thesis Figures 5-2 to 5-5); empty without attacks."""
    headline, blocks = results.headline(), []
    for attack in [
        each.name for each in results.conditions() if each.kind == "attack" and each.name in headline
    ]:
        for fooled, words in _FOOLED.items():
            name, title = f"gallery_{attack}_{fooled}", f"{attack}: {words}"
            drawn = draw_gallery(results, attack, fooled, name, figures)
            blocks += [f"### {title}", image(name, title) if drawn else "No image."]
    if not blocks:
        return ""
    return section(
        "Gallery",
        f"Drawn at random by `robustness.gallery_seed`, {results.params.robustness.gallery_seed}, from seed "
        f"{results.params.seeds[0]}'s models; in parentheses the softmax confidence (thesis Figures 5-2 to 5-5). A "
        "change is red where the attack made the pixel brighter and blue where darker; of colour images it is shown "
        "in their colours, around grey.",
        *blocks,
    )


def draw_gallery(results: Results, attack: str, fooled: str, name: str, folder: Path) -> bool:
    """The first seed's clean images, perturbations, attacked images, and what both models said; False if none."""
    rows, images = results.galleries[attack]
    rows = rows[rows["fooled"] == fooled]
    if rows.empty:
        return False
    clean, attacked = (images[f"{fooled}.{state}"].astype(np.float32) for state in ("clean", "attacked"))
    classes = [literal(each, most=_LETTERS) for each in results.dataset["classes"]]
    scale = float(np.abs(attacked - clean).max()) or 1.0
    shown = {
        "clean": (clean, 0, 1),
        f"perturbation,\n±{255 * scale:.0f} of 255": (attacked - clean, -scale, scale),
        "attacked": (attacked, 0, 1),
    }
    size = (1.75 * len(rows) + 1.4, 6.4)
    with figure(folder, name, size=size, dpi=results.params.report.dpi) as drawing:
        axes = np.asarray(drawing.subplots(3, len(rows), squeeze=False))
        for of_kind, (label, (pixels, low, high)) in zip(axes, shown.items(), strict=True):
            of_kind[0].set_ylabel(label)
            for ax, image in zip(of_kind, pixels, strict=True):
                _show(ax, image, low, high)
            if low < 0 and len(pixels[0]) == 1:
                drawn = ScalarMappable(Normalize(255 * low, 255 * high), _SIGNED)
                drawing.colorbar(drawn, ax=[*of_kind], label="change, of 255", shrink=0.9)
        for column, (_, row) in enumerate(rows.iterrows()):
            title = f"label {classes[int(row['label'])]}\n{_said(row, 'clean', classes)}"
            axes[0, column].set_title(title, fontsize=8)
            axes[2, column].set_title(_said(row, "attacked", classes), fontsize=8)
    return True


def _said(row: pd.Series[Any], state: str, classes: list[str]) -> str:
    return "\n".join(
        f"{name}: {classes[int(row[f'{model}_{state}_class'])]} ({row[f'{model}_{state}_confidence']:.2f})"
        for name, model in (("original", "first"), ("pruned", "second"))
    )


def _show(ax: Axes, image: npt.NDArray[np.float32], low: float, high: float) -> None:
    pixels = image[0] if len(image) == 1 else (image.transpose(1, 2, 0) - low) / (high - low)
    ax.imshow(pixels, vmin=low, vmax=high, cmap="gray" if low == 0 else _SIGNED, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
