"""Killed or interrupted at any time, a stage says one line, leaves no process, and goes on where it was."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from toy_project import Toy, family, left_after, said_by, until

pytestmark = pytest.mark.processes
INTERRUPTED = "toy: interrupted; finished jobs are kept, others go on from their last epoch: run it again"


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    """Two processes; 1-base is done, 0-base is in its third epoch, as soon as a test has waited for that."""
    toy = Toy(tmp_path / "toy", {"runtime.jobs": 2, "noise": {}, "seeds": [0, 1]})
    toy.act("0-base", "wait 2")
    yield toy
    toy.end()


def _epochs(toy: Toy, job: str) -> list[int]:
    """Every epoch of a job that was computed, in order."""
    lines = [line.split() for line in toy.path("acts/epochs.log").read_text().splitlines()]
    return [int(epoch) for name, epoch in lines if name == job]


def _goes_on(toy: Toy) -> None:
    """The next run computes nothing again."""
    toy.release("0-base")
    toy.change(("runtime.jobs", 1))
    assert toy.here() == 0
    assert toy.names("end") == ["1-base", "0-base"]
    assert _epochs(toy, "0-base") == _epochs(toy, "1-base") == [0, 1, 2, 3]
    assert len(toy.outputs()) == 5


def _started(toy: Toy) -> tuple[subprocess.Popen[str], int]:
    process = toy.start()
    worker = toy.await_act("0-base")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("[1/2] toy, seed 1, name base: ")
    return process, worker


@pytest.mark.parametrize(
    ("number", "whom"),
    [("SIGINT", "group"), ("SIGTERM", "group"), ("SIGTERM", "parent")],
)
def test_interrupted_it_says_one_line_and_leaves_no_process(toy: Toy, number: str, whom: str) -> None:
    process, _ = _started(toy)
    everyone = family(process)
    assert len(everyone) >= 3
    (os.killpg if whom == "group" else os.kill)(process.pid, getattr(signal, number))
    said = said_by(process)
    assert said.code == 130
    assert said.lines == [INTERRUPTED]
    assert left_after(2, everyone) == []
    if (number, whom) == ("SIGINT", "group"):
        _goes_on(toy)


def test_interrupted_in_one_process_it_says_one_line(toy: Toy) -> None:
    toy.change(("runtime.jobs", 1), ("seeds", [1, 0]))
    process, _ = _started(toy)
    process.send_signal(signal.SIGINT)
    said = said_by(process)
    assert (said.code, said.lines) == (130, [INTERRUPTED])
    toy.change(("seeds", [0, 1]))
    _goes_on(toy)


@pytest.mark.parametrize("at", ["params", "processes", "job"])
def test_interrupted_while_it_starts_it_says_one_line(toy: Toy, at: str) -> None:
    if at == "params":
        toy.path("params.yaml").unlink()
        os.mkfifo(toy.path("params.yaml"))  # to read it takes for ever
    process = toy.start()
    writers: list[int] = []
    if at == "params":

        def is_read() -> bool:
            with suppress(OSError):  # nobody has opened it
                writers.append(os.open(toy.path("params.yaml"), os.O_WRONLY | os.O_NONBLOCK))
            return bool(writers)

        until(is_read)
    elif at == "processes":
        until(
            lambda: any(_imports_numpy(each) for each in family(process)[3:])
        )  # after itself and two trackers
    else:
        until(lambda: bool(toy.log("start")))
    everyone = family(process)
    os.killpg(process.pid, signal.SIGINT)
    said = said_by(process)
    assert (said.code, said.last) == (130, INTERRUPTED)
    assert all(line.startswith("[1/2] toy, ") for line in said.lines[:-1]), said
    for writer in writers:
        os.close(writer)
    assert left_after(2, everyone) == []


def _imports_numpy(process: psutil.Process) -> bool:
    """Whether it is in the middle of its imports, or further."""
    return any("_multiarray_umath" in mapped.path for mapped in process.memory_maps())


def test_impatience_adds_no_traceback(toy: Toy) -> None:
    process, _ = _started(toy)
    for _ in range(5):
        os.killpg(process.pid, signal.SIGINT)
    said = said_by(process)
    assert (said.code, said.lines) == (130, [INTERRUPTED])


def test_killed_it_leaves_no_process_and_goes_on(toy: Toy) -> None:
    process, _ = _started(toy)
    everyone = family(process)
    process.kill()
    assert left_after(2, everyone) == []
    process.communicate()
    _goes_on(toy)


def test_a_process_without_a_job_ends_with_the_parent_too(toy: Toy) -> None:
    """One of two processes waits for a job that has to wait for the other's."""
    toy.change(("noise", {"gaussian": {"kind": "gaussian", "std": 5.0}}), ("seeds", [0]))
    process = toy.start()
    toy.await_act("0-base")
    until(lambda: len(family(process)) >= 5)  # itself, two trackers, two that run jobs
    everyone = family(process)
    process.kill()
    assert left_after(2, everyone) == []
    process.communicate()


def test_a_killed_process_of_a_job_is_one_line_and_the_next_run_goes_on(toy: Toy) -> None:
    process, worker = _started(toy)
    assert worker != process.pid
    everyone = family(process)
    os.kill(worker, signal.SIGKILL)
    said = said_by(process)
    assert said.code == 1
    assert said.lines == [
        "toy: a process was lost (TerminatedWorkerError: killed, or out of memory) while these ran: "
        "seed 0, name base. Finished jobs are kept; run it again, these go on from their last epoch"
    ]
    assert left_after(2, everyone) == []
    _goes_on(toy)


def test_a_killed_process_takes_no_others_finished_job_with_it(toy: Toy) -> None:
    """Both run when one is lost: both are named, and both go on."""
    toy.act("1-base", "wait 3")
    process = toy.start()
    worker = toy.await_act("0-base")
    toy.await_act("1-base")
    os.kill(worker, signal.SIGKILL)
    said = said_by(process)
    assert said.code == 1
    (line,) = said.lines
    assert "while these ran: seed 0, name base; seed 1, name base." in line
    toy.release("1-base")
    toy.release("0-base")
    toy.change(("runtime.jobs", 1))
    assert toy.here() == 0
    assert _epochs(toy, "0-base") == _epochs(toy, "1-base") == [0, 1, 2, 3]


_DIES = """
import os, pipeline.jobs.output as output
def die(path, **_):
    for file in [file for file in path.rglob("*") if file.is_file() and "toy" in path.name][:1]:
        file.unlink()
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(
    ("at", "n_files"), [("output._replace = lambda out, new: die(new)", 5), ("output.shutil.rmtree = die", 7)]
)
def test_killed_while_it_puts_its_output_together_it_leaves_a_whole_one(
    toy: Toy, at: str, n_files: int
) -> None:
    """The new output is made aside and renamed; the old one is removed when the new one is there."""
    toy.release("0-base")
    toy.change(("runtime.jobs", 1))
    assert toy.here() == 0
    assert len(toy.outputs()) == 5
    toy.change(("seeds", [0, 1, 2]))
    script = toy.path("stages/toy.py")
    text = script.read_text()
    script.write_text(text.replace("    run_stage(", f"    exec({_DIES!r})\n    {at}\n    run_stage("))
    assert toy.run().code == -signal.SIGKILL
    assert len(toy.outputs()) == n_files
    script.write_text(text)
    assert toy.here() == 0
    assert len(toy.outputs()) == 7
    assert not list(toy.path(".jobs/new").iterdir())
