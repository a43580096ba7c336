"""params.yaml: every error on a line of its own, with file, key, what is allowed and what was got."""

import copy
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Workspace
from ruamel.yaml import YAML

from pipeline.errors import InputError
from pipeline.params.file import main, read_params
from pipeline.params.nets.sections import FcModel, ResNetModel, TorchvisionModel, Vgg16Model
from pipeline.params.pruning import OtsuChoice

GOOD = (ROOT / "presets/tiny.yaml").read_text(encoding="utf-8")
GOOD_DATA = YAML(typ="safe", pure=True).load(GOOD)

# A misspelt key is one too many and one too few.
MISSPELT = {"train.training.epohcs", "lda.lambda"}

Check = Callable[[Path], list[str]]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """Run `python -m pipeline.params FILE` in this process: the lines that it wrote; exits with 1 if any."""

    def run(file: Path) -> list[str]:
        code: object = 0
        try:
            main([str(file)])
        except SystemExit as stop:
            code = stop.code
        written = capsys.readouterr()
        assert written.out == ""
        lines = written.err.splitlines()
        assert code == (1 if lines else 0)
        return lines

    return run


def _edited(folder: Path, *edits: tuple[str, str, str]) -> Path:
    """The tiny preset with edits: in section `after`, replace the first `old` by `new`."""
    text = GOOD
    for after, old, new in edits:
        at = text.index(old, text.index(f"\n{after}"))
        text = text[:at] + new + text[at + len(old) :]
    file = folder / "bad.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def _without_section(text: str, section: str) -> str:
    lines = text.splitlines(keepends=True)
    start = lines.index(f"{section}:\n")
    end = next(i for i in range(start + 1, len(lines)) if lines[i][0] not in " #\n")
    return "".join(lines[:start] + lines[end:])


@pytest.mark.parametrize("preset", sorted(path.stem for path in (ROOT / "presets").glob("*.yaml")))
def test_every_preset_passes_and_says_nothing(check: Check, preset: str) -> None:
    file = ROOT / f"presets/{preset}.yaml"
    assert check(file) == []
    assert read_params(file).name == preset


def test_params_file_is_the_digits_preset() -> None:
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "presets/digits.yaml").read_bytes()


