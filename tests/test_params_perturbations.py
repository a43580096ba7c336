"""params.yaml, sections on noise and attacks."""

import math
from typing import Any

import pytest
from tiny_params import assert_one_error, errors_of, params_of

from pipeline.params.perturbations import FoolboxAttack

# What a noise of each kind has beside its kind.
NOISES = {
    "gaussian": {"std": 1.0},
    "speckle": {"strength": 0.1},
    "poisson": {"peak": 255.0},
    "salt": {"amount": 0.1},
    "pepper": {"amount": 0.1},
    "local_variance": {"strength": 0.1},
}


@pytest.mark.parametrize("kind", NOISES)
def test_every_kind_of_noise_is_read_as_itself(kind: str) -> None:
    section = {"kind": kind, **NOISES[kind]}
    assert params_of(("noise.other", section)).noise["other"].model_dump() == section


@pytest.mark.parametrize("kind", NOISES)
def test_every_noise_has_a_strength_and_nothing_else(kind: str) -> None:
    (name,) = NOISES[kind]
    key = f"noise.other.{name}"
    assert_one_error(key, "greater than", "got 0", changes=[("noise.other", {"kind": kind, name: 0})])
    assert_one_error(key, "missing", changes=[("noise.other", {"kind": kind})])
    more = {"kind": kind, **NOISES[kind], "seed": 0}
    assert_one_error("noise.other.seed", "unknown key", "got 0", changes=[("noise.other", more)])


@pytest.mark.parametrize("kind", ["salt", "pepper"])
def test_a_share_of_the_pixels_is_less_than_all(kind: str) -> None:
    changes = [("noise.other", {"kind": kind, "amount": 1.0})]
    assert_one_error("noise.other.amount", "less than 1", "got 1.0", changes=changes)


def test_all_noise_comes_from_one_seed() -> None:
    assert params_of(("noise_seed", 3)).noise_seed == 3
    assert_one_error("noise_seed", "equal to 0", "got -1", changes=[("noise_seed", -1)])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("fgsm.epsilon", 256.0, ("less than or equal to 255", "got 256.0")),
        ("fgsm.epsilon", 0, ("greater than or equal to 0.1", "got 0")),
        ("newton_fool.steps", 0, ("greater than 0", "got 0")),
        ("newton_fool.eta", 0, ("greater than or equal to", "got 0")),
        ("pgd.epsilon", 0, ("greater than or equal to 0.1", "got 0")),
        ("pgd.epsilon", ..., ("missing",)),
        ("pgd.attack", 3, ("string", "got 3")),
        ("pgd.attack", "LinfPDG", ("a class of foolbox.attacks, such as ", "LinfPGD", "got 'LinfPDG'")),
        ("pgd.attack", "GenAttack", ("expected one that can run here; it needs a class", "got 'GenAttack'")),
        ("pgd.options", None, ("object", "got null")),
        ("pgd.options.steps", None, ("got null",)),
        ("pgd.options.steps", [2], ("got [2]",)),
        ("pgd.options.steps", {"n": 2}, ('got {"n": 2}',)),
    ],
)
def test_a_bad_attack_is_named_on_one_line(key: str, value: Any, words: tuple[str, ...]) -> None:
    assert_one_error(f"attacks.{key}", *words, changes=[(f"attacks.{key}", value)])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_options_of_an_attack_are_finite(value: float) -> None:
    key = "attacks.pgd.options.rel_stepsize"
    assert_one_error(key, "expected true, false, a finite number or text", changes=[(key, value)])


def test_an_attack_by_name_keeps_its_options_with_their_types() -> None:
    options = {"steps": 2, "rel_stepsize": 0.5, "random_start": True, "loss": "margin"}
    section = {"method": "foolbox", "attack": "LinfPGD", "epsilon": 4.0, "options": options}
    attack = params_of(("attacks.pgd", section)).attacks["pgd"]
    assert isinstance(attack, FoolboxAttack)
    assert attack.model_dump() == section
    assert [type(value) for value in attack.options.values()] == [int, float, bool, str]


def test_the_white_box_is_of_attacks() -> None:
    assert params_of(("white_box", ["pgd", "newton_fool"])).white_box == ["pgd", "newton_fool"]
    for name in ("rain", "gaussian"):
        words = ("expected one of fgsm, newton_fool, pgd", f"got '{name}'")
        assert_one_error("white_box.1", *words, changes=[("white_box", ["pgd", name])])
    assert_one_error("white_box", "array", "got {}", changes=[("white_box", {})])


def test_attacks_are_crafted_on_some_source() -> None:
    assert_one_error("sources", "expected a net", "got none", changes=[("sources", {})])
    no_attacks = [("attacks", {}), ("white_box", []), ("report.headline", ["gaussian"])]
    assert errors_of(("sources", {}), *no_attacks) == []
    in_white_box = [("sources", {}), *no_attacks, ("white_box", ["pgd"])]
    assert_one_error("white_box.0", "expected nothing", "got 'pgd'", changes=in_white_box)


def test_the_headline_is_of_noise_and_attacks() -> None:
    for name in ("rain", "resnet"):
        words = ("expected one of gaussian, poisson, speckle, fgsm", f"got '{name}'")
        assert_one_error("report.headline.1", *words, changes=[("report.headline", ["fgsm", name])])
