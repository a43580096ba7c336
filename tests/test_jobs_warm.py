"""Jobs in processes that the warm one forks: the same results, signals and ends as in processes of the stage itself."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from toy_project import Toy, family, left_after, said_by, until

pytestmark = pytest.mark.processes
ENV = {"GPP_WARM": "1"}
# The stage needs none of the libraries, which take seconds.
SERVE = """
import os, signal
from pipeline.jobs import warm
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
warm._LIBRARIES = ("ast",)
warm.main(os.getppid())
"""
INTERRUPTED = "toy: interrupted; finished jobs are kept, others go on from their last epoch: run it again"
LOST = (
    "toy: a process was lost (EOFError: killed, or out of memory) while these ran: seed 0, name base. "
    "Finished jobs are kept; run it again, these go on from their last epoch"
)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    toy = Toy(tmp_path / "toy", {"runtime.jobs": 2, "noise": {}, "seeds": [0, 1]})
    toy.path(".jobs").mkdir()
    return toy


@pytest.fixture
def warm(toy: Toy) -> Iterator[psutil.Process]:
    """The warm process, as a child of this one."""
    process = subprocess.Popen([sys.executable, "-c", SERVE], cwd=toy.root)
    until(toy.path(".jobs/warm").exists)
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()
    toy.end()


def _waiting(toy: Toy, warm: psutil.Process) -> tuple[subprocess.Popen[str], int, list[psutil.Process]]:
    """A stage whose first job waits in its third epoch while the other is done; the job's process, and all."""
    toy.act("0-base", "wait 2")
    process = toy.start(env=ENV)
    worker = toy.await_act("0-base")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("[1/2] toy, seed 1, name base: ")
    forked = warm.children()
    assert worker in [each.pid for each in forked]
    assert len(forked) == 2
    return process, worker, [*family(process), *forked]


def _goes_on(toy: Toy) -> None:
    toy.release("0-base")
    assert toy.run(env=ENV).code == 0
    assert toy.names("end") == ["1-base", "0-base"]
    epochs = [line.split()[0] for line in toy.path("acts/epochs.log").read_text().splitlines()]
    assert sorted(epochs) == ["0-base"] * 4 + ["1-base"] * 4


@pytest.mark.parametrize("jobs", [1, 2])
def test_outputs_are_those_of_a_stage_by_itself(toy: Toy, warm: psutil.Process, jobs: int) -> None:
    toy.change(("runtime.jobs", jobs), ("noise", {"gaussian": {"kind": "gaussian", "std": 5.0}}))
    assert toy.run(env=ENV).code == 0
    assert warm.children() == []
    processes = {line["process"] for line in toy.log("start")}
    found = toy.outputs()
    alone = Toy(toy.root / "alone", dict(toy.params))
    assert alone.here() == 0
    assert found == alone.outputs()
    assert len(processes) == jobs


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_interrupted_it_says_one_line_and_leaves_the_warm_process_alone(
    toy: Toy, warm: psutil.Process, number: str
) -> None:
    process, _, everyone = _waiting(toy, warm)
    for each in [warm, *everyone] if number == "SIGINT" else everyone[:1]:  # a terminal's Ctrl-C reaches all
        with suppress(psutil.NoSuchProcess):  # one that ended with those before it
            each.send_signal(getattr(signal, number))
    said = said_by(process)
    assert (said.code, said.lines) == (130, [INTERRUPTED])
    assert left_after(2, everyone) == []
    assert warm.status() != psutil.STATUS_ZOMBIE
    _goes_on(toy)


def test_killed_it_leaves_no_process(toy: Toy, warm: psutil.Process) -> None:
    process, _, everyone = _waiting(toy, warm)
    process.kill()
    assert left_after(2, everyone) == []
    assert said_by(process).lines == []
    _goes_on(toy)


def test_a_killed_process_of_a_job_is_one_line(toy: Toy, warm: psutil.Process) -> None:
    process, worker, everyone = _waiting(toy, warm)
    os.kill(worker, signal.SIGKILL)
    said = said_by(process)
    assert (said.code, said.lines) == (1, [LOST])
    assert left_after(2, everyone) == []
    _goes_on(toy)


def test_a_stage_goes_on_without_the_warm_process(toy: Toy, warm: psutil.Process) -> None:
    """Killed while a job runs, and gone before the next stage."""
    process, _, _ = _waiting(toy, warm)
    warm.kill()
    warm.wait()
    toy.release("0-base")
    assert said_by(process).code == 0
    toy.change(("seeds", [0, 1, 2]))
    assert toy.run(env=ENV).code == 0
    assert toy.names("end") == ["1-base", "0-base", "2-base"]


def test_other_threads_are_not_the_warm_processs(toy: Toy, warm: psutil.Process) -> None:
    toy.change(("runtime.jobs", 1), ("numerics.threads", 2))
    process = toy.start(env=ENV)
    assert said_by(process).code == 0
    assert {line["process"] for line in toy.log("start")} == {process.pid}


def test_the_warm_process_ends_with_its_parent(toy: Toy) -> None:
    started = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SERVE!r}])"
    parent = subprocess.Popen([sys.executable, "-c", started], cwd=toy.root)
    until(toy.path(".jobs/warm").exists)
    everyone = [psutil.Process(parent.pid), *psutil.Process(parent.pid).children()]
    assert len(everyone) == 2
    parent.kill()
    parent.wait()
    assert left_after(2, everyone) == []


def test_nobody_else_may_connect(toy: Toy, warm: psutil.Process) -> None:
    assert toy.path(".jobs/warm").stat().st_mode & 0o077 == 0


def test_it_loads_libraries_alone_and_starts_no_thread() -> None:
    """What forks has to be a single thread without a GPU in use, and without code that may be edited."""
    code = """
import sys, threading, os
from pipeline.jobs import warm
for name in warm._LIBRARIES:
    __import__(name)
import torch
assert len(os.listdir("/proc/self/task")) == 1
assert not torch.cuda.is_initialized()
ours = sorted(name for name in sys.modules if name.split(".")[0] in ("pipeline", "stages"))
assert ours == ["pipeline", "pipeline.jobs", "pipeline.jobs.warm"], ours
"""
    variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | dict.fromkeys(variables, "1"))