@pytest.mark.parametrize(
    ("edit", "key", "words"),
    [
        pytest.param(
            ("train:", "    epochs: 4", "    epohcs: 4"),
            "train.training.epohcs",
            ("unknown key", "got 4", "epochs", "batch_size"),
            id="typo",
        ),
        pytest.param(
            ("push:", "  training:", "  speed: 1\n  training:"),
            "push.speed",
            ("unknown key", "got 1", "allowed: training"),
            id="unknown-key",
        ),
        pytest.param(
            ("report:", "report:", "reprot:\n  dpi: 1\nreport:"),
            "reprot",
            ("unknown key", "dpi", "seeds", "report"),
            id="unknown-section",
        ),
        pytest.param(
            ("train:", "epochs: 4", "epochs: four"),
            "train.training.epochs",
            ("integer", 'got "four"'),
            id="word-for-integer",
        ),
        pytest.param(
            ("train:", "epochs: 4", "epochs: 4.5"),
            "train.training.epochs",
            ("integer", "got 4.5"),
            id="fraction-for-integer",
        ),
        pytest.param(
            ("train:", "epochs: 4", 'epochs: "4"'),
            "train.training.epochs",
            ("integer", 'got "4"'),
            id="string-for-integer",
        ),
        pytest.param(
            ("train:", "epochs: 4", "epochs: true"),
            "train.training.epochs",
            ("integer", "got true"),
            id="boolean-for-integer",
        ),
        pytest.param(
            ("numerics:", "device: cpu", "device: gpu"),
            "numerics.device",
            ("'auto', 'cpu', 'cuda' or 'mps'", 'got "gpu"'),
            id="choice",
        ),
        pytest.param(
            (
                "numerics:",
                "device: cpu\n  precision: float32\n  compile: false\n  devices: 1",
                "device: mps\n  precision: float32\n  compile: false\n  devices: 2",
            ),
            "numerics",
            ("auto, cpu or cuda for 2 processes", "got 'mps'"),
            id="mps-alone",
        ),
        pytest.param(
            ("train:", "epochs: 4", "epochs: 0"),
            "train.training.epochs",
            ("greater than 0", "got 0"),
            id="zero",
        ),
        pytest.param(
            ("train:", "momentum: 0.9", "momentum: 1.0"),
            "train.training.momentum",
            ("less than 1", "got 1.0"),
            id="momentum-one",
        ),
        pytest.param(
            ("attacks:", "epsilon: 16.0", "epsilon: 256.0"),
            "attacks.fgsm.epsilon",
            ("less than or equal to 255", "got 256.0"),
            id="out-of-range-in-a-union",
        ),
        pytest.param(
            ("train:", "learning_rate: 0.1", "learning_rate: .nan"),
            "train.training.learning_rate",
            ("finite", "NaN"),
            id="nan",
        ),
        pytest.param(
            ("lda:", "gamma: 0.05", "gamma: .inf"), "lda.gamma", ("finite", "Infinity"), id="infinity"
        ),
        pytest.param(("seeds:", "\n  - 0\n", " []\n"), "seeds", ("at least 1", "got []"), id="no-seeds"),
        pytest.param(("seeds:", "- 0", "- -1"), "seeds.0", ("got -1",), id="negative-seed"),
        pytest.param(("seeds:", "- 0", "- 3\n  - 3"), "seeds", ("repeats", "[3, 3]"), id="seed-twice"),
        pytest.param(("prune:", "- 1.0", "- 0.5"), "prune.etas", ("repeats", "[0.5, 0.5]"), id="eta-twice"),
        pytest.param(
            ("train:", "    epochs: 4\n", ""), "train.training.epochs", ("missing",), id="missing-key"
        ),
        pytest.param(
            ("attacks:", "method: fgsm", "method: pgd"),
            "attacks.fgsm",
            ("'fgsm', 'newton_fool'", "pgd"),
            id="unknown-attack",
        ),
        pytest.param(
            ("noise:", "kind: gaussian", "kind: rain"),
            "noise.gaussian",
            ("'speckle'", "rain"),
            id="noise-kind",
        ),
        pytest.param(
            ("attacks:", "epsilon: 16.0", "epsilon: 16.0\n    steps: 4"),
            "attacks.fgsm.steps",
            ("unknown key", "got 4", "epsilon"),
            id="key-of-another-attack",
        ),
        pytest.param(
            ("sources:", "architecture: resnet", "architecture: vgg"),
            "sources.resnet.model",
            ("'resnet'", "vgg"),
            id="unknown-architecture",
        ),
        pytest.param(
            ("sources:", "config: i64-c128", "config: banana"),
            "sources.resnet.model.config",
            ("banana",),
            id="config-that-cannot-be-read",
        ),
        pytest.param(
            ("rounds:", "prune/round1", "prune/round7"),
            "rounds.1.previous",
            ("prune/round1", "prune/round7"),
            id="broken-chain",
        ),
        pytest.param(
            ("rounds:", "previous: push", "previous: train"),
            "rounds.0.previous",
            ("'push'", "'train'"),
            id="chain-without-start",
        ),
        pytest.param(
            ("rounds:", "name: round2", "name: round1"), "rounds", ("different names",), id="round-twice"
        ),
        pytest.param(("rounds:", "name: round2", "name: Round/2"), "rounds.1.name", ("Round/2",), id="slug"),
        pytest.param(("attacks:", "  fgsm:", "  FGSM!:"), "attacks.FGSM!", ("pattern",), id="slug-of-a-key"),
        pytest.param(
            ("attacks:", "  newton_fool:", "  gaussian:\n    method: fgsm\n    epsilon: 1.0\n  newton_fool:"),
            "noise and attacks",
            ("'gaussian'",),
            id="name-in-both",
        ),
        pytest.param(
            ("data:", "test_fraction: 0.2", "test_fraction: 0.8"),
            "data",
            ("validation_fraction", "test_fraction", "1"),
            id="nothing-left-to-train-on",
        ),
        pytest.param(
            ("data:", "test_fraction: 0.2", "test_fraction: 0.0"), "data.test_fraction", (), id="no-test"
        ),
        pytest.param(
            ("train:", "warmup_epochs: 1", "warmup_epochs: 9"),
            "train.training",
            ("warmup_epochs", "4", "9"),
            id="warm-up-longer-than-the-run",
        ),
        pytest.param(
            ("model:", "    - 1\n  base:", "  base:"), "model.stages", ("3 items", "[1, 1]"), id="two-stages"
        ),
        pytest.param(("lda:", "gamma: 0.05", "gamma:"), "lda.gamma", ("number", "got null"), id="null"),
        pytest.param(
            ("lda:", "  lambda: 0.0001", "  lambda_: 0.0001"),
            "lda.lambda",
            ("missing",),
            id="name-in-the-code",
        ),
    ],
)
def test_a_bad_value_is_named_on_one_line(
    check: Check, tmp_path: Path, edit: tuple[str, str, str], key: str, words: tuple[str, ...]
) -> None:
    file = _edited(tmp_path, edit)
    lines = check(file)
    mine = [
        line for line in lines if line.startswith(f"{file}: {key}") and all(word in line for word in words)
    ]
    assert mine, lines
    assert len(lines) == (2 if key in MISSPELT else 1), lines
    assert all("(got " in line or line.endswith("required key is missing") for line in lines)


@pytest.mark.parametrize("section", ["attacks", "noise"])
def test_an_empty_mapping_is_refused(check: Check, tmp_path: Path, section: str) -> None:
    """DVC would quietly make no stage of it."""
    file = tmp_path / "bad.yaml"
    file.write_text(f"{_without_section(GOOD, section)}{section}: {{}}\n")
    (line,) = check(file)
    assert line.startswith(f"{file}: {section}: ")
    assert "at least 1" in line


