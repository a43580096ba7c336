"""Sections on pruning: rounds, the choice of latent neurons, selection, and who ours is compared with."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.params.architectures import Architecture
from pipeline.params.sections import Fraction, OpenFraction, Section, Slug
from pipeline.params.training import Schedule


class Round(Section):
    """One prune round, and the output folder that it starts from: `push`, then `prune/<the round before>`."""

    name: Slug
    previous: str


class SensitivityChoice(Section):
    """M' as the fewest top neurons that lose at most `max_drop` of validation accuracy (thesis 3.2.1)."""

    method: Literal["sensitivity"]
    max_drop: Fraction


class OtsuChoice(Section):
    """M' as the neurons above Otsu's threshold of the discriminating power (thesis 3.2.1)."""

    method: Literal["otsu"]


LatentChoiceRule = Annotated[SensitivityChoice | OtsuChoice, Field(discriminator="method")]


class Surgery(Section):
    """From utilities to channels: how latent neurons are chosen, how many images trace, what is cut.

    `round_to` keeps channel counts at multiples of it; `remove_branches` lets whole branches go.
    """

    latent: LatentChoiceRule
    trace_images_per_class: PositiveInt
    round_to: PositiveInt
    remove_branches: bool


class Prune(Section):
    """The pruning step; `max_drop` is how far under the base a sample may fall on validation (t_acc).

    A sample is made for each of `etas` (Eq. 3.13) and for each of `sizes`, fractions of the parameters of the
    model that the round starts from, for which eta is found by bisection.
    """

    etas: list[PositiveFloat]
    sizes: list[OpenFraction]
    max_drop: Fraction
    retraining: Schedule

    @model_validator(mode="after")
    def _some_sample(self) -> Self:
        if not self.etas and not self.sizes:
            raise ValueError("etas: expected at least one eta, or one of sizes (got none of either)")
        return self


class Select(Section):
    """The parameter-first model is the smallest within `max_drop` of the base on validation."""

    max_drop: Fraction


class Shrink(Section):
    """Ours at the sizes where it is compared: fractions of the base's parameters, one after another.

    Every competitor goes through the same sizes with the same retraining.
    """

    sizes: Annotated[list[OpenFraction], Field(min_length=1)]
    retraining: Schedule

    @model_validator(mode="after")
    def _sizes_descend(self) -> Self:
        if any(after >= before for before, after in zip(self.sizes, self.sizes[1:], strict=False)):
            raise ValueError(f"sizes: expected descending fractions (got {self.sizes})")
        return self


class FilterCompetitor(Section):
    """A criterion that ranks filters; it keeps as many in each layer as ours does (thesis 3.3.3)."""

    criterion: Literal[
        "l1",
        "taylor",
        "activation_mean",
        "activation_variance",
        "apoz",
        "fpgm",
        "random",
        "lda_after_the_fact",
    ]


class WeightCompetitor(Section):
    """Han et al.'s weight magnitude: single weights are set to zero, nothing gets smaller."""

    criterion: Literal["han"]


class ScratchCompetitor(Section):
    """Our pruned architectures with fresh weights, trained for as many epochs as ours."""

    criterion: Literal["scratch"]


class FixedCompetitor(Section):
    """A fixed net, trained as the base was, at its own learning rate, for as many epochs as our smallest model."""

    criterion: Literal["fixed"]
    learning_rate: PositiveFloat
    model: Architecture


Competitor = Annotated[
    FilterCompetitor | WeightCompetitor | ScratchCompetitor | FixedCompetitor,
    Field(discriminator="criterion"),
]
