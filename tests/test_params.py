"""params.yaml: every error on a line of its own, with file, key, what is allowed and what was got."""

import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tiny_params import TINY, Change, assert_one_error, errors_of, params_of

from pipeline.params.params import Params


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.training.epochs", "four", ("integer", 'got "four"')),
        ("train.training.epochs", 4.5, ("integer", "got 4.5")),
        ("train.training.epochs", "4", ("integer", 'got "4"')),
        ("train.training.epochs", True, ("integer", "got true")),
        ("train.training.epochs", -1, ("equal to 0", "got -1")),
        ("train.training.epochs", None, ("integer", "got null")),
        ("train.training.epochs", ..., ("missing",)),
        ("train.training.optimizer.momentum", 1.0, ("less than 1", "got 1.0")),
        ("train.training.learning_rate", math.nan, ("finite", "NaN")),
        ("train.auxiliary.batch_norm", 1, ("boolean", "got 1")),
        ("train.auxiliary.weight", 0, ("greater than 0", "got 0")),
        ("train.auxiliary.weight", -0.1, ("greater than 0", "got -0.1")),
        ("lda.gamma", math.inf, ("finite", "Infinity")),
        ("lda.gamma", None, ("number", "got null")),
        ("lda.separation", "det", ("'trace' or 'log_det'", 'got "det"')),
        ("lda.samples_per_class", 7, ("equal to 8", "got 7")),
        ("lda.classes_per_batch", 1, ("equal to 2", "got 1")),
        ("lda.ridge", 0, ("greater than 0", "got 0")),
        ("lda.collapse_share", 1.0, ("less than 1", "got 1.0")),
        ("seeds", [], ("at least 1", "got []")),
        ("seeds.0", -1, ("equal to 0", "got -1")),
        ("seeds", 3, ("array", "got 3")),
        ("name", "a/b", ("pattern", 'got "a/b"')),
        ("data.test_fraction", 0.0, ("greater than 0", "got 0.0")),
        (
            "data.images_per_class",
            {"train": 1, "validation": 1, "test": 1, "perturbed": 0, "seed": 0},
            ("got 0",),
        ),
        (
            "data.images_per_class",
            {"train": 1, "validation": None, "test": None, "seed": 0},
            ("perturbed", "missing"),
        ),
        ("data.crop_px", 0, ("greater than 0", "got 0")),
        ("select.max_drop", 1.1, ("equal to 1", "got 1.1")),
        ("select.formats.0", "tflite", ("'onnx' or 'pt2'", 'got "tflite"')),
        ("select.int8", {"calibration_images": 0}, ("greater than 0", "got 0")),
        ("sources.resnet.min_validation_accuracy", 2, ("equal to 1", "got 2")),
        ("report.equivalence_margin", 0.0, ("greater than 0", "got 0.0")),
        ("report.max_untouched", 1.5, ("equal to 1", "got 1.5")),
        ("robustness.calibration_bins", 1, ("equal to 2", "got 1")),
        ("robustness.gallery_images", 0, ("greater than 0", "got 0")),
        ("robustness.gallery_seed", -1, ("equal to 0", "got -1")),
        ("report.headline", [], ("at least 1", "got []")),
        ("report.target_params_fraction", 1.0, ("less than 1", "got 1.0")),
        ("report.confidence", 1.0, ("less than 1", "got 1.0")),
        ("report.dpi", 49, ("equal to 50", "got 49")),
        ("report.published", "mnist_small", ("'mnist'", 'got "mnist_small"')),
        ("report.notes", "a note", ("array", 'got "a note"')),
    ],
)
def test_a_bad_value_is_named_on_one_line(key: str, value: Any, words: tuple[str, ...]) -> None:
    (line,) = errors_of((key, value))
    named = line.split(": ")[0]
    assert named == key or (isinstance(value, dict) and named.rpartition(".")[0] == key), line
    assert all(word in line for word in words), line
    assert "(got " in line or line.endswith("required key is missing")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("push.speed", 1, ("got 1", "allowed: training, variants")),
        ("reprot", {"dpi": 1}, ('got {"dpi": 1}', "seeds", "report")),
        ("attacks.fgsm.steps", 4, ("got 4", "allowed: method, epsilon")),
        ("noise.gaussian.seed", 0, ("got 0", "allowed: kind, std")),
        ("data.resize_px", 8, ("got 8", "allowed: source, ", "crop_px")),
        ("compare.retraining.speed", None, ("got null", "epochs", "mirror")),
    ],
)
def test_an_unknown_key_is_named_beside_the_allowed_ones(
    key: str, value: Any, words: tuple[str, ...]
) -> None:
    assert_one_error(key, "unknown key", *words, changes=[(key, value)])


@pytest.mark.parametrize(
    ("wrong", "right"), [("train.training.epohcs", "train.training.epochs"), ("lda.lambda_", "lda.lambda")]
)
def test_a_misspelt_key_is_one_line(wrong: str, right: str) -> None:
    (unknown,) = errors_of((wrong, 4), (right, ...))
    assert unknown.startswith(f"{wrong}: unknown key (got 4); allowed: ")


