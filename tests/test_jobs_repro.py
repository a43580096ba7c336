"""`make repro` before DVC starts: params are checked, another run is waited for, cut-off files are mended."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_project import Toy, said_by, until

from pipeline import net_check
from pipeline.files import write_json
from pipeline.jobs import repro
from pipeline.params.file import read_params

pytestmark = pytest.mark.processes

# In DVC's place: it notes its arguments, and works until a file is gone.
_DVC = """
import os, sys, time
from pathlib import Path
def note(what):
    with open("called.txt", "a") as file:
        file.write(" ".join([what, *sys.argv[1:]]) + "; ")
try:
    note("start")
    Path("path.txt").write_text(os.environ["PATH"])
    while Path("acts/dvc").exists():
        time.sleep(0.01)
    note("end")
except KeyboardInterrupt:
    sys.stderr.write("the stage says what is kept\\n")
    sys.exit(130)
sys.exit(int(Path("acts/code").read_text()) if Path("acts/code").exists() else 0)
"""
WHOLE = """schema: '2.0'
stages:
  prepare:
    cmd: python -m stages.prepare
    deps:
    - path: pipeline/images
      hash: md5
      md5: 0123456789abcdef0123456789abcdef.dir
      size: 1000
      nfiles: 3
    outs:
    - path: runs/tiny/prepare
      hash: md5
      md5: fedcba9876543210fedcba9876543210.dir
      size: 2000
      nfiles: 2
  train:
    cmd: python -m stages.train
    params:
      params.yaml:
        seeds:
        - 0
