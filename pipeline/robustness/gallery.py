"""Who was fooled where the other was not, with pictures (thesis Figures 5-2 to 5-5)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from pipeline.files import write_csv
from pipeline.robustness.outcomes import BeforeAndAfter, compare_outcomes, gallery_rows, pick_examples

_FIELDS = (
    "fooled",
    "image",
    "label",
    *(
        f"{model}_{state}_{what}"
        for model in ("first", "second")
        for state in ("clean", "attacked")
        for what in ("class", "confidence")
    ),
)


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
        models: the base and the parameter-first model's predictions.
        clean: (n, channels, height, width) images in [0, 1].
        attacked: the same images under the attack.
        n_images: at most, of either kind.
        seed_of: from `only_base` or `only_pruned` to the seed that draws them.
    """
    base, pruned = models["base"], models["parameter_first"]
    outcomes = compare_outcomes(labels, base, pruned)
    rows: list[dict[str, Any]] = []
    images = {}
    for fooled, mask in (("only_base", outcomes.only_first), ("only_pruned", outcomes.only_second)):
        chosen = pick_examples(mask, n_images, seed_of(fooled))
        rows += [{"fooled": fooled} | row for row in gallery_rows(chosen, labels, base, pruned)]
        images[f"{fooled}.clean"] = clean[chosen].cpu()
        images[f"{fooled}.attacked"] = attacked[chosen].cpu()
    write_csv(folder / "outcomes.csv", [outcomes.counts()])
    write_csv(folder / "gallery.csv", rows, fields=_FIELDS)
    save_file(images, folder / "gallery.safetensors")