def test_a_key_too_many_and_another_one_too_few_are_two_lines() -> None:
    unknown, missing = sorted(
        errors_of(("lda.speed", 4), ("lda.beta", ...)), key=lambda line: "missing" in line
    )
    assert unknown.startswith("lda.speed: unknown key")
    assert missing == "lda.beta: required key is missing"


def test_no_key_has_a_value_of_its_own_in_the_code() -> None:
    """A number that changes a result stands in params.yaml."""
    schema = Params.model_json_schema()
    sections = {"Params": schema, **schema["$defs"]}
    assert {"Lda", "BalancedSchedule", "FoolboxAttack", "Runtime"} <= set(sections)
    for name, section in sections.items():
        assert sorted(section.get("required", [])) == sorted(section.get("properties", [])), name


def test_keys_are_those_of_the_method() -> None:
    """`lambda` is no name in Python."""
    params = params_of(("lda.lambda", 0.25))
    assert params.lda.lambda_ == 0.25
    assert params.model_dump(by_alias=True)["lda"]["lambda"] == 0.25


@pytest.mark.parametrize("section", TINY)
def test_a_missing_section_is_named(section: str) -> None:
    assert errors_of((section, ...)) == [f"{section}: required key is missing"]


# Sections and lists that stand for a part of the flow, and what has to go with them.
NOT_RUN: dict[str, list[Change]] = {
    "grow": [("grow", None)],
    "auxiliary heads": [("train.auxiliary", None), ("grow.auxiliary", None)],
    "comparison": [("compare", None), ("lineup", None)],
    "lineup": [("lineup", None)],
    "competitors in the lineup": [("lineup.competitors", [])],
    "competitors": [("compare.competitors", []), ("lineup.competitors", [])],
    "fixed nets": [("compare.fixed_nets", {})],
    "variants": [("push.variants", {})],
    "noise": [("noise", {}), ("report.headline", ["fgsm"])],
    "attacks": [("attacks", {}), ("sources", {}), ("white_box", []), ("report.headline", ["gaussian"])],
    "white box": [("white_box", [])],
    "limits of images": [("data.images_per_class", None)],
}


@pytest.mark.parametrize("part", NOT_RUN)
def test_a_part_of_the_flow_may_be_left_out(part: str) -> None:
    assert errors_of(*NOT_RUN[part]) == []


_NULLABLE = {"grow", "after_the_fact", "compare", "ablate", "lineup", "latency"}


@pytest.mark.parametrize("section", [name for name in TINY if name not in _NULLABLE])
def test_a_section_that_every_run_reads_is_not_null(section: str) -> None:
    """What stands in YAML with nothing below it is null, too."""
    assert_one_error(section, "expected", "got null", changes=[(section, None)])


@pytest.mark.parametrize("section", ["push.training", "prune.retraining", "surgery.latent", "sources.resnet"])
def test_a_section_within_a_section_is_not_null(section: str) -> None:
    assert_one_error(section, "expected", "got null", changes=[(section, None)])


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("model.architecture", ("'fc'", "'torchvision'")),
        ("sources.resnet.model.architecture", ("'fc'", "'torchvision'")),
        ("compare.fixed_nets.resnet6.model.architecture", ("'fc'", "'resnet'")),
        ("data.source", ("'digits'", "'adience'")),
        ("noise.gaussian.kind", ("'gaussian'", "'pepper'")),
        ("attacks.fgsm.method", ("'fgsm'", "'newton_fool'", "'foolbox'")),
        ("surgery.latent.method", ("'sensitivity'", "'otsu'")),
    ],
)
def test_a_key_that_tells_kinds_apart_is_named_with_the_kinds(key: str, known: tuple[str, ...]) -> None:
    (missing,) = errors_of((key, ...))
    assert missing.startswith(f"{key}: required key is missing; expected one of "), missing
    assert all(each in missing for each in known), missing
    for value, got in (("other", '"other"'), (3, "3"), (None, "null")):
        (wrong,) = errors_of((key, value))
        assert wrong.startswith(f"{key}: expected one of "), wrong
        assert wrong.endswith(f" (got {got})"), wrong
        assert all(each in wrong for each in known), wrong


_FILES = {
    "root": "images",
    "store": "index",
    "resize_px": 8,
    "crop_px": None,
    "copies": "allow",
    "max_unreadable_share": 0.1,
    "images_per_class": None,
}
_FOLDERS = {
    **{"source": "image_folder", "split_seed": 0, "validation_fraction": 0.2, "test_fraction": 0.2},
    **{"folders": {"train": "train", "validation": None, "test": "test"}, **_FILES},
}
_FOLDS = {"train_folds": [1, 2, 3], "validation_folds": [4], "test_folds": [5]}
_ADIENCE = {"source": "adience", "attribute": "age", "images": "aligned", **_FOLDS, **_FILES}
_CIFAR = {
    **{
        "source": "cifar10",
        "root": "data",
        "download": False,
        "resize_px": None,
        "crop_px": None,
        "copies": "refuse",
    },
    **{"images_per_class": None, "validation": {"rule": "first", "images": 5}},
}


