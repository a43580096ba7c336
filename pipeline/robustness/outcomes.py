"""The comparison of robustness: every model on the same perturbed images (thesis section 5.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.machine.float64 import float64
from pipeline.training.predict import predict_logits


@dataclass(frozen=True)
class Predictions:
    """One model on one condition, on the CPU.

    `predicted` (n,) int64 classes; `confidence` (n,) float64, the softmax of the predicted class, the thesis's
    confidence.
    """

    predicted: Tensor
    confidence: Tensor

    def hits(self, labels: Tensor) -> Tensor:
        """Mask (n,) of images whose label was predicted."""
        return self.predicted == labels

    def n_correct(self, labels: Tensor) -> int:
        """How many of the labels were predicted."""
        return int(self.hits(labels).sum())


def predict(model: nn.Module, images: Tensor, *, batch_size: int) -> Predictions:
    """Predictions for images (n, channels, height, width) in [0, 1]."""
    logits = predict_logits(model, images, batch_size=batch_size)
    confidence, predicted = float64(logits.softmax(1)).max(1)
    return Predictions(predicted.cpu(), confidence.cpu())


def save_predictions(path: Path, predictions: Mapping[str, Predictions]) -> None:
    """Every model's predictions on one condition, in one file."""
    tensors: dict[str, Tensor] = {}
    for name, found in predictions.items():
        tensors |= {f"{name}.predicted": found.predicted, f"{name}.confidence": found.confidence}
    save_file(tensors, path)


def load_predictions(path: Path) -> dict[str, Predictions]:
    """What `save_predictions` wrote."""
    held = load_file(path)
    names = [key.removesuffix(".predicted") for key in held if key.endswith(".predicted")]
    return {name: Predictions(held[f"{name}.predicted"], held[f"{name}.confidence"]) for name in names}


def load_images(folder: Path, labels: Tensor) -> Tensor:
    """Stored perturbed images (n, channels, height, width), as float32.

    Raises:
        InputError: if they were made from images with other labels.
    """
    held = load_file(folder / "images.safetensors")
    if not torch.equal(held["labels"], labels):
        raise InputError(f"{folder}: expected the labels of this test part, got others; run `dvc repro`")
    return held["images"].float()


def perturbation_norms(clean: Tensor, perturbed: Tensor) -> dict[str, float]:
    """Mean L2 and Linf norms of the perturbation, images in [0, 1]."""
    difference = (perturbed - clean).flatten(1)
    return {
        "l2": float(difference.norm(dim=1).mean()),
        "linf": float(difference.abs().amax(1).mean()),
    }


@dataclass(frozen=True)
class Outcomes:
    """Of the images that two models both got right when clean: who was fooled by the attack (masks (n,))."""

    only_first: Tensor
    only_second: Tensor
    both: Tensor
    neither: Tensor

    def counts(self) -> dict[str, int]:
        """How many images of each kind."""
        return {
            "only_first": int(self.only_first.sum()),
            "only_second": int(self.only_second.sum()),
            "both": int(self.both.sum()),
            "neither": int(self.neither.sum()),
        }


# A model's predictions on clean and on perturbed images.
BeforeAndAfter = tuple[Predictions, Predictions]


def compare_outcomes(labels: Tensor, first: BeforeAndAfter, second: BeforeAndAfter) -> Outcomes:
    """Split the images by which of two models the attack fooled (thesis Figures 5-2 and 5-3)."""
    eligible = first[0].hits(labels) & second[0].hits(labels)
    fooled_first, fooled_second = ~first[1].hits(labels), ~second[1].hits(labels)
    return Outcomes(
        only_first=eligible & fooled_first & ~fooled_second,
        only_second=eligible & ~fooled_first & fooled_second,
        both=eligible & fooled_first & fooled_second,
        neither=eligible & ~fooled_first & ~fooled_second,
    )


def pick_examples(mask: Tensor, n: int, seed: int) -> list[int]:
    """Up to `n` indices where the mask holds, drawn by seed, ascending."""
    candidates = mask.nonzero().flatten().numpy()
    random = np.random.default_rng(seed)
    return sorted(int(i) for i in random.permutation(candidates)[:n])


def gallery_rows(
    indices: list[int], labels: Tensor, first: BeforeAndAfter, second: BeforeAndAfter
) -> list[dict[str, Any]]:
    """What each of two models said of an image, clean and attacked, with its confidence."""
    return [
        {"image": idx, "label": int(labels[idx])}
        | {
            f"{name}_{state}_{what}": value
            for name, model in (("first", first), ("second", second))
            for state, found in zip(("clean", "attacked"), model, strict=True)
            for what, value in (
                ("class", int(found.predicted[idx])),
                ("confidence", round(float(found.confidence[idx]), 4)),
            )
        }
        for idx in indices
    ]
