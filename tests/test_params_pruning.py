"""params.yaml, sections on pruning: the latent choice, samples, the comparison, and who of it is attacked."""

from copy import deepcopy
from typing import Any

import pytest
from tiny_params import ABLATE, RESNET, assert_one_error, errors_of, params_of

from pipeline.params.pruning import COMPETITORS, OtsuChoice, Surgery, Widened

CRITERIA = [
    *("l1", "taylor", "activation_mean", "activation_variance", "apoz", "fpgm", "random"),
    "lda_after_the_fact",
]
CRITERIA += [f"{each}_own" for each in CRITERIA] + ["han", "scratch"]


@pytest.mark.parametrize(
    ("latent", "key", "words"),
    [
        ({"method": "otsu", "max_drop": 0.1}, ".max_drop", ("unknown key", "allowed: method")),
        ({"method": "sensitivity"}, ".max_drop", ("missing",)),
        ({"method": "sensitivity", "max_drop": 1.1}, ".max_drop", ("equal to 1", "got 1.1")),
        ({"method": "sensitivity", "max_drop": -0.1}, ".max_drop", ("equal to 0", "got -0.1")),
        (
            {"method": "sensitivity", "max_drop": 0.1, "n": 3},
            ".n",
            ("unknown key", "allowed: method, max_drop"),
        ),
        ({"method": "pca"}, ".method", ("'sensitivity'", "'otsu'", 'got "pca"')),
        (None, "", ("got null",)),
    ],
)
def test_a_bad_choice_of_latent_neurons_is_named_on_one_line(
    latent: Any, key: str, words: tuple[str, ...]
) -> None:
    assert_one_error(f"surgery.latent{key}", *words, changes=[("surgery.latent", latent)])


def test_otsu_needs_nothing_but_its_name() -> None:
    assert isinstance(params_of(("surgery.latent", {"method": "otsu"})).surgery.latent, OtsuChoice)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("round_to", 0, ("greater than 0", "got 0")),
        ("remove_branches", 0, ("boolean", "got 0")),
        ("keep", "stem", ("valid array", 'got "stem"')),
        ("min_channels", 0, ("greater than 0", "got 0")),
        ("utility", "activation", ("'deconvolution' or 'saliency'", 'got "activation"')),
        ("widths", "thin", ("'layer', 'global' or 'uniform'", 'got "thin"')),
        ("per_cost", "milliseconds", ("'params' or 'flops'", 'got "milliseconds"')),
        ("per_cost", ..., ("missing",)),
        ("trace_images_per_class", 0, ("greater than 0", "got 0")),
    ],
)
def test_a_bad_rule_of_surgery_is_named_on_one_line(key: str, value: Any, words: tuple[str, ...]) -> None:
    assert_one_error(f"surgery.{key}", *words, changes=[(f"surgery.{key}", value)])


@pytest.mark.parametrize("widths", ["layer", "uniform"])
def test_costs_are_weighed_between_layers_alone(widths: str) -> None:
    changes = [("surgery.widths", widths), ("surgery.per_cost", "params")]
    assert_one_error("surgery.per_cost", "expected null", f"widths is {widths}", changes=changes)
    assert errors_of(("surgery.widths", "global"), ("surgery.per_cost", "params")) == []


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"etas": [], "sizes": {}}, "etas", ("expected at least one eta", "sizes", "got none")),
        ({"sizes": {"flops": [0.5, 0.5]}}, "sizes.flops", ("no repeats", "got [0.5, 0.5]")),
        ({"sizes": {"seconds": [0.5]}}, "sizes.seconds", ("'params', 'flops' or 'milliseconds'",)),
        ({"etas": [0.5, 1.0, 0.5]}, "etas", ("no repeats", "got [0.5, 1.0, 0.5]")),
        ({"sizes": {"params": [1.0]}}, "sizes.params.0", ("less than 1", "got 1.0")),
        ({"sizes": {"params": [0.0]}}, "sizes.params.0", ("greater than 0", "got 0.0")),
        ({"etas": [0.5, 0.0]}, "etas.1", ("greater than 0", "got 0.0")),
        ({"etas": ...}, "etas", ("missing",)),
        ({"max_drop": 1.5}, "max_drop", ("equal to 1", "got 1.5")),
        ({"rounds": 0}, "rounds", ("greater than 0", "got 0")),
        ({"rounds": ["round1"]}, "rounds", ("integer", 'got ["round1"]')),
    ],
)
def test_a_bad_rule_of_pruning_is_named_on_one_line(
    changes: dict[str, Any], key: str, words: tuple[str, ...]
) -> None:
    assert_one_error(
        f"prune.{key}", *words, changes=[(f"prune.{name}", value) for name, value in changes.items()]
    )


