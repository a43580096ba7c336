"""Competing methods under the papers' protocol: as many filters in every layer as ours, the same retraining.

Ours goes through a list of sizes, one after another; each other method follows it through the same sizes, from the
same net trained for as many epochs without the push (thesis 3.3.3, CVIU 5.2-5.3). A filter criterion stands twice
where the params name it so: at our widths, and at the widths that are best for it (`OWN_WIDTHS`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from torch import Tensor

from pipeline.compare.criteria import accumulate_taylor, score_filters
from pipeline.compare.magnitude import magnitude_masks, masked
from pipeline.compared import is_ours
from pipeline.cost import count_params
from pipeline.deconv import Utility
from pipeline.machine.seeding import derive_seed, generator, seed_torch
from pipeline.models.classifier import decision_layer
from pipeline.prune import prune_like
from pipeline.prune.rounds import limits, surgery_options
from pipeline.prune.target_size import Target, measure_size, prune_to_size
from pipeline.prune.task_utility import trace_images
from pipeline.training.classifiers import build_classifier
from pipeline.training.fresh import fresh_copy

if TYPE_CHECKING:
    from pipeline.compare.contest import Contest, Entrant
    from pipeline.compare.criteria import Criterion
    from pipeline.models.classifier import Classifier
    from pipeline.params.pruning import FixedNet, SizeUnit, Widths
    from pipeline.params.training import Train

# Of the output layer's weights, what single weights keep at least (Gale et al. 2019, "The State of Sparsity"). One
# threshold for all layers left two of 320 on the way to a hundredth of MNIST's net: eight classes without an input.
_OUTPUT_SHARE = 0.2

_OWN = "_own"
# Random filters at uniform widths beat most criteria at ours; Molchanov et al. 2017 rank over all layers with each
# layer's scores scaled to norm 1; chapter 3 of the thesis cuts by Eq. 3.13. The latent layer is as wide as ours but for
# the last, which has a choice of latent neurons of its own.
OWN_WIDTHS: dict[str, Widths] = {
    "l1": "uniform",
    "activation_mean": "uniform",
    "activation_variance": "uniform",
    "apoz": "uniform",
    "fpgm": "uniform",
    "random": "uniform",
    "taylor": "global",
    "lda_after_the_fact": "layer",
}


def entrants(
    contest: Contest,
    start: Classifier,
    *,
    targets: Sequence[Target],
    ours: Sequence[Classifier],
    training: Train | None,
    net: FixedNet | None,
    n_steps: int,
) -> Iterator[Entrant]:
    """The contest's method at every size.

    Args:
        contest: its method is one of `params.pruning.COMPETITORS`, ours or a variant of it, or a fixed net's name.
        start: the net to start from: the pushed one for ours, the control for the others.
        targets: the sizes of ours; their unit is that in which competitors at their own widths match ours.
        ours: our models at these sizes; of use for the others, but not for fixed nets.
        training: the base's, for what is trained from scratch.
        net: a fixed net's section.
        n_steps: how many sizes there are.
    """
    if is_ours(contest.method):
        yield from push_and_prune(contest, start, targets)
    elif net is not None and training is not None:
        yield fixed_net(contest, net, training, n_steps - 1)
    elif contest.method == "scratch" and training is not None:
        yield from from_scratch(contest, ours, training)
    elif contest.method == "han":
        yield from prune_weights(contest, start, ours)
    elif contest.method.endswith(_OWN):
        yield from prune_filters_at_own_widths(contest, start, ours, targets[0].unit)
    else:
        yield from prune_filters(contest, start, ours)


def push_and_prune(contest: Contest, start: Classifier, targets: Sequence[Target]) -> Iterator[Entrant]:
    """Ours: cut by the kept discriminants' utility to each size, retrained with the push."""
    model = start
    for step, target in enumerate(targets):
        utility = contest.unravel(model, step, after_the_fact=False)
        options = surgery_options(contest.surgery, utility)
        model, *_ = prune_to_size(model, utility.utilities, target, utility.images.first(1), **options)
        yield contest.enter(model, step, contest.retrain(model, step))


