"""params.yaml, names that a user makes: which they may be, and which would be taken for something else."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from tiny_params import ABLATE, LATENCY, TINY, Change, assert_one_error, errors_of, params_of

from pipeline.params.params import Params
from pipeline.params.pruning import COMPETITORS
from pipeline.params.sections import UNSEEN_BY_DVC

# Sections whose keys are a user's own names, with an entry that is fit for each.
OWN_NAMES: dict[str, Any] = {
    "sources": TINY["sources"]["resnet"],
    "noise": TINY["noise"]["gaussian"],
    "attacks": TINY["attacks"]["fgsm"],
    "push.variants": TINY["push"]["variants"]["ours"],
    "compare.variants": {"utility": "saliency", "widths": "global", "trace_images_per_class": 3},
    "compare.fixed_nets": TINY["compare"]["fixed_nets"]["resnet6"],
}
OPTIONS = "attacks.pgd.options"


def _annotations(model: type[BaseModel], at: str = "") -> Iterator[tuple[str, Any]]:
    """Every key at any depth below a model, and its type; that of a mapping's keys under `KEY.*`."""
    for name, field in model.model_fields.items():
        key = f"{at}.{field.alias or name}".lstrip(".")
        yield key, field.annotation
        yield from _below(key, field.annotation)


def _below(key: str, annotation: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _annotations(annotation, key)
    elif get_origin(annotation) is dict:
        name, entry = get_args(annotation)
        yield f"{key}.*", name
        yield from _below(f"{key}.*", entry)
    elif get_origin(annotation) is Annotated:
        yield from _below(key, get_args(annotation)[0])
    else:
        for each in get_args(annotation):
            yield from _below(key, each)


KEYS = dict(_annotations(Params))


def test_the_schema_is_walked_to_its_ends() -> None:
    """Below unions, mappings, lists and values that may be null; by the names that stand in the file."""
    assert {
        *("seeds", "lda.lambda", "data.validation.share", "data.folders.train", "model.sha256"),
        *("compare.fixed_nets.*.model.factorized_kernel", "grow.auxiliary.weight", "noise.*.amount"),
        *("attacks.*.options.*", "sources.*.training.warmup_epochs", "runtime.store_gib"),
    } <= set(KEYS)
    assert "lda.lambda_" not in KEYS


def test_no_key_is_one_that_dvc_does_not_see() -> None:
    assert UNSEEN_BY_DVC == ("size", "nfiles")
    assert [key for key in KEYS if key.split(".")[-1] in {"size", "nfiles"}] == []


def test_names_that_dvc_does_not_see_are_refused_wherever_a_user_makes_names() -> None:
    mappings = {key.removesuffix(".*"): kind for key, kind in KEYS.items() if key.endswith(".*")}
    for section in ("prune.sizes", "after_the_fact.sizes", "compare.sizes", "ablate.sizes"):
        mappings.pop(section)  # by unit, which no user names
    of_nets = {f"{place}.options" for place in ("model", "sources.*.model", "compare.fixed_nets.*.model")}
    assert set(mappings) == {*OWN_NAMES, "attacks.*.options", *of_nets}
    for kind in mappings.values():
        assert TypeAdapter(kind).validate_python("steps") == "steps"
        for name in ("size", "nfiles"):
            with pytest.raises(ValidationError, match="expected another name"):
                TypeAdapter(kind).validate_python(name)


@pytest.mark.parametrize("section", [*OWN_NAMES, OPTIONS])
def test_a_name_that_dvc_does_not_see_is_refused_on_one_line(section: str) -> None:
    entry = OWN_NAMES.get(section, 3)
    for name in ("size", "nfiles"):
        words = ("expected another name", "DVC's run-cache", f'got "{name}"')
        assert_one_error(f"{section}.{name}", *words, changes=[(f"{section}.{name}", entry)])
        # Longer names that hold it are seen.
        if section != OPTIONS:  # whose keys are the attack's
            assert errors_of((f"{section}.{name}_2", entry)) == []


@pytest.mark.parametrize("name", ["size", "nfiles"])
def test_an_experiment_is_not_called_so_either(name: str) -> None:
    assert_one_error("name", "expected another name", f'got "{name}"', changes=[("name", name)])


@pytest.mark.parametrize("section", OWN_NAMES)
def test_a_name_that_is_no_name_of_a_folder_is_refused(section: str) -> None:
    for name in ("9lives", "L1", "a/b", "with space", "x" * 41, ""):
        changes = [(section, {**_at(section), name: OWN_NAMES[section]})]
        assert_one_error(f"{section}.{name}", "string should", f'got "{name}"', changes=changes)


def _at(section: str) -> dict[str, Any]:
    node: Any = TINY
    for key in section.split("."):
        node = node[key]
    assert isinstance(node, dict)
    return node


@pytest.mark.parametrize("section", OWN_NAMES)
def test_a_name_of_forty_letters_is_one(section: str) -> None:
    assert errors_of((f"{section}.{'x' * 40}", OWN_NAMES[section])) == []


@pytest.mark.parametrize(
    ("section", "name"),
    [
        pytest.param("push.variants", "main", id="the-main-push"),
        pytest.param("push.variants", "control", id="the-control"),
        pytest.param("compare.fixed_nets", "ours", id="ours"),
        pytest.param("compare.fixed_nets", "ours_saliency", id="a-variant-of-ours"),
        *(pytest.param("compare.fixed_nets", name, id=name) for name in COMPETITORS),
        pytest.param("noise", "clean", id="images-without-noise"),
        pytest.param("attacks", "clean", id="images-without-attack"),
    ],
)
def test_a_name_that_the_tables_give_to_something_else_is_refused(section: str, name: str) -> None:
    changes = [(f"{section}.{name}", OWN_NAMES[section])]
    assert_one_error(section, "expected another name", f"got '{name}'", changes=changes)


def test_noise_and_attacks_have_different_names() -> None:
    changes = [("attacks.gaussian", OWN_NAMES["attacks"])]
    assert_one_error("noise and attacks", "different names", "got 'gaussian'", changes=changes)


def test_noise_with_the_name_of_an_attack_from_one_of_several_sources_is_refused() -> None:
    noise = ("noise.fgsm_from_resnet", OWN_NAMES["noise"])
    second = ("sources.second", OWN_NAMES["sources"])
    assert errors_of(noise) == []  # of a single source, attacks go by their own names
    words = ("expected another name than that of an attack from a source", "got 'fgsm_from_resnet'")
    assert_one_error("noise", *words, changes=[noise, second])


AFTER_THE_FACT = {**TINY["prune"], "retraining": {**TINY["prune"]["retraining"], "push": "none"}}


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seeds", [3, 3]),
        ("prune.etas", [0.5, 1.0, 0.5]),
        ("prune.sizes.params", [0.5, 0.5]),
        ("after_the_fact.etas", [0.5, 1.0, 0.5]),
        ("after_the_fact.sizes.flops", [0.5, 0.5]),
        ("ablate.sizes.params", [0.5, 0.5]),
        ("compare.rate_factors", [1.0, 1.0]),
        ("compare.competitors", ["l1", "scratch", "l1"]),
        ("ablate.scores", ["saliency", "l1", "l1"]),
        ("ablate.widths", ["layer", "layer"]),
        ("lineup.competitors", ["l1", "scratch", "l1"]),
        ("white_box", ["pgd", "pgd"]),
        ("report.headline", ["gaussian", "gaussian"]),
        ("latency.batches", [1, 1]),
    ],
)
def test_repeats_are_refused(key: str, values: list[Any]) -> None:
    sections: list[Change] = [("after_the_fact", deepcopy(AFTER_THE_FACT)), ("ablate", deepcopy(ABLATE))]
    sections.append(("latency", deepcopy(LATENCY)))
    assert_one_error(key, "expected no repeats", f"got {values}", changes=[*sections, (key, values)])


def test_every_list_of_values_that_name_jobs_is_in_the_test_of_repeats() -> None:
    """Of the other lists none names jobs: filters, patterns, formats, folds, factors, notes; sizes are by unit."""
    lists = {key for key, kind in KEYS.items() if get_origin(kind) is list}
    nets = {key for key in lists if key.split(".")[-1] in {"hidden", "stages", "base", "mean", "std"}}
    folds = {f"data.{part}_folds" for part in ("train", "validation", "test")}
    assert lists - nets - folds - {
        "report.notes",
        "surgery.keep",
        "select.formats",
        "compare.rate_factors",
    } == {
        *("seeds", "prune.etas", "compare.competitors"),
        *("after_the_fact.etas", "ablate.scores", "ablate.widths"),
        *("lineup.competitors", "white_box", "report.headline", "latency.batches"),
    }


def test_the_same_name_may_stand_in_sections_that_have_nothing_to_do_with_each_other() -> None:
    everywhere = ("sources", "push.variants", "compare.fixed_nets", "noise")
    assert params_of(*((f"{section}.same", OWN_NAMES[section]) for section in everywhere)).noise["same"]
