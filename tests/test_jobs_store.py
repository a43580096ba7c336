"""The job store: a finished job is whole or absent, each runs once, and the store keeps within its limit."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from conftest import ROOT

from pipeline.jobs import store as module
from pipeline.jobs.contents import content_of, hashes_of
from pipeline.jobs.store import PLACE_VARIABLE, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def _publish(store: Store, key: str, text: str = "text", *, used: float | None = None) -> Path:
    """A finished job of two files, last used at a time of one's choice."""
    with store.lock(key):
        out = store.start(key) / "out"
        (out / "table.csv").write_text(text)
        (out / "weights").mkdir()
        (out / "weights/last.bin").write_bytes(bytes(100))
        store.publish(key, summary=f"line of {key}", about={"seconds": 1.0})
    folder = store.root / "done" / key
    if used is not None:
        os.utime(folder, (used, used))
    return folder


def _kept(store: Store) -> list[str]:
    return sorted(folder.name for kind in ("done", "work") for folder in (store.root / kind).glob("*"))


def test_a_published_job_is_found_with_its_files_and_line(store: Store) -> None:
    assert store.find("a") is None
    _publish(store, "a", "one")
    found = store.find("a")
    assert found is not None
    assert found.summary == "line of a"
    assert (found.folder / "table.csv").read_text() == "one"
    assert found.content == content_of(hashes_of(found.folder))
    assert not (store.root / "work/a").exists()
    about = json.loads((store.root / "done/a/about.json").read_text())
    assert about["seconds"] == 1.0
    assert about["sha256"] == found.hashes
    assert found.hashes["table.csv"] == hashlib.sha256(b"one").hexdigest()
    assert [*found.hashes] == ["table.csv", "weights/last.bin"]


def test_what_is_beside_the_output_is_no_content(store: Store) -> None:
    for key, seconds in (("a", 1.0), ("b", 2.0)):
        with store.lock(key):
            (store.start(key) / "out/table.csv").write_text("one")
            store.publish(key, summary=key, about={"seconds": seconds})
    found = [store.find(key) for key in "ab"]
    assert len({each.content for each in found if each}) == 1


@pytest.mark.parametrize(
    "damage",
    [
        "truncated",
        "longer",
        "flipped",
        "more",
        "missing",
        "about cut",
        "about missing",
        "about a list",
        "a folder",
    ],
)
def test_a_damaged_job_is_absent_and_can_be_published_again(store: Store, damage: str) -> None:
    folder = _publish(store, "a")
    table, about = folder / "out/table.csv", folder / "about.json"
    table.chmod(0o644)
    if damage == "truncated":
        table.write_text("tex")
    elif damage == "longer":
        table.write_text("text and more")
    elif damage == "flipped":
        table.write_text("tezt")
    elif damage == "more":
        (folder / "out/more.csv").write_text("text")
    elif damage == "about a list":
        about.write_text("[1, 2]")
    elif damage == "a folder":
        table.unlink()
        table.mkdir()
    elif damage == "missing":
        table.unlink()
    elif damage == "about cut":
        about.write_text(about.read_text()[:-20])
    else:
        about.unlink()
    assert store.find("a") is None
    _publish(store, "a")
    found = store.find("a")
    assert found is not None
    assert (found.folder / "table.csv").read_text() == "text"


def test_words_of_a_killed_try_are_gone_and_damaged_ones_are_none(store: Store) -> None:
    """A damaged file of them once ended the thread that shows progress, with a traceback."""
    status = store.start("a") / "status"
    status.write_text("epoch 3 of 4")
    assert store.status("a") == "epoch 3 of 4"
    status.write_bytes(b"\x80\xff")
    assert store.status("a") == ""
    status.write_text("epoch 3 of 4")
    store.start("a")
    assert store.status("a") == ""


def test_a_second_try_finds_resume_points_and_an_empty_output(store: Store) -> None:
    first = store.start("a")
    (first / "out/half.txt").write_text("half")
    (first / "resume/epoch").write_text("3")
    second = store.start("a")
    assert second == first
    assert list((second / "out").iterdir()) == []
    assert (second / "resume/epoch").read_text() == "3"
    store.publish("a", summary="", about={})
    assert sorted(path.name for path in (store.root / "done/a").iterdir()) == ["about.json", "out"]


_DIES = """
import os, signal, sys
from pathlib import Path
from pipeline.jobs.store import Store
store = Store(Path(sys.argv[1]))
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
folder = store.start("a")
(folder / "out/table.csv").write_text("text")
(folder / "resume/epoch").write_text("3")
if sys.argv[2] == "about":
    import pipeline.jobs.store as module
    module.write_json = die
elif sys.argv[2] == "rename":
    Path.rename = die
store.publish("a", summary="", about={})
"""


