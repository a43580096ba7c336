"""`make drill`: disturb whole runs in every way that has cost somebody a run, and compare the ends.

The runs are those of the tiny preset with `SMALLER`: every stage that it has, with fewer jobs and epochs. Each drill
has a fresh checkout of HEAD, is run again after every disturbance, as a person would, until it ends well, and is then
compared byte by byte with a run that nothing disturbed. The table goes to benchmarks/drill.csv.
"""

from __future__ import annotations

import argparse
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
import torch
from safetensors.torch import save

from benchmarks.gpu import set_params
from pipeline.files import write_csv

N_KILLS = 30
N_FULL_DISKS = 10
N_TRIES = 3  # of the others that a run may meet again and again
STOP_SECONDS = 60
ATTEMPTS = 3  # after the last disturbance
_LONGEST_SECONDS = 900
# Of the tiny preset, whose run takes a minute: every stage that it has, with fewer jobs and epochs.
SMALLER = (
    "train.training.epochs=2",
    "grow.training.epochs=1",
    "grow.training.warmup_epochs=0",
    "grow.full_training.epochs=1",
    "grow.full_training.warmup_epochs=0",
    "push.training.epochs=2",
    "push.variants={}",
    "prune.rounds=1",
    "prune.retraining.epochs=1",
    "prune.retraining.warmup_epochs=0",
    "select.formats=[onnx]",
    "compare.sizes={params: [0.5]}",
    "compare.competitors=[l1]",
    "compare.fixed_nets={}",
    "compare.retraining.warmup_epochs=0",
    "sources.resnet.training.epochs=2",
    "sources.resnet.min_validation_accuracy=0.0",
    "noise={gaussian: {kind: gaussian, std: 5.0}}",
    "attacks={fgsm: {method: fgsm, epsilon: 16.0}}",
    "white_box=[fgsm]",
    "report.headline=[gaussian, fgsm]",
    "report.dpi=50",
)
_ROOT = Path(__file__).parents[1]
# What a run makes; measured times differ from run to run.
_OUTCOME = ("runs", "metrics/tiny", "reports/tiny")
_MEASURED = ("latency", "reports/tiny/provenance.md")


@dataclass
class Drill:
    """A checkout in which runs are disturbed; `seconds`: what an undisturbed one takes, `expected`: what it leaves."""

    folder: Path
    rng: random.Random
    seconds: float = 0.0
    expected: dict[str, str] = field(default_factory=dict)
    tries: int = 0
    hit: int = 0  # processes that were killed or stopped, runs that met a full disk, files that were changed

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

    def moment(self, most: float = 0.8) -> float:
        """Seconds into a run, up to a share of a whole one."""
        return self.rng.uniform(1.0, max(2.0, most * self.seconds))

    def other_files(self) -> list[str]:
        """Those that a run has made otherwise than an undisturbed one, and that one of them has not made."""
        found = outcome(self.folder)
        return [file for file, _ in sorted(found.items() ^ self.expected.items())]

    def start_over(self) -> None:
        """Begin again with nothing, after a run that has come to its end in between, which has to be as expected."""
        if other := self.other_files():
            raise RuntimeError(f"a run between two disturbances ended with other bytes: {', '.join(other)}")
        for name in (*_OUTCOME, ".jobs", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / "dvc.lock").unlink()


def _environment() -> dict[str, str]:
    return os.environ | {"DVC_NO_ANALYTICS": "1"}


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        found = psutil.Process(process.pid)
        return [found, *found.children(recursive=True)]
    return []


def _kill_tree(process: subprocess.Popen[bytes]) -> int:
    """Kill a process with all that it has started; how many they were."""
    for each in _family(process):  # stopped first, so that none starts another meanwhile
        with suppress(psutil.NoSuchProcess):
            each.suspend()
    n = 0
    for each in _family(process):
        with suppress(psutil.NoSuchProcess):
            each.kill()
            n += 1
    process.wait()
    return n


def _disturbed_by_kill(drill: Drill, then: Callable[[], int]) -> None:
    """Kill a run at a random moment, and change so many files before the next one."""
    drill.tries += 1
    if (process := drill.run_for(drill.moment())) is not None:
        _kill_tree(process)
    drill.hit += then()


def kills_of_the_tree(drill: Drill) -> None:
    """SIGKILL of all processes of one run, again and again."""
    for _ in range(N_KILLS):
        drill.tries += 1
        process = drill.run_for(drill.moment(0.3))
        if process is None:
            drill.start_over()
        else:
            drill.hit += _kill_tree(process)


