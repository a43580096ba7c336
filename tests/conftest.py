"""Temporary workspaces: copies of this checkout with the tiny preset, where DVC may run and files may break."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FULL_RUN_SECONDS = 600
_TIMEOUT = 240


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
    """A checkout of its own, with its own DVC cache."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        """The tools of this virtual environment, no usage statistics, no settings from outside."""
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.root.parent / "dvc-site-cache"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
        }

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command here; its output goes to one pipe."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
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

    def path(self, *parts: str) -> Path:
        """A file of this workspace."""
        return self.root.joinpath(*parts)

    def edit_params(self, *, after: str, old: str, new: str) -> None:
        """A textual edit of params.yaml: the first `old` after the first `after`."""
        file = self.path("params.yaml")
        text = file.read_text(encoding="utf-8")
        start = text.index(f"\n{after}") + 1
        at = text.index(old, start)
        file.write_text(text[:at] + new + text[at + len(old) :], encoding="utf-8")

    def commit(self) -> None:
        """Commit everything that git does not ignore."""
        self.must("git", "add", "--all")
        self.must(
            "git",
            "-c",
            "user.name=test",
            "-c",
            "user.email=test@localhost",
            "commit",
            "--quiet",
            "-m",
            "test",
        )

    def copy(self, root: Path) -> "Workspace":
        """The same, cache and all, in another place."""
        shutil.copytree(self.root, root, symlinks=True)
        return Workspace(root)

    def contents(self, *folders: str, suffixes: tuple[str, ...] = ()) -> dict[str, bytes]:
        """Bytes of every file below the folders, by path; of those suffixes only, if any are named."""
        files = sorted(file for folder in folders for file in self.path(folder).rglob("*") if file.is_file())
        return {
            file.relative_to(self.root).as_posix(): file.read_bytes()
            for file in files
            if not suffixes or file.suffix in suffixes
        }


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
        if name == "dvc.lock" or name.startswith(("reports/", "metrics/")) or not (ROOT / name).is_file():
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
    made = Workspace(root)
    made.must("git", "init", "--quiet")
    made.must(sys.executable, "-m", "pipeline.params", "--preset", "tiny")
    made.commit()
    return made


@pytest.fixture(scope="session")
def _full_runs(request: pytest.FixtureRequest, workspace: Workspace) -> dict[str, FullRun]:
    """One full run; a second one beside it where a test of this session compares the two."""
    used = {name for item in request.session.items for name in getattr(item, "fixturenames", ())}
    names = ["finished", *(["second"] if "second_run" in used else [])]
    started = time.perf_counter()
    copies = {name: workspace.copy(workspace.root.with_name(name)) for name in names}
    processes = {name: copy.start("dvc", "repro") for name, copy in copies.items()}
    runs = {}
    for name, process in processes.items():
        try:
            output, _ = process.communicate(timeout=2 * FULL_RUN_SECONDS)
        finally:
            process.kill()
        result = Result(process.returncode, output, time.perf_counter() - started)
        runs[name] = FullRun(copies[name], result)
    return runs


@pytest.fixture(scope="session")
def full_run(_full_runs: dict[str, FullRun]) -> FullRun:
    """The first run, whether it ended well or not."""
    return _full_runs["finished"]


@pytest.fixture(scope="session")
def second_run(_full_runs: dict[str, FullRun]) -> FullRun:
    """Another run from nothing, in another folder with another cache."""
    return _full_runs["second"]


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
