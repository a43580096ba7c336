"""Sections on pruning: the choice of latent neurons, rounds, selection, and who ours is compared with."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pipeline.params.nets.sections import Architecture
from pipeline.params.sections import Fraction, OpenFraction, Section, Slug
from pipeline.params.training import Retraining


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
    utility: Literal["deconvolution", "saliency"] = "deconvolution"
    trace_images_per_class: PositiveInt | None
    round_to: PositiveInt
    remove_branches: bool


class Rounds(Section):
    """Pruning at most `rounds` times, each from the smallest acceptable sample of the one before.

    A sample is made for each of `etas` (Eq. 3.13) and for each of `sizes`, fractions of the parameters of the
    model that the round starts from, for which eta is found by bisection. `max_drop` is how far under the original a
    sample may fall on validation (t_acc).
    """

    rounds: PositiveInt
    etas: list[PositiveFloat]
    sizes: list[OpenFraction]
    max_drop: Fraction
    retraining: Retraining

    @model_validator(mode="after")
    def _some_sample(self) -> Self:
        if not self.etas and not self.sizes:
            raise ValueError("etas: expected at least one eta, or one of sizes (got none of either)")
        return self


class Prune(Rounds):
    """Rounds from the pushed net."""


class AfterTheFact(Rounds):
    """Chapter 3's pipeline: rounds from the original, without any push, neurons ranked by Eq. 3.8."""

    @model_validator(mode="after")
    def _no_push(self) -> Self:
        if self.retraining.push != "none":
            raise ValueError(
                f"retraining.push: expected none, as chapter 3 does (got {self.retraining.push})"
            )
        return self


class Select(Section):
    """The parameter-first model is the smallest within `max_drop` of the original on validation."""

    max_drop: Fraction


# Rank filters, and keep as many in each layer as ours does (thesis 3.3.3).
FilterCriterion = Literal[
    "l1", "taylor", "activation_mean", "activation_variance", "apoz", "fpgm", "random", "lda_after_the_fact"
]
FILTER_CRITERIA: tuple[str, ...] = get_args(FilterCriterion)
# han: single weights are set to zero by magnitude (Han et al. 2015); scratch: our architectures with fresh weights.
Competitor = Literal[FilterCriterion, "han", "scratch"]
COMPETITORS: tuple[str, ...] = (*FILTER_CRITERIA, "han", "scratch")


class FixedNet(Section):
    """A net of somebody's design, trained as the base was, at its own rate, for as many epochs as our smallest."""

    learning_rate: PositiveFloat
    model: Architecture


class Compare(Section):
    """Ours at these fractions of the original's parameters, one after another, and who it is compared with.

    Every competitor goes through the same sizes with the same retraining.
    """

    sizes: Annotated[list[OpenFraction], Field(min_length=1)]
    retraining: Retraining
    competitors: list[Competitor]
    fixed_nets: dict[Slug, FixedNet]

    @model_validator(mode="after")
    def _sizes_descend(self) -> Self:
        if any(after >= before for before, after in zip(self.sizes, self.sizes[1:], strict=False)):
            raise ValueError(f"sizes: expected descending fractions (got {self.sizes})")
        return self
