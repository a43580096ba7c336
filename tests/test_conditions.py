"""Names, strengths and models of the comparison, and what the tiny preset makes of them."""

import json
import math
from itertools import pairwise
from typing import Literal

import pytest
from conftest import ROOT
from pipeline.workflow.tables import MODELS

from pipeline.params.file import read_params
from pipeline.params.params import Params
from pipeline.params.perturbations import Attack, FgsmAttack, FoolboxAttack, GaussianNoise, ImpulseNoise, LocalVarianceNoise, NewtonFoolAttack, Noise, PoissonNoise, SpeckleNoise
from pipeline.robustness.conditions import (
    CLEAN,
    OURS_AT_SIZE,
    Condition,
    at_size,
    list_conditions,
    list_models,
    list_pairs,
    source_name,
)

NOISE: dict[str, Noise] = {
    "gaussian": GaussianNoise(kind="gaussian", std=5.0, seed=0),
    "gaussian_strong": GaussianNoise(kind="gaussian", std=25.0, seed=0),
    "poisson": PoissonNoise(kind="poisson", peak=255.0, seed=0),
    "speckle": SpeckleNoise(kind="speckle", strength=0.05, seed=0),
    "salt": ImpulseNoise(kind="salt", amount=0.02, seed=0),
    "pepper": ImpulseNoise(kind="pepper", amount=0.02, seed=0),
    "local": LocalVarianceNoise(kind="local_variance", strength=0.1, seed=0),
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
    strengths = [strength_of_noise(GaussianNoise(kind="gaussian", std=level, seed=0)) for level in levels]
    assert strengths == list(levels)


def test_fewer_photons_are_stronger_and_the_strength_is_the_deviation_of_white() -> None:
    peaks = [500.0, 255.0, 100.0, 25.0]
    strengths = [strength_of_noise(PoissonNoise(kind="poisson", peak=peak, seed=0)) for peak in peaks]
    assert all(a < b for a, b in pairwise(strengths))
    # White at 255 photons: variance 255 on the 0-255 scale; at 25 photons, 255 x 255 / 25.
    assert strengths[1] == pytest.approx(255**0.5)
    assert strengths[3] == pytest.approx(51.0)


@pytest.mark.parametrize("kind", ["salt", "pepper"])
def test_impulse_strength_grows_with_the_share_of_pixels(kind: Literal["salt", "pepper"]) -> None:
    strengths = [
        strength_of_noise(ImpulseNoise(kind=kind, amount=amount, seed=0)) for amount in (0.01, 0.1, 0.3)
    ]
    assert strengths == [0.01, 0.1, 0.3]


def test_speckle_and_local_variance_grow_with_their_strength() -> None:
    for strength in (0.05, 0.2):
        speckle = SpeckleNoise(kind="speckle", strength=strength, seed=0)
        local = LocalVarianceNoise(kind="local_variance", strength=strength, seed=0)
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


def test_models_are_the_main_flow_ours_and_competitors_at_one_size_and_the_sources() -> None:
    found = list_models(2, ["l1", "random"], ["resnet", "vgg"])
    main = {name: found[name] for name in MODELS}
    assert main == MODELS
    assert {name: place for name, place in found.items() if name not in MODELS} == {
        OURS_AT_SIZE: ("shrink", "step2"),
        at_size("l1"): ("compete/l1", "step2"),
        at_size("random"): ("compete/random", "step2"),
        source_name("resnet"): ("source/resnet", "model"),
        source_name("vgg"): ("source/vgg", "model"),
    }
    assert list(found)[: len(MODELS)] == list(MODELS)


def test_no_two_models_share_a_file() -> None:
    places = list(list_models(0, ["l1", "random", "scratch"], ["resnet", "vgg"]).values())
    assert len(set(places)) == len(places) == len(MODELS) + 1 + 3 + 2


def test_everyone_is_paired_with_the_base_and_each_competitor_with_ours_at_its_size() -> None:
    pairs = list_pairs(["l1", "random"])
    assert pairs == [
        *(("base", name) for name in MODELS if name != "base"),
        (at_size("l1"), OURS_AT_SIZE),
        (at_size("random"), OURS_AT_SIZE),
    ]
    compared = list_models(0, ["l1", "random"], ["resnet"])
    assert all(first in compared and second in compared for first, second in pairs)


def test_without_competitors_only_the_comparisons_with_the_base_are_left() -> None:
    assert list_pairs([]) == [("base", name) for name in MODELS if name != "base"]


def tiny() -> Params:
    return read_params(ROOT / "presets" / "tiny.yaml")


@pytest.mark.parametrize("preset", ["tiny", "digits"])
def test_every_preset_has_conditions_and_models_of_different_names(preset: str) -> None:
    params = read_params(ROOT / "presets" / f"{preset}.yaml")
    names = [each.name for each in list_conditions(params.noise, params.attacks, params.sources)]
    assert len(set(names)) == len(names)
    n_models = len(MODELS) + 1 + len(params.lineup.competitors) + len(params.sources)
    assert len(list_models(params.lineup.size, params.lineup.competitors, params.sources)) == n_models


def changed(**sections: object) -> Params:
    data = tiny().model_dump(mode="json", by_alias=True)
    return Params.model_validate_json(json.dumps(data | sections))


def test_the_tiny_preset_passes_unchanged() -> None:
    assert changed() == tiny()


def test_params_refuse_a_perturbation_named_clean() -> None:
    noise = tiny().model_dump(mode="json")["noise"]
    with pytest.raises(ValueError, match="clean"):
        changed(noise=noise | {"clean": {"kind": "gaussian", "std": 5.0, "seed": 0}})


def test_params_refuse_a_perturbation_whose_name_an_attack_from_a_source_takes() -> None:
    data = tiny().model_dump(mode="json", by_alias=True)
    sources = dict.fromkeys(("resnet", "second"), data["sources"]["resnet"])
    noise = data["noise"] | {"fgsm_from_second": {"kind": "gaussian", "std": 5.0, "seed": 0}}
    with pytest.raises(ValueError, match="fgsm_from_second"):
        changed(noise=noise, sources=sources)


def test_params_refuse_a_competitor_that_takes_the_name_of_ours() -> None:
    data = tiny().model_dump(mode="json", by_alias=True)
    competitors = data["competitors"] | {"ours": {"criterion": "l1"}}
    lineup = data["lineup"] | {"competitors": ["l1", "ours"]}
    with pytest.raises(ValueError, match="ours"):
        changed(competitors=competitors, lineup=lineup)
