"""Files that are whole or absent, and the project's JSON and CSV."""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.errors import NO_SPACE, InputError, no_space


def write_atomically(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write aside, sync to disk, rename: a reader sees the old file or the new one, never a part.

    Without `sync` that holds when the process is killed, and not when the power fails.

    Raises:
        InputError: with the bytes needed and free, if the disk is full.
    """
    with aside(path, n_bytes=len(content)) as temporary, temporary.open("wb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def aside(path: Path, *, n_bytes: int | None = None) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place when the block ends, and is gone if the block fails.

    Args:
        path: the file; its folders are made.
        n_bytes: what is going to be written, if that is known, for the line on a full disk.

    Raises:
        InputError: if the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.new")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise InputError(no_space(path, n_bytes)) from None
        raise


def check_space(path: Path, n_bytes: int) -> None:
    """Ask for room before a long way to a large file.

    Raises:
        InputError: with the bytes needed and free, if the disk has less.
    """
    folder = next(each for each in (path, *path.absolute().parents) if each.is_dir())
    if shutil.disk_usage(folder).free < n_bytes:
        raise InputError(no_space(path, n_bytes))


def umask() -> int:
    """The rights that new files of this process do not have."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and diffs: sorted keys, two spaces, a final newline."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_atomically(path, f"{text}\n".encode())


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], *, fields: Sequence[str] = ()) -> None:
    """Write rows that share their keys; the header is `fields`, or the keys of the first row."""
    with aside(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=fields or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table, every cell as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
