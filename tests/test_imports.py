"""What is slow to import is imported where it is used; all steps in one process, the lightest first."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.processes

_PROGRAM = """
import ast, json, sys
from pathlib import Path

SLOW = ["torch", "torchvision", "pandas", "lightning_fabric", "torch._inductor"]
found = {}

def note(step):
    found[step] = [name for name in SLOW if name in sys.modules]

import pipeline.params.nets.inception_filters, pipeline.params.nets.resnet_config
note("tables of filters")
from pipeline.params.file import read_params
numerics = read_params(Path("presets/tiny.yaml")).numerics
note("params")
from pipeline.models import build_model
build_model("vgg16", 4, width=0.01)
note("a net of this project")
from pipeline.machine.device import configure_torch
configure_torch(numerics)
for stage in ("evaluate", "craft"):
    module = ast.parse(Path(f"stages/{stage}.py").read_text(encoding="utf-8"))
    (work,) = [node for node in module.body if getattr(node, "name", None) == "work"]
    imports = [node for node in ast.walk(work) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert imports
    exec(compile(ast.Module(imports, []), stage, "exec"))
    note(f"the work of {stage}")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    output = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    found: dict[str, list[str]] = json.loads(output)
    return found


@pytest.mark.parametrize("step", ["tables of filters", "params"])
def test_params_are_read_without_torch(step: str, loaded: dict[str, list[str]]) -> None:
    assert loaded[step] == []


def test_torchvision_is_loaded_only_for_the_nets_that_need_it(loaded: dict[str, list[str]]) -> None:
    assert loaded["a net of this project"] == ["torch"]


@pytest.mark.parametrize("stage", ["evaluate", "craft"])
def test_a_stage_that_does_not_train_loads_neither_the_compiler_nor_fabric(
    stage: str, loaded: dict[str, list[str]]
) -> None:
    """Seconds of each job's process."""
    assert not {"torch._inductor", "lightning_fabric"} & set(loaded[f"the work of {stage}"])