def test_an_empty_section_is_refused(check: Check, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(f"{_without_section(GOOD, 'lda')}lda:\n")
    (line,) = check(file)
    assert line.startswith(f"{file}: lda: ")
    assert "got null" in line


@pytest.mark.parametrize("section", ["seeds", "prune", "rounds", "report", "data"])
def test_a_missing_section_is_named(check: Check, tmp_path: Path, section: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(_without_section(f"{GOOD}\nend:\n", section).replace("\nend:\n", ""))
    assert check(file) == [f"{file}: {section}: required key is missing"]


def _set(folder: Path, *changes: tuple[str, Any]) -> Path:
    """The tiny preset with other values at dotted keys; `...` takes a key away. JSON is YAML too."""
    data = copy.deepcopy(GOOD_DATA)
    for key, value in changes:
        *sections, last = key.split(".")
        node: Any = data
        for section in sections:
            node = node[section]
        if value is ...:
            del node[last]
        else:
            node[int(last) if isinstance(node, list) else last] = copy.deepcopy(value)
    file = folder / "changed.yaml"
    file.write_text(json.dumps(data), encoding="utf-8")
    return file


_SMALL = {"width": 0.25, "stem": "small", "dropout": 0.0}
_ROWS = {"stages": [1, 1, 1], "base": [1, 1, 1]}
FC = {"architecture": "fc", "hidden": [8]}
VGG16 = {"architecture": "vgg16", "batch_norm": True, "hidden": [8], "pool": 1, **_SMALL}
INCEPTION = {"architecture": "inception", "module": "v1", "factorized_kernel": 7, **_ROWS, **_SMALL}
GOOGLENET = {"architecture": "googlenet", **_ROWS, **_SMALL}
RESNET = {"architecture": "resnet", "config": "ResNet6", **_SMALL}
TORCHVISION = {"architecture": "torchvision", "name": "resnet18", "pretrained": False}
COMPACT = {"architecture": "mobilenet", **_SMALL}
# The name of each family beside what its section needs.
FAMILIES = [
    FC,
    VGG16,
    *({**INCEPTION, "module": module} for module in ("v1", "v1_double3x3", "v2", "v3")),
    GOOGLENET,
    {**GOOGLENET, "architecture": "bn_googlenet"},
    RESNET,
    *({**COMPACT, "architecture": name} for name in ("mobilenet", "mobilenet_v2", "squeezenet")),
    TORCHVISION,
]
SCHEDULES = [
    *("train.training", "grow.training", "push.training", "sources.resnet.training"),
    *("prune.retraining", "shrink.retraining"),
]


def _one_line(check: Check, file: Path, key: str, *words: str) -> None:
    """The file has one error: its line names file and key, and says what was expected and what was got."""
    lines = check(file)
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{file}: {key}: ")
    assert all(word in lines[0] for word in words), lines
    assert "(got " in lines[0] or lines[0].endswith("required key is missing")


@pytest.mark.parametrize("section", FAMILIES, ids=lambda section: section["architecture"])
@pytest.mark.parametrize("place", ["sources.resnet.model", "competitors.resnet6.model", "model"])
def test_every_architecture_may_stand_wherever_a_net_is_described(
    check: Check, tmp_path: Path, section: dict[str, Any], place: str
) -> None:
    file = _set(tmp_path, (place, section), ("grow.max_modules", 0))
    assert check(file) == []
    params = read_params(file)
    competitor = params.competitors["resnet6"]
    found = {
        "sources.resnet.model": params.sources["resnet"].model,
        "model": params.model,
        "competitors.resnet6.model": getattr(competitor, "model", None),
    }[place]
    assert found is not None
    assert found.model_dump() == section


@pytest.mark.parametrize(
    "name", ["ResNet6", "ResNet7", "ResNet10", "ResNet34", "ResNet50", "(c64, i64)-c128"]
)
def test_residual_nets_go_by_configuration_or_published_name(tmp_path: Path, name: str) -> None:
    model = (
        read_params(_set(tmp_path, ("sources.resnet.model", {**RESNET, "config": name})))
        .sources["resnet"]
        .model
    )
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
    ],
)
@pytest.mark.parametrize("place", ["sources.resnet.model", "competitors.resnet6.model"])
def test_a_bad_option_of_a_net_is_named_on_one_line(
    check: Check,
    tmp_path: Path,
    place: str,
    section: dict[str, Any],
    changes: dict[str, Any],
    key: str,
    words: tuple[str, ...],
) -> None:
    changed = {name: value for name, value in {**section, **changes}.items() if value is not ...}
    _one_line(check, _set(tmp_path, (place, changed)), f"{place}.{key}", *words)


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
    check: Check, tmp_path: Path, section: dict[str, Any], base: list[int], limits: str
) -> None:
    file = _set(tmp_path, ("sources.resnet.model", {**section, "base": base}))
    _one_line(check, file, "sources.resnet.model.base", limits, f"{base[0]}, {base[1]}, {base[2]}")


@pytest.mark.parametrize("name", ["inseption", "Inception", "resnet6", "torchvision/resnet18", "", "vgg"])
@pytest.mark.parametrize("place", ["model", "sources.resnet.model", "competitors.resnet6.model"])
def test_an_unknown_architecture_is_named_beside_the_known_ones(
    check: Check, tmp_path: Path, place: str, name: str
) -> None:
    file = _set(tmp_path, (f"{place}.architecture", name))
    (line,) = check(file)
    assert line.startswith(f"{file}: {place}")
    assert name in line
    known = {section["architecture"] for section in FAMILIES}
    assert all(f"'{each}'" in line for each in known), line


@pytest.mark.parametrize(
    "section", [FC, VGG16, RESNET, COMPACT, TORCHVISION], ids=lambda s: s["architecture"]
)
def test_a_net_that_cannot_grow_is_refused_where_modules_are_to_be_added(
    check: Check, tmp_path: Path, section: dict[str, Any]
) -> None:
    name = section["architecture"]
    bad = _set(tmp_path, ("model", section), ("grow.max_modules", 1))
    _one_line(check, bad, "grow.max_modules", "expected 0", f"{name!r}", "got 1")
    assert check(_set(tmp_path, ("model", section), ("grow.max_modules", 0))) == []


