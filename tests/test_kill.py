"""Killed in the middle, training goes on from where it was, and ends with the undisturbed run's bytes."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import KILL_AT, AnotherRun, Workspace, jobs_run

pytestmark = [pytest.mark.dvc, pytest.mark.processes]

_TIMEOUT = 120

# The epochs of an undisturbed run: of one fit; of three candidates with two each and of the best one in full; of two
# rounds with two samples of two each.
N_EPOCHS = {"train": 4, "grow": 8, "prune": 8}


@pytest.mark.parametrize("stage", KILL_AT)
def test_killed_training_goes_on_to_the_same_bytes(
    finished: Workspace, another_run: AnotherRun, stage: str
) -> None:
    lost, n_epochs = KILL_AT[stage], N_EPOCHS[stage]
    first, n_outputs, n_points, second = another_run.ended[stage]
    assert first == [-signal.SIGKILL, lost - 1]
    assert n_outputs == 0
    assert n_points >= 1
    # Every epoch that was kept is trained once, and the lost one again.
    assert second == [0, n_epochs - (lost - 1)]
    made = another_run.workspace
    assert made.contents(f"runs/tiny/{stage}") == finished.contents(f"runs/tiny/{stage}")
    assert made.contents(f"runs/tiny/{stage}", suffixes=(".safetensors",))


def test_killed_stages_run_no_finished_job_again_and_leave_nothing(another_run: AnotherRun) -> None:
    log = [line for line in another_run.workspace.log() if line["stage"] in KILL_AT]
    assert jobs_run(log) == ["train 0", "grow 0", "prune 0 pushed round1", "prune 0 pushed round2"]
    starts = [line["labels"].get("round") for line in log if line["event"] == "start"]
    assert starts.count("round1") == 1, "it had ended when the second round was killed"
    assert starts.count("round2") == 2
    assert [*another_run.workspace.path(".jobs/work").iterdir()] == []


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
    with workspace.start(sys.executable, "-m", "pipeline.jobs.repro", "grow", session=True) as process:
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
    """DVC, stages and jobs, at two random moments; by `make repro`, which mends what DVC leaves of its own files."""
    copy = workspace.copy(tmp_path / "copy")
    draw = random.Random(5)
    # Of prepare, train and grow each a start, an end and the stage.
    for n_lines in sorted(draw.sample(range(8), 2)):
        _repro_until(copy, n_lines, draw.uniform(0, 2))
    copy.must(sys.executable, "-m", "pipeline.jobs.repro", "grow")
    folders = [f"runs/tiny/{stage}" for stage in ("prepare", "train", "grow")]
    assert copy.contents(*folders) == finished.contents(*folders)
    # The images are read again where a run was killed before they were in place: no key would tell of others.
    log = [line for line in copy.log() if line["stage"] != "prepare"]
    assert sorted(jobs_run(log)) == ["grow 0", "train 0"]
    ended: set[str] = set()
    for line in log:
        if line["event"] in ("start", "end", "failed"):
            assert line["event"] != "failed"
            assert line["key"] not in ended, "a finished job has run again"
            ended |= {line["key"]} if line["event"] == "end" else set()
    assert [*copy.path(".jobs/work").iterdir()] == []
