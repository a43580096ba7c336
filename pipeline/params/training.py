"""Sections on every kind of training."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.bounds import (
    BatchSize,
    ClassesPerBatch,
    Dimensions,
    Epochs,
    Flops,
    Fraction,
    GradientNorm,
    Iterations,
    LearningRate,
    LossWeight,
    Mebibytes,
    OpenFraction,
    PositiveLossWeight,
    SamplesPerClass,
    ShareBelowOne,
    Shift,
    WarmupEpochs,
    WeightDecay,
    Weights,
)
from pipeline.params.sections import Section, Slug


class Optimizer(Section):
    """What every optimiser has.

    `clip_grad_norm`: the gradient's largest norm over all weights; null: no bound. `average_weights`: the decay of a
    running average of the weights, batch norm's statistics included, which is evaluated and handed on in their place;
    null: none ("Rethinking Inception" section 8 for both).
    """

    momentum: ShareBelowOne
    clip_grad_norm: GradientNorm | None
    average_weights: OpenFraction | None


class Sgd(Optimizer):
    """SGD with Nesterov momentum."""

    method: Literal["sgd"]


class RmsProp(Optimizer):
    """RMSProp, with the paper's `decay` 0.9 and `epsilon` 1.0 in "Rethinking Inception", section 8."""

    method: Literal["rmsprop"]
    decay: OpenFraction
    epsilon: PositiveLossWeight


class Schedule(Section):
    """One training run: linear warm-up, then a cosine to zero.

    `batch_size`: images of a shuffled batch; null: class-balanced batches, whose size `lda` sets. In training only,
    images are shifted by up to `shift_px` pixels and, with `mirror`, half of them mirrored.
    `decision_weight_decay` is the decision layer's own (L2 there, CVIU Figure 1).
    """

    epochs: Epochs
    batch_size: BatchSize | None
    learning_rate: LearningRate
    optimizer: Annotated[Sgd | RmsProp, Field(discriminator="method")]
    weight_decay: WeightDecay
    decision_weight_decay: WeightDecay
    warmup_epochs: WarmupEpochs
    label_smoothing: ShareBelowOne
    shift_px: Shift
    mirror: bool

    @model_validator(mode="after")
    def _warm_up_within(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs: expected at most epochs, {self.epochs} (got {self.warmup_epochs})"
            )
        return self


class ShuffledSchedule(Schedule):
    """A run on shuffled batches."""

    batch_size: BatchSize


class FirstSchedule(ShuffledSchedule):
    """The base's own run; 0 `epochs` leave a net that comes with its weights as it is."""

    epochs: WarmupEpochs


class BalancedSchedule(Schedule):
    """A run that the push takes part in, and those that are compared with it: class-balanced batches only."""

    batch_size: None


# How the push takes part in a training; see `training.push_objective`.
PushSchedule = Literal["none", "full", "ramped"]


class Retraining(BalancedSchedule):
    """After a cut: `push` none leaves cross-entropy alone, full pushes from the first step on, ramped fades it in."""

    push: PushSchedule


class Auxiliary(Section):
    """Auxiliary heads while training: the weight of each; `batch_norm` on their hidden layer."""

    weight: PositiveLossWeight
    batch_norm: bool


class Train(Section):
    """The base model's training; `auxiliary` null for no heads, here and in pushing and retraining."""

    training: FirstSchedule
    auxiliary: Auxiliary | None


class Bounds(Section):
    """What no candidate of growing may exceed; null bounds nothing."""

    params: Weights | None
    flops: Flops | None
    memory_mib: Mebibytes | None


class Grow(Section):
    """Algorithm 2 and its stop rules; candidates have the quick `training`, the best one `full_training` as well."""

    max_modules: Iterations
    noticeable_gain: Fraction
    patience: Iterations
    bounds: Bounds
    start: Literal["parent", "scratch"]
    training: ShuffledSchedule
    full_training: ShuffledSchedule
    auxiliary: Auxiliary | None


class PushWeights(Section):
    """Eq. 11's three weights, and which separation l_lda measures: Eq. 7's `trace` or our `log_det`."""

    separation: Literal["trace", "log_det"]
    gamma: LossWeight
    lambda_: Annotated[LossWeight, Field(alias="lambda")]
    beta: LossWeight


class Lda(PushWeights):
    """The push loss and what its terms need; `classes_per_batch` null takes every class.

    `ridge` is a share of the mean variance within classes. l_align is left out above `align_max_dim` latent neurons,
    "when latent space dimension d is large (e.g., in the first iteration)" (CVIU section 3.1): the trace solves with
    the same (d, d) matrix, so that l_align adds little; up to 2,048 a solve takes a fraction of a step.
    """

    ridge: PositiveLossWeight
    active_variance: Fraction
    align_max_dim: Dimensions
    classes_per_batch: ClassesPerBatch | None
    samples_per_class: SamplesPerClass
    collapse_share: OpenFraction

    def without_push(self) -> Self:
        """The same batches, and no push."""
        return self.model_copy(update={"gamma": 0.0, "lambda_": 0.0, "beta": 0.0})


class Push(Section):
    """The pushing step, and other pushes from the same net, to be held against it."""

    training: BalancedSchedule
    variants: dict[Slug, PushWeights]
