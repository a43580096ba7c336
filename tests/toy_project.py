"""A project of one toy stage in a folder of its own, run as a user runs a stage: without torch and without DVC."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from unittest.mock import patch

import psutil
from conftest import ROOT, Workspace
from tiny_params import Change, edited

from pipeline.jobs import worker
from pipeline.jobs.contents import SUMS
from pipeline.jobs.stage import run_stage

ROOM = '''"""What the toy stage computes."""


def value(text: str, seed: int) -> int:
    """A number that depends on every letter."""
    return sum(idx * ord(letter) for idx, letter in enumerate(text, 1)) + seed
'''
GAUSSIAN = {"kind": "gaussian", "std": 5.0}
POISSON = {"kind": "poisson", "peak": 255.0}
_TIMEOUT = 60
Project = TypeVar("Project", "Toy", Workspace)


@dataclass(frozen=True)
class Said:
    """What a command wrote to stderr, line by line, and how it ended."""

    code: int
    lines: list[str]

    @property
    def last(self) -> str:
        """The stage's own closing line, as a rule."""
        return self.lines[-1]


@dataclass
class Toy:
    """The project. `params` are changes to the tiny preset, on top of two seeds and one noise."""

    root: Path
    params: dict[str, Any] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("stages", "acts"):
            (self.root / name).mkdir(parents=True)
        (self.root / "pipeline").symlink_to(ROOT / "pipeline")
        shutil.copy(ROOT / "stages/__init__.py", self.root / "stages")
        shutil.copy(ROOT / "tests/toy_stage.py", self.root / "stages/toy.py")
        (self.root / "stages/room.py").write_text(ROOM)
        (self.root / "stages/typed.py").write_text('"""Imported for types alone."""\n')
        (self.root / "data.txt").write_text("some data")
        given, self.params = self.params, {}
        self.change(("seeds", [0, 1]), ("noise", {"gaussian": GAUSSIAN}), ("runtime.jobs", 1))
        self.change(("report.headline", ["fgsm"]), *given.items())

    def change(self, *changes: Change) -> None:
        """Write params.yaml with these changes beside the earlier ones."""
        self.params |= dict(changes)
        (self.root / "params.yaml").write_text(json.dumps(edited(*self.params.items())))

    def path(self, *parts: str) -> Path:
        """A file of the project."""
        return self.root.joinpath(*parts)

    def start(
        self, *flags: str, module: str = "stages.toy", env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start the stage in a process group of its own."""
        process = subprocess.Popen(
            [sys.executable, "-m", module, *flags],
            cwd=self.root,
            env={name: value for name, value in os.environ.items() if name != "GPP_JOBS"} | dict(env or {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def end(self) -> None:
        """End what a failed test has left running."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stderr is not None:
                process.stderr.close()

    def run(self, *flags: str, module: str = "stages.toy", env: Mapping[str, str] | None = None) -> Said:
        """Run the stage to its end."""
        return said_by(self.start(*flags, module=module, env=env))

    def must(self, *flags: str) -> Said:
        """Run the stage, which has to end well."""
        said = self.run(*flags)
        assert said.code == 0, said
        return said

    def here(self, *flags: str, stage: str = "stages.toy") -> int:
        """Run the stage in this process, which is quicker; its exit code."""
        with inside(self):
            try:
                run_stage(stage, flags)
            except SystemExit as stop:
                return int(stop.code or 0)
        return 0

    def act(self, job: str, what: str) -> None:
        """Have a job misbehave from now on."""
        self.path("acts", job).write_text(what)

    def release(self, job: str) -> None:
        """Let a job behave again; one that waits goes on."""
        self.path("acts", job).unlink()

    def await_act(self, job: str) -> int:
        """Wait until a job waits; the process that it runs in."""
        here = self.path("acts", f"{job}.here")
        until(lambda: here.exists() and here.read_text() != "")
        process = int(here.read_text())
        here.unlink()
        return process

    def log(self, event: str) -> list[dict[str, Any]]:
        """The store's log lines of that event."""
        lines = (
            self.path(".jobs/log.jsonl").read_text().splitlines()
            if self.path(".jobs/log.jsonl").exists()
            else []
        )
        return [line for line in map(json.loads, lines) if line["event"] == event]

    def names(self, event: str) -> list[str]:
        """The jobs of such log lines, as `0-base`."""
        return [f"{line['labels']['seed']}-{line['labels']['name']}" for line in self.log(event)]

    def outputs(self) -> dict[str, bytes]:
        """Bytes of every file of the stage's output but the list of their hashes, by path."""
        out = self.path("runs/tiny/toy")
        return {
            file.relative_to(out).as_posix(): file.read_bytes()
            for file in sorted(out.rglob("*"))
            if file.is_file() and file.name != SUMS
        }


def said_by(process: subprocess.Popen[str]) -> Said:
    """Wait for a process, and kill its whole group if it does not end."""
    try:
        _, errors = process.communicate(timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Said(process.returncode, errors.splitlines())


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until a condition holds; it has to hold in the end."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """A process with all its descendants."""
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def left_after(seconds: float, processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run when so much time has passed; one that nobody has waited for yet does not run."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [each for each in alive if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def inside(toy: Project) -> Iterator[Project]:
    """This process as one that was started in the project; all that a stage changes in it is put back."""
    before, handlers = Path.cwd(), {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    scripts = _take_scripts()
    with patch.dict(os.environ), patch.object(sys, "path", [str(toy.root), *sys.path]):
        os.environ.pop("GPP_JOBS", None)
        os.chdir(toy.root)
        with patch.object(worker, "_imported", {}):
            try:
                yield toy
            finally:
                os.chdir(before)
                _take_scripts()
                sys.modules.update(scripts)
                for number, handler in handlers.items():
                    signal.signal(number, handler)


def _take_scripts() -> dict[str, ModuleType]:
    """Forget the stages that this process has imported, which are another project's; those modules."""
    names = [name for name in sys.modules if name.split(".")[0] == "stages"]
    return {name: sys.modules.pop(name) for name in names}
