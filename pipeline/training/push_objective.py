"""What pushing minimises: cross-entropy and the push loss of Eq. 11."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.distributed.collectives import gather
from pipeline.lda import push_loss
from pipeline.machine.seeding import derive_seed
from pipeline.models.classifier import latent_and_logits
from pipeline.training.batches import balanced_batches
from pipeline.training.fit import Outcome, fit
from pipeline.training.objectives import Objective, with_auxiliary_heads

if TYPE_CHECKING:
    from pipeline.images.parts import Parts
    from pipeline.params.machine import Numerics
    from pipeline.params.training import Auxiliary, Lda, PushSchedule, Schedule
    from pipeline.training.resume import ResumePoint

log = logging.getLogger(__name__)

# Where of the training a ramped push begins to fade in, and where it is whole.
_RAMP_FROM, _RAMP_TO = 0.25, 0.75


class PushObjective(Objective):
    """Cross-entropy plus the push loss of Eq. 11 on the latent features.

    Its steps are never compiled: their hooks change between steps, and torch 2.15 compiles for a minute and fails at
    the second step.

    A collapse (one discriminant takes over the trace) is logged while it happens, and the share of batches
    in that state is part of the history.

    Args:
        weights: section `lda` of the params.
        label_smoothing: as in `Objective`.
        ramped: cross-entropy alone for the first quarter of the steps, then a push that grows linearly until three
            quarters, and is whole from there on. Right after a hard cut a whole push collapses.
    """

    compilable = False

    def __init__(self, weights: Lda, *, label_smoothing: float = 0.0, ramped: bool = False) -> None:
        super().__init__(label_smoothing=label_smoothing)
        self.weights, self.ramped = weights, ramped
        self._strength, self._warned = 0.0 if ramped else 1.0, False

    def at(self, progress: float) -> None:
        """Sets the push's strength, from 0 to 1."""
        if self.ramped:
            self._strength = min(max((progress - _RAMP_FROM) / (_RAMP_TO - _RAMP_FROM), 0.0), 1.0)

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Adds the three unweighted terms, the number of active neurons and the top discriminant's share."""
        latent, logits = latent_and_logits(model, images)
        # In full precision, and over the batches of all processes.
        with torch.autocast(latent.device.type, enabled=False):
            # Without strength it is measured only: zero times a gradient that is not finite would not be zero.
            pushed = latent if self._strength else latent.detach()
            terms = push_loss(gather(pushed.float()), gather(labels), self.weights)
        collapsed = terms.collapsed(self.weights.collapse_share)
        if collapsed and self._strength and not self._warned:
            self._warned = True
            log.warning(
                "the push is collapsing: one discriminant holds %.0f %% of the sum, %d neurons are active; "
                "lower the push weights, or try separation: log_det",
                100 * terms.top_share,
                terms.n_active,
            )
        return {
            "total": self.cross_entropy(logits, labels) + self._strength * terms.loss.to(logits),
            "l_lda": terms.l_lda.detach(),
            "l_cov": terms.l_cov.detach(),
            "l_align": terms.l_align.detach(),
            "n_active": torch.tensor(float(terms.n_active)),
            "top_share": torch.tensor(terms.top_share),
            "collapsed": torch.tensor(float(collapsed)),
        }


def push_objective(weights: Lda, *, label_smoothing: float, push: PushSchedule = "full") -> Objective:
    """Cross-entropy with the push; alone where there is to be none, or all of its weights are zero as for a control."""
    if push == "none" or weights.gamma == weights.lambda_ == weights.beta == 0:
        return Objective(label_smoothing=label_smoothing)
    return PushObjective(weights, label_smoothing=label_smoothing, ramped=push == "ramped")


def train_with_push(
    model: nn.Module,
    settings: Schedule,
    parts: Parts,
    weights: Lda,
    *,
    push: PushSchedule = "full",
    auxiliary: Auxiliary | None = None,
    seed: int,
    resume: ResumePoint,
    numerics: Numerics,
) -> Outcome:
    """`fit` on class-balanced batches with `push_objective`; both are the params' section `lda`.

    Deep Inception nets have auxiliary heads beside it (`with_auxiliary_heads`).
    """
    torch.manual_seed(derive_seed(seed, "heads"))
    objective = with_auxiliary_heads(
        push_objective(weights, label_smoothing=settings.label_smoothing, push=push),
        model,
        parts.train.first(2),
        auxiliary,
        deep_only=True,
    )
    batching = balanced_batches(weights.samples_per_class, weights.classes_per_batch)
    return fit(
        model, objective, parts, settings, batching=batching, seed=seed, resume=resume, numerics=numerics
    )