def prune_filters(contest: Contest, start: Classifier, references: Sequence[Classifier]) -> Iterator[Entrant]:
    """Filters by a criterion of `criteria`, or by after-the-fact deep LDA (thesis chapter 3), at our widths."""
    model = start
    for step, reference in enumerate(references):
        if contest.method == "lda_after_the_fact":
            found = contest.unravel(model, step, after_the_fact=True).utilities
            scores = {name: utility.channels for name, utility in found.items()}
        else:
            scores = _scores(contest, model, contest.method, step)
        model = prune_like(model, scores, reference, contest.parts.train.first(1))
        yield contest.enter(model, step, contest.retrain(model, step))


def prune_filters_at_own_widths(
    contest: Contest, start: Classifier, references: Sequence[Classifier], unit: SizeUnit
) -> Iterator[Entrant]:
    """The same at the widths that are best for the criterion, to as many parameters or FLOPs as ours has."""
    model, criterion = start, contest.method.removesuffix(_OWN)
    # Measured times do not repeat to the digit; FLOPs do.
    unit = "flops" if unit == "milliseconds" else unit
    for step, reference in enumerate(references):
        target = Target(unit, measure_size(reference, unit, contest.parts.image_set.image_shape))
        if criterion == "lda_after_the_fact":
            found = contest.unravel(model, step, after_the_fact=True)
            utilities, options = found.utilities, surgery_options(contest.surgery, found)
        else:
            scores = _scores(contest, model, criterion, step)
            utilities = {name: Utility(score.view(-1, 1, 1)) for name, score in scores.items()}
            options = {"latent_kept": decision_layer(reference).in_features, **limits(contest.surgery)}
        options |= {"widths": OWN_WIDTHS[criterion], "per_cost": None}
        model, *_ = prune_to_size(model, utilities, target, contest.parts.train.first(1), **options)
        yield contest.enter(model, step, contest.retrain(model, step))


def _scores(contest: Contest, model: Classifier, criterion: str, step: int) -> dict[str, Tensor]:
    train = contest.parts.train
    if criterion == "taylor":
        return accumulate_taylor(model, train, batch_size=contest.numerics.eval_batch_size)
    # As many images as ours traces: no other criterion sees more of the data.
    seen = trace_images(train, contest.surgery.trace_images_per_class, seed=contest.stream("images", step))
    return score_filters(
        model,
        cast("Criterion", criterion),
        seen.scaled(),
        seen.labels,
        random=generator(contest.stream("scores", step), "scores"),
        batch_size=contest.numerics.eval_batch_size,
    )


def prune_weights(contest: Contest, start: Classifier, references: Sequence[Classifier]) -> Iterator[Entrant]:
    """Single weights by magnitude (Han et al. 2015), as many left as ours has; FLOPs stay the dense net's."""
    model = start
    for step, reference in enumerate(references):
        n_params, model = count_params(reference), copy.deepcopy(model)
        with masked(model, magnitude_masks(model, n_params, output_share=_OUTPUT_SHARE)):
            tried = contest.retrain(model, step)
        yield contest.enter(model, step, tried, n_params=n_params)


def from_scratch(contest: Contest, references: Sequence[Classifier], training: Train) -> Iterator[Entrant]:
    """Our architectures with fresh weights, by the base's training for as many epochs as ours has had."""
    for step, reference in enumerate(references):
        model = fresh_copy(reference, seed=contest.stream("weights", step))
        tried = contest.train(model, training, step, stream=contest.stream("train", step), point=step)
        yield contest.enter(model, step, tried)


def fixed_net(contest: Contest, net: FixedNet, training: Train, last: int) -> Entrant:
    """A net of somebody's design, by the base's training for as many epochs as our smallest, of the last step, has had.

    It has a learning rate of its own, and no auxiliary heads.
    """
    purpose = f"contest/{contest.method}"
    seed_torch(contest.seed, purpose)
    place = f"compare.fixed_nets.{contest.method}.model"
    model = build_classifier(net.model, contest.parts.image_set, wanted_for=place)
    schedule = training.training.model_copy(update={"learning_rate": net.learning_rate})
    plain = training.model_copy(update={"training": schedule, "auxiliary": None})
    stream = derive_seed(contest.seed, purpose)
    return contest.enter(model, last, contest.train(model, plain, last, stream=stream, point="fixed"))