@pytest.mark.parametrize("section", [INCEPTION, GOOGLENET], ids=lambda s: s["architecture"])
def test_an_inception_net_may_grow(check: Check, tmp_path: Path, section: dict[str, Any]) -> None:
    assert check(_set(tmp_path, ("model", section), ("grow.max_modules", 3))) == []


@pytest.mark.parametrize(
    ("sizes", "key", "words"),
    [
        ([0.25, 0.5], "", ("descending", "got [0.25, 0.5]")),
        ([0.5, 0.1, 0.2], "", ("descending", "got [0.5, 0.1, 0.2]")),
        ([0.5, 0.5], "", ("descending", "got [0.5, 0.5]")),
        ([], "", ("at least 1", "got []")),
        (0.5, "", ("array", "got 0.5")),
        ([1.0, 0.5], ".0", ("less than 1", "got 1.0")),
        ([0.5, 0.0], ".1", ("greater than 0", "got 0.0")),
        ([0.5, -0.1], ".1", ("greater than 0", "got -0.1")),
        ([0.5, "small"], ".1", ("number", 'got "small"')),
    ],
)
def test_the_sizes_of_the_comparison_descend_between_one_and_zero(
    check: Check, tmp_path: Path, sizes: Any, key: str, words: tuple[str, ...]
) -> None:
    _one_line(check, _set(tmp_path, ("shrink.sizes", sizes)), f"shrink.sizes{key}", *words)


def test_one_size_is_enough(check: Check, tmp_path: Path) -> None:
    assert check(_set(tmp_path, ("shrink.sizes", [0.5]))) == []
    two_wanted = _set(tmp_path, ("shrink.sizes", [0.5]), ("lineup.size", 1))
    _one_line(check, two_wanted, "lineup.size", "less than 1", "got 1")


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"etas": [], "sizes": []}, "etas", ("expected at least one eta", "sizes", "got none")),
        ({"sizes": [0.5, 0.5]}, "sizes", ("no repeats", "got [0.5, 0.5]")),
        ({"sizes": [1.0]}, "sizes.0", ("less than 1", "got 1.0")),
        ({"sizes": [0.0]}, "sizes.0", ("greater than 0", "got 0.0")),
        ({"etas": [0.5, 0.0]}, "etas.1", ("greater than 0", "got 0.0")),
        ({"etas": ...}, "etas", ("missing",)),
        ({"max_drop": 1.5}, "max_drop", ("equal to 1", "got 1.5")),
    ],
)
def test_a_round_needs_samples_by_eta_or_by_size(
    check: Check, tmp_path: Path, changes: dict[str, Any], key: str, words: tuple[str, ...]
) -> None:
    file = _set(tmp_path, *((f"prune.{name}", value) for name, value in changes.items()))
    _one_line(check, file, f"prune.{key}", *words)


@pytest.mark.parametrize(("etas", "sizes"), [([], [0.5]), ([0.5], []), ([0.5], [0.25, 0.5])])
def test_samples_may_be_by_eta_by_size_or_by_both(
    check: Check, tmp_path: Path, etas: list[float], sizes: list[float]
) -> None:
    assert check(_set(tmp_path, ("prune.etas", etas), ("prune.sizes", sizes))) == []


_CRITERIA = [
    *("l1", "taylor", "activation_mean", "activation_variance", "apoz", "fpgm", "random"),
    *("lda_after_the_fact", "han", "scratch"),
]


@pytest.mark.parametrize("criterion", _CRITERIA)
def test_every_criterion_needs_nothing_but_its_name(check: Check, tmp_path: Path, criterion: str) -> None:
    alone = _set(tmp_path, ("competitors", {"only": {"criterion": criterion}}), ("lineup.competitors", []))
    assert check(alone) == []
    file = _set(tmp_path, ("competitors.l1", {"criterion": criterion, "learning_rate": 0.1}))
    _one_line(check, file, "competitors.l1.learning_rate", "unknown key", "got 0.1", "allowed: criterion")


@pytest.mark.parametrize(
    ("competitor", "key", "words"),
    [
        ({"criterion": "fixed", "learning_rate": 0.1}, ".model", ("missing",)),
        ({"criterion": "fixed", "model": RESNET}, ".learning_rate", ("missing",)),
        (
            {"criterion": "fixed", "learning_rate": 0, "model": RESNET},
            ".learning_rate",
            ("greater than 0", "got 0"),
        ),
        ({"criterion": "l1", "model": RESNET}, ".model", ("unknown key", "allowed: criterion")),
        (None, "", ("got null",)),
        ("l1", "", ('got "l1"',)),
    ],
)
def test_a_bad_competitor_is_named_on_one_line(
    check: Check, tmp_path: Path, competitor: Any, key: str, words: tuple[str, ...]
) -> None:
    _one_line(check, _set(tmp_path, ("competitors.han", competitor)), f"competitors.han{key}", *words)


