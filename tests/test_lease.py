"""A lease: the time limit holds, nothing outlives it, and the next lease goes on where it ended."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from pipeline.lease import TIME_IS_UP, main, pack, run_for, unpack

PYTHON = sys.executable


def test_a_command_that_ends_in_time_keeps_its_exit_code() -> None:
    assert run_for([PYTHON, "-c", "raise SystemExit(0)"], seconds=60) == 0
    assert run_for([PYTHON, "-c", "raise SystemExit(7)"], seconds=60) == 7


def test_a_command_is_stopped_with_all_that_it_started(tmp_path: Path) -> None:
    child = "import time; time.sleep(600)"
    program = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    started = time.perf_counter()
    assert run_for([PYTHON, "-c", program], seconds=5) == TIME_IS_UP
    assert 4 < time.perf_counter() - started < 40
    pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
    deadline = time.monotonic() + 10
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(") ", 1)[1][0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_what_is_packed_comes_back_in_another_checkout(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for name in (
        ".resume/train-0/fit.safetensors",
        ".dvc/cache/files/md5/ab/cd",
        "dvc.lock",
        "reports/x/summary.md",
    ):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name, encoding="utf-8")
    (here / "secret").write_text("stays here", encoding="utf-8")
    there.mkdir()
    (there / "dvc.lock").write_text("older", encoding="utf-8")
    assert pack(tmp_path / "state.tar", root=here) == (tmp_path / "state.tar").stat().st_size
    unpack(tmp_path / "state.tar", root=there)
    assert (there / ".resume/train-0/fit.safetensors").read_text(encoding="utf-8").endswith("fit.safetensors")
    assert (there / ".dvc/cache/files/md5/ab/cd").exists()
    assert (there / "dvc.lock").read_text(encoding="utf-8") == "dvc.lock"
    assert not (there / "secret").exists()
    assert not list(tmp_path.glob("*.new"))


COUNT = (
    "import time; from pathlib import Path; f = Path('.resume/count'); f.parent.mkdir(exist_ok=True)\n"
    "while (n := int(f.read_text()) if f.exists() else 0) < 40: f.write_text(str(n + 1)); time.sleep(0.2)"
)


def test_leases_add_up(tmp_path: Path) -> None:
    """Two checkouts, one after the other, each with less time than the work takes."""
    state, codes, reached = tmp_path / "state.tar", [], []
    for name in ("first", "second", "third", "fourth"):
        (tmp_path / name).mkdir()
        command = ["--minutes", "0.07", "--state", str(state), "--", PYTHON, "-c", COUNT]
        ended = subprocess.run(
            [PYTHON, "-m", "pipeline.lease", *command],
            cwd=tmp_path / name,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        codes.append(ended.returncode)
        reached.append(int((tmp_path / name / ".resume/count").read_text(encoding="utf-8")))
        if ended.returncode == 0:
            break
        assert "time is up" in ended.stderr
    assert codes[0] == TIME_IS_UP
    assert codes[-1] == 0
    assert reached == sorted(reached)
    assert reached[-1] == 40


def test_no_time_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--minutes", "0"])
    assert "--minutes: expected more than 0 (got 0)" in capsys.readouterr().err
