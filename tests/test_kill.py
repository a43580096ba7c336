"""Killed in the middle, a long stage goes on from where it was and ends with the undisturbed run's bytes."""

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result, Workspace
from safetensors import SafetensorError
from safetensors.torch import load_file

from pipeline.training.resume import ResumePoint

# One process for all that share a full run.
pytestmark = pytest.mark.xdist_group("workspace")

_TIMEOUT = 120


def _points(workspace: Workspace, stage: str) -> dict[Path, int]:
    """The stage's resume points, and how many epochs each holds; fewer where points vanish meanwhile."""
    found = {}
    with contextlib.suppress(OSError, RuntimeError, SafetensorError):  # torch opens the file by itself
        for file in workspace.path(".resume").glob(f"{stage}-*/**/*.safetensors"):
            loaded = ResumePoint(file.with_suffix("")).load()
            if loaded is not None:
                found[file] = len(loaded[1]["history"])
    return found


def _kill_when(workspace: Workspace, command: list[str], is_time: Callable[[], bool]) -> None:
    """Start a command, and SIGKILL it as soon as the condition holds."""
    with workspace.start(*command) as process:
        try:
            deadline = time.monotonic() + _TIMEOUT
            while not is_time():
                assert process.poll() is None, (
                    f"it ended before it could be killed: {process.communicate()[0]}"
                )
                assert time.monotonic() < deadline
                time.sleep(0.005)
        finally:
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=_TIMEOUT)
        assert process.returncode == -signal.SIGKILL


def _watch(workspace: Workspace, stage: str, *command: str) -> tuple[Result, list[int]]:
    """Run a command to its end and note, all the while, how many epochs the resume points hold in all."""
    seen = []
    started = time.perf_counter()
    with workspace.start(*command) as process:
        try:
            while process.poll() is None:
                assert time.perf_counter() - started < _TIMEOUT
                seen.append(sum(_points(workspace, stage).values()))
                time.sleep(0.005)
        finally:
            process.kill()
        output, _ = process.communicate()
    return Result(process.returncode, output, time.perf_counter() - started), seen


@pytest.mark.parametrize(
    ("stage", "target", "flags", "folder", "epochs_before_kill"),
    [
        ("train", "train@0", "--seed 0", "runs/tiny/0/train", 2),
        ("source", "source@0-resnet", "--seed 0 --source resnet", "runs/tiny/0/source/resnet", 2),
        # Two epochs a candidate, or a sample: killed in the middle of the second one.
        ("grow", "grow@0", "--seed 0", "runs/tiny/0/grow", 3),
        ("push", "push@0", "--seed 0", "runs/tiny/0/push", 2),
        ("control", "control@0", "--seed 0", "runs/tiny/0/control", 2),
        ("shrink", "shrink@0", "--seed 0", "runs/tiny/0/shrink", 1),
        ("compete", "compete@0-han", "--seed 0 --competitor han", "runs/tiny/0/compete/han", 1),
        (
            "prune",
            "prune@0-round1",
            "--seed 0 --round round2 --previous prune/round1",
            "runs/tiny/0/prune/round2",
            3,
        ),
    ],
)
def test_killed_stage_goes_on_to_the_same_bytes(
    finished: Workspace,
    finished_copy: Workspace,
    stage: str,
    target: str,
    flags: str,
    folder: str,
    epochs_before_kill: int,
) -> None:
    shutil.rmtree(finished_copy.path(folder))
    shutil.rmtree(finished_copy.path(".dvc/cache/runs"))
    _kill_when(
        finished_copy,
        [sys.executable, "-m", f"stages.{stage}", *flags.split()],
        lambda: sum(_points(finished_copy, stage).values()) >= epochs_before_kill,
    )
    assert not finished_copy.path(folder).exists()
    before = sum(_points(finished_copy, stage).values())
    assert before >= epochs_before_kill

    result, seen = _watch(finished_copy, stage, "dvc", "repro", "--single-item", "--force", target)

    assert result.code == 0, result.output
    assert result.ran == [target]
    # A run from scratch would have replaced the first point by one that holds a single epoch.
    held = seen[: len(seen) - seen[::-1].index(max(seen))]
    assert min(held) >= before
    assert finished_copy.contents(folder) == finished.contents(folder)
    assert finished_copy.contents(folder, suffixes=(".safetensors",))
    assert list(finished_copy.path(".resume").glob(f"{stage}-*")) == []
    assert list(finished_copy.path(".resume/partial").glob(f"{stage}-*")) == []


def test_resumed_epochs_are_those_of_the_point(finished_copy: Workspace) -> None:
    """The point is really read: a mark put into its history comes out in the stage's table."""
    folder = finished_copy.path("runs/tiny/0/train")
    shutil.rmtree(folder)
    command = [sys.executable, "-m", "stages.train", "--seed", "0"]
    _kill_when(finished_copy, command, lambda: sum(_points(finished_copy, "train").values()) >= 2)
    (file,) = _points(finished_copy, "train")
    point = ResumePoint(file.with_suffix(""))
    loaded = point.load()
    assert loaded is not None
    tensors, state = loaded
    assert tensors.keys() == load_file(file).keys()
    state["history"][0]["validation_n_correct"] = 123456
    point.save(tensors, state)
    finished_copy.must(*command)
    rows = (folder / "history.csv").read_text().splitlines()
    assert len(rows) == 5
    assert "123456" in rows[1].split(",")
