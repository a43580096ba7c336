"""The comparison of robustness: every model on the same perturbed images (thesis section 5.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from pipeline.robustness.conditions import CLEAN
from pipeline.training.train import predict_logits


@dataclass(frozen=True)
class Predictions:
    """One model on one condition: softmax probabilities (n, classes), on the CPU."""

    probabilities: Tensor

    @property
    def predicted(self) -> Tensor:
        """The predicted classes (n,)."""
        return self.probabilities.argmax(1)

    @property
    def confidence(self) -> Tensor:
        """The softmax of the predicted class (n,), the thesis's confidence."""
        return self.probabilities.amax(1)

    def hits(self, labels: Tensor) -> Tensor:
        """Mask (n,) of images whose label was predicted."""
        return self.predicted == labels

    def n_correct(self, labels: Tensor) -> int:
        """How many of the labels were predicted."""
        return int(self.hits(labels).sum())


def predict(model: nn.Module, images: Tensor, *, batch_size: int) -> Predictions:
    """Predictions for images (n, channels, height, width) in [0, 1]."""
    return Predictions(predict_logits(model, images, batch_size=batch_size).softmax(1).cpu())


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


def compare_outcomes(
    labels: Tensor,
    first: Mapping[str, Predictions],
    second: Mapping[str, Predictions],
    condition: str,
) -> Outcomes:
    """Split the images by which of two models the attack fooled (thesis Figures 5-2 and 5-3)."""
    eligible = (first[CLEAN].predicted == labels) & (second[CLEAN].predicted == labels)
    fooled_first = first[condition].predicted != labels
    fooled_second = second[condition].predicted != labels
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
    indices: list[int],
    labels: Tensor,
    first: Mapping[str, Predictions],
    second: Mapping[str, Predictions],
    condition: str,
) -> list[dict[str, Any]]:
    """What each of two models said of an image, clean and attacked, with its confidence."""
    return [
        {"image": idx, "label": int(labels[idx])}
        | {
            f"{name}_{state}_{what}": value
            for name, model in (("first", first), ("second", second))
            for state, key in (("clean", CLEAN), ("attacked", condition))
            for what, value in (
                ("class", int(model[key].predicted[idx])),
                ("confidence", round(float(model[key].confidence[idx]), 4)),
            )
        }
        for idx in indices
    ]
