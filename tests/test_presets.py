"""DVC makes of every preset the stages that its params call for."""

import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Workspace

from pipeline.params.file import read_params
from pipeline.params.params import Params

pytestmark = pytest.mark.xdist_group("workspace")

# The stages of `dvc repro --dry --force`, of every preset in one process: DVC takes seconds to start.
_LIST = """
import json
from pathlib import Path
from dvc.repo import Repo

found = {}
for preset in sorted(Path("presets").glob("*.yaml")):
    Path("params.yaml").write_bytes(preset.read_bytes())
    with Repo(".") as repo:
        found[preset.stem] = [stage.addressing for stage in repo.index.stages]
print(json.dumps(found))
"""


def expected_stages(params: Params) -> int:
    """How many stages the params stand for, counted by hand from the README's description of the flow."""
    once = len(["prepare", "report"]) + len(params.noise)
    fixed = len(["train", "grow", "push", "control", "select", "shrink", "evaluate", "robustness"])
    listed = sum(
        map(len, (params.variants, params.rounds, params.competitors, params.sources, params.white_box))
    )
    crafted = len(params.sources) * len(params.attacks)
    return once + len(params.seeds) * (fixed + listed + crafted)


def test_every_preset_becomes_its_stages(workspace: Workspace, tmp_path: Path) -> None:
    copy = workspace.copy(tmp_path / "copy")
    printed = copy.must(sys.executable, "-c", _LIST).output.splitlines()[-1]
    found: dict[str, list[str]] = json.loads(printed)
    assert set(found) == {path.stem for path in (ROOT / "presets").glob("*.yaml")}
    for name, stages in found.items():
        params = read_params(ROOT / "presets" / f"{name}.yaml")
        assert len(set(stages)) == expected_stages(params), name
        assert {f"train@{seed}" for seed in params.seeds} <= set(stages)


def test_a_preset_that_never_ran_can_be_tried_dry(workspace: Workspace, tmp_path: Path) -> None:
    """With --force, that is: without, DVC stops at the first input that is not there (treeverse/dvc#9818)."""
    copy = workspace.copy(tmp_path / "copy")
    copy.must(sys.executable, "-m", "pipeline.params", "--preset", "mnist_small")
    tried = copy.must("dvc", "repro", "--dry", "--force")
    params = read_params(ROOT / "presets/mnist_small.yaml")
    assert len(tried.ran) == expected_stages(params)
    assert not copy.path("runs").exists()
