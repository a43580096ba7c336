"""params.yaml, sections that describe a net: what they may hold, and where they may stand."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_params import (
    COMPACT,
    FC,
    GOOGLENET,
    INCEPTION,
    PYTHON,
    RESNET,
    SAVED,
    TIMM,
    TINY,
    TORCHVISION,
    VGG16,
    Change,
    assert_one_error,
    edited,
    errors_of,
    params_of,
    sections_with,
)

from pipeline.errors import InputError
from pipeline.params.file import read_params
from pipeline.params.nets.sections import (
    FcModel,
    PythonModel,
    ResNetModel,
    SavedModel,
    TimmModel,
    TorchvisionModel,
    Vgg16Model,
)

FAMILIES = [
    FC,
    VGG16,
    *({**INCEPTION, "module": module} for module in ("v1", "v1_double3x3", "v2", "v3")),
    {**INCEPTION, "module": "v3", "stem": "v3"},
    GOOGLENET,
    {**GOOGLENET, "architecture": "bn_googlenet"},
    RESNET,
    *({**COMPACT, "architecture": name} for name in ("mobilenet", "mobilenet_v2", "squeezenet")),
    TORCHVISION,
    SAVED,
    PYTHON,
    TIMM,
]
PLACES = ["model", "sources.resnet.model", "compare.fixed_nets.resnet6.model"]


def _section(net: dict[str, Any]) -> str:
    return str(net["architecture"])


def test_the_places_are_those_of_the_preset() -> None:
    assert set(sections_with("architecture")) == set(PLACES)


@pytest.mark.parametrize("section", FAMILIES, ids=_section)
def test_every_architecture_may_stand_wherever_a_net_is_described(section: dict[str, Any]) -> None:
    params = params_of(*((place, section) for place in PLACES), ("grow", None))
    assert params.compare is not None
    assert params.model.model_dump() == section
    assert params.sources["resnet"].model.model_dump() == section
    assert params.compare.fixed_nets["resnet6"].model.model_dump() == section


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        (FC, FcModel),
        (VGG16, Vgg16Model),
        (RESNET, ResNetModel),
        (TORCHVISION, TorchvisionModel),
        (SAVED, SavedModel),
        (PYTHON, PythonModel),
        (TIMM, TimmModel),
    ],
)
def test_a_section_becomes_the_model_of_its_architecture(section: dict[str, Any], kind: type) -> None:
    assert type(params_of(("sources.resnet.model", section)).sources["resnet"].model) is kind


@pytest.mark.parametrize(
    "name", ["ResNet6", "ResNet7", "ResNet10", "ResNet34", "ResNet50", "(c64, i64)-c128"]
)
def test_residual_nets_go_by_configuration_or_published_name(name: str) -> None:
    model = params_of(("sources.resnet.model", {**RESNET, "config": name})).sources["resnet"].model
    assert isinstance(model, ResNetModel)
    assert model.config == name


@pytest.mark.parametrize(
    ("section", "changes", "key", "words"),
    [
        pytest.param(FC, {"hidden": []}, "hidden", ("at least 1", "got []"), id="fc-no-layer"),
        pytest.param(FC, {"hidden": [8, 0]}, "hidden.1", ("greater than 0", "got 0"), id="fc-zero-wide"),
        pytest.param(
            FC, {"width": 1.0}, "width", ("unknown key", "allowed: architecture, hidden"), id="fc-width"
        ),
        pytest.param(FC, {"hidden": 8}, "hidden", ("expected a valid array", "got 8"), id="fc-hidden-number"),
        pytest.param(VGG16, {"pool": 0}, "pool", ("greater than 0", "got 0"), id="vgg16-pool"),
        pytest.param(VGG16, {"hidden": []}, "hidden", ("at least 1", "got []"), id="vgg16-no-layer"),
        pytest.param(VGG16, {"batch_norm": "yes"}, "batch_norm", ("boolean", 'got "yes"'), id="vgg16-word"),
        pytest.param(VGG16, {"batch_norm": ...}, "batch_norm", ("missing",), id="vgg16-no-batch-norm"),
        pytest.param(VGG16, {"stem": "tiny"}, "stem", ("'imagenet' or 'small'", 'got "tiny"'), id="stem"),
        pytest.param(VGG16, {"dropout": 1.0}, "dropout", ("less than 1", "got 1.0"), id="dropout-one"),
        pytest.param(VGG16, {"dropout": -0.1}, "dropout", ("equal to 0", "got -0.1"), id="dropout-negative"),
        pytest.param(
            INCEPTION,
            {"module": "v4"},
            "module",
            ("'v1', 'v1_double3x3', 'v2' or 'v3'", 'got "v4"'),
            id="module",
        ),
        pytest.param(
            INCEPTION, {"stages": [1, 0, 1]}, "stages.1", ("greater than 0", "got 0"), id="no-module"
        ),
        pytest.param(INCEPTION, {"stages": [1, 1]}, "stages", ("3 items", "[1, 1]"), id="two-stages"),
        pytest.param(INCEPTION, {"stages": [1] * 4}, "stages", ("3 items", "[1, 1, 1, 1]"), id="four-stages"),
        pytest.param(INCEPTION, {"base": [1, 1]}, "base", ("3 items", "got [1, 1]"), id="two-rows"),
        pytest.param(INCEPTION, {"width": 0}, "width", ("greater than 0", "got 0"), id="width-zero"),
        pytest.param(
            INCEPTION,
            {"factorized_kernel": 4},
            "factorized_kernel",
            ("expected an odd factorized_kernel of at least 3", "got 4"),
            id="even-kernel",
        ),
        pytest.param(
            INCEPTION,
            {"factorized_kernel": 1},
            "factorized_kernel",
            ("expected an odd factorized_kernel of at least 3", "got 1"),
            id="kernel-of-one",
        ),
        pytest.param(
            INCEPTION,
            {"config": "i64"},
            "config",
            ("unknown key", "allowed: architecture, module"),
            id="config",
        ),
        pytest.param(
            GOOGLENET, {"module": "v1"}, "module", ("unknown key", 'got "v1"'), id="googlenet-module"
        ),
        pytest.param(GOOGLENET, {"stages": ...}, "stages", ("missing",), id="googlenet-no-stages"),
        pytest.param(
            RESNET,
            {"config": "ResNet5"},
            "config",
            ("cannot be built", "i64 or C128", "'ResNet5'"),
            id="resnet5",
        ),
        pytest.param(
            RESNET, {"config": "banana"}, "config", ("cannot be built", "'banana'"), id="resnet-fruit"
        ),
        pytest.param(RESNET, {"config": ""}, "config", ("cannot be built", "got ''"), id="resnet-empty"),
        pytest.param(
            RESNET,
            {"config": "3i64"},
            "config",
            ("identity module", "got '3i64'"),
            id="resnet-widening-identity",
        ),
        pytest.param(RESNET, {"config": 6}, "config", ("string", "got 6"), id="resnet-number"),
        pytest.param(RESNET, {"width": -1.0}, "width", ("greater than 0", "got -1.0"), id="resnet-width"),
        pytest.param(COMPACT, {"stem": ...}, "stem", ("missing",), id="mobilenet-no-stem"),
        pytest.param(
            COMPACT,
            {"hidden": [8]},
            "hidden",
            ("unknown key", "allowed: architecture, width, stem, dropout"),
            id="mobilenet-hidden",
        ),
        pytest.param(TORCHVISION, {"name": 18}, "name", ("string", "got 18"), id="torchvision-number"),
        pytest.param(TORCHVISION, {"pretrained": 1}, "pretrained", ("boolean", "got 1"), id="pretrained-one"),
        pytest.param(TORCHVISION, {"pretrained": ...}, "pretrained", ("missing",), id="pretrained-missing"),
        pytest.param(
            TORCHVISION,
            {"width": 0.5},
            "width",
            ("unknown key", "allowed: architecture, name, pretrained"),
            id="torchvision-width",
        ),
        pytest.param(SAVED, {"path": ""}, "path", ("at least 1", 'got ""'), id="saved-nowhere"),
        pytest.param(SAVED, {"sha256": "0" * 63}, "sha256", ("pattern", "got "), id="saved-short-hash"),
        pytest.param(SAVED, {"sha256": ...}, "sha256", ("missing",), id="saved-any-content"),
        pytest.param(PYTHON, {"factory": "my_nets.make"}, "factory", ("pattern", "got "), id="no-function"),
        pytest.param(PYTHON, {"factory": "nets/my:make"}, "factory", ("pattern", "got "), id="a-path"),
        pytest.param(PYTHON, {"decision": ""}, "decision", ("at least 1", 'got ""'), id="nameless-decision"),
        pytest.param(
            PYTHON, {"options": {"a": [{"size": 3}]}}, "options", ("another name", "got "), id="unseen-option"
        ),
        pytest.param(
            TIMM, {"sha256": "0" * 64}, "sha256", ("expected null", "weights is null"), id="hash-of-nothing"
        ),
        pytest.param(
            TIMM,
            {"normalization": {"mean": [0.5], "std": [0.0]}},
            "normalization.std.0",
            ("greater than or equal to 0.000001", "got 0.0"),
            id="std-zero",
        ),
        pytest.param(TIMM, {"classes": ["one"]}, "classes", ("at least 2", "got "), id="one-class"),
    ],
)
def test_a_bad_option_of_a_net_is_named_on_one_line(
    section: dict[str, Any], changes: dict[str, Any], key: str, words: tuple[str, ...]
) -> None:
    changed = {name: value for name, value in {**section, **changes}.items() if value is not ...}
    for place in PLACES:
        assert_one_error(f"{place}.{key}", *words, changes=[(place, changed), ("grow", None)])


@pytest.mark.parametrize(
    ("section", "base", "limits"),
    [
        pytest.param({**INCEPTION, "module": "v1"}, [3, 1, 1], "(2, 5, 2)", id="v1"),
        pytest.param({**INCEPTION, "module": "v1_double3x3"}, [1, 6, 1], "(2, 5, 2)", id="v1_double3x3"),
        pytest.param({**INCEPTION, "module": "v2"}, [2, 5, 2], "(2, 4, 2)", id="v2"),
        pytest.param({**INCEPTION, "module": "v3"}, [3, 4, 3], "(3, 4, 2)", id="v3"),
        pytest.param(GOOGLENET, [2, 5, 3], "(2, 5, 2)", id="googlenet"),
        pytest.param(
            {**GOOGLENET, "architecture": "bn_googlenet"}, [2, 5, 2], "(2, 4, 2)", id="bn_googlenet"
        ),
    ],
)
def test_rows_that_a_filter_table_lacks_are_named_with_its_limits(
    section: dict[str, Any], base: list[int], limits: str
) -> None:
    change = ("sources.resnet.model", {**section, "base": base})
    got = f"{base[0]}, {base[1]}, {base[2]}"
    assert_one_error("sources.resnet.model.base", limits, got, changes=[change])


@pytest.mark.parametrize("name", ["inseption", "Inception", "resnet6", "torchvision/resnet18", "", "vgg"])
def test_an_unknown_architecture_is_named_beside_the_known_ones(name: str) -> None:
    known = {repr(section["architecture"]) for section in FAMILIES}
    for key in (f"{place}.architecture" for place in PLACES):
        assert_one_error(key, f'got "{name}"', *known, changes=[(key, name)])


@pytest.mark.parametrize("name", ["resnet17", "ResNet18", "fasterrcnn_resnet50_fpn", ""])
def test_an_unknown_classifier_of_torchvision_is_named_on_one_line(name: str) -> None:
    words = ("a classifier of torchvision.models, such as ", f"got {name!r}")
    for place in PLACES:
        changes = [(place, {**TORCHVISION, "name": name}), ("grow", None)]
        assert_one_error(f"{place}.name", *words, changes=changes)


@pytest.mark.parametrize(
    "section", [FC, VGG16, RESNET, COMPACT, TORCHVISION, SAVED, PYTHON, TIMM], ids=_section
)
def test_a_net_that_cannot_grow_is_refused_where_modules_are_to_be_added(section: dict[str, Any]) -> None:
    assert_one_error("grow", "expected null", repr(section["architecture"]), changes=[("model", section)])
    assert errors_of(("model", section), ("grow", None)) == []


@pytest.mark.parametrize("section", [INCEPTION, GOOGLENET], ids=_section)
def test_an_inception_net_may_grow(section: dict[str, Any]) -> None:
    assert TINY["grow"] is not None
    assert errors_of(("model", section)) == []


UNTRAINED: list[Change] = [("train.training.epochs", 0), ("train.training.warmup_epochs", 0), ("grow", None)]


@pytest.mark.parametrize(
    "section",
    [FC, {**TORCHVISION, "name": "resnet18"}, TIMM],
    ids=_section,
)
def test_a_base_without_weights_has_to_be_trained(section: dict[str, Any]) -> None:
    changes = [*UNTRAINED, ("model", section)]
    assert_one_error("train.training.epochs", "at least 1", "without trained weights", changes=changes)


@pytest.mark.parametrize(
    "section",
    [
        SAVED,
        PYTHON,
        {**TIMM, "weights": "mine.pt", "sha256": "0" * 64},
        {**TORCHVISION, "name": "resnet18", "pretrained": True},
    ],
    ids=_section,
)
def test_a_base_that_comes_trained_may_stay_as_it_is(section: dict[str, Any]) -> None:
    assert errors_of(*UNTRAINED, ("model", section)) == []


@pytest.mark.parametrize("place", ["push.training", "prune.retraining", "sources.resnet.training"])
def test_no_other_training_has_no_epochs(place: str) -> None:
    changes: list[Change] = [(f"{place}.epochs", 0), (f"{place}.warmup_epochs", 0)]
    assert_one_error(f"{place}.epochs", "greater than 0", "got 0", changes=changes)


def test_hashes_of_own_weights_and_code_are_those_of_what_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("own_hashed.py").write_text("import own_blocks\n")
    Path("own_blocks.py").write_text("WIDTH = 3\n")
    Path("mine.pt").write_bytes(b"weights")
    section = {**PYTHON, "factory": "own_hashed:make", "weights": "mine.pt", "sha256": None}

    def lines(**changes: str) -> dict[str, str]:
        Path("params.yaml").write_text(json.dumps(edited(("model", section | changes), ("grow", None))))
        try:
            read_params(Path("params.yaml"))
        except InputError as error:
            return dict(line.removeprefix("params.yaml: ").split(": ", 1) for line in str(error).splitlines())
        return {}

    found = lines()
    weights = hashlib.sha256(b"weights").hexdigest()
    assert found["model.sha256"] == f"expected {weights}, that of mine.pt (got null)"
    code = found["model.factory_sha256"].removeprefix("expected ")[:64]
    assert (
        found["model.factory_sha256"] == f"expected {code}, that of the code of own_hashed (got {'0' * 64})"
    )
    right = {"sha256": weights, "factory_sha256": code}
    assert lines(**right) == {}
    for file in ("own_hashed.py", "own_blocks.py"):  # the module, and one that it imports
        text = Path(file).read_text()
        Path(file).write_text(f"{text}MORE = 1\n")
        assert [*lines(**right)] == ["model.factory_sha256"]
        Path(file).write_text(text)
    Path("another.py").write_text("")
    assert lines(**right) == {}
    Path("mine.pt").write_bytes(b"other weights")
    assert [*lines(**right)] == ["model.sha256"]
