"""A job in the process that it was sent to: what that checks first, the GPU it takes, and how it ends."""

import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_params import params_of
from toy_project import ROOM, Toy, inside

from pipeline import imports
from pipeline.jobs import worker
from pipeline.jobs.executors import Inline, count_jobs
from pipeline.jobs.job import Job
from pipeline.jobs.run import JobKeys, call_of, surroundings
from pipeline.jobs.store import Store
from pipeline.jobs.worker import GPU_VARIABLE, Call, run_job

PARAMS = params_of(("report.headline", ["fgsm"]))


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    with inside(Toy(tmp_path / "toy")) as toy:
        yield toy


@pytest.fixture
def call(toy: Toy) -> Call:
    around, _ = surroundings(Store(), PARAMS.numerics, PARAMS.runtime)
    settings = {"seed": 0, "name": "base", "numerics": PARAMS.numerics, "noise": None}
    job = Job({"seed": 0, "name": "base"}, settings, {"data": Path("data.txt")})
    return call_of(job, JobKeys("stages.toy"), {}, around)


def test_it_ends_with_its_line_and_is_published(call: Call) -> None:
    ended = run_job(call)
    assert (ended.line, ended.failed, ended.ran) == ("value 8942", False, True)
    assert 0 < ended.seconds < 10
    assert Store().find(call.key) is not None


