"""`make repro`: checks params.yaml, runs `dvc repro` as the only one in this folder, and says what the report says.

Two `dvc repro` at once fail, each when it meets a stage or a lock of the other's (treeverse/dvc#10465). A second one
that is started by this module says who is at work, and waits before it has spent any time.

DVC does not write its own files aside: where a run was killed while it did, they are mended before the next one.
"""

from __future__ import annotations

import configparser
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import InputError, line_of
from pipeline.files import write_atomically
from pipeline.jobs.warm import warm_process
from pipeline.jobs.worker import limit_threads
from pipeline.params.file import check_net, read_params

_LOCK = Path(".jobs/repro.lock")
_DVC_LOCKS = Path(".dvc/tmp/rwlock")
_LOCK_FILE, _LAST_WHOLE = Path("dvc.lock"), Path(".jobs/dvc.lock")
_HASH = re.compile(r"[0-9a-f]{32}(\.dir)?")
_POLL_SECONDS = 0.5


def main(arguments: Sequence[str]) -> None:
    """Run `dvc repro` with these arguments; ends the process with its exit code."""
    try:
        _check_git()
        params = read_params()
        limit_threads(params.numerics.threads)
    except InputError as error:
        sys.exit(str(error))
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    try:
        with _alone(), warm_process():  # which loads its libraries while the net is checked
            if code := check_net():
                sys.exit(code)
            _mend()
            command = [sys.executable, "-m", "dvc", "repro", *arguments]
            with subprocess.Popen(command) as process:
                # Ctrl-C reaches the stage, too, which says what is kept. Not ignored before: DVC would inherit it.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                signal.signal(signal.SIGTERM, lambda *_: _end_stage(process.pid))
                code = process.wait()
            if code == 0 and Path("reports", params.name, "index.html").exists():
                # What it recommends, and where the page is; a process of its own, as jobs know no report.
                index = [sys.executable, "-m", "pipeline.report.index", params.name]
                code = subprocess.run(index, check=False).returncode
    except OSError as error:
        sys.exit(line_of(error) or f"make repro: {error}")
    except KeyboardInterrupt:
        sys.exit("make repro: interrupted while it waited; nothing was started")
    sys.exit(code)


def _check_git() -> None:
    """DVC looks for a repository, unless it is told that there is none.

    Raises:
        InputError: in an unpacked archive.
    """
    here = Path.cwd()
    if any((folder / ".git").exists() for folder in (here, *here.parents)):
        return
    told = configparser.ConfigParser(strict=False)
    told.read([".dvc/config", ".dvc/config.local"])
    if not told.getboolean("core", "no_scm", fallback=False):
        raise InputError(
            f"{here}: expected a git repository, for DVC, got none (an unpacked archive?): say `git init`, or "
            "`.venv/bin/dvc config --local core.no_scm true` to do without"
        )


def _end_stage(dvc: int) -> None:
    """What Ctrl-C does in a terminal, for whoever ends this process alone: DVC ends once its stage has."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(dvc).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.terminate()


@contextmanager
def _alone() -> Iterator[None]:
    """Inside the block no other of these runs is at work here; waits for one that is."""
    _LOCK.parent.mkdir(exist_ok=True)
    with _LOCK.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            _say(file.read() or "another process")
            fcntl.flock(file, fcntl.LOCK_EX)
        if (holder := _dvc_at_work()) is not None:
            _say(holder)
            while _dvc_at_work() is not None:
                time.sleep(_POLL_SECONDS)
        file.truncate(0)
        file.write(f"process {os.getpid()}, since {time.strftime('%H:%M')}")
        file.flush()
        yield


def _mend() -> None:
    """Remove DVC's book of locks where it is cut off, and go back to the last whole `dvc.lock` where that is."""
    if _DVC_LOCKS.exists() and not _is_json(_DVC_LOCKS):
        _DVC_LOCKS.unlink()
    if not _LOCK_FILE.exists():
        return
    if _is_whole(_LOCK_FILE):
        write_atomically(_LAST_WHOLE, _LOCK_FILE.read_bytes())
        return
    sys.stderr.write(
        "dvc.lock: cut off when a run was killed; what that run had finished comes from the job store\n"
    )
    if _LAST_WHOLE.exists():
        write_atomically(_LOCK_FILE, _LAST_WHOLE.read_bytes())
    else:
        _LOCK_FILE.unlink()


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def _is_whole(lock_file: Path) -> bool:
    """Whether every stage has a command and every file a hash; cut off elsewhere, it says less, but nothing wrong."""
    try:
        stages = YAML(typ="safe").load(lock_file.read_text(encoding="utf-8"))["stages"]
        entries = [
            entry for stage in stages.values() for kind in ("deps", "outs") for entry in stage.get(kind, ())
        ]
        return all(stage["cmd"] for stage in stages.values()) and all(
            _HASH.fullmatch(entry["md5"]) for entry in entries
        )
    except (YAMLError, LookupError, TypeError, AttributeError, UnicodeDecodeError):
        return False


def _say(holder: str) -> None:
    sys.stderr.write(f"another run is at work in this folder ({holder}): waiting for it\n")


def _dvc_at_work() -> str | None:
    """A `dvc` command that holds stages of this project, by its own book."""
    try:
        held = json.loads(_DVC_LOCKS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for info in held.get("write", {}).values():
        if _is_alive(info["pid"]):
            return f"{info['cmd']}, process {info['pid']}"
    return None


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
