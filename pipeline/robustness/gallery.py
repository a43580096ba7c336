"""Who was fooled where the other was not (thesis section 5.3), with pictures (Figures 5-2 to 5-5)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.compared import ORIGINAL
from pipeline.files import write_csv
from pipeline.robustness.outcomes import Predictions
from pipeline.tensors import save_tensors

# A model's predictions on clean and on perturbed images.
BeforeAndAfter = tuple[Predictions, Predictions]

_SAID = [f"{model}_{state}" for model in ("first", "second") for state in ("clean", "attacked")]
_FIELDS = [
    "fooled",
    "image",
    "label",
    *(f"{each}_{what}" for each in _SAID for what in ("class", "confidence")),
]


def save_gallery(
    folder: Path,
    labels: Tensor,
    models: Mapping[str, BeforeAndAfter],
    clean: Tensor,
    attacked: Tensor,
    *,
    n_images: int,
    seed_of: Callable[[str], int],
) -> None:
    """Write `outcomes.csv`, and images that fooled one of two models alone: `gallery.csv`, `gallery.safetensors`.

    Args:
        folder: where.
        labels: (n,) the true labels.
        models: the original and the parameter-first model's predictions.
        clean: (n, channels, height, width) images in [0, 1].
        attacked: the same images under the attack.
        n_images: at most, of either kind.
        seed_of: from `only_original` or `only_pruned` to the seed that draws them.
    """
    original, pruned = models[ORIGINAL], models["parameter_first"]
    outcomes = compare_outcomes(labels, original, pruned)
    rows: list[dict[str, Any]] = []
    images = {}
    for fooled, kind in (("only_original", "only_first"), ("only_pruned", "only_second")):
        chosen = pick_examples(outcomes[kind], n_images, seed_of(fooled))
        rows += [{"fooled": fooled} | row for row in gallery_rows(chosen, labels, original, pruned)]
        images[f"{fooled}.clean"] = clean[chosen].cpu()
        images[f"{fooled}.attacked"] = attacked[chosen].cpu()
    write_csv(folder / "outcomes.csv", [{kind: int(mask.sum()) for kind, mask in outcomes.items()}])
    write_csv(folder / "gallery.csv", rows, fields=_FIELDS)
    save_tensors(images, folder / "gallery.safetensors")


def compare_outcomes(labels: Tensor, first: BeforeAndAfter, second: BeforeAndAfter) -> dict[str, Tensor]:
    """Of the images that two models both got right when clean: whom the attack fooled (masks (n,) by outcome)."""
    eligible = first[0].hits(labels) & second[0].hits(labels)
    fooled_first, fooled_second = ~first[1].hits(labels), ~second[1].hits(labels)
    return {
        "only_first": eligible & fooled_first & ~fooled_second,
        "only_second": eligible & ~fooled_first & fooled_second,
        "both": eligible & fooled_first & fooled_second,
        "neither": eligible & ~fooled_first & ~fooled_second,
    }


def pick_examples(mask: Tensor, n: int, seed: int) -> list[int]:
    """Up to `n` indices where the mask holds, drawn by seed, ascending."""
    candidates = mask.nonzero().flatten().numpy()
    return sorted(int(i) for i in np.random.default_rng(seed).permutation(candidates)[:n])


def gallery_rows(
    indices: list[int], labels: Tensor, first: BeforeAndAfter, second: BeforeAndAfter
) -> list[dict[str, Any]]:
    """What each of two models said of an image, clean and attacked, with its confidence."""
    said = dict(zip(_SAID, (*first, *second), strict=True))
    return [
        {"image": idx, "label": int(labels[idx])}
        | {f"{name}_class": int(each.predicted[idx]) for name, each in said.items()}
        | {f"{name}_confidence": round(float(each.confidence[idx]), 4) for name, each in said.items()}
        for idx in indices
    ]
