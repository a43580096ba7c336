"""Sections on pruning: the choice of latent neurons, rounds, selection, and who ours is compared with."""

from itertools import pairwise
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from pipeline.params.bounds import Channels, Eta, Fraction, Images, Iterations, LearningRate, OpenFraction
from pipeline.params.nets.sections import Architecture
from pipeline.params.sections import Section, Slug
from pipeline.params.training import BalancedSchedule, Retraining


class SensitivityChoice(Section):
    """M' as the fewest top neurons that lose at most `max_drop` of validation accuracy (thesis 3.2.1)."""

    method: Literal["sensitivity"]
    max_drop: Fraction


class OtsuChoice(Section):
    """M' as the neurons above Otsu's threshold of the discriminating power (thesis 3.2.1)."""

    method: Literal["otsu"]


LatentChoiceRule = Annotated[SensitivityChoice | OtsuChoice, Field(discriminator="method")]


# What a utility is, how wide layers stay, what a channel's removal saves, and what a net's size is counted in.
UtilityReading = Literal["deconvolution", "saliency"]
Widths = Literal["layer", "global", "uniform"]
CostUnit = Literal["params", "flops"]
SizeUnit = Literal["params", "flops", "milliseconds"]


class Widened(Section):
    """Which reading of the kept discriminants ranks filters, from how many images, and how wide each layer stays.

    `widths`: `layer` is Eq. 3.13, eta times each layer's own standard deviation; `global` one threshold over all
    layers' scores, each layer's scaled to norm 1; `uniform` takes the same share of every layer.
    """

    utility: UtilityReading
    widths: Widths
    trace_images_per_class: Images | None


class Surgery(Widened):
    """From utilities to channels: how latent neurons are chosen, what is cut.

    `per_cost` divides a score by the parameters or FLOPs that the channel costs, where widths are `global`; `round_to`
    keeps channel counts at multiples of it; `remove_branches` lets whole branches go. Layers of modules whose name a
    pattern of `keep` matches stay whole (`features.0`, `*.downsample.*`); others keep `min_channels`, or all they have.
    """

    per_cost: CostUnit | None
    latent: LatentChoiceRule
    round_to: Channels
    remove_branches: bool
    keep: list[Annotated[str, Field(min_length=1)]]
    min_channels: Channels

    @model_validator(mode="after")
    def _costs_between_layers(self) -> Self:
        if self.per_cost is not None and self.widths != "global":
            raise ValueError(f"per_cost: expected null, as widths is {self.widths} (got {self.per_cost})")
        return self

    def varied(self, variant: Widened) -> Self:
        """By another utility, images or widths; scores go per cost where this does so and widths are still `global`."""
        per_cost = self.per_cost if variant.widths == "global" else None
        return self.model_copy(update={**dict(variant), "per_cost": per_cost})


# Fractions of the original: the net that pushing starts from.
Sizes = dict[SizeUnit, list[OpenFraction]]


class Rounds(Section):
    """Pruning at most `rounds` times, each from the smallest acceptable sample of the one before.

    A sample is made for each of `etas` (see `Surgery.widths`) and for each of `sizes` that is smaller than the
    model that the round starts from. `max_drop` is how far under the original a sample may fall on validation (t_acc).
    """

    rounds: Iterations
    etas: list[Eta]
    sizes: Sizes
    max_drop: Fraction
    retraining: Retraining

    @model_validator(mode="after")
    def _some_sample(self) -> Self:
        if not self.etas and not any(self.sizes.values()):
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


# What ranks filters where what pays is taken apart: two readings of ours, chapter 3's, and others' criteria.
Score = Literal[
    "deconvolution",
    "saliency",
    "lda_after_the_fact",
    "l1",
    "taylor",
    "random",
    "deconvolution_noisy",
    "saliency_noisy",
]
_NOISY: dict[str, Score] = {"deconvolution": "deconvolution_noisy", "saliency": "saliency_noisy"}


class Ablate(Section):
    """What pays, taken apart: each of `scores` by each of `widths`, from the pushed net and from its control.

    `sizes` are fractions of the original, each cut in one shot. `noise` names one: utilities are traced on images under
    it as well, and every net is scored on test images under it.
    """

    sizes: Annotated[
        dict[SizeUnit, Annotated[list[OpenFraction], Field(min_length=1)]], Field(min_length=1, max_length=1)
    ]
    scores: Annotated[
        list[Literal["deconvolution", "saliency", "lda_after_the_fact", "l1", "taylor", "random"]],
        Field(min_length=1),
    ]
    widths: Annotated[list[Widths], Field(min_length=1)]
    noise: Slug | None
    retraining: BalancedSchedule

    @property
    def every_score(self) -> list[Score]:
        """The scores, and those of them that are traced on noisy images as well."""
        noisy = [_NOISY[score] for score in self.scores if score in _NOISY] if self.noise else []
        return [*self.scores, *noisy]


class Int8(Section):
    """Eight-bit ONNX, its activations' ranges taken from this many training images."""

    calibration_images: Images


class Select(Section):
    """The parameter-first model is the smallest within `max_drop` of the original on validation.

    `formats`: what both are written as besides safetensors and JSON; `int8`: the parameter-first one as that, too.
    """

    max_drop: Fraction
    formats: list[Literal["onnx", "pt2"]]
    int8: Int8 | None


# Rank filters, and keep as many in each layer as ours does (thesis 3.3.3).
_AtOurWidths = Literal[
    "l1", "taylor", "activation_mean", "activation_variance", "apoz", "fpgm", "random", "lda_after_the_fact"
]
# The same at the widths that are best for them, as many parameters or FLOPs left as ours has.
_AtOwnWidths = Literal[
    "l1_own",
    "taylor_own",
    "activation_mean_own",
    "activation_variance_own",
    "apoz_own",
    "fpgm_own",
    "random_own",
    "lda_after_the_fact_own",
]
FilterCriterion = Literal[_AtOurWidths, _AtOwnWidths]
FILTER_CRITERIA: tuple[str, ...] = get_args(FilterCriterion)
# han: single weights are set to zero by magnitude (Han et al. 2015); scratch: our architectures with fresh weights.
Competitor = Literal[FilterCriterion, "han", "scratch"]
COMPETITORS: tuple[str, ...] = (*FILTER_CRITERIA, "han", "scratch")


class FixedNet(Section):
    """A net of somebody's design, trained as the base was, at its own rate, for as many epochs as our smallest."""

    learning_rate: LearningRate
    model: Architecture


class Compare(Section):
    """Ours at these fractions of the original, one after another, and who it is compared with.

    Every competitor goes through the same sizes with the same retraining. At every size each method tries
    `rate_factors` times the learning rate, and goes on from the net that is best on validation. `variants`: ours once
    more, from the same pushed net, by another utility, other widths, or from other numbers of traced images (thesis
    Figure 3-20).
    """

    sizes: Annotated[Sizes, Field(min_length=1, max_length=1)]
    variants: dict[Slug, Widened]
    retraining: Retraining
    rate_factors: Annotated[list[LearningRate], Field(min_length=1)]
    competitors: list[Competitor]
    fixed_nets: dict[Slug, FixedNet]

    @property
    def unit(self) -> SizeUnit:
        """What the sizes are counted in."""
        return next(iter(self.sizes))

    @property
    def fractions(self) -> list[float]:
        """The sizes in their unit."""
        return self.sizes[self.unit]

    @model_validator(mode="after")
    def _sizes_descend(self) -> Self:
        found = self.fractions
        if not found or any(after >= before for before, after in pairwise(found)):
            raise ValueError(f"sizes.{self.unit}: expected descending fractions (got {found})")
        return self