"""


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    toy = Toy(tmp_path / "toy")
    toy.path("dvc").mkdir()
    toy.path(".git").mkdir()
    toy.path("dvc/__init__.py").write_text("")
    toy.path("dvc/__main__.py").write_text(_DVC)
    # The warm process, which has tests of its own, gets no further than its first library: they take seconds to load.
    toy.path("torch.py").write_text("import time\ntime.sleep(600)\n")
    # Its net has been checked: that takes seconds, and has tests of its own.
    known = net_check._key(read_params(toy.path("params.yaml")))
    write_json(toy.path(".jobs/net_check.json"), {known: ""})
    yield toy
    toy.end()


@pytest.fixture
def project(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    monkeypatch.chdir(toy.root)
    return toy


def _repro(toy: Toy, *flags: str) -> subprocess.Popen[str]:
    return toy.start(*flags, module="pipeline.jobs.repro")


def test_it_runs_dvc_repro_with_its_arguments_and_exit_code(toy: Toy) -> None:
    toy.act("code", "7")
    said = said_by(_repro(toy, "--force", "train"))
    assert (said.code, said.lines) == (7, [])
    assert toy.path("called.txt").read_text() == "start repro --force train; end repro --force train; "
    first, *_ = toy.path("path.txt").read_text().split(os.pathsep)
    assert first == str(Path(sys.executable).parent)  # stages are called as `python`


def test_it_ends_with_what_the_report_recommends_and_where_the_page_is(toy: Toy) -> None:
    name = read_params(toy.path("params.yaml")).name
    folder = toy.path("reports", name)
    folder.mkdir(parents=True)
    (folder / "index.html").write_text("<p>")
    (folder / "summary.md").write_text("**Take it: a\\_b \\[1, 2\\] %; and more.**\n\n| table |\n")
    shutil.copy(toy.path("params.yaml"), folder / "params.yaml")
    place = f"The report: reports/{name}/index.html"
    command = [sys.executable, "-m", "pipeline.jobs.repro"]
    told = subprocess.run(command, cwd=toy.root, capture_output=True, text=True, check=True, timeout=60)
    assert [*filter(None, told.stdout.splitlines())] == ["Take it: a_b [1, 2] %; and more.", place]
    assert "Take it: a_b [1, 2] %; and more." in toy.path("reports/index.html").read_text()
    toy.act("code", "7")
    told = subprocess.run(command, cwd=toy.root, capture_output=True, text=True, check=False, timeout=60)
    assert (told.returncode, told.stdout) == (7, "")


def test_bad_params_are_a_line_each_and_dvc_is_not_started(toy: Toy) -> None:
    toy.path("params.yaml").write_text(
        toy.path("params.yaml").read_text().replace('"threads": 1', '"threads": 0')
    )
    said = said_by(_repro(toy))
    assert said.code == 1
    (line,) = said.lines
    assert line.startswith("params.yaml: numerics.threads: ")
    assert not toy.path("called.txt").exists()


def test_without_a_repository_it_says_what_to_do_and_dvc_is_not_started(toy: Toy) -> None:
    """As in an unpacked archive; DVC does without one where it is told so."""
    toy.path(".git").rmdir()
    said = said_by(_repro(toy))
    assert said.code == 1
    (line,) = said.lines
    assert line.startswith(
        f"{toy.root}: expected a git repository, for DVC, got none (an unpacked archive?): say `git"
    )
    assert not toy.path("called.txt").exists()
    toy.path(".dvc").mkdir(exist_ok=True)
    toy.path(".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    assert said_by(_repro(toy)).code == 0
    assert toy.path("called.txt").exists()


def test_where_it_may_not_write_it_ends_with_a_line(toy: Toy) -> None:
    """A file in the place of its folder is refused as a read-only folder is, to whoever runs the tests."""
    shutil.rmtree(toy.path(".jobs"), ignore_errors=True)
    toy.path(".jobs").write_text("")
    said = said_by(_repro(toy))
    assert (said.code, said.lines) == (1, [".jobs: cannot be read or written (File exists)"])


def test_a_second_run_says_who_is_at_work_and_waits(toy: Toy) -> None:
    toy.act("dvc", "")
    first = _repro(toy, "first")
    until(toy.path("called.txt").exists)
    second = _repro(toy, "second")
    assert second.stderr is not None
    line = second.stderr.readline()
    time.sleep(0.3)  # for a second one that does not wait to start its own
    assert line.startswith(f"another run is at work in this folder (process {first.pid}, since ")
    assert line.endswith("): waiting for it\n")
    toy.release("dvc")
    said = [said_by(process) for process in (first, second)]
    assert [(each.code, each.lines) for each in said] == [(0, []), (0, [])]
    calls = "start repro first; end repro first; start repro second; end repro second; "
    assert toy.path("called.txt").read_text() == calls


def test_a_killed_run_is_waited_for_by_nobody(toy: Toy) -> None:
    toy.act("dvc", "")
    first = _repro(toy)
    until(toy.path("called.txt").exists)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    toy.release("dvc")
    said = said_by(_repro(toy))
    assert (said.code, said.lines) == (0, [])


def test_a_dvc_that_was_started_by_itself_is_waited_for(toy: Toy) -> None:
    toy.path(".dvc/tmp").mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        held = {"write": {"dvc.yaml": {"pid": other.pid, "cmd": "dvc repro"}}, "read": {}}
        toy.path(".dvc/tmp/rwlock").write_text(json.dumps(held))
        process = _repro(toy)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line == (
            f"another run is at work in this folder (dvc repro, process {other.pid}): waiting for it\n"
        )
        assert not toy.path("called.txt").exists()
    said = said_by(process)
    assert (said.code, said.lines) == (0, [])


def test_interrupted_while_it_waits_it_has_started_nothing(toy: Toy) -> None:
    toy.act("dvc", "")
    first = _repro(toy, "first")
    until(toy.path("called.txt").exists)
    second = _repro(toy, "second")
    assert second.stderr is not None
    second.stderr.readline()
    second.send_signal(signal.SIGINT)
    said = said_by(second)
    assert said.lines == ["make repro: interrupted while it waited; nothing was started"]
    assert said.code == 1
    toy.release("dvc")
    assert said_by(first).code == 0
    assert toy.path("called.txt").read_text() == "start repro first; end repro first; "


def test_interrupted_while_dvc_works_it_adds_nothing_to_what_the_stage_says(toy: Toy) -> None:
    toy.act("dvc", "")
    process = _repro(toy)
    until(toy.path("path.txt").exists)
    os.killpg(process.pid, signal.SIGINT)
    said = said_by(process)
    assert (said.code, said.lines) == (130, ["the stage says what is kept"])


@pytest.mark.parametrize("cut", ["", '{"write": {"dvc.ya', "\0\0"])
def test_a_cut_off_book_of_locks_is_removed(toy: Toy, cut: str) -> None:
    toy.path(".dvc/tmp").mkdir(parents=True)
    toy.path(".dvc/tmp/rwlock").write_text(cut)
    said = said_by(_repro(toy))
    assert (said.code, said.lines) == (0, [])
    assert toy.path("called.txt").exists()
    assert not toy.path(".dvc/tmp/rwlock").exists()


def test_a_whole_book_of_a_dead_process_stays(project: Toy) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    held = json.dumps({"write": {"dvc.yaml": {"pid": dead.pid, "cmd": "dvc repro"}}})
    project.path(".dvc/tmp").mkdir(parents=True)
    project.path(".dvc/tmp/rwlock").write_text(held)
    repro._mend()
    assert repro._dvc_at_work() is None
    assert project.path(".dvc/tmp/rwlock").read_text() == held


_SAID = "dvc.lock: cut off when a run was killed; what that run had finished comes from the job store\n"


@pytest.mark.parametrize("end", [0, 10, 40, 80, 150, 165, 350])
def test_a_cut_off_lock_goes_back_to_the_last_whole_one(
    project: Toy, capsys: pytest.CaptureFixture[str], end: int
) -> None:
    lock = project.path("dvc.lock")
    project.path(".jobs").mkdir(exist_ok=True)
    lock.write_text(WHOLE)
    repro._mend()
    assert capsys.readouterr().err == ""
    lock.write_text(WHOLE[:end])
    repro._mend()
    assert capsys.readouterr().err == _SAID
    assert lock.read_text() == WHOLE


def test_a_cut_off_lock_without_an_earlier_one_is_removed(
    project: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    project.path("dvc.lock").write_text(WHOLE[:80])
    repro._mend()
    assert capsys.readouterr().err == _SAID
    assert not project.path("dvc.lock").exists()


def test_where_nothing_is_cut_off_nothing_is_said(project: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    repro._mend()
    assert not project.path("dvc.lock").exists()
    project.path("dvc.lock").write_text(WHOLE)
    repro._mend()
    assert project.path("dvc.lock").read_text() == WHOLE
    assert capsys.readouterr().err == ""
