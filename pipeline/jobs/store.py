"""The job store: finished jobs by their keys, work in progress beside them, and a log of what ran.

.jobs/done/<key>/out, about.json   a finished job; published by one rename, so whole or absent, and read-only
.jobs/work/<key>/out, resume       a job that is running, or was killed
.jobs/locks/<key>                  held while a job runs; the system frees it when its holder dies
.jobs/code.cache                   what was read off files of code (`pipeline.jobs.code`)
.jobs/log.jsonl                    a line for each job that started, ended or failed, and for each stage
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.files import umask, write_json
from pipeline.jobs.contents import content_of, files_below, hashes_of

# An absolute path in it shares a store between copies of the project, such as DVC's queued experiments.
PLACE_VARIABLE = "GPP_JOBS"


def store_folder() -> Path:
    """`.jobs`, or what `GPP_JOBS` names."""
    return Path(os.environ.get(PLACE_VARIABLE) or ".jobs").absolute()


@dataclass(frozen=True)
class Finished:
    """A finished job: its output folder, the hash of what is in it, its one line, and the hash of each file."""

    folder: Path
    content: str
    summary: str
    hashes: Mapping[str, str] = field(default_factory=dict)


class Store:
    """See the module.

    Args:
        root: its folder; by default `.jobs`, or what `GPP_JOBS` names.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or store_folder()).absolute()

    def find(self, key: str) -> Finished | None:
        """The finished job of that key, marked as used now; None if there is none, or a byte of it is damaged."""
        folder = self.root / "done" / key
        try:
            about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
            content, summary, hashes = str(about["content"]), str(about["summary"]), about["sha256"]
            if hashes != hashes_of(folder / "out") or content != content_of(hashes):
                return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None
        with suppress(OSError):  # a store that others may read alone
            os.utime(folder)
        return Finished(folder / "out", content, summary, hashes)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """One holder at a time, whatever process or machine it is in; others wait."""
        path = self.root / "locks" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def start(self, key: str) -> Path:
        """The folder to work in: `out` empty, `resume` as the last try left it. Hold the lock."""
        folder = self.root / "work" / key
        shutil.rmtree(folder / "out", ignore_errors=True)
        (folder / "status").unlink(missing_ok=True)
        for name in ("out", "resume"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        return folder

    def status(self, key: str) -> str:
        """What a job that is running last said of itself."""
        try:
            return (self.root / "work" / key / "status").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""

    def publish(self, key: str, *, summary: str, about: Mapping[str, Any]) -> None:
        """Turn the folder that was worked in into the finished job of that key. Hold the lock.

        `about`: facts to keep beside the output, never in it, as they differ from run to run.
        """
        work, done = self.root / "work" / key, self.root / "done" / key
        for path in files_below(work / "out"):
            _sync(path)
            path.chmod(0o444 & ~umask())
        hashes = hashes_of(work / "out")
        found = {"summary": summary, "content": content_of(hashes), "sha256": hashes}
        write_json(work / "about.json", {**about, **found})
        shutil.rmtree(work / "resume", ignore_errors=True)
        (work / "status").unlink(missing_ok=True)
        shutil.rmtree(done, ignore_errors=True)  # a damaged one
        done.parent.mkdir(parents=True, exist_ok=True)
        work.rename(done)

    def log(self, event: str, **facts: Any) -> None:
        """Append a line to the log; lines of several processes do not mix."""
        self.root.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts}, ensure_ascii=False)
        with (self.root / "log.jsonl").open("ab", buffering=0) as file:
            file.write(f"{line}\n".encode())

    def read_log(self) -> list[dict[str, Any]]:
        """Every line of the log, oldest first."""
        file, lines = self.root / "log.jsonl", []
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else ():
            with suppress(ValueError):  # cut off where no space was left
                if isinstance(found := json.loads(line), dict):
                    lines.append(found)
        return lines

    def forget(self, limit_bytes: float, *, used: Collection[str]) -> None:
        """Remove what has not been used for longest until the store is within the limit; never what `used` names."""
        entries = []
        for kind in ("done", "work"):
            for folder in (self.root / kind).glob("*"):
                with suppress(FileNotFoundError):  # another run's job, which ends meanwhile
                    n_bytes = sum(path.stat().st_size for path in files_below(folder))
                    entries.append((folder.stat().st_mtime, folder, n_bytes))
        total = sum(n_bytes for _, _, n_bytes in entries)
        for _, folder, n_bytes in sorted(entries):
            if total <= limit_bytes:
                return
            if folder.name not in used and self.remove(folder.name):
                total -= n_bytes

    def remove(self, key: str) -> bool:
        """Whether the job could be removed: not while it is running."""
        lock = self.root / "locks" / key
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            for kind in ("done", "work"):
                shutil.rmtree(self.root / kind / key, ignore_errors=True)
        return True


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
