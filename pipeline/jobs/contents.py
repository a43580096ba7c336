"""What lies on disk, by SHA-256: for the keys of jobs, and to tell a stage's output from what has become of it.

A byte that flips in weights or in a table changes numbers, and nothing that reads them could tell. So every stage notes
what it leaves below runs/, in SHA256SUMS (`sha256sum --check` reads it, too), and a later one takes nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import InputError
from pipeline.files import write_atomically

RUNS = Path("runs")
SUMS = "SHA256SUMS"
_MODEL = (".json", ".safetensors")


def hashes_of(path: Path) -> dict[str, str]:
    """SHA-256 of a file, of each in a folder, or of a saved model's two by their common path; by what follows `path`.

    Raises:
        FileNotFoundError: if there is none.
    """
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file for file in files_below(path)}
    elif path.is_file():
        files = {path.suffix: path}
    else:
        files = {suffix: path.with_name(path.name + suffix) for suffix in _MODEL}
    return {name: hash_of(file) for name, file in files.items()}


def hash_of(file: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def content_of(hashes: Mapping[str, str]) -> str:
    """One SHA-256 over names and hashes."""
    text = "".join(f"{name}\0{found}\0" for name, found in sorted(hashes.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def files_below(folder: Path) -> list[Path]:
    """All files in a folder and in those below it, in the order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def write_sums(folder: Path, hashes: Mapping[str, str]) -> None:
    """Note the hashes of a stage's files by their paths in its folder; the last line is a hash of those before it."""
    text = "".join(f"{found}  {name}\n" for name, found in sorted(hashes.items()))
    write_atomically(folder / SUMS, f"{text}# {hashlib.sha256(text.encode()).hexdigest()}\n".encode())


def left_by_stage(path: Path, endings: tuple[str, ...] = ("",)) -> dict[str, str]:
    """`hashes_of` for what lies below runs/, as the stage noted them; files that it has not written do not count.

    Args:
        path: below `runs/<name>/<stage>`, or that folder itself.
        endings: of the names of the files that are going to be read, which are held against their hashes.

    Raises:
        FileNotFoundError: if the stage has left nothing there.
        InputError: naming the file that is missing, or is not the one that the stage left.
    """
    folder = Path(*path.parts[:3])
    own = path.relative_to(folder).as_posix() if path != folder else ""
    sums = _read_sums(folder)
    names = [name for name in sums if own in ("", name) or name.startswith(f"{own}/")]
    names = names or [own + ending for ending in _MODEL if own + ending in sums]
    if own and not names:
        raise FileNotFoundError(path)
    for name in names:
        if name.endswith(endings):
            file = folder / name
            got = f"one with {hash_of(file)[:12]}" if file.is_file() else "no such file"
            if got != (expected := f"one with {sums[name][:12]}"):
                raise _damaged(file, f"{expected} (SHA-256), as the stage left it", got)
    return {name.removeprefix(own): sums[name] for name in names}


def _read_sums(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    file = folder / SUMS
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    body, _, digest = text.rpartition("# ")
    if digest != f"{hashlib.sha256(body.encode()).hexdigest()}\n":
        raise _damaged(file, "the stage's list of its files", "a damaged one" if text else "none")
    pairs = (line.split("  ", 1) for line in body.splitlines())
    return {name: found for found, name in pairs}


def _damaged(file: Path, expected: str, got: str) -> InputError:
    folder = Path(*file.parts[:3])
    return InputError(
        f"{file}: expected {expected}, got {got}; remove {folder} and say `make repro`, which makes it anew"
    )
