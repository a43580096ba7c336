"""What pays, taken apart: a net is cut in one way out of many, at a size that is the same for all, and retrained.

The ways are crossed: the start (pushed, or its control), what ranks the filters, how wide each layer stays, and whether
the push takes part in retraining. Everything else is equal, the epochs of training included ("which part pays",
CVIU section 5.3). Every cut is made in one shot, so that no way profits from an earlier cut of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from pipeline.compare.criteria import score_filters
from pipeline.cost import measure_cost
from pipeline.deconv import Utility, trace_utility
from pipeline.machine.seeding import derive_seed, generator
from pipeline.prune.rounds import surgery_options
from pipeline.prune.target_size import Target, prune_to_size
from pipeline.prune.task_utility import discriminants_by, unravel_utility
from pipeline.robustness.noise import add_noise
from pipeline.robustness.outcomes import predict
from pipeline.saliency import trace_saliency
from pipeline.training.again import Tried, once_more
from pipeline.training.fresh import fresh_copy, train_plainly
from pipeline.training.predict import hits_on
from pipeline.training.push_objective import train_with_push
from pipeline.uncertainty import counts_of

if TYPE_CHECKING:
    from pipeline.compare.criteria import Criterion
    from pipeline.images.parts import Images, Parts
    from pipeline.models.classifier import Classifier
    from pipeline.params.machine import Numerics
    from pipeline.params.perturbations import Noise
    from pipeline.params.pruning import Score, Surgery, Widths
    from pipeline.params.training import BalancedSchedule, Lda, ShuffledSchedule, Train
    from pipeline.training.fit import Outcome
    from pipeline.training.resume import ResumePoint

# How the cut net is trained: retrained without or with the push faded in, or its architecture from scratch.
TRAININGS = ("none", "ramped", "scratch")
_NOISY = "_noisy"


@dataclass(frozen=True)
class Way:
    """One way to a small net, and what all ways share.

    Attributes:
        score: what ranks filters; one that ends in `_noisy` is traced on images under `noise`.
        widths: how wide layers stay (`prune.widths.rank_channels`).
        epochs_before: epochs of training of the net that is cut.
        scratch: whether the architecture is trained from scratch as well.
        noise: for the images that noisy tracing sees; the noisy test images are made of the same.
    """

    score: Score
    widths: Widths
    parts: Parts
    retraining: BalancedSchedule
    training: Train
    lda: Lda
    surgery: Surgery
    epochs_before: int
    scratch: bool
    noise: Noise | None
    seed: int
    resume: ResumePoint
    numerics: Numerics

    def stream(self, *names: object) -> int:
        """The seed of one random stream, the same for every way: batches are no part of what is compared."""
        return derive_seed(self.seed, "ablate", *(str(name) for name in names))


def cut(way: Way, start: Classifier, targets: Sequence[Target]) -> Iterator[Classifier]:
    """The net at each size, each cut from `start`; its latent layer by M' and, where LDA ranks, by v_j."""
    after_the_fact = way.score == "lda_after_the_fact"
    reading = "saliency" if way.score.startswith("saliency") else "deconvolution"
    surgery = way.surgery.model_copy(update={"utility": reading, "widths": way.widths, "per_cost": None})
    found = unravel_utility(
        start,
        discriminants_by(way.lda, after_the_fact=after_the_fact),
        train=way.parts.train,
        validation=way.parts.validation,
        surgery=surgery,
        lda=way.lda,
        seed=way.stream("images"),
        batch_size=way.numerics.eval_batch_size,
    )
    utilities, options = found.utilities, surgery_options(surgery, found)
    if way.score.endswith(_NOISY):
        utilities = _traced_on_noise(way, start, found.images, found.choice.kept)
    elif not after_the_fact and way.score not in ("deconvolution", "saliency"):
        utilities = _scored(way, start, found.images)
        # As wide as for the others; which neurons stay is the criterion's affair.
        options |= {"latent_kept": int(found.choice.kept.sum()), "latent_order": None}
    example = way.parts.train.first(1)
    for target in targets:
        yield prune_to_size(start, utilities, target, example, **options)[0]


