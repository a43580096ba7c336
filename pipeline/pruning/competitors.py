"""Competing methods under the papers' protocol: as many filters in every layer as ours, the same retraining.

Ours goes through a list of sizes, one after another (stage `shrink`); each method here follows it through the
same sizes, from the same net trained for as many epochs without the push (thesis 3.3.3, CVIU 5.2-5.3).
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from pipeline.cost import count_params, measure_cost
from pipeline.data.images import Parts
from pipeline.lda import discriminants_decorrelated
from pipeline.machine.seeding import derive_seed, generator
from pipeline.models.classifier import Classifier
from pipeline.params import Architecture, Auxiliary, Lda, Runtime, Schedule, Surgery, Training
from pipeline.prune import prune_like
from pipeline.pruning.criteria import Criterion, score_filters
from pipeline.pruning.magnitude import magnitude_masks, masked
from pipeline.pruning.task_utility import trace_images, unravel_utility
from pipeline.training.batches import balanced_batches
from pipeline.training.objectives import Objective
from pipeline.training.scratch import fresh_copy, train_from_scratch, train_plainly
from pipeline.training.train import evaluate, fit
from pipeline.workflow.resume import ResumePoint

# Of the output layer's weights, what single weights keep at least (Gale et al. 2019, "The State of Sparsity"). One
# threshold for all layers left two of 320 on the way to a hundredth of MNIST's net: eight classes without an input.
_OUTPUT_SHARE = 0.2

FilterCriterion = Criterion | Literal["lda_after_the_fact"]


@dataclass(frozen=True)
class Entrant:
    """A method's model at one of the sizes; `params` counts weights that are not zero, `epochs` all so far."""

    step: int
    model: Classifier
    params: int
    flops: int
    epochs: int


@dataclass(frozen=True)
class Contest:
    """What all methods share.

    `epochs_before` are those of the net before the first size; `objective` is what retraining minimises: the
    push for ours, cross-entropy for the others.
    """

    parts: Parts
    retraining: Schedule
    objective: Objective
    lda: Lda
    surgery: Surgery
    epochs_before: int
    seed: int
    method: str
    resume: ResumePoint
    runtime: Runtime

    def epochs(self, step: int) -> int:
        """Epochs of training that a model of this step has had."""
        return self.epochs_before + (step + 1) * self.retraining.epochs

    def stream(self, *names: object) -> int:
        """The seed of one random stream; the same for a method's name whatever the others do."""
        return derive_seed(self.seed, "contest", self.method, *(str(name) for name in names))

    def retrain(self, model: Classifier, step: int) -> None:
        """Retrain in place, on class-balanced batches."""
        fit(
            model,
            self.objective,
            self.parts,
            self.retraining,
            batching=balanced_batches(self.lda.samples_per_class, self.lda.classes_per_batch),
            seed=self.stream("retrain", step),
            resume=self.resume.child(step),
            runtime=self.runtime,
            description=f"{self.method}, size {step + 1}, seed {self.seed}",
        )

    def enter(self, model: Classifier, step: int, *, n_params: int | None = None) -> Entrant:
        """The record of a trained model."""
        cost = measure_cost(model, self.parts.source.image_shape)
        return Entrant(step, model, n_params or cost.params, cost.flops, self.epochs(step))


def prune_filters(
    contest: Contest, start: Classifier, references: list[Classifier], criterion: FilterCriterion
) -> Iterator[Entrant]:
    """Filters by a criterion of `criteria`, or by after-the-fact deep LDA (thesis chapter 3)."""
    model = start
    for step, reference in enumerate(references):
        scores = _scores(contest, model, criterion, step)
        model = prune_like(model, scores, reference, contest.parts.train.first(1))
        contest.retrain(model, step)
        yield contest.enter(model, step)


def _scores(contest: Contest, model: Classifier, criterion: FilterCriterion, step: int) -> dict[str, Tensor]:
    train = contest.parts.train
    if criterion == "lda_after_the_fact":
        found = unravel_utility(
            model,
            partial(discriminants_decorrelated, ridge=contest.lda.ridge),
            train=train,
            validation=contest.parts.validation,
            surgery=contest.surgery,
            seed=contest.stream("images", step),
            batch_size=contest.runtime.eval_batch_size,
        )
        return {name: utility.channels for name, utility in found.utilities.items()}
    # As many images as ours traces, so that no criterion sees more of the data than another.
    seen = trace_images(train, contest.surgery.trace_images_per_class, seed=contest.stream("images", step))
    return score_filters(
        model,
        criterion,
        seen.scaled(),
        seen.labels,
        random=generator(contest.stream("scores", step), "scores"),
        batch_size=contest.runtime.eval_batch_size,
    )


def prune_weights(contest: Contest, start: Classifier, references: list[Classifier]) -> Iterator[Entrant]:
    """Single weights by magnitude (Han et al. 2015), as many left as ours has; FLOPs stay the dense net's."""
    model = start
    for step, reference in enumerate(references):
        n_params, model = count_params(reference), copy.deepcopy(model)
        with masked(model, magnitude_masks(model, n_params, output_share=_OUTPUT_SHARE)):
            contest.retrain(model, step)
        yield contest.enter(model, step, n_params=n_params)


def from_scratch(
    contest: Contest, references: list[Classifier], training: Training, auxiliary: Auxiliary
) -> Iterator[Entrant]:
    """Our architectures with fresh weights, by the base's training for as many epochs as ours has had."""
    for step, reference in enumerate(references):
        model = fresh_copy(reference, seed=contest.stream("weights", step))
        train_plainly(
            model,
            training.model_copy(update={"epochs": contest.epochs(step)}),
            contest.parts,
            auxiliary=auxiliary,
            seed=contest.stream("train", step),
            resume=contest.resume.child(step),
            runtime=contest.runtime,
            description=f"{contest.method}, size {step + 1}, seed {contest.seed}",
        )
        yield contest.enter(model, step)


def fixed_net(
    contest: Contest, architecture: Architecture, training: Training, n_steps: int, *, wanted_for: str
) -> Iterator[Entrant]:
    """A net of somebody's design, by the base's training for as many epochs as our smallest has had."""
    model, _ = train_from_scratch(
        architecture,
        training.model_copy(update={"epochs": contest.epochs(n_steps - 1)}),
        contest.parts,
        auxiliary=None,
        seed=contest.seed,
        purpose=f"contest/{contest.method}",
        wanted_for=wanted_for,
        resume=contest.resume.child("fixed"),
        runtime=contest.runtime,
    )
    yield contest.enter(model, n_steps - 1)


def comparison_row(contest: Contest, entrant: Entrant) -> dict[str, object]:
    """An entrant, scored, as a row of `tables.COMPARISON_FIELDS`."""
    model, parts = entrant.model, contest.parts
    validation = evaluate(model, parts.validation, batch_size=contest.runtime.eval_batch_size)
    test = evaluate(model, parts.test, batch_size=contest.runtime.eval_batch_size)
    return {
        "seed": contest.seed,
        "method": contest.method,
        "step": entrant.step,
        "params": entrant.params,
        "flops": entrant.flops,
        "epochs": entrant.epochs,
        "validation_n": validation.n,
        "validation_n_correct": validation.n_correct,
        "test_n": test.n,
        "test_n_correct": test.n_correct,
    }
