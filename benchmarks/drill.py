"""`make drill`: disturb whole runs of the tiny preset in every way that has cost somebody a run, and compare the ends.

Each drill has a fresh checkout of HEAD, is run again after every disturbance, as a person would, until it ends well,
and is then compared byte by byte with a run that nothing disturbed. The table goes to benchmarks/drill.csv.
"""

from __future__ import annotations

import csv
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import psutil

from pipeline.files import write_csv

N_KILLS = 30
N_FULL_DISKS = 10
STOP_SECONDS = 60
ATTEMPTS = 3  # after the last disturbance
_LONGEST_SECONDS = 900
_ROOT = Path(__file__).parents[1]
# What a run makes; measured times differ from run to run.
_OUTCOME = ("runs", "metrics", "reports/tiny")
_MEASURED = ("latency",)


@dataclass
class Drill:
    """A checkout in which runs are disturbed; `log` is what they printed."""

    folder: Path
    rng: random.Random
    tries: int = 0
    log: list[str] = field(default_factory=list)

    def start(self) -> subprocess.Popen[bytes]:
        """`make repro` in a session of its own."""
        out = (self.folder / ".drill.log").open("ab")
        command = [sys.executable, "-m", "pipeline.jobs.repro"]
        return subprocess.Popen(
            command, cwd=self.folder, stdout=out, stderr=out, start_new_session=True, env=_environment()
        )

    def run_for(self, seconds: float) -> subprocess.Popen[bytes] | None:
        """A run that has gone on for so long; None if it ended before."""
        process = self.start()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return process
        return None

    def finish(self) -> bool:
        """Run it again until it ends well, at most `ATTEMPTS` times."""
        return any(self.start().wait(_LONGEST_SECONDS) == 0 for _ in range(ATTEMPTS))

    def moment(self, most: float = 25.0) -> float:
        """Seconds into a run."""
        return self.rng.uniform(1.0, most)


def _environment() -> dict[str, str]:
    return os.environ | {"DVC_NO_ANALYTICS": "1"}


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        found = psutil.Process(process.pid)
        return [found, *found.children(recursive=True)]
    return []


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    for each in _family(process):  # stopped first, so that none starts another meanwhile
        with suppress(psutil.NoSuchProcess):
            each.suspend()
    for each in _family(process):
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def _disturbed_by_kill(drill: Drill, then: Callable[[], object]) -> None:
    """Kill a run at a random moment, and do something before the next one."""
    drill.tries += 1
    if (process := drill.run_for(drill.moment())) is not None:
        _kill_tree(process)
    then()


def kills_of_the_tree(drill: Drill) -> None:
    """SIGKILL of all processes of one run, again and again."""
    for _ in range(N_KILLS):
        drill.tries += 1
        process = drill.run_for(drill.moment(8.0))
        if process is None:
            break
        _kill_tree(process)


def kill_of_one_worker(drill: Drill) -> None:
    """SIGKILL of one process that runs jobs; the run itself has to notice."""
    for _ in range(5):
        drill.tries += 1
        process = drill.run_for(drill.moment())
        if process is None:
            break
        leaves = [each for each in _family(process)[1:] if not each.children()]
        if leaves:
            with suppress(psutil.NoSuchProcess):
                drill.rng.choice(leaves).kill()
        process.wait(_LONGEST_SECONDS)


def stop_for_a_minute(drill: Drill) -> None:
    """SIGSTOP of all processes, SIGCONT a minute later."""
    drill.tries += 1
    process = drill.run_for(drill.moment())
    if process is None:
        return
    family = _family(process)
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.suspend()
    time.sleep(STOP_SECONDS)
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.resume()
    process.wait(_LONGEST_SECONDS)


def disk_full(drill: Drill) -> None:
    """A file system of random sizes that each run fills up, ten of them; then there is room."""
    used = shutil.disk_usage(drill.folder).used / 2**20
    for extra in sorted(drill.rng.uniform(0.2, 12) for _ in range(N_FULL_DISKS)):
        drill.tries += 1
        _resize(drill.folder, used + extra)
        if drill.start().wait(_LONGEST_SECONDS) == 0:
            break
    _resize(drill.folder, 2000)


def _resize(folder: Path, mib: float) -> None:
    subprocess.run(["mount", "-o", f"remount,size={int(mib * 1024)}k", folder], check=False)


def clock_set_back(drill: Drill) -> None:
    """All that a killed run left is of tomorrow."""

    def postdate() -> None:
        tomorrow = time.time() + 86_400
        for file in drill.folder.rglob("*"):
            if not file.is_symlink():
                os.utime(file, (tomorrow, tomorrow))

    for _ in range(3):
        _disturbed_by_kill(drill, postdate)


def two_runs_at_once(drill: Drill) -> None:
    """A second run while the first one is at work; both have to end well."""
    drill.tries += 1
    first = drill.start()
    time.sleep(drill.moment(5.0))
    second = drill.start()
    if first.wait(_LONGEST_SECONDS) or second.wait(_LONGEST_SECONDS):
        raise RuntimeError("one of two runs at once failed")