def test_an_unknown_criterion_is_named_beside_the_known_ones(check: Check, tmp_path: Path) -> None:
    file = _set(tmp_path, ("competitors.l1.criterion", "l2"))
    (line,) = check(file)
    assert line.startswith(f"{file}: competitors.l1")
    assert "l2" in line
    assert all(f"'{each}'" in line for each in [*_CRITERIA, "fixed"])


@pytest.mark.parametrize(
    ("section", "key"),
    [("competitors.l1", "criterion"), ("surgery.latent", "method"), ("sources.resnet.model", "architecture")],
)
def test_a_section_without_the_key_that_says_its_kind_takes_one_line(
    check: Check, tmp_path: Path, section: str, key: str
) -> None:
    file = _set(tmp_path, (f"{section}.{key}", ...))
    (line,) = check(file)
    assert line.startswith(f"{file}: {section}")
    assert key in line


@pytest.mark.parametrize(
    ("section", "entry", "name"),
    [
        pytest.param("competitors", {"criterion": "l1"}, "ours", id="the-rows-of-ours"),
        pytest.param(
            "variants",
            {"separation": "trace", "gamma": 1.0, "lambda": 0.0, "beta": 0.0},
            "main",
            id="the-row-of-the-main-push",
        ),
        pytest.param(
            "noise",
            {"kind": "gaussian", "std": 1.0, "seed": 0},
            "clean",
            id="the-rows-of-images-without-noise",
        ),
        pytest.param(
            "attacks", {"method": "fgsm", "epsilon": 1.0}, "clean", id="the-rows-of-images-without-attack"
        ),
    ],
)
def test_a_name_that_the_tables_give_to_something_else_is_refused(
    check: Check, tmp_path: Path, section: str, entry: dict[str, Any], name: str
) -> None:
    file = _set(tmp_path, (f"{section}.{name}", entry))
    lines = check(file)
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{file}: {section}")
    assert name in lines[0]


def test_noise_with_the_name_of_an_attack_from_one_of_several_sources_is_refused(
    check: Check, tmp_path: Path
) -> None:
    noise = ("noise.fgsm_from_resnet", {"kind": "gaussian", "std": 1.0, "seed": 0})
    assert check(_set(tmp_path, noise)) == []  # of a single source, attacks go by their own names
    second = ("sources.second", GOOD_DATA["sources"]["resnet"])
    file = _set(tmp_path, noise, second)
    (line,) = check(file)
    assert line.startswith(f"{file}: noise: expected another name than that of an attack from a source")
    assert "fgsm_from_resnet" in line


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"separation": "det"}, ".separation", ("'trace' or 'log_det'", 'got "det"')),
        ({"separation": ...}, ".separation", ("missing",)),
        ({"gamma": -1.0}, ".gamma", ("equal to 0", "got -1.0")),
        ({"lambda": -1.0}, ".lambda", ("equal to 0", "got -1.0")),
        ({"lambda": ...}, ".lambda", ("missing",)),
        ({"beta": "much"}, ".beta", ("number", 'got "much"')),
        ({"ridge": 0.1}, ".ridge", ("unknown key", "allowed: separation, gamma, lambda, beta")),
    ],
)
def test_a_variant_has_the_weights_and_the_separation_and_nothing_else(
    check: Check, tmp_path: Path, changes: dict[str, Any], key: str, words: tuple[str, ...]
) -> None:
    file = _set(tmp_path, *((f"variants.ours.{name}", value) for name, value in changes.items()))
    _one_line(check, file, f"variants.ours{key}", *words)


@pytest.mark.parametrize("section", ["competitors", "variants", "rounds"])
def test_no_competitor_variant_or_round_is_too_few(check: Check, tmp_path: Path, section: str) -> None:
    empty: Any = [] if section == "rounds" else {}
    _one_line(check, _set(tmp_path, (section, empty)), section, "at least 1")


@pytest.mark.parametrize("section", ["competitors", "variants"])
def test_names_that_are_no_stage_names_are_refused(check: Check, tmp_path: Path, section: str) -> None:
    entry = GOOD_DATA[section]["l1" if section == "competitors" else "ours"]
    for name in ("9lives", "L1", "a/b", "with space", "x" * 41):
        _one_line(check, _set(tmp_path, (section, {name: entry})), f"{section}.{name}", "string should")


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
        (None, "", ("got null",)),
    ],
)
def test_a_bad_choice_of_latent_neurons_is_named_on_one_line(
    check: Check, tmp_path: Path, latent: Any, key: str, words: tuple[str, ...]
) -> None:
    _one_line(check, _set(tmp_path, ("surgery.latent", latent)), f"surgery.latent{key}", *words)


def test_an_unknown_choice_of_latent_neurons_is_named_beside_the_known_ones(
    check: Check, tmp_path: Path
) -> None:
    file = _set(tmp_path, ("surgery.latent", {"method": "pca"}))
    (line,) = check(file)
    assert line.startswith(f"{file}: surgery.latent")
    assert all(word in line for word in ("pca", "'sensitivity'", "'otsu'"))
    otsu = read_params(_set(tmp_path, ("surgery.latent", {"method": "otsu"}))).surgery.latent
    assert isinstance(otsu, OtsuChoice)


