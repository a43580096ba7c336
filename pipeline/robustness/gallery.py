"""Who was fooled where the other was not, with pictures (thesis Figures 5-2 to 5-5)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from pipeline.machine.seeding import derive_seed
from pipeline.params import Robustness
from pipeline.robustness.outcomes import Predictions, compare_outcomes, gallery_rows, pick_examples
from pipeline.workflow.files import write_csv

_FIELDS = (
    "seed",
    "attack",
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


class Gallery:
    """For each attack: images that fooled the base and not the parameter-first model, and the reverse.

    Args:
        seed: the run's seed.
        settings: section `robustness` of the params.
        labels: (n,) the true labels.
    """

    def __init__(self, seed: int, settings: Robustness, labels: Tensor) -> None:
        self._seed, self._settings, self._labels = seed, settings, labels
        self._rows: list[dict[str, Any]] = []
        self._counts: list[dict[str, Any]] = []
        self._images: dict[str, Tensor] = {}

    def add(
        self,
        attack: str,
        base: Mapping[str, Predictions],
        pruned: Mapping[str, Predictions],
        clean: Tensor,
        attacked: Tensor,
    ) -> None:
        """Count who was fooled, and keep some of those images.

        Args:
            attack: the condition's name.
            base: its predictions by condition, clean ones among them.
            pruned: those of the parameter-first model.
            clean: (n, channels, height, width) images in [0, 1].
            attacked: the same images under the attack.
        """
        outcomes = compare_outcomes(self._labels, base, pruned, attack)
        self._counts.append({"seed": self._seed, "attack": attack} | outcomes.counts())
        for kind, mask in (("only_base", outcomes.only_first), ("only_pruned", outcomes.only_second)):
            random = derive_seed(self._settings.gallery_seed, self._seed, attack, kind)
            chosen = pick_examples(mask, self._settings.gallery_images, random)
            key = {"seed": self._seed, "attack": attack, "fooled": kind}
            self._rows += [key | row for row in gallery_rows(chosen, self._labels, base, pruned, attack)]
            self._images[f"{attack}.{kind}.clean"] = clean[chosen].cpu()
            self._images[f"{attack}.{kind}.attacked"] = attacked[chosen].cpu()

    def save(self, folder: Path) -> None:
        """Write `gallery.csv`, `outcomes.csv` and `gallery.safetensors`."""
        write_csv(folder / "gallery.csv", self._rows, fields=_FIELDS)
        write_csv(folder / "outcomes.csv", self._counts)
        save_file(self._images, folder / "gallery.safetensors")
