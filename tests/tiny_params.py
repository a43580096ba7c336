"""The tiny preset as data, and what the check says of it after a change.

Parsing YAML costs far more than a check, so that it happens once, and tests edit the data.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import ROOT
from ruamel.yaml import YAML

from pipeline.errors import InputError
from pipeline.params.file import check_params
from pipeline.params.params import Params

TINY_FILE = ROOT / "presets/tiny.yaml"
# By way of JSON anchors become copies: a change in one place is none in the others.
TINY: dict[str, Any] = json.loads(json.dumps(YAML(typ="safe").load(TINY_FILE.read_text(encoding="utf-8"))))
_FILE = Path("edited.yaml")
# The sections that the preset leaves out.
LATENCY: dict[str, Any] = {"batches": [1, 4], "runs": 50, "threads": 1}
ABLATE: dict[str, Any] = {
    **{
        "sizes": {"params": [0.5]},
        "scores": ["saliency", "l1"],
        "widths": ["layer", "global"],
        "noise": "gaussian",
    },
    "retraining": TINY["push"]["training"],
}

# A section of each family of nets.
_SMALL = {"width": 0.25, "stem": "small", "dropout": 0.0}
_ROWS = {"stages": [1, 1, 1], "base": [1, 1, 1]}
FC = {"architecture": "fc", "hidden": [8]}
VGG16 = {"architecture": "vgg16", "batch_norm": True, "hidden": [8], "pool": 1, **_SMALL}
INCEPTION = {"architecture": "inception", "module": "v1", "factorized_kernel": 7, **_ROWS, **_SMALL}
GOOGLENET = {"architecture": "googlenet", **_ROWS, **_SMALL}
RESNET = {"architecture": "resnet", "config": "ResNet6", **_SMALL}
COMPACT = {"architecture": "mobilenet", **_SMALL}
TORCHVISION = {"architecture": "torchvision", "name": "resnet18", "pretrained": False}
SAVED = {"architecture": "saved", "path": "mine/model", "sha256": "0" * 64}
_OWN = {"weights": None, "sha256": None, "decision": None, "normalization": None, "classes": None}
PYTHON = {
    **{
        "architecture": "python",
        "factory": "my_nets:make_net",
        "factory_sha256": "0" * 64,
        "options": {"width": 4},
    },
    **_OWN,
}
TIMM = {"architecture": "timm", "name": "resnet18", "options": {}, **_OWN}

Change = tuple[str, Any]


def edited(*changes: Change) -> dict[str, Any]:
    """The tiny preset with other values at dotted keys; `...` takes a key away."""
    data: dict[str, Any] = json.loads(json.dumps(TINY))
    for key, value in changes:
        *sections, last = key.split(".")
        node: Any = data
        for section in sections:
            node = node[int(section) if isinstance(node, list) else section]
        at = int(last) if isinstance(node, list) else last
        if value is ...:
            del node[at]
        else:
            node[at] = value
    return data


def params_of(*changes: Change) -> Params:
    """The changed preset, which has to pass."""
    return check_params(edited(*changes), _FILE)


def errors_of(*changes: Change) -> list[str]:
    """Every error of the changed preset, each on a line that starts with the file, which is left out here."""
    try:
        check_params(edited(*changes), _FILE)
    except InputError as error:
        lines = str(error).split("\n")
        assert all(line.startswith(f"{_FILE}: ") for line in lines), lines
        return [line.removeprefix(f"{_FILE}: ") for line in lines]
    return []


def assert_one_error(key: str, *words: str, changes: list[Change]) -> None:
    """The changed preset has one error, which says the key, what is expected, and what was got."""
    lines = errors_of(*changes)
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{key}: "), lines
    assert all(word in lines[0] for word in words), lines
    assert "(got " in lines[0] or ": required key is missing" in lines[0], lines


def sections_with(key: str, node: Any = TINY, at: str = "") -> Iterator[str]:
    """Dotted keys of the sections of the preset that have such a key."""
    if isinstance(node, dict):
        if key in node:
            yield at
        for name, below in node.items():
            yield from sections_with(key, below, f"{at}.{name}".lstrip("."))