@pytest.mark.parametrize(
    ("etas", "sizes"), [([], {"flops": [0.5]}), ([0.5], {}), ([0.5], {"params": [0.25, 0.5], "flops": [0.5]})]
)
def test_samples_may_be_by_eta_by_size_or_by_both(etas: list[float], sizes: dict[str, list[float]]) -> None:
    assert errors_of(("prune.etas", etas), ("prune.sizes", sizes)) == []


@pytest.mark.parametrize(
    ("sizes", "key", "words"),
    [
        ([0.25, 0.5], ".params", ("descending", "got [0.25, 0.5]")),
        ([0.5, 0.1, 0.2], ".params", ("descending", "got [0.5, 0.1, 0.2]")),
        ([0.5, 0.5], ".params", ("descending", "got [0.5, 0.5]")),
        ([], ".params", ("descending", "got []")),
        (0.5, ".params", ("array", "got 0.5")),
        ([1.0, 0.5], ".params.0", ("less than 1", "got 1.0")),
        ([0.5, 0.0], ".params.1", ("greater than 0", "got 0.0")),
        ([0.5, -0.1], ".params.1", ("greater than 0", "got -0.1")),
        ([0.5, "small"], ".params.1", ("number", 'got "small"')),
    ],
)
def test_the_sizes_of_the_comparison_descend_between_one_and_zero(
    sizes: Any, key: str, words: tuple[str, ...]
) -> None:
    assert_one_error(f"compare.sizes{key}", *words, changes=[("compare.sizes", {"params": sizes})])


def test_one_size_is_enough() -> None:
    assert errors_of(("compare.sizes", {"flops": [0.5]})) == []


@pytest.mark.parametrize("sizes", [{}, {"params": [0.5], "flops": [0.5]}])
def test_the_comparison_is_at_sizes_of_one_unit(sizes: Any) -> None:
    assert_one_error("compare.sizes", "1", changes=[("compare.sizes", sizes)])


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_competitor_needs_nothing_but_its_name(criterion: str) -> None:
    alone = params_of(("compare.competitors", [criterion]), ("lineup.competitors", [criterion]))
    assert alone.compare is not None
    assert alone.compare.competitors == [criterion]


def test_the_competitors_are_these() -> None:
    assert sorted(COMPETITORS) == sorted(CRITERIA)


@pytest.mark.parametrize("place", ["compare.competitors", "lineup.competitors"])
@pytest.mark.parametrize(
    ("name", "got"), [("l2", '"l2"'), ("resnet6", '"resnet6"'), (None, "null"), (1, "1")]
)
def test_an_unknown_competitor_is_named_beside_the_known_ones(place: str, name: Any, got: str) -> None:
    known = [repr(each) for each in CRITERIA]
    assert_one_error(f"{place}.0", "expected", f"(got {got})", *known, changes=[(place, [name])])


@pytest.mark.parametrize(
    ("net", "key", "words"),
    [
        ({"learning_rate": 0.1}, ".model", ("missing",)),
        ({"model": RESNET}, ".learning_rate", ("missing",)),
        ({"learning_rate": 0, "model": RESNET}, ".learning_rate", ("greater than 0", "got 0")),
        (
            {"learning_rate": 0.1, "model": RESNET, "epochs": 3},
            ".epochs",
            ("unknown key", "got 3", "allowed: learning_rate, model"),
        ),
        (None, "", ("got null",)),
        ("resnet18", "", ('got "resnet18"',)),
    ],
)
def test_a_bad_fixed_net_is_named_on_one_line(net: Any, key: str, words: tuple[str, ...]) -> None:
    assert_one_error(f"compare.fixed_nets.other{key}", *words, changes=[("compare.fixed_nets.other", net)])


