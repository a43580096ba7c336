"""Trainings repeated from their start: at several rates, the best kept; more slowly after a collapse."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch

from pipeline.training.objectives import heads_of, set_heads

if TYPE_CHECKING:
    from torch import nn

    from pipeline.params.training import Schedule
    from pipeline.training.fit import Outcome
    from pipeline.training.resume import ResumePoint

    Settings = TypeVar("Settings", bound=Schedule)

log = logging.getLogger(__name__)

# Of the learning rate, in the second try.
SLOWER = 0.1


class Tried(NamedTuple):
    """Whether the last training collapsed, whether it was the second one, its learning rate, and a row an epoch."""

    collapsed: bool
    retried: bool
    learning_rate: float
    history: list[dict[str, Any]]


def once_more(
    fit: Callable[[Settings, ResumePoint], Outcome], model: nn.Module, settings: Settings, resume: ResumePoint
) -> Tried:
    """Train `model` in place by `fit`; where that collapses, again from the start at a tenth of the learning rate.

    All else is the same, the seed and the epochs too. What the second try leaves counts, collapsed or not.
    """
    rewind = _rewinding(model)
    first = fit(settings, resume)
    if not first.collapsed:
        return Tried(False, False, settings.learning_rate, first.history)
    rate = SLOWER * settings.learning_rate
    log.warning("collapsed: trained again at a learning rate of %g", rate)
    rewind()
    again = fit(settings.model_copy(update={"learning_rate": rate}), resume.child("again"))
    return Tried(again.collapsed, True, rate, again.history)


def best_rate(
    fit: Callable[[Settings, ResumePoint], Outcome],
    model: nn.Module,
    settings: Settings,
    resume: ResumePoint,
    *,
    factors: Sequence[float],
    score: Callable[[], float],
) -> Tried:
    """Train `model` in place `once_more` at each of `factors` times the learning rate; keep the best.

    Every training starts from the same weights with the same seed. The best is that of the highest `score` of the model
    as it stands then, on validation images, of those that did not collapse; the first of equals. One factor needs no
    score.
    """
    rewind, best = _rewinding(model), None
    for n, factor in enumerate(factors):
        rewind()
        changed = settings.model_copy(update={"learning_rate": factor * settings.learning_rate})
        tried = once_more(fit, model, changed, resume.child(f"rate{n}") if n else resume)
        if len(factors) == 1:
            return tried
        found = (not tried.collapsed, score())
        if best is None or found > best[0]:
            best = found, tried, _rewinding(model)
    if best is None:
        raise ValueError("expected at least one factor (got none)")
    _, kept, come_back = best
    come_back()
    return kept


def _rewinding(model: nn.Module) -> Callable[[], None]:
    """What brings a model, its auxiliary heads and the random numbers that fresh heads draw back to where they are."""
    weights, heads, drawn = copy.deepcopy(model.state_dict()), heads_of(model), torch.get_rng_state()

    def rewind() -> None:
        model.load_state_dict(weights)
        set_heads(model, heads)
        torch.set_rng_state(drawn)

    return rewind
