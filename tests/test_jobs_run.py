"""The runner, as a user starts a stage: what runs, in which order, what is kept, and what is said."""

import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from toy_project import GAUSSIAN, POISSON, ROOM, Toy, said_by, until

from pipeline.jobs.contents import SUMS

pytestmark = pytest.mark.processes
BOTH = {"gaussian": GAUSSIAN, "poisson": POISSON}
ALL = ["0-base", "0-gaussian", "1-base", "1-gaussian"]


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    toy = Toy(tmp_path / "toy")
    yield toy
    toy.end()


def _again_after(toy: Toy, *changes: tuple[str, object]) -> list[str]:
    """The jobs that a change makes run."""
    before = len(toy.log("start"))
    toy.change(*changes)
    assert toy.here() == 0
    assert toy.names("start")[before:] == toy.names("end")[before:]
    return toy.names("start")[before:]


def test_processes_and_order_change_no_byte(toy: Toy, tmp_path: Path) -> None:
    toy.change(("noise", BOTH), ("seeds", [0, 1, 2]))
    assert toy.must().last.startswith("toy: 9 jobs finished, 9 of them ran (")
    expected = toy.outputs()
    assert len(expected) == 1 + 2 * 9
    two = Toy(tmp_path / "two", toy.params)
    two.change(("runtime.jobs", 2))
    two.must()
    assert two.outputs() == expected
    assert sorted(two.names("end")) == sorted(toy.names("end"))
    assert len({line["process"] for line in two.log("start")}) == 2

    jobs = [name.split("-") for name in toy.names("end")]
    random.Random(0).shuffle(jobs)
    shuffled = Toy(tmp_path / "shuffled", toy.params)
    for seed, name in jobs:
        assert shuffled.here("--only", f"seed={seed}", "--only", f"name={name}") == 0
    assert shuffled.here() == 0
    assert shuffled.outputs() == expected
    assert shuffled.names("end") != toy.names("end")


def test_a_second_run_runs_nothing_and_imports_no_torch(toy: Toy) -> None:
    toy.must()
    before = toy.outputs()
    toy.path("stages/toy.py").write_text(
        toy.path("stages/toy.py")
        .read_text()
        .replace("run_stage(", "import sys\n    sys.modules['torch'] = None\n    run_stage(")
    )
    toy.must()  # the edit is code
    shutil.rmtree(toy.path("runs"))
    said = toy.must()
    assert said.lines == [said.last]
    assert said.last.startswith("toy: 4 jobs finished, 0 of them ran (")
    assert toy.outputs() == before


def test_a_change_runs_what_reads_it(toy: Toy) -> None:
    assert _again_after(toy) == ALL
    assert _again_after(toy, ("noise", BOTH)) == ["0-poisson", "1-poisson"]
    assert _again_after(toy, ("noise", BOTH | {"gaussian": GAUSSIAN | {"std": 6.0}})) == [
        "0-gaussian",
        "1-gaussian",
    ]
    assert _again_after(toy, ("seeds", [0, 1, 2])) == ["2-base", "2-gaussian", "2-poisson"]
    assert _again_after(toy, ("seeds", [2, 0]), ("noise", {"poisson": POISSON})) == []
    assert sorted(path.name for path in toy.path("runs/tiny/toy").iterdir()) == ["0", "2", SUMS, "table.csv"]
    assert _again_after(toy, ("runtime.jobs", 2), ("runtime.workers", 3), ("runtime.store_gib", 1.0)) == []
    assert _again_after(toy, ("report.dpi", 61), ("runtime.jobs", 1)) == []
    toy.path("data.txt").write_text("other data")
    assert _again_after(toy) == ["2-base", "2-poisson", "0-base", "0-poisson"]


def test_a_job_starts_as_soon_as_what_it_needs_is_done(toy: Toy) -> None:
    """Not in waves: 1-gaussian does not wait for 0-base."""
    toy.change(("runtime.jobs", 2))
    toy.act("0-base", "wait 2")
    process = toy.start()
    toy.await_act("0-base")
    until(lambda: "1-gaussian" in toy.names("end"))
    assert "0-base" not in toy.names("end")
    toy.release("0-base")
    assert said_by(process).code == 0
    assert toy.names("end") == ["1-base", "1-gaussian", "0-base", "0-gaussian"]


def test_a_failing_job_is_a_line_and_the_others_are_kept(toy: Toy) -> None:
    toy.change(("runtime.jobs", 2), ("seeds", [0, 1, 2]))
    toy.act("0-base", "fail data.txt: expected a number\ndata.txt: expected text")
    toy.act("1-base", "wait 1")
    process = toy.start()
    toy.await_act("1-base")
    until(lambda: bool(toy.log("failed")))
    toy.release("1-base")
    said = said_by(process)
    assert said.code == 1
    *failed, kept = said.lines
    assert failed == [
        "toy, seed 0, name base: data.txt: expected a number",
        "toy, seed 0, name base: data.txt: expected text",
    ]
    assert re.match(r"\[1/6\] toy, seed 1, name base: value \d+ \(", kept)
    assert toy.names("end") == ["1-base"]
    assert sorted(toy.names("start")) == ["0-base", "1-base"]  # nothing new after the failure
    assert not toy.path("runs").exists()

    toy.release("0-base")
    toy.change(("runtime.jobs", 1))
    assert toy.here() == 0
    assert toy.names("end").count("1-base") == 1
    assert toy.names("end").count("0-base") == 1


