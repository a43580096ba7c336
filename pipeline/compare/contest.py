"""What all methods of a comparison share: sizes, retraining, rates, seeds; and what is recorded of each model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.compared import is_ours
from pipeline.cost import measure_cost
from pipeline.machine.seeding import derive_seed
from pipeline.prune.task_utility import TaskUtility, discriminants_by, unravel_utility
from pipeline.training.again import Tried, best_rate
from pipeline.training.fresh import train_plainly
from pipeline.training.predict import hits_on
from pipeline.training.push_objective import train_with_push
from pipeline.uncertainty import counts_of

if TYPE_CHECKING:
    from pipeline.images.parts import Parts
    from pipeline.models.classifier import Classifier
    from pipeline.params.machine import Numerics
    from pipeline.params.pruning import Surgery
    from pipeline.params.training import Auxiliary, Lda, Retraining, ShuffledSchedule, Train
    from pipeline.training.again import Settings
    from pipeline.training.fit import Outcome
    from pipeline.training.resume import ResumePoint


@dataclass(frozen=True)
class Entrant:
    """A method's model at one of the sizes: its weights that are not zero, all epochs so far, the last training."""

    step: int
    model: Classifier
    params: int
    flops: int
    epochs: int
    tried: Tried


@dataclass(frozen=True)
class Contest:
    """What all methods share.

    `epochs_before` are those of the net before the first size. Retraining pushes ours as its schedule says, and
    minimises cross-entropy for the others; `auxiliary` heads of deep Inception nets serve both. Every training is tried
    at each of `rate_factors` times its learning rate, and the one that is best on validation is kept.
    """

    parts: Parts
    retraining: Retraining
    rate_factors: Sequence[float]
    auxiliary: Auxiliary | None
    lda: Lda
    surgery: Surgery
    epochs_before: int
    seed: int
    method: str
    resume: ResumePoint
    numerics: Numerics

    def epochs(self, step: int) -> int:
        """Epochs of training that a model of this step has had."""
        return self.epochs_before + (step + 1) * self.retraining.epochs

    def stream(self, *names: object) -> int:
        """The seed of one random stream; the same for a method's name whatever the others do."""
        return derive_seed(self.seed, "contest", self.method, *(str(name) for name in names))

    def unravel(self, model: Classifier, step: int, *, after_the_fact: bool) -> TaskUtility:
        """The task utility of a model, traced from images of this step."""
        return unravel_utility(
            model,
            discriminants_by(self.lda, after_the_fact=after_the_fact),
            train=self.parts.train,
            validation=self.parts.validation,
            surgery=self.surgery,
            lda=self.lda,
            seed=self.stream("images", step),
            batch_size=self.numerics.eval_batch_size,
        )

    def retrain(self, model: Classifier, step: int) -> Tried:
        """Retrain in place, on class-balanced batches."""

        def fit(settings: Retraining, resume: ResumePoint) -> Outcome:
            return train_with_push(
                model,
                settings,
                self.parts,
                self.lda,
                push=settings.push if is_ours(self.method) else "none",
                auxiliary=self.auxiliary,
                seed=self.stream("retrain", step),
                resume=resume,
                numerics=self.numerics,
            )

        return self._tuned(fit, model, self.retraining, step)

    def train(self, model: Classifier, training: Train, step: int, *, stream: int, point: object) -> Tried:
        """Train in place as the base was, for as many epochs as ours of this step has had."""

        def fit(settings: ShuffledSchedule, resume: ResumePoint) -> Outcome:
            return train_plainly(
                model,
                settings,
                self.parts,
                auxiliary=training.auxiliary,
                seed=stream,
                resume=resume,
                numerics=self.numerics,
            )

        settings = training.training.model_copy(update={"epochs": self.epochs(step)})
        return self._tuned(fit, model, settings, point)

    def _tuned(
        self,
        fit: Callable[[Settings, ResumePoint], Outcome],
        model: Classifier,
        settings: Settings,
        point: object,
    ) -> Tried:
        resume, size = self.resume.child(point), self.numerics.eval_batch_size

        def score() -> float:
            return float(hits_on(model, self.parts.validation, batch_size=size).sum())

        return best_rate(fit, model, settings, resume, factors=self.rate_factors, score=score)

    def enter(self, model: Classifier, step: int, tried: Tried, *, n_params: int | None = None) -> Entrant:
        """The record of a trained model."""
        cost = measure_cost(model, self.parts.image_set.image_shape)
        n_params = n_params or cost.params
        return Entrant(step, model, n_params, cost.flops, self.epochs(step), tried)


def comparison_row(contest: Contest, entrant: Entrant) -> dict[str, Any]:
    """An entrant, scored, as a row of the comparison's table."""
    row: dict[str, Any] = {name: getattr(entrant, name) for name in ("step", "params", "flops", "epochs")}
    tried = entrant.tried
    row |= {
        "collapsed": int(tried.collapsed),
        "retried": int(tried.retried),
        "learning_rate": tried.learning_rate,
    }
    for name, part in (("validation_", contest.parts.validation), ("test_", contest.parts.test)):
        row |= counts_of(hits_on(entrant.model, part, batch_size=contest.numerics.eval_batch_size), name)
    return row
