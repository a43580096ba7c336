"""The snippets of docs/exports.md run as they stand, each with nothing but what it says that it needs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_int8 import images_of

from pipeline.checkpoint import load_classifier, save_model
from pipeline.export import export_onnx, export_program
from pipeline.models import build_model
from pipeline.models.classifier import Classifier

pytestmark = pytest.mark.processes
SNIPPETS = re.findall(r"```python\n(.+?)```", (ROOT / "docs/exports.md").read_text("utf-8"), flags=re.DOTALL)
# What is written in front of a snippet: names that may not be imported.
_WITHOUT = "import sys\nsys.modules.update(dict.fromkeys({}))\n"
_SHOW = "\nsys.stdout.write(repr([classes, found, list(logits.shape)]))\n"
_SHOW_KEPT = """
import torch
sys.stdout.write(repr([list(model.classes), kept, list(model(torch.zeros(2, 1, 8, 8)).shape)]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("docs")
    torch.manual_seed(0)
    classes = [f"digit {n}" for n in range(10)]
    net = build_model("resnet", 10, in_channels=1, config="c16", width=0.25, stem="small")
    model = Classifier(net, image_shape=(1, 8, 8), mean=[0.4], std=[0.3], classes=classes).eval()
    stem = root / "runs/digits/select/0/pushed/parameter_first"
    save_model(model, stem)
    export_onnx(model, stem.with_name("parameter_first.onnx"), examples=images_of(3))
    export_program(model, stem.with_name("parameter_first.pt2"), examples=images_of(3))
    return root


def run(place: Path, snippet: str, without: list[str], show: str) -> str:
    program = _WITHOUT.format(without) + snippet + show
    return subprocess.run(
        [sys.executable, "-c", program], cwd=place, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_there_are_three() -> None:
    assert len(SNIPPETS) == 3


@pytest.mark.parametrize(
    ("idx", "without"), [(0, ["torch", "pipeline", "onnx"]), (1, ["pipeline", "onnx", "onnxruntime"])]
)
def test_exported_files_need_their_runtime_alone(place: Path, idx: int, without: list[str]) -> None:
    model = load_classifier(place / "runs/digits/select/0/pushed/parameter_first")
    with torch.no_grad():
        best = int(model(torch.zeros(1, 1, 8, 8)).argmax())
    expected = [[f"digit {n}" for n in range(10)], [f"digit {best}"] * 5, [5, 10]]
    assert run(place, SNIPPETS[idx], without, _SHOW) == repr(expected)


def test_the_projects_own_files_load_with_it(place: Path) -> None:
    (place / "pipeline").symlink_to(ROOT / "pipeline")
    said = run(place, SNIPPETS[2], [], _SHOW_KEPT)
    assert said == repr([[f"digit {n}" for n in range(10)], {}, [2, 10]])