def kill_of_one_worker(drill: Drill) -> None:
    """SIGKILL of one process that runs jobs; the run itself has to notice."""
    for _ in range(N_TRIES):
        drill.tries += 1
        process = drill.run_for(drill.moment())
        if process is None:
            drill.start_over()
            continue
        with suppress(psutil.NoSuchProcess, IndexError):
            drill.rng.choice([each for each in _family(process)[1:] if not each.children()]).kill()
            drill.hit += 1
        if process.wait(_LONGEST_SECONDS) == 0:
            drill.start_over()


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
            drill.hit += 1
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
        _resize(drill.folder, max(used + extra, shutil.disk_usage(drill.folder).used / 2**20 + 0.1))
        if drill.start().wait(_LONGEST_SECONDS) == 0:
            break
        drill.hit += 1
    _resize(drill.folder, 2000)


def _resize(folder: Path, mib: float) -> None:
    """tmpfs cannot be made smaller than what is in it."""
    subprocess.run(["mount", "-o", f"remount,size={int(mib * 1024)}k", folder], check=True)


def clock_set_back(drill: Drill) -> None:
    """All that a killed run left is of tomorrow."""

    def postdate() -> int:
        tomorrow = time.time() + 86_400
        files = [file for file in drill.folder.rglob("*") if not file.is_symlink()]
        for file in files:
            os.utime(file, (tomorrow, tomorrow))
        return len(files)

    for _ in range(N_TRIES):
        _disturbed_by_kill(drill, postdate)


def two_runs_at_once(drill: Drill) -> None:
    """A second run while the first one is at work; both have to end well."""
    drill.tries += 1
    first = drill.start()
    time.sleep(drill.moment(0.2))
    second = drill.start()
    drill.hit += first.poll() is None
    if first.wait(_LONGEST_SECONDS) or second.wait(_LONGEST_SECONDS):
        raise RuntimeError("one of two runs at once failed")


def cache_removed(drill: Drill) -> None:
    """DVC's cache is gone between two stages."""

    def remove() -> int:
        n = sum(file.is_file() for file in (drill.folder / ".dvc/cache").rglob("*"))
        shutil.rmtree(drill.folder / ".dvc/cache", ignore_errors=True)
        return n

    for _ in range(N_TRIES):
        _disturbed_by_kill(drill, remove)


def lock_truncated(drill: Drill) -> None:
    """`dvc.lock` is cut off at a random byte."""

    def truncate() -> int:
        lock = drill.folder / "dvc.lock"
        if lock.exists():
            os.truncate(lock, drill.rng.randrange(lock.stat().st_size))
        return lock.exists()

    for _ in range(N_TRIES):
        _disturbed_by_kill(drill, truncate)


def _disturb_points(drill: Drill, damaged: Callable[[bytes], bytes]) -> None:
    """Kill runs when a job has resume points, again and again, and damage every file of unfinished jobs."""
    work = drill.folder / ".jobs/work"
    for _ in range(N_TRIES):
        drill.tries += 1
        started, process = time.time(), drill.start()
        while process.poll() is None and not any(_written_at(file) > started for file in _points(work)):
            time.sleep(0.01)
        time.sleep(drill.rng.uniform(0, 1))
        if process.poll() is not None:
            drill.start_over()
            continue
        _kill_tree(process)
        for file in work.rglob("*"):
            if file.is_file():
                file.write_bytes(damaged(file.read_bytes()))
                drill.hit += file.suffix == ".safetensors"


def _points(work: Path) -> list[Path]:
    return [*work.glob("*/resume/**/*.safetensors")]


def _written_at(file: Path) -> float:
    """When a file was written; a job that ends takes its points away meanwhile."""
    with suppress(FileNotFoundError):
        return file.stat().st_mtime
    return 0.0


