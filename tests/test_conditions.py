"""Conditions: their names, families and strengths, and those of every preset."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from conftest import ROOT

from pipeline.params.file import read_params
from pipeline.params.perturbations import (
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
from pipeline.robustness.conditions import CLEAN, Condition, list_conditions

NOISE: dict[str, Noise] = {
    "gaussian": GaussianNoise(kind="gaussian", std=5.0),
    "gaussian_strong": GaussianNoise(kind="gaussian", std=25.0),
    "poisson": PoissonNoise(kind="poisson", peak=255.0),
    "speckle": SpeckleNoise(kind="speckle", strength=0.05),
    "salt": ImpulseNoise(kind="salt", amount=0.02),
    "pepper": ImpulseNoise(kind="pepper", amount=0.02),
    "local": LocalVarianceNoise(kind="local_variance", strength=0.1),
}
ATTACKS: dict[str, Attack] = {
    "fgsm": FgsmAttack(method="fgsm", epsilon=16.0),
    "newton_fool": NewtonFoolAttack(method="newton_fool", steps=50, eta=0.01),
    "pgd": FoolboxAttack(method="foolbox", attack="LinfPGD", epsilon=16.0, options={"steps": 20}),
}


def conditions(*sources: str) -> list[Condition]:
    return list(list_conditions(NOISE, ATTACKS, sources))


def strength_of_noise(noise: Noise) -> float:
    return list(list_conditions({"one": noise}, {}, ["resnet"]))[1].strength


def strength_of_attack(attack: Attack) -> float:
    return list(list_conditions({}, {"one": attack}, ["resnet"]))[1].strength


@pytest.mark.parametrize("sources", [("resnet",), ("resnet", "vgg"), ("a", "b", "c")])
def test_condition_names_are_unique(sources: tuple[str, ...]) -> None:
    names = [each.name for each in conditions(*sources)]
    assert len(set(names)) == len(names) == 1 + len(NOISE) + len(sources) * len(ATTACKS)


def test_clean_comes_first_then_noise_then_attacks() -> None:
    found = conditions("resnet", "vgg")
    assert (found[0].name, found[0].kind, found[0].strength) == (CLEAN, CLEAN, 0.0)
    assert [each.kind for each in found] == [CLEAN, *["noise"] * len(NOISE), *["attack"] * 2 * len(ATTACKS)]


def test_with_one_source_an_attack_keeps_its_plain_name() -> None:
    attacks = [each for each in conditions("resnet") if each.kind == "attack"]
    assert [each.name for each in attacks] == [each.key for each in attacks] == list(ATTACKS)
    assert {each.source for each in attacks} == {"resnet"}


def test_with_two_sources_an_attack_is_named_after_its_source() -> None:
    attacks = [each for each in conditions("resnet", "vgg") if each.kind == "attack"]
    assert [each.name for each in attacks] == [
        f"{key}_from_{s}" for s in ("resnet", "vgg") for key in ATTACKS
    ]
    assert [each.source for each in attacks] == ["resnet"] * len(ATTACKS) + ["vgg"] * len(ATTACKS)
    assert [each.key for each in attacks] == [*ATTACKS, *ATTACKS]


def test_noise_has_no_source_and_is_listed_once_however_many_sources_there_are() -> None:
    noise = [each for each in conditions("resnet", "vgg") if each.kind == "noise"]
    assert [each.name for each in noise] == list(NOISE)
    assert {each.source for each in noise} == {""}


def test_strengths_of_one_method_share_family_and_unit_and_methods_do_not() -> None:
    found = {each.name: each for each in conditions("resnet")}
    assert found["gaussian"].family == found["gaussian_strong"].family == "gaussian"
    assert found["gaussian"].unit == found["gaussian_strong"].unit
    families = {each.family for name, each in found.items() if name != "gaussian_strong"}
    assert len(families) == len(found) - 1


def test_newton_fools_of_different_eta_are_different_families() -> None:
    attacks: dict[str, Attack] = {
        str(idx): NewtonFoolAttack(method="newton_fool", steps=10, eta=eta)
        for idx, eta in enumerate((0.01, 0.1))
    }
    _, first, second = list_conditions({}, attacks, ["resnet"])
    assert first.family != second.family


@pytest.mark.parametrize("levels", [(2.0, 5.0, 25.0)])
def test_gaussian_strength_grows_with_the_deviation(levels: tuple[float, ...]) -> None:
    strengths = [strength_of_noise(GaussianNoise(kind="gaussian", std=level)) for level in levels]
    assert strengths == list(levels)


def test_fewer_photons_are_stronger_and_the_strength_is_the_deviation_of_white() -> None:
    peaks = [500.0, 255.0, 100.0, 25.0]
    strengths = [strength_of_noise(PoissonNoise(kind="poisson", peak=peak)) for peak in peaks]
    assert all(a < b for a, b in pairwise(strengths))
    # White at 255 photons: variance 255 on the 0-255 scale; at 25 photons, 255 x 255 / 25.
    assert strengths[1] == pytest.approx(255**0.5)
    assert strengths[3] == pytest.approx(51.0)


@pytest.mark.parametrize("kind", ["salt", "pepper"])
def test_impulse_strength_grows_with_the_share_of_pixels(kind: Literal["salt", "pepper"]) -> None:
    strengths = [strength_of_noise(ImpulseNoise(kind=kind, amount=amount)) for amount in (0.01, 0.1, 0.3)]
    assert strengths == [0.01, 0.1, 0.3]


def test_speckle_and_local_variance_grow_with_their_strength() -> None:
    for strength in (0.05, 0.2):
        speckle = SpeckleNoise(kind="speckle", strength=strength)
        local = LocalVarianceNoise(kind="local_variance", strength=strength)
        assert strength_of_noise(speckle) == strength_of_noise(local) == strength


def test_attacks_grow_with_epsilon_or_steps() -> None:
    assert [strength_of_attack(FgsmAttack(method="fgsm", epsilon=e)) for e in (4.0, 16.0)] == [4.0, 16.0]
    newton = [NewtonFoolAttack(method="newton_fool", steps=steps, eta=0.01) for steps in (10, 50)]
    assert [strength_of_attack(each) for each in newton] == [10, 50]
    pgd = [FoolboxAttack(method="foolbox", attack="LinfPGD", epsilon=e, options={}) for e in (4.0, 16.0)]
    assert [strength_of_attack(each) for each in pgd] == [4.0, 16.0]


def test_an_attack_without_a_budget_has_no_strength() -> None:
    minimising = FoolboxAttack(method="foolbox", attack="L2DeepFoolAttack", epsilon=None, options={})
    assert math.isnan(strength_of_attack(minimising))


@pytest.mark.parametrize(
    ("name", "options", "unit"),
    [
        ("LinfPGD", {}, "epsilon, of 255"),
        ("L2PGD", {}, "L2 epsilon, 0-255 scale"),
        ("SparseL1DescentAttack", {}, "L1 epsilon, 0-255 scale"),
        ("HopSkipJumpAttack", {}, "L2 epsilon, 0-255 scale"),
        ("HopSkipJumpAttack", {"constraint": "linf"}, "epsilon, of 255"),
    ],
)
def test_a_budget_in_another_norm_says_so_on_the_axis(name: str, options: dict[str, str], unit: str) -> None:
    attack = FoolboxAttack(method="foolbox", attack=name, epsilon=16.0, options=options)
    _, found = list_conditions({}, {"attack": attack}, ["resnet"])
    assert found.unit == unit


def test_other_options_of_an_attack_are_another_family() -> None:
    attacks: dict[str, Attack] = {
        f"pgd_{steps}_{epsilon}": FoolboxAttack(
            method="foolbox", attack="LinfPGD", epsilon=epsilon, options={"steps": steps}
        )
        for steps in (5, 20)
        for epsilon in (4.0, 8.0)
    }
    _, *found = list_conditions({}, attacks, ["resnet"])
    assert [each.family for each in found] == [
        *["LinfPGD, steps 5"] * 2,
        *["LinfPGD, steps 20"] * 2,
    ]


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_presets_conditions_have_names_of_their_own(preset: Path) -> None:
    params = read_params(preset)
    names = [each.name for each in list_conditions(params.noise, params.attacks, params.sources)]
    assert len(set(names)) == len(names) == 1 + len(params.noise) + len(params.sources) * len(params.attacks)
