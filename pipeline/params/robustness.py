"""Sections on robustness: the source of attacks, noise, attacks, and the comparison."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from pipeline.params.architectures import Architecture
from pipeline.params.sections import Fraction, NonNegativeInt, Section
from pipeline.params.training import Training


class Source(Section):
    """The third model that attacks are crafted on; under the stated accuracy it is refused."""

    model: Architecture
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
