"""A training that collapsed is tried again, more slowly: a net at chance says nothing about the method behind it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

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
    """Whether the last training collapsed, and whether it was the second one."""

    collapsed: bool
    retried: bool


def once_more(
    fit: Callable[[Settings, ResumePoint], Outcome], model: nn.Module, settings: Settings, resume: ResumePoint
) -> Tried:
    """Train `model` in place by `fit`; where that collapses, again from the start at a tenth of the learning rate.

    All else is the same, the seed and the epochs too. What the second try leaves counts, collapsed or not.
    """
    weights, heads = copy.deepcopy(model.state_dict()), heads_of(model)
    drawn = torch.get_rng_state()  # what fresh auxiliary heads draw from
    if not fit(settings, resume).collapsed:
        return Tried(collapsed=False, retried=False)
    rate = SLOWER * settings.learning_rate
    log.warning("collapsed: trained again at a learning rate of %g", rate)
    model.load_state_dict(weights)
    set_heads(model, heads)
    torch.set_rng_state(drawn)
    again = fit(settings.model_copy(update={"learning_rate": rate}), resume.child("again"))
    return Tried(again.collapsed, retried=True)