def test_a_failing_stage_leaves_its_old_output(toy: Toy) -> None:
    assert toy.here() == 0
    before = toy.outputs()
    toy.change(("noise", BOTH))
    toy.act("1-poisson", "fail no")
    assert toy.here() == 1
    assert toy.outputs() == before


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_defect_has_one_traceback_and_one_line(toy: Toy, jobs: int) -> None:
    toy.change(("runtime.jobs", jobs), ("seeds", [0, 1]), ("noise", {}))
    toy.act("1-base", "defect")
    said = toy.run()
    assert said.code == 1
    assert said.lines.count("Traceback (most recent call last):") == 1
    assert said.lines.count("ZeroDivisionError: a defect of the program") == 1
    line = "toy, seed 1, name base: ZeroDivisionError: a defect of the program"
    assert [each for each in said.lines if "seed 1" in each] == [line]
    assert toy.names("end") == ["0-base"]
    assert toy.names("failed") == ["1-base"]


def test_chosen_jobs_and_what_they_need_go_into_the_store_alone(toy: Toy) -> None:
    toy.change(("noise", BOTH))
    said = toy.must("--only", "seed=1", "--only", "name=gaussian")
    assert toy.names("end") == ["1-base", "1-gaussian"]
    assert said.last.startswith("toy: 2 jobs in the store, 2 of them ran (")
    assert not toy.path("runs").exists()
    assert toy.here("--only", "name=poisson", "--only", "name=gaussian", "--only", "seed=0") == 0
    assert toy.names("end")[2:] == ["0-base", "0-gaussian", "0-poisson"]
    assert _again_after(toy) == ["1-poisson"]
    assert _again_after(toy) == []


def test_two_runs_at_once_run_each_job_once(toy: Toy) -> None:
    toy.act("0-base", "wait 2")
    first = toy.start()
    toy.await_act("0-base")
    second = toy.start("--only", "seed=0")
    opened = psutil.Process(second.pid).open_files
    until(lambda: any("/locks/" in file.path for file in opened()))  # it waits for the job
    toy.release("0-base")
    said = [said_by(process) for process in (first, second)]
    assert [each.code for each in said] == [0, 0], said
    assert sorted(toy.names("start")) == sorted(toy.names("end")) == ALL
    assert sum(int(re.findall(r"(\d+) of them ran", each.last)[0]) for each in said) == 4


def test_a_store_can_be_shared_between_copies(toy: Toy, tmp_path: Path) -> None:
    shared = {"GPP_JOBS": str(tmp_path / "shared")}
    assert toy.run(env=shared).code == 0
    assert not toy.path(".jobs/done").exists()
    copy = Toy(tmp_path / "copy")
    said = copy.run(env=shared)
    assert "4 jobs finished, 0 of them ran" in said.last
    assert copy.outputs() == toy.outputs()
    assert copy.here() == 0
    assert copy.names("end") == ALL


def test_damaged_jobs_run_again(toy: Toy) -> None:
    assert toy.here() == 0
    before = toy.outputs()
    tables = [path for path in toy.path(".jobs/done").rglob("table.csv") if "gaussian" in path.read_text()]
    tables[0].unlink()
    tables[0].write_text("")  # another file: runs/ keeps its own link
    assert len(_again_after(toy)) == 1
    assert toy.outputs() == before


def test_code_that_changes_while_a_job_runs_is_not_published(toy: Toy) -> None:
    toy.act("0-base", "wait 2")
    process = toy.start()
    toy.await_act("0-base")
    toy.path("stages/room.py").write_text(ROOM.replace("+ seed", "+ 2 * seed"))
    toy.release("0-base")
    said = said_by(process)
    assert said.code == 1
    assert said.lines == ["toy, seed 0, name base: its code changed while it ran; run it again"]
    assert toy.names("end") == []
    assert list(toy.path(".jobs").glob("done/*")) == []
    assert toy.here() == 0
    assert toy.names("end") == ALL


def test_params_that_change_while_it_runs_are_an_error_and_the_jobs_are_kept(toy: Toy) -> None:
    toy.act("0-base", "wait 2")
    process = toy.start()
    toy.await_act("0-base")
    toy.change(("noise", BOTH))
    toy.release("0-base")
    said = said_by(process)
    assert said.code == 1
    assert said.last == "toy: its code or params.yaml changed while it ran; run `dvc repro` again"
    assert toy.names("end") == ALL
    assert not toy.path("runs").exists()
    assert _again_after(toy) == ["0-poisson", "1-poisson"]


def test_params_that_the_stage_does_not_read_may_change_meanwhile(toy: Toy) -> None:
    toy.act("0-base", "wait 2")
    process = toy.start()
    toy.await_act("0-base")
    toy.change(("report.dpi", 99), ("runtime.jobs", 2), ("train.training.epochs", 9))
    toy.release("0-base")
    said = said_by(process)
    assert said.code == 0, said
    assert len(toy.outputs()) == 9
