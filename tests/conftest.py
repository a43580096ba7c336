"""Temporary workspaces: copies of this checkout with the tiny preset, where DVC may run and files may break.

What takes long is made once for all processes that run tests: whoever asks first makes it, the others wait.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.jobs.store import PLACE_VARIABLE, Store

ROOT = Path(__file__).resolve().parents[1]
FULL_RUN_SECONDS = 600
_TIMEOUT = 240
# What no stage reads, and what a run writes.
_NOT_COPIED = ("tests/", "benchmarks/", "reports/", "metrics/", "dvc.lock")

# The stages of `another_run`. Those that attack are made anew in tests/test_reruns.py, a method's nets in
# tests/test_competitors.py.
ANOTHER_RUN = ("prepare", "train", "grow", "push", "prune", "select", "evaluate", "source")
# The epoch that is lost where a stage of `another_run` is killed.
KILL_AT = {"train": 3, "grow": 4, "prune": 7}

# Stages one after another in one process, which imports torch once.
RUN_STAGES = """
import sys
from pipeline.jobs.stage import run_stage
for stage in sys.argv[1:]:
    run_stage(f"stages.{stage}", [])
"""


@dataclass(frozen=True)
class Result:
    """What a command said and how it ended."""

    code: int
    output: str
    seconds: float

    @property
    def ran(self) -> list[str]:
        """Stages that DVC executed (in a dry run: would look into), in order."""
        return re.findall(r"^Running stage '([^']+)':", self.output, re.MULTILINE)

    @property
    def restored(self) -> list[str]:
        """Stages whose outputs DVC took from its run-cache."""
        return re.findall(r"^Stage '([^']+)' is cached - skipping run", self.output, re.MULTILINE)


@dataclass(frozen=True)
class Workspace:
    """A checkout of its own, with its own DVC cache and its own job store."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        """The tools of this virtual environment, no usage statistics, no settings from outside."""
        return {name: value for name, value in os.environ.items() if name != PLACE_VARIABLE} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.root.parent / "dvc-site-cache"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
        }

    def start(self, *command: str, session: bool = False) -> subprocess.Popen[str]:
        """Start a command here, in a session of its own if asked; its output goes to one pipe."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=session,
        )

    def run(self, *command: str, timeout: float = _TIMEOUT) -> Result:
        """Run a command here to its end, however it ends."""
        started = time.perf_counter()
        with self.start(*command) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Result(process.returncode, output, time.perf_counter() - started)

    def must(self, *command: str, timeout: float = _TIMEOUT) -> Result:
        """Run a command that has to end well."""
        result = self.run(*command, timeout=timeout)
        assert result.code == 0, result.output
        return result

    def run_stages(self, *stages: str, timeout: float = _TIMEOUT) -> Result:
        """Run stages without DVC, all in one process, which has to end well."""
        return self.must(sys.executable, "-c", RUN_STAGES, *stages, timeout=timeout)

    def path(self, *parts: str) -> Path:
        """A file of this workspace."""
        return self.root.joinpath(*parts)

    def write_params(self, data: Mapping[str, Any]) -> None:
        """Make these the params: JSON is YAML, too."""
        self.path("params.yaml").write_text(json.dumps(data, indent=1), encoding="utf-8")

    def log(self) -> list[dict[str, Any]]:
        """What the job store noted so far."""
        return Store(self.path(".jobs")).read_log()

    def commit(self) -> None:
        """Commit everything that git does not ignore."""
        self.must("git", "add", "--all")
        who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        self.must("git", *who, "commit", "--quiet", "-m", "test")

    def copy(self, root: Path, *, without: Sequence[str] = ()) -> Workspace:
        """The same, cache and all, in another place; without some folders at its top."""

        def left_out(folder: str, _names: list[str]) -> set[str]:
            return set(without) if Path(folder) == self.root else set()

        shutil.copytree(self.root, root, symlinks=True, ignore=left_out)
        return Workspace(root)

    def note(self, stage: str) -> None:
        """Have a stage's folder vouch for what lies in it now, as the stage would: by a list of hashes."""
        file, found = self.path(stage, "SHA256SUMS"), self.contents(stage)
        lines = [
            f"{_sha256(content)}  {Path(name).relative_to(stage).as_posix()}\n"
            for name, content in found.items()
            if not name.endswith(file.name)
        ]
        text = "".join(lines)
        file.unlink(missing_ok=True)
        file.write_text(f"{text}# {_sha256(text.encode())}\n", encoding="utf-8")

    def contents(self, *folders: str, suffixes: tuple[str, ...] = ()) -> dict[str, bytes]:
        """Bytes of every file below the folders, by path; of those suffixes only, if any are named."""
        files = sorted(file for folder in folders for file in self.path(folder).rglob("*") if file.is_file())
        return {
            file.relative_to(self.root).as_posix(): file.read_bytes()
            for file in files
            if not suffixes or file.suffix in suffixes
        }


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def jobs_run(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Jobs that ended well, as `stage label label`, in the order of the log."""
    ended = [line for line in log if line["event"] == "end"]
    return [" ".join([line["stage"], *(str(label) for label in line["labels"].values())]) for line in ended]


def stages_run(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """Stages that put their output together, whether one of their jobs ran or none."""
    return [line["stage"] for line in log if line["event"] == "stage"]


@dataclass(frozen=True)
class FullRun:
    """A workspace after `make repro` from nothing, what that said, and what `dvc repro` said after it."""

    workspace: Workspace
    result: Result
    again: Result


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes that run tests now."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def made_once(root: Path) -> Iterator[bool]:
    """Whether the block has to make the folder, which no other process does meanwhile."""
    done = root.with_name(f"{root.name}.done")
    with root.with_name(f"{root.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(root, ignore_errors=True)  # of a process that was lost
        yield not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def workspace(shared: Path) -> Workspace:
    """This checkout with the tiny preset, committed, nothing run. Read it; copy it to change it."""
    made = Workspace(shared / "clean")
    with made_once(made.root) as to_be_made:
        if to_be_made:
            _check_out(made)
    return made


def _check_out(made: Workspace) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if not name.startswith(_NOT_COPIED) and (ROOT / name).is_file():
            made.path(name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, made.path(name))
    made.must("git", "init", "--quiet")
    made.must(sys.executable, "-m", "pipeline.params", "--preset", "tiny")
    made.commit()


@pytest.fixture(scope="session")
def full_run(workspace: Workspace, shared: Path) -> FullRun:
    """`make repro` from nothing, two jobs at a time, whether it ended well or not; if so, committed, and once more."""
    made, said = Workspace(shared / "finished"), shared / "finished.json"
    with made_once(made.root) as to_be_made:
        if to_be_made:
            workspace.copy(made.root)
            set_jobs(made, "2")
            repro = (sys.executable, "-m", "pipeline.jobs.repro")
            result = again = made.run(*repro, timeout=2 * FULL_RUN_SECONDS)
            made.path(".jobs/warm").unlink(missing_ok=True)  # a socket, which cannot be copied
            if result.code == 0:
                made.commit()
                again = made.run("dvc", "repro")
            said.write_text(json.dumps([asdict(result), asdict(again)]), encoding="utf-8")
    result, again = (Result(**each) for each in json.loads(said.read_text(encoding="utf-8")))
    return FullRun(made, result, again)


@pytest.fixture(scope="session")
def finished(full_run: FullRun) -> Workspace:
    """The tiny workspace after a full run, committed. Read it; copy it to change it."""
    if full_run.result.code != 0:
        pytest.fail(f"make repro ended with {full_run.result.code}:\n{full_run.result.output}")
    return full_run.workspace


@dataclass(frozen=True)
class AnotherRun:
    """A workspace after `ANOTHER_RUN`, and of each stage that was killed on the way: how both of its runs ended.

    That is the exit code and how many epochs were kept, of the killed run and of the next; between them, whether there
    was an output, and how many points to go on from.
    """

    workspace: Workspace
    ended: dict[str, tuple[list[int], int, int, list[int]]]


@pytest.fixture(scope="session")
def another_run(workspace: Workspace, shared: Path) -> AnotherRun:
    """From nothing once more, one job after another, in one process and in some that are killed; without DVC.

    In another folder, which a group shares: all may write what its members write. Read it; copy it to change it.
    """
    made, said = Workspace(shared / "another"), shared / "another.json"
    with made_once(made.root) as to_be_made:
        if to_be_made:
            workspace.copy(made.root)
            set_jobs(made, "1")
            program = [sys.executable, str(ROOT / "tests/killed_run.py"), json.dumps(KILL_AT), *ANOTHER_RUN]
            umask = ("bash", "-c", 'umask 002; exec "$@"', "bash")
            result = made.must(*umask, *program, timeout=FULL_RUN_SECONDS)
            said.write_text(result.output.splitlines()[-1], encoding="utf-8")
    return AnotherRun(made, json.loads(said.read_text(encoding="utf-8")))


@functools.cache
def _preloaded() -> subprocess.Popen[str]:
    """Of this process, with which it ends."""
    environment = {name: value for name, value in os.environ.items() if name != PLACE_VARIABLE}
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/preloaded.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )
    atexit.register(_end, process)
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()
    process.wait()


@contextmanager
def warmed(workspace: Workspace) -> Iterator[tuple[str, ...]]:
    """Inside the block the workspace has a warm process; gives what a command starts with that is to find it."""
    preloaded, address = _preloaded(), workspace.path(".jobs/warm")
    assert preloaded.stdin is not None
    assert preloaded.stdout is not None
    address.parent.mkdir(exist_ok=True)
    preloaded.stdin.write(f"{workspace.root}\n")
    preloaded.stdin.flush()
    process = int(preloaded.stdout.readline())
    try:
        deadline = time.monotonic() + _TIMEOUT
        while not address.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield ("env", "GPP_WARM=1")
    finally:
        os.kill(process, signal.SIGKILL)
        address.unlink(missing_ok=True)  # a socket, which cannot be copied


@pytest.fixture
def finished_copy(finished: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """A finished workspace of the test's own, to change."""
    copy = finished.copy(tmp_path / "copy")
    yield copy
    shutil.rmtree(copy.root, ignore_errors=True)


def set_jobs(workspace: Workspace, jobs: str) -> None:
    """How many jobs run at a time, by an edit of the one line."""
    file = workspace.path("params.yaml")
    text, n = re.subn(r"(?m)^  jobs: \w+", f"  jobs: {jobs}", file.read_text(encoding="utf-8"))
    assert n == 1
    file.write_text(text, encoding="utf-8")