def cache_removed(drill: Drill) -> None:
    """DVC's cache is gone between two stages."""
    for _ in range(3):
        _disturbed_by_kill(drill, lambda: shutil.rmtree(drill.folder / ".dvc/cache", ignore_errors=True))


def lock_truncated(drill: Drill) -> None:
    """`dvc.lock` is cut off at a random byte."""

    def truncate() -> None:
        lock = drill.folder / "dvc.lock"
        if lock.exists():
            os.truncate(lock, drill.rng.randrange(lock.stat().st_size))

    for _ in range(5):
        _disturbed_by_kill(drill, truncate)


def _resume_points(folder: Path) -> list[Path]:
    return [file for file in folder.glob(".jobs/work/**/*") if file.is_file()]


def checkpoint_truncated(drill: Drill) -> None:
    """Every file of unfinished jobs is cut in half."""

    def truncate() -> None:
        for file in _resume_points(drill.folder):
            os.truncate(file, file.stat().st_size // 2)

    for _ in range(5):
        _disturbed_by_kill(drill, truncate)


def foreign_checkpoint(drill: Drill) -> None:
    """Every file of unfinished jobs is another net's."""

    def exchange() -> None:
        weights = next(iter(drill.folder.glob("runs/tiny/train/0/*.safetensors")), None)
        for file in _resume_points(drill.folder) if weights else []:
            file.write_bytes(weights.read_bytes() if weights else b"")

    for _ in range(5):
        _disturbed_by_kill(drill, exchange)


def copied_elsewhere(drill: Drill) -> None:
    """`cp -r` of the folder of a killed run; the copy goes on, without the first one."""
    copy = drill.folder.with_name("copy")
    _disturbed_by_kill(drill, lambda: subprocess.run(["cp", "-r", drill.folder, copy], check=True))
    shutil.rmtree(drill.folder)
    drill.folder = copy


DRILLS: dict[str, Callable[[Drill], None]] = {
    "SIGKILL of the tree": kills_of_the_tree,
    "SIGKILL of one worker": kill_of_one_worker,
    "SIGSTOP for a minute": stop_for_a_minute,
    "disk full": disk_full,
    "clock set back": clock_set_back,
    "two runs at once": two_runs_at_once,
    "cache removed": cache_removed,
    "dvc.lock truncated": lock_truncated,
    "checkpoint truncated": checkpoint_truncated,
    "foreign checkpoint": foreign_checkpoint,
    "copied with cp -r": copied_elsewhere,
}


@contextmanager
def _checkout(full: bool = False) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="drill-", ignore_cleanup_errors=True) as around:
        folder = Path(around) / "run"
        folder.mkdir()
        if full:
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=2000m", "tmpfs", os.fspath(folder)], check=True
            )
        try:
            subprocess.run(["git", "clone", "--quiet", os.fspath(_ROOT), os.fspath(folder)], check=True)
            shutil.copy(folder / "presets/tiny.yaml", folder / "params.yaml")
            (folder / "dvc.lock").unlink()
            yield folder
        finally:
            if full:
                subprocess.run(["umount", "--lazy", os.fspath(folder)], check=False)


def _outcome(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): sha256(file.read_bytes()).hexdigest()
        for part in _OUTCOME
        for file in sorted((folder / part).rglob("*"))
        if file.is_file() and not any(name in file.as_posix() for name in _MEASURED)
    }


def main(chosen: list[str]) -> None:
    """Run the drills whose names are given, or all, and write the table."""
    with _checkout() as folder:
        if not Drill(folder, random.Random(0)).finish():
            sys.exit(f"the undisturbed run failed:\n{(folder / '.drill.log').read_text()[-2000:]}")
        expected = _outcome(folder)
    table = _ROOT / "benchmarks/drill.csv"
    rows = {row["drill"]: row for row in csv.DictReader(table.open())} if chosen and table.exists() else {}
    for seed, (name, disturb) in enumerate(DRILLS.items()):
        if chosen and name not in chosen:
            continue
        full = disturb is disk_full
        if full and os.geteuid() != 0:
            print(f"{name}: needs a user who may mount a file system: left out")
            continue
        started = time.monotonic()
        with _checkout(full) as folder:
            drill = Drill(folder, random.Random(seed))
            try:
                disturb(drill)
                recovered = drill.finish()
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"{name}: {error}")
                recovered = False
            found = _outcome(drill.folder)
            same = sum(found.get(file) == digest for file, digest in expected.items())
            log = (drill.folder / ".drill.log").read_text(errors="replace")
        rows[name] = {
            "drill": name,
            "tries": drill.tries,
            "recovered": recovered,
            "files": len(expected),
            "equal": same,
            "tracebacks": log.count("Traceback"),
            "seconds": round(time.monotonic() - started),
        }
        print(rows[name], flush=True)
        if not recovered or same < len(expected) or "Traceback" in log:
            Path(f"drill-{seed}.log").write_text(log)
        write_csv(table, [rows[each] for each in DRILLS if each in rows])


if __name__ == "__main__":
    main(sys.argv[1:])