@pytest.mark.processes
@pytest.mark.parametrize("at", ["about", "rename"])
def test_killed_before_the_rename_it_is_absent(store: Store, at: str) -> None:
    died = subprocess.run([sys.executable, "-c", _DIES, str(store.root), at], cwd=ROOT, timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert store.find("a") is None
    assert (store.root / "work/a/out/table.csv").exists()
    _publish(store, "a")
    assert store.find("a") is not None


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o444), (0o077, 0o400), (0o002, 0o444), (0o027, 0o440)])
def test_files_are_read_only_as_far_as_the_umask_lets_others_read(store: Store, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        folder = _publish(store, "a")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    modes = {
        stat.S_IMODE((folder / "out" / name).stat().st_mode) for name in ("table.csv", "weights/last.bin")
    }
    assert modes == {mode}


def _hold(root: Path, pipe: Connection) -> None:
    with Store(root).lock("a"):
        pipe.send("held")
        time.sleep(60)


@pytest.fixture
def holder(store: Store) -> Iterator[multiprocessing.Process]:
    """A process that holds the lock of the job `a`."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_hold, args=(store.root, there))
    process.start()
    assert here.recv() == "held"
    yield process  # type: ignore[misc]
    process.kill()
    process.join()


@pytest.mark.processes
def test_a_lock_has_one_holder_and_is_free_when_that_is_killed(
    store: Store, holder: multiprocessing.Process
) -> None:
    got = threading.Event()

    def wait() -> None:
        with store.lock("a"):
            got.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    with store.lock("b"):  # another job's
        assert not got.wait(0.3)
    holder.kill()
    assert got.wait(10)
    waiting.join()


@pytest.mark.processes
def test_what_runs_is_never_forgotten(store: Store, holder: multiprocessing.Process) -> None:
    (store.start("a") / "resume/epoch").write_text("3")
    (store.start("b") / "resume/epoch").write_text("3")
    store.forget(0, used=())
    assert _kept(store) == ["a"]
    holder.kill()
    holder.join()
    store.forget(0, used=())
    assert _kept(store) == []


def test_what_was_not_used_for_longest_is_forgotten_first(store: Store) -> None:
    sizes = [
        sum(p.stat().st_size for p in _publish(store, key, used=when).rglob("*") if p.is_file())
        for key, when in (("a", 300.0), ("b", 100.0), ("c", 200.0))
    ]
    store.forget(sum(sizes), used=())
    assert _kept(store) == ["a", "b", "c"]
    store.forget(sum(sizes) - 1, used=())
    assert _kept(store) == ["a", "c"]
    store.forget(sizes[0], used=())
    assert _kept(store) == ["a"]


def test_what_was_found_counts_as_used_now(store: Store) -> None:
    for key, when in (("a", 100.0), ("b", 200.0)):
        _publish(store, key, used=when)
    store.find("a")
    store.forget(700, used=())
    assert _kept(store) == ["a"]


def test_what_this_run_used_is_kept_over_the_limit(store: Store) -> None:
    for key, when in (("a", 100.0), ("b", 200.0), ("c", 300.0)):
        _publish(store, key, used=when)
    store.forget(0, used={"a", "c"})
    assert _kept(store) == ["a", "c"]


def test_resume_points_of_a_killed_job_count_and_are_forgotten(store: Store) -> None:
    (store.start("old") / "resume/epoch").write_bytes(bytes(1000))
    os.utime(store.root / "work/old", (100.0, 100.0))
    folder = _publish(store, "new", used=200.0)
    store.forget(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()), used=())
    assert _kept(store) == ["new"]


def test_jobs_that_end_meanwhile_do_not_stop_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs share a store: a folder is renamed while the other one looks into it."""
    for key, when in (("a", 100.0), ("b", 200.0)):
        _publish(store, key, used=when)
    listed = module.files_below

    def vanishing(folder: Path) -> list[Path]:
        files = listed(folder)
        if folder.name == "a":
            shutil.rmtree(folder)
        return files

    monkeypatch.setattr(module, "files_below", vanishing)
    store.forget(0, used=())
    assert _kept(store) == []


def test_place_is_the_projects_own_or_a_shared_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PLACE_VARIABLE, raising=False)
    assert PLACE_VARIABLE == "GPP_JOBS"
    assert Store().root == tmp_path / ".jobs"
    monkeypatch.setenv(PLACE_VARIABLE, str(tmp_path / "shared"))
    assert Store().root == tmp_path / "shared"


def test_log_keeps_whole_lines_in_order(store: Store) -> None:
    assert store.read_log() == []
    store.log("start", stage="train", labels={"seed": 0})
    store.log("end", stage="train", labels={"seed": 0}, name="Größe")
    with (store.root / "log.jsonl").open("a") as file:
        file.write('{"time": 1, "event": "st\n{"time": 1, "ev')  # no space was left
    lines = store.read_log()
    assert [line["event"] for line in lines] == ["start", "end"]
    assert lines[1]["name"] == "Größe"
    assert lines[0]["time"] <= lines[1]["time"]
