"""Plain training, with cross-entropy and auxiliary heads: of a fresh net, or of one that has been extended."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from pipeline.models.initialisation import draw_weights
from pipeline.training.batches import shuffled_batches
from pipeline.training.fit import Outcome, fit
from pipeline.training.objectives import Objective, set_heads, with_auxiliary_heads

if TYPE_CHECKING:
    from pipeline.images.parts import Parts
    from pipeline.models.classifier import Classifier
    from pipeline.params.machine import Numerics
    from pipeline.params.training import Auxiliary, ShuffledSchedule
    from pipeline.training.resume import ResumePoint


def train_plainly(
    model: Classifier,
    settings: ShuffledSchedule,
    parts: Parts,
    *,
    auxiliary: Auxiliary | None,
    seed: int,
    resume: ResumePoint,
    numerics: Numerics,
) -> Outcome:
    """Train a classifier on shuffled batches with cross-entropy, in place.

    The model is moved to the device of the data. Auxiliary heads, where there are to be any, draw fresh
    weights from torch's global generator: seed it first. Everything else is as for `fit`.
    """
    model.to(parts.train.device)
    plain = Objective(label_smoothing=settings.label_smoothing)
    objective = with_auxiliary_heads(plain, model, parts.train.first(2), auxiliary)
    return fit(
        model,
        objective,
        parts,
        settings,
        batching=shuffled_batches(settings.batch_size),
        seed=seed,
        resume=resume,
        numerics=numerics,
    )


def fresh_copy(model: Classifier, *, seed: int) -> Classifier:
    """The same architecture, pruned widths and all, with fresh weights as its builder draws them, fixed by `seed`."""
    torch.manual_seed(seed)
    fresh = copy.deepcopy(model)
    draw_weights(fresh.net)
    set_heads(fresh, {})
    return fresh
