"""What is said of a stage's progress, in a terminal and in a log, and by `python -m pipeline.jobs` afterwards."""

import contextvars
import io
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.jobs import __main__ as after
from pipeline.jobs import display as module
from pipeline.jobs.display import Display
from pipeline.jobs.store import Store
from pipeline.progress import tell, watched_by


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes when a test says so."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    return pass_by


def test_a_log_has_a_line_for_each_job_with_rate_and_time_left(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with Display("train", 5, dict) as display:
        display.stored()
        clock(30)
        display.ended("seed 1", "validation accuracy 90%", 29.6)
        clock(90)
        display.ended("seed 2", "", 150)
        display.failed("seed 3", "first\nsecond")
        clock(0.5)
        display.ended("seed 4", "fine", 0.46)
        display.ended("seed 3", "fine", 7000)
    assert capsys.readouterr().err.splitlines() == [
        "[2/5] train, seed 1: validation accuracy 90% (30 s; 2.0 jobs a minute, about 90 s left)",
        "[3/5] train, seed 2 (2 min; 1.0 jobs a minute, about 2 min left)",
        "train, seed 3: first",
        "train, seed 3: second",
        "[4/5] train, seed 4: fine (0.5 s; 1.5 jobs a minute, about 40 s left)",
        "[5/5] train, seed 3: fine (1.9 h)",
    ]


def test_a_line_and_its_end_are_one_write(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where Python does not buffer, a worker's write would come between the two."""
    writes: list[str] = []
    monkeypatch.setattr(sys.stderr, "write", writes.append)
    Display("train", 1, dict).say("a line")
    assert [each for each in writes if each] == ["a line\n"]


def test_a_job_without_labels_is_its_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with Display("prepare", 1, dict) as display:
        display.ended("", "10 images", 1)
    assert capsys.readouterr().err == "[1/1] prepare: 10 images (1.0 s)\n"


def test_stored_jobs_have_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Display("train", 2, dict) as display:
        display.stored()
        display.stored()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("silence", "lines"), [(0.02, 2), (60.0, 0)])
def test_a_log_says_what_runs_after_a_long_silence_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], silence: float, lines: int
) -> None:
    monkeypatch.setattr(module, "_REFRESH_SECONDS", 0.005)
    monkeypatch.setattr(module, "_SILENCE_SECONDS", silence)
    looked, enough = [0], threading.Event()

    def running() -> dict[str, str]:
        looked[0] += 1
        if looked[0] == 20:
            enough.set()
        return {"seed 0": "epoch 3 of 20", "seed 1": ""}

    with Display("train", 3, running):
        assert enough.wait(10)
    said = capsys.readouterr().err.splitlines()
    assert len(said) >= lines
    assert set(said) == ({"[0/3] train, running: seed 0 (epoch 3 of 20); seed 1"} if lines else set())
    assert len(said) < 15


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_live_line_and_the_lines_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(module, "_REFRESH_SECONDS", 0.01)
    looked, enough = [0], threading.Event()

    def running() -> dict[str, str]:
        looked[0] += 1
        if looked[0] == 5:
            enough.set()
        return {"seed 1": "epoch 3 of 20"}

    with Display("train", 4, running) as display:
        display.stored()
        display.ended("seed 0", "fine", 1.0)
        assert enough.wait(10)
    text = terminal.getvalue()
    live = [part for part in text.split("\r") if "seed 1 (epoch 3 of 20)" in part]
    assert live
    assert live[-1].startswith("train: 2/4 |")
    assert all("\n" not in part for part in live)
    stays = [line for line in text.replace("\r", "\n").splitlines() if line.startswith("[")]
    assert len(stays) == 1
    assert stays[0].startswith("[2/4] train, seed 0: fine (1.0 s; ")
    assert text.split("\r")[-1].strip() == ""  # the live line is gone in the end
    assert len(text) < 5000


def test_what_is_told_reaches_the_innermost_watcher() -> None:
    outer: list[str] = []
    inner: list[str] = []
    tell("nobody hears it")
    with watched_by(outer.append):
        tell("one")
        with watched_by(inner.append):
            tell("two")
        tell("three")
        contextvars.copy_context().run(tell, "four")
    tell("nobody hears it")
    assert (outer, inner) == (["one", "three", "four"], ["two"])


def test_a_watcher_is_gone_after_an_error() -> None:
    heard: list[str] = []
    with pytest.raises(ZeroDivisionError), watched_by(heard.append):
        tell(str(1 / 0))
    tell("nobody hears it")
    assert heard == []


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPP_JOBS", raising=False)
    return Store()


def _log(store: Store, monkeypatch: pytest.MonkeyPatch, time: float, event: str, **facts: object) -> None:
    monkeypatch.setattr("pipeline.jobs.store.time.time", lambda: time)
    store.log(event, **facts)


def test_what_ran_is_listed_by_stage(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        ("tiny", "train", 4.0, ["seed 0"]),
        ("digits", "train", 5.0, []),
        ("tiny", "push", 6.0, ["seed 0"]),
    ]
    for experiment, stage, end, ran in [*runs, ("tiny", "train", 9.0, ["seed 1", "seed 2"])]:
        _log(
            store, monkeypatch, end, "stage", experiment=experiment, stage=stage, started=3.0, jobs=3, ran=ran
        )
    after.main(["ran"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == [
        "digits, train: 0 of 3 jobs ran",
        "tiny, push: 1 of 3 jobs ran",
        "seed 0",
        "tiny, train: 2 of 3 jobs ran",
        "seed 1",
        "seed 2",
    ]


def test_durations_are_those_of_the_last_experiment(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _log(store, monkeypatch, 2.0, "stage", experiment="other", stage="train", started=1.0, jobs=1, ran=[])
    _log(store, monkeypatch, 9.0, "end", stage="train", seconds=100.0)  # of a run that failed
    _log(store, monkeypatch, 12.0, "end", stage="train", seconds=1.5)
    _log(store, monkeypatch, 14.0, "end", stage="train", seconds=2.5)
    _log(
        store,
        monkeypatch,
        15.0,
        "stage",
        experiment="tiny",
        stage="train",
        started=10.0,
        jobs=3,
        ran=["a", "b"],
    )
    _log(store, monkeypatch, 20.0, "stage", experiment="tiny", stage="push", started=17.5, jobs=1, ran=[])
    after.main(["durations"])
    assert capsys.readouterr().out.splitlines() == [
        "stage,jobs,ran,seconds,seconds_of_jobs,between",
        "train,3,2,5.0,4.0,2.5",
        "push,1,0,2.5,0.0,",
    ]


def test_without_a_run_it_says_so(store: Store) -> None:
    with pytest.raises(SystemExit, match="no stage has run here yet"):
        after.main(["ran"])
