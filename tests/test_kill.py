"""Killed in the middle, training goes on from where it was, and ends with the undisturbed run's bytes."""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Workspace, jobs_run, set_jobs

# One process for all that share what was killed.
pytestmark = [pytest.mark.xdist_group("killed"), pytest.mark.dvc, pytest.mark.processes]

_TIMEOUT = 120

# Runs each stage twice in processes of its own, which find torch imported: the first one is killed when it has trained
# an epoch that it has not kept yet. Prints how both ended, and how many epochs each of them kept.
_KILLED_AND_RUN_AGAIN = """
import json, os, signal, sys
from pipeline.jobs.stage import run_stage
from pipeline.training.resume import ResumePoint

save = ResumePoint.save

def run(stage, kill_at):
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        n = 0
        def counted(self, tensors, state):
            nonlocal n
            n += 1
            if n == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            save(self, tensors, state)
            os.write(write, b".")
        ResumePoint.save = counted
        run_stage(f"stages.{stage}", [])
        os._exit(0)
    os.close(write)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with open(read, "rb") as pipe:
        return code, len(pipe.read())

found = {}
for stage, kill_at in json.loads(sys.argv[1]).items():
    killed = run(stage, kill_at)
    there = os.path.exists(f"runs/tiny/{stage}")
    points = [file for _, _, files in os.walk(".jobs/work") for file in files if file.endswith(".safetensors")]
    found[stage] = [killed, there, len(points), run(stage, None)]
print(json.dumps(found))
"""

# The epoch that is lost, and the epochs of an undisturbed run: of one fit; of three candidates with two each and of the
# best one in full; of two rounds with two samples of two each.
KILLS = {"train": (3, 4), "grow": (4, 8), "prune": (7, 8)}


@pytest.fixture(scope="module")
def killed(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[str, Any]]:
    """A workspace where stages were killed and run again, on the full run's inputs; and what became of them."""
    copy = finished.copy(tmp_path_factory.mktemp("killed") / "copy", without=[".jobs", ".dvc", ".git"])
    set_jobs(copy, "1")
    for stage in KILLS:
        shutil.rmtree(copy.path("runs/tiny", stage))
    kill_at = json.dumps({stage: epoch for stage, (epoch, _) in KILLS.items()})
    result = copy.must(sys.executable, "-c", _KILLED_AND_RUN_AGAIN, kill_at)
    return copy, json.loads(result.output.splitlines()[-1])


@pytest.mark.parametrize("stage", KILLS)
def test_killed_training_goes_on_to_the_same_bytes(
    finished: Workspace, killed: tuple[Workspace, dict[str, Any]], stage: str
) -> None:
    workspace, found = killed
    lost, n_epochs = KILLS[stage]
    first, there, n_points, second = found[stage]
    assert first == [-signal.SIGKILL, lost - 1]
    assert not there
    assert n_points >= 1
    # Every epoch that was kept is trained once, and the lost one again.
    assert second == [0, n_epochs - (lost - 1)]
    assert workspace.contents(f"runs/tiny/{stage}") == finished.contents(f"runs/tiny/{stage}")
    assert workspace.contents(f"runs/tiny/{stage}", suffixes=(".safetensors",))


def test_killed_stages_run_no_finished_job_again_and_leave_nothing(
    killed: tuple[Workspace, dict[str, Any]],
) -> None:
    workspace, _ = killed
    assert jobs_run(workspace.log()) == [
        "train 0",
        "grow 0",
        "prune 0 pushed round1",
        "prune 0 pushed round2",
    ]
    starts = [line["labels"].get("round") for line in workspace.log() if line["event"] == "start"]
    assert starts.count("round1") == 1, "it had ended when the second round was killed"
    assert starts.count("round2") == 2
    assert [*workspace.path(".jobs/work").iterdir()] == []


def _kill_tree(root: psutil.Process) -> None:
    """All at once, as far as that goes: whoever starts processes goes first."""
    for process in [root, *root.children(recursive=True)]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _of_session(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def _repro_until(workspace: Workspace, n_lines: int, then_seconds: float) -> None:
    """Start a run, and kill it with everything that it has started, so long after the log has got so many lines."""
    with workspace.start(sys.executable, "-m", "pipeline.jobs.repro", "push", session=True) as process:
        deadline = time.monotonic() + _TIMEOUT
        while len(workspace.log()) < n_lines:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(then_seconds)
        _kill_tree(psutil.Process(process.pid))
        output, _ = process.communicate(timeout=_TIMEOUT)
        assert process.returncode == -signal.SIGKILL, output
    while left := _of_session(process.pid):  # processes of jobs look after their parent five times a second
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_had_been(
    workspace: Workspace, finished: Workspace, tmp_path: Path
) -> None:
    """DVC, stages and jobs, at three random moments; by `make repro`, which mends what DVC leaves of its own files."""
    copy = workspace.copy(tmp_path / "copy")
    draw = random.Random(5)
    # Of prepare, train and grow each a start, an end and the stage; three starts and two ends in push, or more.
    for n_lines in sorted(draw.sample(range(15), 3)):
        _repro_until(copy, n_lines, draw.uniform(0, 2))
    copy.must(sys.executable, "-m", "pipeline.jobs.repro", "push")
    folders = [f"runs/tiny/{stage}" for stage in ("prepare", "train", "grow", "push")]
    assert copy.contents(*folders) == finished.contents(*folders)
    # The images are read again where a run was killed before they were in place: no key would tell of others.
    log = [line for line in copy.log() if line["stage"] != "prepare"]
    assert sorted(jobs_run(log)) == ["grow 0", "push 0 control", "push 0 main", "push 0 ours", "train 0"]
    ended: set[str] = set()
    for line in log:
        if line["event"] in ("start", "end", "failed"):
            assert line["event"] != "failed"
            assert line["key"] not in ended, "a finished job has run again"
            ended |= {line["key"]} if line["event"] == "end" else set()
    assert [*copy.path(".jobs/work").iterdir()] == []