@pytest.mark.parametrize("section", SCHEDULES)
def test_every_schedule_has_a_weight_decay_of_the_decision_layer(
    check: Check, tmp_path: Path, section: str
) -> None:
    key = f"{section}.decision_weight_decay"
    assert check(_set(tmp_path, (key, 0))) == []
    _one_line(check, _set(tmp_path, (key, -1e-4)), key, "greater than or equal to 0", "got -0.0001")
    _one_line(check, _set(tmp_path, (key, ...)), key, "required key is missing")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.auxiliary.batch_norm", 1, ("boolean", "got 1")),
        ("train.auxiliary.weight", -0.1, ("equal to 0", "got -0.1")),
        ("grow.auxiliary.batch_norm", ..., ("missing",)),
        ("grow.max_params", 0, ("greater than 0", "got 0")),
        ("grow.max_flops", 1.5, ("integer", "got 1.5")),
        ("grow.max_memory_mib", 0.0, ("greater than 0", "got 0.0")),
        ("grow.max_memory_mib", ..., ("missing",)),
        ("grow.start", "fresh", ("'parent' or 'scratch'", 'got "fresh"')),
        ("grow.max_modules", -1, ("equal to 0", "got -1")),
        ("lda.separation", "det", ("'trace' or 'log_det'", 'got "det"')),
        ("lda.samples_per_class", 7, ("equal to 8", "got 7")),
        ("lda.classes_per_batch", 1, ("equal to 2", "got 1")),
        ("lda.ridge", 0, ("greater than 0", "got 0")),
        ("lda.collapse_share", 1.0, ("less than 1", "got 1.0")),
        ("surgery.round_to", 0, ("greater than 0", "got 0")),
        ("surgery.remove_branches", 0, ("boolean", "got 0")),
        ("surgery.trace_images_per_class", 0, ("greater than 0", "got 0")),
        ("select.max_drop", 1.1, ("equal to 1", "got 1.1")),
        ("sources.resnet.min_validation_accuracy", 2, ("equal to 1", "got 2")),
        ("sources.resnet.training.batch_size", 1, ("equal to 2", "got 1")),
        ("noise.gaussian.std", 0, ("greater than 0", "got 0")),
        ("noise.gaussian", {"kind": "salt", "amount": 1.0, "seed": 0}, ("amount", "less than 1", "got 1.0")),
        ("noise.gaussian", {"kind": "pepper", "amount": 0.1}, ("seed", "missing")),
        ("noise.gaussian", {"kind": "local_variance", "strength": 0.0, "seed": 0}, ("greater than 0",)),
        ("attacks.newton_fool.steps", 0, ("greater than 0", "got 0")),
        ("white_box", {}, ("at least 1", "got {}")),
        ("white_box.pgd.epsilon", 0, ("greater than 0", "got 0")),
        ("white_box.pgd.epsilon", ..., ("missing",)),
        ("white_box.pgd.attack", 3, ("string", "got 3")),
        ("white_box.pgd.options", None, ("object", "got null")),
        ("white_box.pgd.options.steps", None, ("got null",)),
        ("white_box.pgd.options.steps", [2], ("got [2]",)),
        ("lineup.size", 2, ("less than 2", "shrink.sizes", "got 2")),
        ("lineup.size", -1, ("equal to 0", "got -1")),
        ("lineup.competitors.0", "l2", ("expected one of l1, han, scratch", "'l2'")),
        ("lineup.competitors.0", "resnet6", ("expected one of l1, han, scratch", "'resnet6'")),
        ("robustness.bootstrap_resamples", 99, ("equal to 100", "got 99")),
        ("robustness.calibration_bins", 1, ("equal to 2", "got 1")),
        ("report.headline.0", "rain", ("expected one of gaussian, poisson", "'rain'")),
        ("report.headline.0", "pgd", ("expected one of gaussian, poisson", "'pgd'")),
        ("report.headline", [], ("at least 1", "got []")),
        ("report.target_params_fraction", 1.0, ("less than 1", "got 1.0")),
        ("report.confidence", 1.0, ("less than 1", "got 1.0")),
        ("name", "a/b", ("pattern", 'got "a/b"')),
    ],
)
def test_a_bad_value_anywhere_is_named_on_one_line(
    check: Check, tmp_path: Path, key: str, value: Any, words: tuple[str, ...]
) -> None:
    file = _set(tmp_path, (key, value))
    (line,) = check(file)
    named = line.removeprefix(f"{file}: ").split(": ")[0]
    assert named == key or (isinstance(value, dict) and named.rpartition(".")[0] == key), line
    assert all(word in line for word in words), line
    assert "(got " in line or line.endswith("required key is missing")


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("model.architecture", ("'fc'", "'torchvision'")),
        ("sources.resnet.model.architecture", ("'fc'", "'torchvision'")),
        ("data.source", ("'digits'",)),
        ("noise.gaussian.kind", ("'gaussian'", "'pepper'")),
        ("attacks.fgsm.method", ("'fgsm'", "'newton_fool'", "'foolbox'")),
        ("surgery.latent.method", ("'sensitivity'", "'otsu'")),
        ("competitors.l1.criterion", ("'l1'", "'fixed'")),
        ("competitors.resnet6.model.architecture", ("'fc'", "'resnet'")),
    ],
)
def test_a_missing_key_that_tells_kinds_apart_is_named_with_the_kinds(
    check: Check, tmp_path: Path, key: str, known: tuple[str, ...]
) -> None:
    file = _set(tmp_path, (key, ...))
    (line,) = check(file)
    assert line.startswith(f"{file}: {key}: required key is missing; expected one of "), line
    assert all(each in line for each in known), line


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_options_of_an_attack_are_finite(check: Check, tmp_path: Path, value: float) -> None:
    file = _set(tmp_path, ("white_box.pgd.options.rel_stepsize", 0.5))
    text = file.read_text()
    assert text.count('"rel_stepsize": 0.5') == 1
    file.write_text(text.replace('"rel_stepsize": 0.5', f'"rel_stepsize": {value}'.replace("inf", ".inf")))
    file.write_text(file.read_text().replace("nan", ".nan"))
    _one_line(
        check, file, "white_box.pgd.options.rel_stepsize", "expected true, false, a finite number or text"
    )


