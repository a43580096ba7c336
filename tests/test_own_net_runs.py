"""A user's own net through the stages: kept bit for bit, and scored anew when its file or its code changes."""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import own_nets
import pytest
import torch
from conftest import ROOT, Workspace, jobs_run, warmed
from safetensors.torch import load_file
from tiny_params import PYTHON, Change, edited

from pipeline.files import read_csv

# One process for all that share a workspace.
pytestmark = [pytest.mark.xdist_group("own_net"), pytest.mark.dvc]

UNTRAINED: list[Change] = [("grow", None), ("train.training.epochs", 0), ("train.training.warmup_epochs", 0)]


@pytest.fixture(scope="module")
def project(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A project with a module of the user's, and a file of weights for one of its nets."""
    copy = workspace.copy(tmp_path_factory.mktemp("own_net") / "copy")
    shutil.copy(ROOT / "tests/own_nets.py", copy.path("my_nets.py"))
    write_weights(copy, seed=0)
    yield copy
    shutil.rmtree(copy.root, ignore_errors=True)


def write_weights(project: Workspace, *, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    state = own_nets.viewed(classes=10).state_dict()
    torch.save(state, project.path("mine.pt"))
    return state


def write_params(project: Workspace, **changes: Any) -> None:
    section = {**PYTHON, "factory": "my_nets:viewed", "factory_sha256": None, "options": {"classes": 10}}
    section |= {"weights": "mine.pt", "normalization": {"mean": [0.5], "std": [0.5]}}
    project.write_params(edited(*UNTRAINED, ("model", section | changes)))


def hashes(project: Workspace) -> dict[str, str]:
    """What the check says to write, to be pasted."""
    write_params(project)
    said = project.run(sys.executable, "-m", "pipeline.params")
    assert said.code == 1
    found = dict(re.findall(r"^params\.yaml: model\.(\w+): expected (\w{64}), ", said.output, re.MULTILINE))
    assert len(said.output.splitlines()) == len(found) == 2
    return found


def repro(project: Workspace) -> list[str]:
    before = len(project.log())
    with warmed(project) as by_warm:
        project.must(*by_warm, "dvc", "repro", "train")
    return jobs_run(project.log()[before:])


def refused(project: Workspace, *command: str) -> str:
    said = project.run(sys.executable, "-m", *command)
    assert said.code == 1
    (line,) = said.output.splitlines()
    return line


def stored(project: Workspace) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    base = project.path("runs/tiny/train/0")
    description: dict[str, Any] = json.loads((base / "model.json").read_text())
    return load_file(base / "model.safetensors"), description


def assert_kept(project: Workspace, state: dict[str, torch.Tensor]) -> None:
    tensors, _ = stored(project)
    assert {name.removeprefix("net.") for name in tensors} == {*state, "mean", "std"}
    assert all(torch.equal(tensors[f"net.{name}"], tensor) for name, tensor in state.items())


def test_the_base_is_kept_and_follows_its_file_and_its_code(project: Workspace) -> None:
    state = write_weights(project, seed=0)
    first = hashes(project)
    assert first["sha256"] == hashlib.sha256(project.path("mine.pt").read_bytes()).hexdigest()
    write_params(project, **first)
    assert repro(project) == ["prepare", "train 0"]
    assert_kept(project, state)
    (row,) = read_csv(project.path("runs/tiny/train/brought.csv"))
    assert "no better than chance" in row["suspicion"]  # weights at random
    assert stored(project)[1]["about"]["validation"]["n_correct"] == int(row["n_correct"])

    # Other code makes another net of the same weights.
    code = project.path("my_nets.py")
    code.write_text(code.read_text().replace("self.hidden(maps.view", "1.5 * self.hidden(maps.view"))
    assert repro(project) == []  # DVC asks params.yaml, and what is there are still the results of its hashes
    other = hashes(project)
    write_params(project, **first)
    for command in (("pipeline.jobs.repro", "train"), ("stages.train",), ("pipeline.params",)):
        line = refused(project, *command)
        assert f"params.yaml: model.factory_sha256: expected {other['factory_sha256']}" in line
    write_params(project, **other)
    assert repro(project) == ["train 0"]
    assert_kept(project, state)
    assert stored(project)[1]["options"]["factory_sha256"] != first["factory_sha256"]

    # Trained on, it is looked at as it came, and then another.
    (row,) = read_csv(project.path("runs/tiny/train/brought.csv"))
    training: Change = ("train.training.epochs", 1)
    params = json.loads(project.path("params.yaml").read_text())
    project.write_params(edited(("grow", None), ("model", params["model"]), training))
    assert repro(project) == ["train 0"]
    assert read_csv(project.path("runs/tiny/train/brought.csv")) == [row]
    assert project.path("runs/tiny/train/history.csv").exists()
    assert not torch.equal(stored(project)[0]["net.head.weight"], state["head.weight"])

    state = write_weights(project, seed=1)
    assert "params.yaml: model.sha256: expected " in refused(project, "pipeline.jobs.repro", "train")
    write_params(project, **hashes(project))
    assert repro(project) == ["train 0"]
    assert_kept(project, state)