@pytest.mark.parametrize("data", [_FOLDERS, _ADIENCE, _CIFAR], ids=lambda data: data["source"])
def test_other_images_are_read_as_they_stand(data: dict[str, Any]) -> None:
    assert params_of(("data", data)).data.model_dump() == data


@pytest.mark.parametrize(
    ("data", "changes", "key", "words"),
    [
        (TINY["data"], {"test_fraction": 0.8}, "data.validation_fraction + test_fraction", ("0.2 + 0.8",)),
        (_FOLDERS, {"test_fraction": 0.8}, "data.validation_fraction + test_fraction", ("0.2 + 0.8",)),
        (
            _FOLDERS,
            {"folders": {"train": "a", "validation": "a/b", "test": None}},
            "data.folders.validation",
            ("share no images", "'a/b' within 'a'"),
        ),
        (_FOLDERS, {"crop_px": 9}, "data.crop_px", ("at most resize_px, 8", "got 9")),
        (_FOLDERS, {"store": "disk"}, "data.store", ("'pixels' or 'index'", 'got "disk"')),
        (_ADIENCE, {"test_folds": [6]}, "data.test_folds.0", ("equal to 5", "got 6")),
        (_ADIENCE, {"test_folds": [3]}, "data.folds", ("one part only", "got [1, 2, 3, 4, 3]")),
        (_CIFAR, {"validation": {"rule": "some"}}, "data.validation.rule", ("'first'", 'got "some"')),
        (
            _CIFAR,
            {"validation": {"rule": "stratified", "share": 1, "seed": 0}},
            "data.validation.share",
            ("than 1", "got 1"),
        ),
    ],
)
def test_an_error_in_other_images_is_named_on_one_line(
    data: dict[str, Any], changes: dict[str, Any], key: str, words: tuple[str, ...]
) -> None:
    assert_one_error(key, *words, changes=[("data", {**data, **changes})])


def test_every_error_has_its_line() -> None:
    lines = errors_of(
        ("numerics.threads", 0),
        ("train.training.optimizer.momentum", 9),
        ("push.training.epochs", "many"),
        ("attacks.fgsm.epsilon", -1.0),
        ("report.speed", 60),
        ("report.dpi", ...),
    )
    assert sorted(line.split(": ")[0] for line in lines) == [
        "attacks.fgsm.epsilon",
        "numerics.threads",
        "push.training.epochs",
        "report.dpi",
        "report.speed",
        "train.training.optimizer.momentum",
    ]


def test_errors_between_sections_have_their_lines() -> None:
    lines = errors_of(
        ("seeds", [3, 3]),
        ("prune.etas", [0.5, 0.5]),
        ("white_box", ["rain"]),
        ("lineup.fraction", 0.3),
        ("push.variants.main", TINY["push"]["variants"]["ours"]),
    )
    assert sorted(line.split(": ")[0] for line in lines) == [
        "lineup.fraction",
        "prune.etas",
        "push.variants",
        "seeds",
        "white_box.0",
    ]
    assert all("(got " in line for line in lines)


def test_a_long_value_is_cut_short() -> None:
    (line,) = errors_of(("data", ["a word"] * 100))
    assert line.endswith("...)")
    assert len(line) < 200


def test_integers_do_for_fractions() -> None:
    assert params_of(("lda.gamma", 1)).lda.gamma == 1


def test_params_are_frozen() -> None:
    params = params_of()
    with pytest.raises(ValueError, match="frozen"):
        params.numerics.threads = 2
    with pytest.raises(ValueError, match="frozen"):
        params.seeds = [1]


# `KEY: what is expected (got VALUE)`, where KEY is dotted, or names several of a section.
LINE = re.compile(
    r"(?P<key>[a-z]\w*(\.\w+)*( and attacks| \+ test_fraction)?): "
    r"(required key is missing(; expected one of .+)?|unknown key \(got .+\); allowed: .+|.*expected .+ \(got .+\)"
    r"|(list|string) should .+ \(got .+\))"
)
# Sections that name what stands in others: without that, the error is theirs.
POINT_ELSEWHERE = {"lineup", "white_box", "report"}


def _keys(node: Any, at: str = "") -> Iterator[str]:
    below = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in below:
        key = f"{at}.{name}".lstrip(".")
        yield key
        yield from _keys(value, key)


@pytest.mark.parametrize("value", [..., None, "strange", -1.5, True, [None], {"strange": 1}], ids=repr)
def test_whatever_stands_anywhere_the_lines_have_one_form_and_name_the_key(value: Any) -> None:
    n_errors = 0
    for key in _keys(TINY):
        for line in errors_of((key, value)):
            n_errors += 1
            found = LINE.fullmatch(line)
            assert found, line
            near = found["key"].startswith(key) or key.startswith(found["key"])
            assert near or (value in (..., None) and found["key"].split(".")[0] in POINT_ELSEWHERE), (
                key,
                line,
            )
    assert n_errors > 100
