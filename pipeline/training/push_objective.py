"""What pushing minimises: cross-entropy and the push loss of Eq. 11."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.distributed.collectives import gather
from pipeline.lda import push_loss
from pipeline.models.classifier import latent_and_logits
from pipeline.training.batches import balanced_batches
from pipeline.training.fit import Outcome, fit
from pipeline.training.objectives import Objective

if TYPE_CHECKING:
    from pipeline.images.parts import Parts
    from pipeline.params.machine import Numerics
    from pipeline.params.training import Lda, Schedule
    from pipeline.training.resume import ResumePoint

log = logging.getLogger(__name__)


class PushObjective(Objective):
    """Cross-entropy plus the push loss of Eq. 11 on the latent features.

    Its steps are never compiled: their hooks change between steps, and torch 2.15 compiles for a minute and fails at
    the second step.

    A collapse (one discriminant takes over the trace) is logged while it happens, and the share of batches
    in that state is part of the history.
    """

    compilable = False

    def __init__(self, weights: Lda, *, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing=label_smoothing)
        self.weights = weights
        self._warned = False

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Adds the three unweighted terms, the number of active neurons and the top discriminant's share."""
        latent, logits = latent_and_logits(model, images)
        # In full precision, and over the batches of all processes.
        with torch.autocast(latent.device.type, enabled=False):
            terms = push_loss(gather(latent.float()), gather(labels), self.weights)
        collapsed = terms.collapsed(self.weights.collapse_share)
        if collapsed and not self._warned:
            self._warned = True
            log.warning(
                "the push is collapsing: one discriminant holds %.0f %% of the sum, %d neurons are active; "
                "lower the push weights, or try separation: log_det",
                100 * terms.top_share,
                terms.n_active,
            )
        return {
            "total": self.cross_entropy(logits, labels) + terms.loss.to(logits),
            "l_lda": terms.l_lda.detach(),
            "l_cov": terms.l_cov.detach(),
            "l_align": terms.l_align.detach(),
            "n_active": torch.tensor(float(terms.n_active)),
            "top_share": torch.tensor(terms.top_share),
            "collapsed": torch.tensor(float(collapsed)),
        }


def push_objective(weights: Lda, *, label_smoothing: float) -> Objective:
    """Cross-entropy with the push; alone where all of the push's weights are zero, as for a control."""
    if weights.gamma == weights.lambda_ == weights.beta == 0:
        return Objective(label_smoothing=label_smoothing)
    return PushObjective(weights, label_smoothing=label_smoothing)


def train_with_push(
    model: nn.Module,
    settings: Schedule,
    parts: Parts,
    weights: Lda,
    *,
    seed: int,
    resume: ResumePoint,
    numerics: Numerics,
) -> Outcome:
    """`fit` on class-balanced batches with `push_objective`; both are the params' section `lda`."""
    objective = push_objective(weights, label_smoothing=settings.label_smoothing)
    batching = balanced_batches(weights.samples_per_class, weights.classes_per_batch)
    return fit(
        model, objective, parts, settings, batching=batching, seed=seed, resume=resume, numerics=numerics
    )
