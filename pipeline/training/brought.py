"""Weights that a user brings, looked at before anything is done with them: do they know these images?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.training.predict import Score, at_chance, evaluate_closely

if TYPE_CHECKING:
    from pipeline.images.parts import Images
    from pipeline.models.classifier import Classifier

# How many classes a line names.
_SHOWN = 4


def look_at(model: Classifier, validation: Images, *, batch_size: int) -> tuple[Score, str]:
    """The score of a model, and what is suspicious about it with its likely cause; empty where nothing is."""
    score, confusion = evaluate_closely(model, validation, batch_size=batch_size)
    return score, suspicion(confusion.cpu(), model.classes)


def suspicion(confusion: Tensor, classes: Sequence[str]) -> str:
    """What is wrong with weights of such a confusion matrix, most likely; empty where nothing seems to be.

    Their classes have another order where another assignment of outputs to classes has at most half as many errors,
    and is better than chance.

    Args:
        confusion: (classes, classes) counts: images of the class of the row, called that of the column.
        classes: names of the classes.
    """
    from scipy.optimize import linear_sum_assignment

    n, n_correct = int(confusion.sum()), int(confusion.diagonal().sum())
    n_per_class = confusion.sum(1)
    called = linear_sum_assignment(confusion.numpy(), maximize=True)[1].tolist()
    n_permuted = sum(int(confusion[true, each]) for true, each in enumerate(called))
    right = f"{n_correct} of {n} right on validation"
    if (
        n_permuted > n_correct
        and 2 * (n - n_permuted) <= n - n_correct
        and not at_chance(n_permuted, n_per_class)
    ):
        moved = [f"{classes[b]!r} for {classes[a]!r}" for a, b in enumerate(called) if a != b]
        more = f" and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
        return (
            f"{right}, {n_permuted} if classes are exchanged: the weights were probably trained with the classes in "
            f"another order (classes), as they say {', '.join(moved[:_SHOWN])}{more}"
        )
    if at_chance(n_correct, n_per_class):
        return (
            f"{right}, no better than chance: the weights probably need another normalization (on the 0-1 scale), or "
            "were trained for something else"
        )
    return ""