def test_a_traceback_is_one_write(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where Python does not buffer, lines of other jobs would come between its own."""
    writes: list[str] = []
    monkeypatch.setattr(sys.stderr, "write", writes.append)

    def work(_call: Call, _folder: Path) -> str:
        raise ZeroDivisionError("a defect")

    assert run_job(call, work).failed
    (written,) = writes
    assert written.startswith("Traceback (most recent call last):\n")
    assert written.endswith("ZeroDivisionError: a defect\n")


def test_it_does_nothing_where_another_process_has_finished_it(toy: Toy, call: Call) -> None:
    first = run_job(call)
    again = run_job(call)
    assert (again.line, again.failed, again.ran) == (first.line, False, False)
    assert toy.names("start") == ["0-base"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.EROFS, "Read-only file system", "a/file"),
            "a/file: cannot be read or written (Read-only",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "a/file"),
            "a/file: expected more room on the disk, got ",
        ),
        (MemoryError(), "out of memory: expected room for one job of this stage"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
            "out of memory (8 ",
        ),
    ],
    ids=repr,
)
def test_a_disk_or_a_memory_that_is_full_ends_it_with_a_line_and_no_traceback(
    error: Exception, line: str, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(_call: Call, _folder: Path) -> str:
        raise error

    ended = run_job(call, work)
    assert ended.failed
    assert ended.line.startswith(line)
    assert "\n" not in ended.line
    assert capsys.readouterr().err == ""
    assert not run_job(call).failed  # and it runs again


def test_code_that_is_newer_than_the_key_is_not_even_started(toy: Toy, call: Call) -> None:
    toy.path("stages/room.py").write_text(ROOM.replace("+ seed", "- seed"))
    ended = run_job(call)
    assert (ended.line, ended.failed) == ("its code changed while it ran; run it again", True)
    assert not toy.path("acts/epochs.log").exists()


def test_a_process_that_has_other_code_in_memory_refuses(toy: Toy, call: Call) -> None:
    run_job(call)
    toy.path("stages/room.py").write_text(ROOM.replace("+ seed", "- seed"))
    newer = replace(call, key="newer", code=JobKeys("stages.toy").code)
    ended = run_job(newer)
    assert ended.failed
    assert ended.line == "its process has another stages/room.py in memory; start the Dask workers again"
    toy.path("stages/room.py").write_text(f"# a remark\n{ROOM}")
    assert not run_job(replace(call, key="remark")).failed


def test_a_worker_with_other_libraries_or_devices_refuses(call: Call) -> None:
    other = dict(call.context) | {"device": ["H100"]}
    elsewhere = replace(call.around, elsewhere=True)
    ended = run_job(replace(call, context=other, around=elsewhere))
    assert ended.failed
    assert ended.line.startswith("expected a worker with {")
    assert "'device': ['H100']" in ended.line.split("(got")[0]
    assert "'device': ['cpu']" in ended.line.split("(got")[1]
    assert not run_job(replace(call, around=elsewhere)).failed


def test_a_machine_without_the_projects_folder_refuses(toy: Toy, call: Call) -> None:
    gone = replace(call.around, root=toy.path("gone"))
    ended = run_job(replace(call, around=gone))
    assert ended.failed
    assert ended.line == f"{toy.path('gone')}: expected the project's folder on the machine of every worker"


def test_a_full_disk_is_a_failed_job_and_no_lost_process(
    call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Store, "publish", full)
    ended = run_job(call)
    assert ended.failed
    assert ended.line.startswith(f"{Path.cwd()}: expected more room on the disk, got ")
    assert capsys.readouterr().err == ""


def test_what_it_says_of_its_progress_is_the_stores_status(
    toy: Toy, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_STATUS_SECONDS", 0.0)
    script = toy.path("stages/toy.py")
    script.write_text(
        script.read_text().replace(
            "        _obey(job, epoch)\n", "        if epoch == 2:\n            raise InputError('stop')\n"
        )
    )
    assert Store().status(call.key) == ""
    assert run_job(replace(call, code=JobKeys("stages.toy").code)).line == "stop"
    assert Store().status(call.key) == "epoch 3 of 4"


def test_progress_is_written_down_seldom(tmp_path: Path) -> None:
    write = worker._status_writer(tmp_path / "status")
    write("epoch 1")
    write("epoch 2")
    assert (tmp_path / "status").read_text() == "epoch 1"


def test_threads_are_set_before_libraries_read_them(call: Call) -> None:
    run_job(replace(call, around=replace(call.around, threads=3)))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    assert {os.environ[name] for name in names} == {"3"}
    assert os.environ["GPP_JOBS"] == str(call.around.store)


def test_jobs_share_gpus_out_among_them(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two GPUs for two jobs each: each is taken once before any is taken twice; a fifth job waits."""
    monkeypatch.setattr(worker, "gettempdir", lambda: str(tmp_path))
    four = replace(call, around=replace(call.around, gpus=2, jobs_per_gpu=2))
    held, taken = [], []
    for _ in range(4):
        place = worker._own_gpu(four)
        place.__enter__()
        held.append(place)
        taken.append(os.environ[GPU_VARIABLE])
    assert taken == ["0", "1", "0", "1"]

    def free_one(_seconds: float) -> None:
        os.environ[GPU_VARIABLE] = "?"
        held.pop(1).__exit__(None, None, None)

    monkeypatch.setattr(worker.time, "sleep", free_one)
    with worker._own_gpu(four):
        assert os.environ[GPU_VARIABLE] == "1"
    assert len(held) == 3
    assert GPU_VARIABLE not in os.environ
    for place in held:
        os.environ[GPU_VARIABLE] = "?"
        place.__exit__(None, None, None)


def test_no_gpu_is_taken_where_there_is_none_or_no_torch(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "devices", lambda _: ("H100", "H100"))
    for gpus, settings, taken in (
        (0, call.settings, None),
        (None, {"seed": 0}, None),
        (None, call.settings, "0"),  # another machine counts its own
    ):
        with worker._own_gpu(replace(call, settings=settings, around=replace(call.around, gpus=gpus))):
            assert os.environ.get(GPU_VARIABLE) == taken


@pytest.mark.parametrize(
    ("jobs", "threads", "gpus", "expected"),
    [(3, 1, 0, 3), (3, 1, 2, 3), ("auto", 1, 0, 8), ("auto", 3, 0, 2), ("auto", 16, 0, 1), ("auto", 1, 2, 2)],
)
def test_number_of_jobs_at_a_time(
    monkeypatch: pytest.MonkeyPatch, jobs: int | str, threads: int, gpus: int, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    runtime = params_of(("runtime.jobs", jobs)).runtime
    assert count_jobs(runtime, threads=threads, gpus=gpus) == expected


def test_inline_calls_end_as_futures_and_interrupts_pass_through() -> None:
    inline = Inline()
    assert inline.submit(lambda text: text.upper(), "a").result() == "A"
    assert isinstance(inline.submit(lambda: 1 / 0).exception(), ZeroDivisionError)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inline.submit(interrupted)


def test_functions_that_the_params_name_may_be_called_in_every_process(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "_trusted", {"their_package:make"})
    around, _ = surroundings(Store(), PARAMS.numerics, PARAMS.runtime)
    monkeypatch.setattr(imports, "_trusted", set())
    worker._settle(around)
    assert imports.trusted() == ("their_package:make",)