@pytest.mark.parametrize(
    ("key", "names"),
    [("lineup.competitors", ["l1", "scratch", "l1"]), ("report.headline", ["gaussian", "gaussian"])],
)
def test_repeated_names_are_refused(check: Check, tmp_path: Path, key: str, names: list[str]) -> None:
    _one_line(check, _set(tmp_path, (key, names)), key, "expected no repeats", f"got {names}")


@pytest.mark.parametrize("name", ["resnet17", "ResNet18", "fasterrcnn_resnet50_fpn", ""])
@pytest.mark.parametrize("place", ["model", "sources.resnet.model", "competitors.resnet6.model"])
def test_an_unknown_classifier_of_torchvision_is_named_before_torchvision_is_loaded(
    check: Check, tmp_path: Path, place: str, name: str
) -> None:
    file = _set(tmp_path, (place, {**TORCHVISION, "name": name}), ("grow.max_modules", 0))
    _one_line(check, file, f"{place}.name", "a classifier of torchvision.models, such as ", f"got {name!r}")


def test_bounds_of_growth_are_null_or_positive(tmp_path: Path) -> None:
    bounds = (("grow.max_params", 5000), ("grow.max_flops", 10**9), ("grow.max_memory_mib", 0.5))
    settings = read_params(_set(tmp_path, *bounds)).grow
    assert (settings.max_params, settings.max_flops, settings.max_memory_mib) == (5000, 10**9, 0.5)
    settings = read_params(_set(tmp_path)).grow
    assert (settings.max_params, settings.max_flops, settings.max_memory_mib) == (None, None, None)


@pytest.mark.parametrize(
    ("kind", "rest"),
    [
        ("gaussian", {"std": 1.0}),
        ("speckle", {"strength": 0.1}),
        ("poisson", {"peak": 255.0}),
        ("salt", {"amount": 0.1}),
        ("pepper", {"amount": 0.1}),
        ("local_variance", {"strength": 0.1}),
    ],
)
def test_every_kind_of_noise_is_read_as_itself(tmp_path: Path, kind: str, rest: dict[str, float]) -> None:
    noise = read_params(_set(tmp_path, ("noise.other", {"kind": kind, "seed": 3, **rest}))).noise["other"]
    assert noise.model_dump() == {"kind": kind, "seed": 3, **rest}


def test_an_attack_by_name_keeps_its_options_with_their_types(tmp_path: Path) -> None:
    options = {"steps": 2, "rel_stepsize": 0.5, "random_start": True, "name": "x"}
    section = {"method": "foolbox", "attack": "LinfPGD", "epsilon": None, "options": options}
    attack = read_params(_set(tmp_path, ("white_box.pgd", section))).white_box["pgd"]
    assert attack.model_dump() == section
    found = attack.model_dump()["options"]
    assert [type(value) for value in found.values()] == [int, float, bool, str]


def test_the_lineup_may_be_ours_alone(check: Check, tmp_path: Path) -> None:
    assert check(_set(tmp_path, ("lineup.competitors", []))) == []


def test_a_section_becomes_the_model_of_its_architecture(tmp_path: Path) -> None:
    kinds: list[tuple[dict[str, Any], type]] = [
        (FC, FcModel),
        (VGG16, Vgg16Model),
        (RESNET, ResNetModel),
        (TORCHVISION, TorchvisionModel),
    ]
    for section, kind in kinds:
        assert (
            type(read_params(_set(tmp_path, ("sources.resnet.model", section))).sources["resnet"].model)
            is kind
        )


def test_every_error_has_its_line(check: Check, tmp_path: Path) -> None:
    file = _edited(
        tmp_path,
        ("numerics:", "threads: 1", "threads: 0"),
        ("train:", "momentum: 0.9", "momentum: 9"),
        ("push:", "epochs: 3", "epochs: many"),
        ("attacks:", "epsilon: 16.0", "epsilon: -1.0"),
        ("report:", "dpi: 60", "dbi: 60"),
    )
    keys = [line.removeprefix(f"{file}: ").split(": ")[0] for line in check(file)]
    assert sorted(keys) == sorted(
        [
            "numerics.threads",
            "train.training.momentum",
            "push.training.epochs",
            "attacks.fgsm.epsilon",
            "report.dpi",
            "report.dbi",
        ]
    )


