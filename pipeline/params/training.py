"""Sections on every kind of training."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.params.sections import Fraction, NonNegativeFloat, NonNegativeInt, OpenFraction, Section, Slug


class Schedule(Section):
    """One training run: SGD with Nesterov momentum, linear warm-up, then a cosine to zero.

    `batch_size`: images of a shuffled batch; null: class-balanced batches, whose size `lda` sets. In training only,
    images are shifted by up to `shift_px` pixels and, with `mirror`, half of them mirrored.
    `decision_weight_decay` is the decision layer's own (L2 there, CVIU Figure 1).
    """

    epochs: PositiveInt
    batch_size: Annotated[int, Field(ge=2)] | None
    learning_rate: PositiveFloat
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegativeFloat
    decision_weight_decay: NonNegativeFloat
    warmup_epochs: NonNegativeInt
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    shift_px: NonNegativeInt
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

    batch_size: Annotated[int, Field(ge=2)]


class BalancedSchedule(Schedule):
    """A run that the push takes part in, and those that are compared with it: class-balanced batches only."""

    batch_size: None


class Auxiliary(Section):
    """Auxiliary heads while training: the weight of each; `batch_norm` on their hidden layer."""

    weight: PositiveFloat
    batch_norm: bool


class Train(Section):
    """The base model's training; `auxiliary` null for no heads."""

    training: ShuffledSchedule
    auxiliary: Auxiliary | None


class Bounds(Section):
    """What no candidate of growing may exceed; null bounds nothing."""

    params: PositiveInt | None
    flops: PositiveInt | None
    memory_mib: PositiveFloat | None


class Grow(Section):
    """Algorithm 2 and its stop rules: candidates have the quick `training`, the best one `full_training` as well."""

    max_modules: PositiveInt
    noticeable_gain: Fraction
    patience: PositiveInt
    bounds: Bounds
    start: Literal["parent", "scratch"]
    training: ShuffledSchedule
    full_training: ShuffledSchedule
    auxiliary: Auxiliary | None


class PushWeights(Section):
    """Eq. 11's three weights, and which separation l_lda measures: Eq. 7's `trace` or our `log_det`."""

    separation: Literal["trace", "log_det"]
    gamma: NonNegativeFloat
    lambda_: Annotated[float, Field(ge=0, alias="lambda")]
    beta: NonNegativeFloat


class Lda(PushWeights):
    """The push loss and what its terms need; `classes_per_batch` null takes every class."""

    ridge: PositiveFloat
    active_variance: NonNegativeFloat
    align_max_dim: NonNegativeInt
    classes_per_batch: Annotated[int, Field(ge=2)] | None
    samples_per_class: Annotated[int, Field(ge=8)]
    collapse_share: OpenFraction

    def without_push(self) -> Self:
        """The same batches, and no push."""
        return self.model_copy(update={"gamma": 0.0, "lambda_": 0.0, "beta": 0.0})


class Push(Section):
    """The pushing step, and other pushes from the same net, to be held against it."""

    training: BalancedSchedule
    variants: dict[Slug, PushWeights]
