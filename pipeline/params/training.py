"""Sections on the machine and on every kind of training."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.params.sections import Fraction, NonNegativeFloat, NonNegativeInt, OpenFraction, Section


class Runtime(Section):
    """The machine. `threads` is a param because the number of threads changes the last bits of a sum.

    `device`: auto is a CUDA or ROCm GPU where there is one, and the CPU elsewhere; Apple's mps has to be asked for.
    `precision`: of forward and backward passes in training; weights, scatter matrices and everything that is
    measured stay in float32 or float64. `compile`: torch.compile in training. `devices`: training processes on
    each of `num_nodes` machines, one for each GPU; with `strategy` ddp each holds the whole net, with fsdp a share of
    its weights, gradients and momentum. `workers`: processes that read image files ahead of the
    training; 0 reads them in between.
    """

    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["float32", "bfloat16", "float16"]
    compile: bool
    devices: PositiveInt
    num_nodes: PositiveInt
    strategy: Literal["ddp", "fsdp"]
    threads: PositiveInt
    workers: NonNegativeInt
    eval_batch_size: PositiveInt

    @model_validator(mode="after")
    def _mps_is_alone(self) -> Self:
        n_processes = self.devices * self.num_nodes
        if self.device == "mps" and n_processes > 1:
            raise ValueError(
                f"device: expected auto, cpu or cuda for {n_processes} processes, which mps has no link for "
                "(got 'mps')"
            )
        return self


class Schedule(Section):
    """One training run: SGD with Nesterov momentum, linear warm-up, then a cosine to zero.

    In training only, images are shifted by up to `shift_px` pixels and, with `mirror`, half of them mirrored.
    `decision_weight_decay` is the decision layer's own (L2 there, CVIU Figure 1).
    """

    epochs: PositiveInt
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


class Training(Schedule):
    """A run on shuffled batches of a fixed size; class-balanced ones take theirs from `lda`."""

    batch_size: Annotated[int, Field(ge=2)]


class Auxiliary(Section):
    """Auxiliary heads while training: the weight of each, 0 for none; `batch_norm` on their hidden layer."""

    weight: NonNegativeFloat
    batch_norm: bool


class Train(Section):
    """The base model's training."""

    training: Training
    auxiliary: Auxiliary


class Grow(Section):
    """Algorithm 2 and its stop rules; a bound that is null bounds nothing."""

    max_modules: NonNegativeInt
    noticeable_gain: Fraction
    patience: PositiveInt
    max_params: PositiveInt | None
    max_flops: PositiveInt | None
    max_memory_mib: PositiveFloat | None
    start: Literal["parent", "scratch"]
    training: Training
    auxiliary: Auxiliary


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


class Push(Section):
    """The pushing step; its batches are class-balanced, their size is set in `lda`."""

    training: Schedule