def checkpoint_truncated(drill: Drill) -> None:
    """Every file of unfinished jobs is cut in half."""
    _disturb_points(drill, lambda content: content[: len(content) // 2])


def checkpoint_flipped(drill: Drill) -> None:
    """A bit of every file of unfinished jobs is another one."""
    _disturb_points(drill, lambda content: _flipped(content, drill.rng))


def foreign_checkpoint(drill: Drill) -> None:
    """Every file of unfinished jobs is another net's."""
    foreign = save({"net.fc.weight": torch.ones(3, 3)}, {"state": "{}"})
    _disturb_points(drill, lambda _: foreign)


def _flipped(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(max(1, len(content)))
    return content[:at] + bytes([byte ^ 1 for byte in content[at : at + 1]]) + content[at + 1 :]


def results_flipped(drill: Drill) -> None:
    """A bit of five files below runs/ is another one, and of five in the job store."""

    def flip() -> int:
        n = 0
        for folder in ("runs", ".jobs/done"):
            files = [file for file in sorted((drill.folder / folder).rglob("*")) if file.is_file()]
            for file in drill.rng.sample(files, min(5, len(files))):
                content = _flipped(file.read_bytes(), drill.rng)
                file.unlink()
                file.write_bytes(content)
                n += 1
        return n

    for _ in range(N_TRIES):
        _disturbed_by_kill(drill, flip)


def copied_elsewhere(drill: Drill) -> None:
    """`cp -r` of the folder of a killed run; the copy goes on, without the first one."""
    copy = drill.folder.with_name("copy")

    def cp() -> int:
        subprocess.run(["cp", "-r", drill.folder, copy], check=True)
        return sum(file.is_file() for file in copy.rglob("*"))

    _disturbed_by_kill(drill, cp)
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
    "checkpoint flipped": checkpoint_flipped,
    "foreign checkpoint": foreign_checkpoint,
    "results flipped": results_flipped,
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
            set_params(folder / "params.yaml", SMALLER)
            (folder / "dvc.lock").unlink()
            yield folder
        finally:
            if full:
                subprocess.run(["umount", "--lazy", os.fspath(folder)], check=False)


def outcome(folder: Path) -> dict[str, str]:
    """The hash of every file that a run makes, but of those that hold measured times, by path."""
    return {
        file.relative_to(folder).as_posix(): sha256(file.read_bytes()).hexdigest()
        for part in _OUTCOME
        for file in sorted((folder / part).rglob("*"))
        if file.is_file() and not any(name in file.as_posix() for name in _MEASURED)
    }


def undisturbed() -> tuple[dict[str, str], float]:
    """What a run leaves, and its seconds; ends the process where it fails."""
    with _checkout() as folder:
        started = time.monotonic()
        if Drill(folder, random.Random(0)).start().wait(_LONGEST_SECONDS):
            sys.exit(f"the undisturbed run failed:\n{(folder / '.drill.log').read_text()[-2000:]}")
        return outcome(folder), time.monotonic() - started


def row_of(name: str, expected: dict[str, str], seconds: float) -> dict[str, object]:
    """Run one drill; a log of what was printed is left here where it did not end as it should."""
    disturb, seed, started = DRILLS[name], [*DRILLS].index(name), time.monotonic()
    with _checkout(full=disturb is disk_full) as folder:
        drill = Drill(folder, random.Random(seed), seconds, expected)
        try:
            disturb(drill)
            recovered = drill.finish()
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            print(f"{name}: {error}")
            recovered = False
        other = set(drill.other_files())
        log = (drill.folder / ".drill.log").read_text(errors="replace")
    if not recovered or other or "Traceback" in log:
        Path(f"drill-{seed}.log").write_text("\n".join([log, "files with other bytes:", *sorted(other)]))
    return {
        "drill": name,
        "tries": drill.tries,
        "hit": drill.hit,
        "recovered": recovered,
        "files": len(expected),
        "equal": len(expected.keys() - other),
        "tracebacks": log.count("Traceback"),
        "seconds": round(time.monotonic() - started),
    }


def main() -> None:
    """Run the drills whose names are given, or all, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drill", description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(DRILLS))
    chosen = parser.parse_args().names
    if wrong := [name for name in chosen if name not in DRILLS]:
        sys.exit(f"expected drills among {', '.join(DRILLS)} (got {', '.join(wrong)})")
    expected, seconds = undisturbed()
    print(f"undisturbed: {len(expected)} files in {seconds:.0f} s", flush=True)
    table = _ROOT / "benchmarks/drill.csv"
    rows = {row["drill"]: row for row in csv.DictReader(table.open())} if chosen and table.exists() else {}
    for name in chosen or DRILLS:
        if DRILLS[name] is disk_full and os.geteuid() != 0:
            print(f"{name}: needs a user who may mount a file system: left out")
            continue
        rows[name] = row_of(name, expected, seconds)
        print(rows[name], flush=True)
        write_csv(table, [rows[each] for each in DRILLS if each in rows])


if __name__ == "__main__":
    main()
