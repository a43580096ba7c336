"""Noise and attacks: entries of the sections `noise` and `attacks`."""

from difflib import get_close_matches
from math import isfinite
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.params.bounds import (
    Budget,
    Deviation,
    NewtonEta,
    OpenFraction,
    Photons,
    PixelBudget,
    Steps,
    Strength,
)
from pipeline.params.foolbox_attacks import problems_of
from pipeline.params.installed_names import foolbox_attacks
from pipeline.params.sections import Section, seen_by_dvc


class GaussianNoise(Section):
    """Additive noise of standard deviation `std`, on the 0-255 scale."""

    kind: Literal["gaussian"]
    std: Deviation


class SpeckleNoise(Section):
    """image + strength x image x N(0, 1)."""

    kind: Literal["speckle"]
    strength: Strength


class PoissonNoise(Section):
    """Photon counts: white is `peak` photons; 255 makes variance equal mean on the 0-255 scale.

    The level is ours: the thesis states none (5.2.2).
    """

    kind: Literal["poisson"]
    peak: Photons


class ImpulseNoise(Section):
    """A share `amount` of the pixels set to white (salt) or black (pepper)."""

    kind: Literal["salt", "pepper"]
    amount: OpenFraction


class LocalVarianceNoise(Section):
    """Gaussian noise of variance strength^2 x the mean of the 3x3 pixels around."""

    kind: Literal["local_variance"]
    strength: Strength


Noise = Annotated[
    GaussianNoise | SpeckleNoise | PoissonNoise | ImpulseNoise | LocalVarianceNoise,
    Field(discriminator="kind"),
]


class FgsmAttack(Section):
    """Fast gradient sign method; `epsilon` is the step on the 0-255 scale."""

    method: Literal["fgsm"]
    epsilon: PixelBudget


class NewtonFoolAttack(Section):
    """Newton Fool of Jang et al. 2017: at most `steps` steps, `eta` its small step constant."""

    method: Literal["newton_fool"]
    steps: Steps
    eta: NewtonEta


def _is_option(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not isfinite(value)):
        raise PydanticCustomError("option", "expected true, false, a finite number or text")
    return value


Option = Annotated[Any, BeforeValidator(_is_option)]


class FoolboxAttack(Section):
    """Any other attack of `foolbox.attacks` by its class's name, with keyword options of its constructor.

    `epsilon` is the budget in the attack's own norm, on the 0-255 scale; null for attacks that minimise it. So is every
    option that is a distance, such as `abs_stepsize`. `loss: margin` gives those that climb the cross-entropy the
    logits' margin instead, whose gradient does not vanish where a net is sure of itself.
    """

    method: Literal["foolbox"]
    attack: str
    epsilon: Budget | None
    options: dict[Annotated[str, AfterValidator(seen_by_dvc)], Option]

    @model_validator(mode="after")
    def _known_to_foolbox(self) -> Self:
        if self.attack not in (known := foolbox_attacks()):
            alike = get_close_matches(self.attack, sorted(known), cutoff=0)
            raise ValueError(
                f"attack: expected a class of foolbox.attacks, such as {', '.join(alike)} (got {self.attack!r})"
            )
        if problems := [*problems_of(self.attack, self.epsilon, self.options)]:
            raise ValueError("\n".join(problems))
        return self


Attack = Annotated[FgsmAttack | NewtonFoolAttack | FoolboxAttack, Field(discriminator="method")]