def _traced_on_noise(way: Way, start: Classifier, images: Images, kept: Tensor) -> dict[str, Utility]:
    """Utilities from images under noise (thesis 5.4: whether that keeps filters that noise does less harm to)."""
    assert way.noise is not None
    pixels = (images.scaled() * 255).round().to(torch.uint8).cpu().numpy()
    noisy = torch.from_numpy(add_noise(pixels, way.noise, seed=way.stream("noise"))).to(images.device)
    batch_size = way.numerics.eval_batch_size
    if way.score.startswith("deconvolution"):
        return trace_utility(start, noisy, kept, batch_size=batch_size)
    return trace_saliency(
        start,
        noisy,
        images.labels,
        kept,
        ridge=way.lda.ridge,
        samples_per_class=way.lda.samples_per_class,
        classes_per_batch=way.lda.classes_per_batch,
        seed=way.stream("images"),
        batch_size=batch_size,
    )


def _scored(way: Way, start: Classifier, images: Images) -> dict[str, Utility]:
    scores = score_filters(
        start,
        cast("Criterion", way.score),
        images.scaled(),
        images.labels,
        random=generator(way.stream("scores"), "scores"),
        batch_size=way.numerics.eval_batch_size,
    )
    return {name: Utility(score.view(-1, 1, 1)) for name, score in scores.items()}


def train(way: Way, model: Classifier, step: int) -> Iterator[tuple[str, Classifier, Tried]]:
    """A cut net's trainings by name, the net that each leaves, and how it ended."""
    for name in TRAININGS[: 3 if way.scratch else 2]:
        point = way.resume.child(step, name)
        if name == "scratch":
            trained = fresh_copy(model, seed=way.stream("weights"))
            epochs = way.epochs_before + way.retraining.epochs
            settings = way.training.training.model_copy(update={"epochs": epochs})
            tried = once_more(partial(_from_scratch, way, trained), trained, settings, point)
        else:
            trained = copy.deepcopy(model)
            tried = once_more(partial(_retrain, way, trained, name), trained, way.retraining, point)
        yield name, trained, tried


def _from_scratch(way: Way, model: Classifier, settings: ShuffledSchedule, resume: ResumePoint) -> Outcome:
    return train_plainly(
        model,
        settings,
        way.parts,
        auxiliary=way.training.auxiliary,
        seed=way.stream("train"),
        resume=resume,
        numerics=way.numerics,
    )


def _retrain(
    way: Way, model: Classifier, push: str, settings: BalancedSchedule, resume: ResumePoint
) -> Outcome:
    return train_with_push(
        model,
        settings,
        way.parts,
        way.lda,
        push=cast("Any", push),
        auxiliary=way.training.auxiliary,
        seed=way.stream("retrain"),
        resume=resume,
        numerics=way.numerics,
    )


def rows(
    way: Way, start: Classifier, targets: Sequence[Target], noisy_test: Tensor | None
) -> Iterator[dict[str, Any]]:
    """Cut, train and score: a row for each size and training.

    Args:
        way: what is done.
        start: the net that is cut; left as it was.
        targets: the sizes.
        noisy_test: the test part's images under `way.noise`, or None: no noise is looked at.
    """
    batch_size, perturbed = way.numerics.eval_batch_size, way.parts.perturbed
    for step, smaller in enumerate(cut(way, start, targets)):
        cost = measure_cost(smaller, way.parts.image_set.image_shape)
        for name, trained, tried in train(way, smaller.to(way.parts.train.device), step):
            row = {"step": step, "training": name, "params": cost.params, "flops": cost.flops}
            row |= {"epochs": way.epochs_before + way.retraining.epochs, "collapsed": int(tried.collapsed)}
            row["retried"] = int(tried.retried)
            for part in ("validation", "test"):
                hits = hits_on(trained, getattr(way.parts, part), batch_size=batch_size)
                row |= counts_of(hits, f"{part}_")
            if noisy_test is not None:
                found = predict(trained, noisy_test, batch_size=batch_size)
                row |= counts_of(found.hits(perturbed.labels.cpu()).numpy(), "noisy_")
            yield row
