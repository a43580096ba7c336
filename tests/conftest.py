"""Temporary workspaces: copies of this checkout with the tiny preset, where DVC may run and files may break."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.jobs.store import PLACE_VARIABLE, Store

ROOT = Path(__file__).resolve().parents[1]
FULL_RUN_SECONDS = 600
_TIMEOUT = 240
# What no stage reads, and what a run writes.
_NOT_COPIED = ("tests/", "benchmarks/", "reports/", "metrics/", "dvc.lock")

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
    """A workspace after `dvc repro` from nothing, and what that said."""

    workspace: Workspace
    result: Result


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """This checkout with the tiny preset, committed, nothing run. Read it; copy it to change it."""
    root = tmp_path_factory.mktemp("workspace") / "clean"
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
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    made = Workspace(root)
    made.must("git", "init", "--quiet")
    made.must(sys.executable, "-m", "pipeline.params", "--preset", "tiny")
    made.commit()
    return made


@pytest.fixture(scope="session")
def full_run(workspace: Workspace) -> FullRun:
    """`dvc repro` from nothing, two jobs at a time, whether it ended well or not."""
    copy = workspace.copy(workspace.root.with_name("finished"))
    set_jobs(copy, "2")
    return FullRun(copy, copy.run("dvc", "repro", timeout=2 * FULL_RUN_SECONDS))


@pytest.fixture(scope="session")
def finished(full_run: FullRun) -> Workspace:
    """The tiny workspace after a full run, committed. Read it; copy it to change it."""
    if full_run.result.code != 0:
        pytest.fail(f"dvc repro ended with {full_run.result.code}:\n{full_run.result.output}")
    full_run.workspace.commit()
    return full_run.workspace


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