def test_errors_between_sections_have_their_lines(check: Check, tmp_path: Path) -> None:
    file = _edited(
        tmp_path,
        ("seeds:", "- 0", "- 3\n  - 3"),
        ("rounds:", "prune/round1", "prune/round7"),
        ("prune:", "- 1.0", "- 0.5"),
    )
    keys = [line.removeprefix(f"{file}: ").split(": ")[0] for line in check(file)]
    assert sorted(keys) == ["prune.etas", "rounds.1.previous", "seeds"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"train: [1, 2\nseeds: 3\n", ("not valid YAML", "line")),
        (b"a: 1\n\tb: 2\n", ("not valid YAML", "line 2")),
        (b"name: tiny\nname: other\n", ("name", "duplicate")),
        (b"name: \xff\xfe\n", ("UTF-8",)),
        (b"", ("got null",)),
        (b"- 1\n- 2\n", ("got [1, 2]",)),
        (b"just a sentence\n", ("just a sentence",)),
        (b"name: !!python/object:os.system {}\n", ("not valid YAML",)),
        (b"name: 2020-01-01\n", ()),
        (b"a: &a [*a]\n", ()),
    ],
    ids=["syntax", "tab", "twice", "encoding", "empty", "list", "text", "tag", "date", "recursive"],
)
def test_a_file_that_is_no_params_file(
    check: Check, tmp_path: Path, content: bytes, words: tuple[str, ...]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    lines = check(file)
    assert lines
    assert all(line.startswith(f"{file}: ") for line in lines)
    for word in words:
        assert word in lines[0]


def test_a_yaml_error_takes_one_line(check: Check, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    for content in ("a: [1\nb: 2\n", "a: 1\na: 2\n", "a: b: c\n"):
        file.write_text(content)
        assert len(check(file)) == 1


def test_a_missing_file_is_named(check: Check, tmp_path: Path) -> None:
    (line,) = check(tmp_path / "none.yaml")
    assert line.startswith(f"{tmp_path / 'none.yaml'}: ")
    assert "No such file" in line


def test_a_folder_is_no_file(check: Check, tmp_path: Path) -> None:
    (line,) = check(tmp_path)
    assert line.startswith(f"{tmp_path}: ")


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    """PyYAML would read the string '1e-3'."""
    params = read_params(_edited(tmp_path, ("lda:", "gamma: 0.05", "gamma: 1e-3")))
    assert math.isclose(params.lda.gamma, 0.001, rel_tol=1e-12)


def test_integers_do_for_fractions(tmp_path: Path) -> None:
    assert read_params(_edited(tmp_path, ("lda:", "gamma: 0.05", "gamma: 1"))).lda.gamma == 1


def test_params_are_frozen() -> None:
    params = read_params(ROOT / "presets/tiny.yaml")
    with pytest.raises(ValueError, match="frozen"):
        params.numerics.threads = 2


def test_keys_are_those_of_the_method() -> None:
    assert read_params(ROOT / "presets/tiny.yaml").model_dump(by_alias=True)["lda"]["lambda"] == 0.0001


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with presets and params.yaml, to work in."""
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    (tmp_path / "params.yaml").write_text("what stood here before\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_preset_replaces_the_params(project: Path) -> None:
    main(["--preset", "tiny"])
    assert (project / "params.yaml").read_text(encoding="utf-8") == GOOD
    assert sorted(path.name for path in project.iterdir()) == ["params.yaml", "presets"]


@pytest.mark.parametrize("name", ["", "tinny", "../params", "tiny.yaml"])
def test_unknown_preset_names_the_known_ones(
    project: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--preset", name])
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"(got {name!r})" in line
    for preset in (ROOT / "presets").glob("*.yaml"):
        assert preset.stem in line
    assert (project / "params.yaml").read_text() == "what stood here before\n"


def test_bad_preset_is_not_used(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "presets/broken.yaml").write_text(GOOD.replace("threads: 1", "threads: -1"))
    with pytest.raises(SystemExit):
        main(["--preset", "broken"])
    assert capsys.readouterr().err.startswith("presets/broken.yaml: numerics.threads: ")
    assert (project / "params.yaml").read_text() == "what stood here before\n"


def test_read_params_raises_what_main_prints(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"numerics\.threads: .*got 0"):
        read_params(_edited(tmp_path, ("numerics:", "threads: 1", "threads: 0")))


def test_command_prints_the_errors_and_exits_with_one(workspace: Workspace, tmp_path: Path) -> None:
    file = _edited(tmp_path, ("train:", "epochs: 4", "epohcs: 4"))
    bad = workspace.run(sys.executable, "-m", "pipeline.params", str(file))
    assert bad.code == 1
    assert all(line.startswith(f"{file}: train.training.") for line in bad.output.splitlines())
    good = workspace.run(sys.executable, "-m", "pipeline.params")
    assert (good.code, good.output) == (0, "")


def test_no_stage_starts_with_bad_params(workspace: Workspace, tmp_path: Path) -> None:
    """Even the first stage checks every section, not only its own."""
    copy = workspace.copy(tmp_path / "copy")
    copy.edit_params(after="report:", old="dpi: 60", new="dpi: 6")
    copy.edit_params(after="push:", old="epochs: 3", new="epochs: 0")
    result = copy.run(sys.executable, "-m", "stages.prepare")
    assert result.code == 1
    assert result.output.splitlines() == [
        "prepare: params.yaml: push.training.epochs: expected greater than 0 (got 0)",
        "prepare: params.yaml: report.dpi: expected greater than or equal to 50 (got 6)",
    ]
    assert not copy.path("runs").exists()
    assert not copy.path(".resume").exists()
