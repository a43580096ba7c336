"""What params.yaml may hold: one frozen model per section, no defaults, unknown keys refused.

`python -m pipeline.params [FILE]` checks a file; reading and the command line live in `params_file`.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from pipeline.resnet_config import plan_modules

Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
# Names become file names and DVC stage names.
Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]


class Section(BaseModel):
    """What all sections share: strict types, no unknown keys, immutable, finite numbers only."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Runtime(Section):
    """The machine. `threads` is a param because the number of threads changes the last bits of a sum."""

    device: Literal["auto", "cpu", "cuda"]
    threads: PositiveInt
    eval_batch_size: PositiveInt


class Data(Section):
    """Which images, and how they are split; fractions are of all images."""

    source: Literal["digits"]
    split_seed: NonNegativeInt
    validation_fraction: OpenFraction
    test_fraction: OpenFraction

    @model_validator(mode="after")
    def _leave_training_images(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            together = f"{self.validation_fraction} + {self.test_fraction}"
            raise ValueError(f"validation_fraction + test_fraction: expected less than 1 (got {together})")
        return self


class InceptionModel(Section):
    """Inception-N, see `pipeline.models.inception`."""

    architecture: Literal["inception"]
    stages: Annotated[list[PositiveInt], Field(min_length=3, max_length=3)]
    base: Annotated[list[PositiveInt], Field(min_length=3, max_length=3)]
    width: PositiveFloat
    stem: Literal["imagenet", "small"]
    dropout: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _base_is_in_the_table(self) -> Self:
        if any(n > limit for n, limit in zip(self.base, (2, 5, 2), strict=True)):
            raise ValueError(f"base: expected at most [2, 5, 2], GoogLeNet's rows (got {self.base})")
        return self


class ResNetModel(Section):
    """A residual net by configuration string, see `pipeline.models.resnet`."""

    architecture: Literal["resnet"]
    config: str
    width: PositiveFloat
    stem: Literal["imagenet", "small"]
    dropout: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _config_can_be_built(self) -> Self:
        try:
            plan_modules(self.config, self.width)
        except ValueError as error:
            raise ValueError(f"config: cannot be built: {error} (got {self.config!r})") from None
        return self


class Schedule(Section):
    """One training run: SGD with Nesterov momentum, linear warm-up, then a cosine to zero."""

    epochs: PositiveInt
    learning_rate: PositiveFloat
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegativeFloat
    warmup_epochs: NonNegativeInt
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    shift_px: NonNegativeInt

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


class Train(Section):
    """The base model's training; `auxiliary_weight` 0 trains without auxiliary heads."""

    training: Training
    auxiliary_weight: NonNegativeFloat


class Grow(Section):
    """Algorithm 2 and its stop rules; `max_params` null sets no bound on the size."""

    max_modules: NonNegativeInt
    noticeable_gain: Fraction
    patience: PositiveInt
    max_params: PositiveInt | None
    start: Literal["parent", "scratch"]
    training: Training
    auxiliary_weight: NonNegativeFloat


class Lda(Section):
    """Weights of Eq. 11 and what its terms need; `classes_per_batch` null takes every class."""

    gamma: NonNegativeFloat
    lambda_: Annotated[float, Field(ge=0, alias="lambda")]
    beta: NonNegativeFloat
    ridge: PositiveFloat
    active_variance: NonNegativeFloat
    align_max_dim: NonNegativeInt
    classes_per_batch: Annotated[int, Field(ge=2)] | None
    samples_per_class: Annotated[int, Field(ge=8)]
    collapse_share: OpenFraction


class Push(Section):
    """The pushing step; its batches are class-balanced, their size is set in `lda`."""

    training: Schedule


class Round(Section):
    """One prune round, and the output folder that it starts from: `push`, then `prune/<the round before>`."""

    name: Slug
    previous: str


class Prune(Section):
    """The pruning step; `max_drop` is how far under the base a sample may fall on validation (t_acc)."""

    etas: Annotated[list[PositiveFloat], Field(min_length=1)]
    latent_max_drop: Fraction
    trace_images_per_class: PositiveInt
    max_drop: Fraction
    retraining: Schedule


class Select(Section):
    """The parameter-first model is the smallest within `max_drop` of the base on validation."""

    max_drop: Fraction


class Source(Section):
    """The third model that attacks are crafted on; under the stated accuracy it is refused."""

    model: Annotated[InceptionModel | ResNetModel, Field(discriminator="architecture")]
    training: Training
    min_validation_accuracy: Fraction


class GaussianNoise(Section):
    """Additive noise of standard deviation `std`, on the 0-255 scale."""

    kind: Literal["gaussian"]
    std: PositiveFloat
    seed: NonNegativeInt


class SpeckleNoise(Section):
    """image + strength x image x N(0, 1)."""

    kind: Literal["speckle"]
    strength: PositiveFloat
    seed: NonNegativeInt


class PoissonNoise(Section):
    """Photon counts: white is `peak` photons; 255 makes variance equal mean on the 0-255 scale."""

    kind: Literal["poisson"]
    peak: PositiveFloat
    seed: NonNegativeInt


Noise = Annotated[GaussianNoise | SpeckleNoise | PoissonNoise, Field(discriminator="kind")]


class FgsmAttack(Section):
    """Fast gradient sign method; `epsilon` is the step on the 0-255 scale."""

    method: Literal["fgsm"]
    epsilon: Annotated[float, Field(gt=0, le=255)]


class NewtonFoolAttack(Section):
    """Newton Fool of Jang et al. 2017: at most `steps` steps, `eta` its small step constant."""

    method: Literal["newton_fool"]
    steps: PositiveInt
    eta: PositiveFloat


Attack = Annotated[FgsmAttack | NewtonFoolAttack, Field(discriminator="method")]


class Robustness(Section):
    """How many gallery images of each kind are kept, and the seed that picks them."""

    gallery_images: PositiveInt
    gallery_seed: NonNegativeInt


class Report(Section):
    """Figures, intervals, and what the report holds the results against."""

    dpi: Annotated[int, Field(ge=50, le=600)]
    confidence: OpenFraction
    target_base_test_accuracy: Fraction
    target_params_fraction: OpenFraction


class Params(Section):
    """The whole of params.yaml."""

    name: Slug
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1)]
    runtime: Runtime
    data: Data
    model: InceptionModel
    train: Train
    grow: Grow
    lda: Lda
    push: Push
    rounds: Annotated[list[Round], Field(min_length=1)]
    prune: Prune
    select: Select
    source: Source
    noise: Annotated[dict[Slug, Noise], Field(min_length=1)]
    attacks: Annotated[dict[Slug, Attack], Field(min_length=1)]
    robustness: Robustness
    report: Report

    @model_validator(mode="after")
    def _sections_fit_each_other(self) -> Self:
        problems = [*self._repeats(), *self._broken_links()]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _repeats(self) -> Iterator[str]:
        names = [entry.name for entry in self.rounds]
        for key, values in (("seeds", self.seeds), ("prune.etas", self.prune.etas), ("rounds", names)):
            if len(set(values)) != len(values):
                kind = "different names" if key == "rounds" else "no repeats"
                yield f"{key}: expected {kind} (got {values})"
        for clash in sorted(set(self.noise) & set(self.attacks)):
            yield f"noise and attacks: expected different names (got {clash!r} in both)"

    def _broken_links(self) -> Iterator[str]:
        previous = "push"
        for idx, entry in enumerate(self.rounds):
            if entry.previous != previous:
                yield f"rounds.{idx}.previous: expected {previous!r} (got {entry.previous!r})"
            previous = f"prune/{entry.name}"


if __name__ == "__main__":
    from pipeline.params_file import main

    main()
