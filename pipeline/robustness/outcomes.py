"""The comparison of robustness: every model on the same perturbed images (thesis section 5.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.machine.float64 import float64
from pipeline.tensors import save_tensors
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
    save_tensors(tensors, path)


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
    """Mean and largest L2 and Linf norms of the images' perturbations, images in [0, 1]."""
    difference = (perturbed - clean).flatten(1)
    l2, linf = difference.norm(dim=1), difference.abs().amax(1)
    means = {"l2": float(l2.mean()), "linf": float(linf.mean())}
    return means | {"l2_max": float(l2.max()), "linf_max": float(linf.max())}
