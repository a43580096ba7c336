"""Under what the models are compared: clean images, noise, and attacks from each source; and which models."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import nan

from pipeline.params import (
    Attack,
    FgsmAttack,
    FoolboxAttack,
    GaussianNoise,
    ImpulseNoise,
    LocalVarianceNoise,
    NewtonFoolAttack,
    Noise,
    PoissonNoise,
    SpeckleNoise,
)
from pipeline.workflow.tables import MODELS

CLEAN = "clean"
# Our model at the size where it is compared with competitors.
OURS_AT_SIZE = "ours_at_size"


@dataclass(frozen=True)
class Condition:
    """One way to perturb the test images.

    `name` is unique; `key` is its entry in params.yaml; `kind` is clean, noise or attack; `family` groups
    strengths of one method, in the `unit` named, `strength` growing with the damage done, NaN where an attack
    looks for the smallest perturbation itself; `source` is the net that an attack is crafted on.
    """

    name: str
    key: str
    kind: str
    family: str
    strength: float
    unit: str
    source: str = ""


def list_conditions(
    noise: Mapping[str, Noise], attacks: Mapping[str, Attack], sources: Collection[str]
) -> Iterator[Condition]:
    """Clean, every noise, every attack on every source, as the params name them."""
    yield Condition(CLEAN, CLEAN, CLEAN, CLEAN, 0.0, "")
    for key, entry in noise.items():
        yield Condition(key, key, "noise", entry.kind, *_noise_strength(entry))
    for source in sources:
        for key, attack in attacks.items():
            name = key if len(sources) == 1 else f"{key}_from_{source}"
            yield Condition(name, key, "attack", *_attack_strength(attack), source)


def _noise_strength(noise: Noise) -> tuple[float, str]:
    match noise:
        case GaussianNoise():
            return noise.std, "standard deviation, of 255"
        case PoissonNoise():
            return 255 / noise.peak**0.5, "deviation at white, of 255"
        case SpeckleNoise() | LocalVarianceNoise():
            return noise.strength, "strength"
        case ImpulseNoise():
            return noise.amount, "share of the pixels"


def _attack_strength(attack: Attack) -> tuple[str, float, str]:
    match attack:
        case FgsmAttack():
            return "fgsm", attack.epsilon, "epsilon, of 255"
        case NewtonFoolAttack():
            return f"newton_fool, eta {attack.eta:g}", attack.steps, "steps at most"
        case FoolboxAttack():
            family = ", ".join([attack.attack, *(f"{key} {value}" for key, value in attack.options.items())])
            return family, nan if attack.epsilon is None else attack.epsilon, "epsilon, of 255"


def list_models(
    size: int, competitors: Collection[str], sources: Collection[str]
) -> dict[str, tuple[str, str]]:
    """The models under comparison by name, with folder and file below `runs/<name>/<seed>`.

    Those of `tables.MODELS`; ours and its competitors at one size of the comparison; the sources themselves.
    """
    step = f"step{size}"
    return {
        **MODELS,
        OURS_AT_SIZE: ("shrink", step),
        **{at_size(name): (f"compete/{name}", step) for name in competitors},
        **{source_name(name): (f"source/{name}", "model") for name in sources},
    }


def list_pairs(competitors: Collection[str]) -> list[tuple[str, str]]:
    """Who is compared with whom: everyone with the base, and each competitor with ours at the same size."""
    against_base = [("base", name) for name in MODELS if name != "base"]
    return [*against_base, *((at_size(name), OURS_AT_SIZE) for name in competitors)]


def at_size(competitor: str) -> str:
    """The name of a competitor's model at the size where robustness is compared."""
    return f"{competitor}_at_size"


def source_name(source: str) -> str:
    """The name of a source among the compared models."""
    return f"source_{source}"