@pytest.mark.parametrize(
    ("variant", "key", "words"),
    [
        ({"utility": "saliency", "trace_images_per_class": None}, ".widths", ("missing",)),
        (
            {"utility": "saliency", "widths": "global", "trace_images_per_class": 0},
            ".trace_images_per_class",
            ("got 0",),
        ),
        (
            {"utility": "saliency", "widths": "global", "trace_images_per_class": 1, "per_cost": "flops"},
            ".per_cost",
            ("unknown key",),
        ),
        (
            {"utility": "saliency", "widths": "global", "trace_images_per_class": 1, "round_to": 2},
            ".round_to",
            ("unknown key",),
        ),
    ],
)
def test_a_bad_variant_of_ours_is_named_on_one_line(variant: Any, key: str, words: tuple[str, ...]) -> None:
    changes = [("compare.variants", {"other": variant})]
    assert_one_error(f"compare.variants.other{key}", *words, changes=changes)


@pytest.mark.parametrize(("widths", "per_cost"), [("global", "flops"), ("layer", None), ("uniform", None)])
def test_a_variant_takes_the_cost_of_channels_from_the_surgery_where_it_counts(
    widths: Any, per_cost: str | None
) -> None:
    surgery = params_of(("surgery.widths", "global"), ("surgery.per_cost", "flops")).surgery
    found = surgery.varied(Widened(utility="saliency", widths=widths, trace_images_per_class=7))
    assert found == Surgery.model_validate(
        surgery.model_dump()
        | {"utility": "saliency", "widths": widths, "trace_images_per_class": 7, "per_cost": per_cost}
    )


@pytest.mark.parametrize("fraction", [0.3, 0.05, 0.999])
def test_the_lineup_is_at_a_size_of_the_comparison(fraction: float) -> None:
    words = ("expected one of compare.sizes, 0.5, 0.25", f"got {fraction}")
    assert_one_error("lineup.fraction", *words, changes=[("lineup.fraction", fraction)])
    ours_alone = [("lineup", {"fraction": fraction, "competitors": []})]
    assert_one_error("lineup.fraction", *words, changes=ours_alone)


def test_every_size_of_the_comparison_may_be_the_lineups() -> None:
    for fraction in (0.5, 0.25):
        lineup = params_of(("lineup.fraction", fraction)).lineup
        assert lineup is not None
        assert lineup.fraction == fraction
    assert_one_error("lineup.fraction", "less than 1", "got 1", changes=[("lineup.fraction", 1)])


def test_the_lineup_is_of_those_who_are_compared() -> None:
    words = ("expected one of scratch, l1, han", "got 'random'")
    assert_one_error("lineup.competitors.1", *words, changes=[("lineup.competitors", ["l1", "random"])])
    nobody = [("compare.competitors", []), ("lineup.competitors", ["l1"])]
    assert_one_error("lineup.competitors.0", "expected nothing", "got 'l1'", changes=nobody)


def test_without_a_comparison_there_is_no_lineup() -> None:
    assert_one_error("lineup", "expected null, as compare is null", changes=[("compare", None)])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("sizes", {}, ("expected at least 1 item", "got {}")),
        ("sizes", {"params": [0.5], "flops": [0.5]}, ("expected at most 1 item",)),
        ("sizes.params", [], ("at least 1 item", "got []")),
        ("sizes.params.0", 1.0, ("less than 1", "got 1.0")),
        ("scores", [], ("at least 1 item", "got []")),
        ("scores.0", "saliency_noisy", ("'deconvolution', 'saliency'", 'got "saliency_noisy"')),
        ("widths", [], ("at least 1 item", "got []")),
        ("widths.1", "wide", ("'layer', 'global' or 'uniform'", 'got "wide"')),
        ("noise", "rain", ("expected one of gaussian", "got 'rain'")),
        ("retraining.push", "ramped", ("unknown key",)),
    ],
)
def test_an_error_in_what_is_taken_apart_is_named_on_one_line(
    key: str, value: Any, words: tuple[str, ...]
) -> None:
    changes = [("ablate", deepcopy(ABLATE)), (f"ablate.{key}", value)]
    assert_one_error(f"ablate.{key}", *words, changes=changes)


def test_scores_of_ours_are_traced_on_noise_too_where_noise_is_named() -> None:
    ablate = params_of(("ablate", ABLATE)).ablate
    assert ablate is not None
    assert ablate.every_score == ["saliency", "l1", "saliency_noisy"]
    quiet = ablate.model_copy(update={"noise": None})
    assert quiet.every_score == ["saliency", "l1"]
