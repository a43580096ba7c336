"""Under what the models are compared: clean images, noise, and attacks from each source."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import nan

from pipeline.params import perturbations as kinds
from pipeline.params.foolbox_attacks import norm_of

CLEAN = "clean"


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
    noise: Mapping[str, kinds.Noise], attacks: Mapping[str, kinds.Attack], sources: Collection[str]
) -> Iterator[Condition]:
    """Clean, every noise, every attack on every source, as the params name them."""
    yield Condition(CLEAN, CLEAN, CLEAN, CLEAN, 0.0, "")
    for key, entry in noise.items():
        yield Condition(key, key, "noise", entry.kind, *_noise_strength(entry))
    for source in sources:
        for key, attack in attacks.items():
            name = key if len(sources) == 1 else f"{key}_from_{source}"
            yield Condition(name, key, "attack", *_attack_strength(attack), source)


def _noise_strength(noise: kinds.Noise) -> tuple[float, str]:
    match noise:
        case kinds.GaussianNoise():
            return noise.std, "standard deviation, of 255"
        case kinds.PoissonNoise():
            return 255 / noise.peak**0.5, "deviation at white, of 255"
        case kinds.SpeckleNoise() | kinds.LocalVarianceNoise():
            return noise.strength, "strength"
        case kinds.ImpulseNoise():
            return noise.amount, "share of the pixels"


def _attack_strength(attack: kinds.Attack) -> tuple[str, float, str]:
    match attack:
        case kinds.FgsmAttack():
            return "fgsm", attack.epsilon, "epsilon, of 255"
        case kinds.NewtonFoolAttack():
            return f"newton_fool, eta {attack.eta:g}", attack.steps, "steps at most"
        case kinds.FoolboxAttack():
            family = ", ".join([attack.attack, *(f"{key} {value}" for key, value in attack.options.items())])
            return family, nan if attack.epsilon is None else attack.epsilon, budget_unit(attack)


def budget_unit(attack: kinds.FoolboxAttack) -> str:
    """What an attack's epsilon counts: of a pixel alone, or of a whole image in another norm."""
    norm = norm_of(attack.attack, attack.options)
    return "epsilon, of 255" if norm == "Linf" else f"{norm} epsilon, 0-255 scale"
