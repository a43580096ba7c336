"""The code that a stage's results depend on: its import closure, by files for jobs and by rooms for DVC.

DVC does not follow Python imports. dvc.yaml's `deps` name the rooms of the closure (a test compares), so that an edit
there makes DVC ask the stage; which of its jobs really have to run again, their keys decide: by the syntax trees of the
files that they import, in which neither comments nor docstrings count.

Each stage and each of its processes asks for hundreds of files: what was read off one is kept, by its bytes, in the
folder of the job store.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from pipeline.errors import InputError
from pipeline.files import write_atomically
from pipeline.imports import imported_modules, module_files
from pipeline.jobs.store import store_folder

_PACKAGES = ("pipeline", "stages")
# How jobs are run says nothing about what they compute, nor do words about progress: no key has them in it, and what
# they import is not followed.
_NOT_RESULTS = ("pipeline/jobs/", "pipeline/progress.py")


def import_closure(script: Path, root: Path = Path()) -> list[Path]:
    """Files below `root` that `script` imports, itself included, directly or not; sorted, relative to root.

    Imports inside functions count; those under `if TYPE_CHECKING:` do not run and do not count, nor does what
    `pipeline.jobs` imports.
    """
    pending, seen, asked = [script], set[Path](), set[str]()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        if path.as_posix().startswith(_NOT_RESULTS):
            continue
        imported, _ = _read(root / path, *_state(root / path), path.parent.parts)
        for module in imported:
            if module.split(".")[0] in _PACKAGES and module not in asked:
                asked.add(module)
                pending.extend(module_files(module, root))
    return sorted(seen)


def code_trees(module: str, root: Path = Path()) -> dict[str, str]:
    """A hash of the syntax tree of each file in a stage module's closure, as it is on disk now.

    Raises:
        InputError: if a file is not valid Python.
    """
    _recall()
    n_known = len(_known)
    closure = import_closure(Path(*module.split(".")).with_suffix(".py"), root)
    trees = {
        path.as_posix(): _read(root / path, *_state(root / path), path.parent.parts)[1]
        for path in closure
        if not path.as_posix().startswith(_NOT_RESULTS)
    }
    if len(_known) > n_known:
        _keep()
    return trees


def code_digest(module: str, root: Path = Path()) -> str:
    """SHA-256 over `code_trees`."""
    trees = code_trees(module, root)
    return hashlib.sha256("".join(f"{path}\0{tree}\0" for path, tree in trees.items()).encode()).hexdigest()


def code_deps(script: Path, root: Path = Path()) -> list[str]:
    """The closure as dvc.yaml names it: a room of `pipeline` as one folder, everything else file by file."""
    closure = import_closure(script, root)
    return sorted({Path(*path.parts[:2]).as_posix() for path in closure})


def write_deps(dvc_file: Path = Path("dvc.yaml")) -> None:
    """Bring the code among every stage's `deps` up to date; everything else in the file stays."""
    text = dvc_file.read_text(encoding="utf-8")
    stage = r"(?ms)^(  (?P<stage>\w+):\n    cmd: [^\n]*\n)    deps: \[(?P<deps>[^]]*)\]"

    def renewed(found: re.Match[str]) -> str:
        listed = re.split(r",\s+", found["deps"]) if found["deps"] else []
        data = [dep for dep in listed if not dep.startswith(_PACKAGES)]
        deps = ", ".join([*code_deps(Path("stages") / f"{found['stage']}.py"), *data])
        return found[1] + textwrap.fill(
            f"    deps: [{deps}]",
            116,
            subsequent_indent=" " * 6,
            break_on_hyphens=False,
            break_long_words=False,
        )

    dvc_file.write_text(re.sub(stage, renewed, text), encoding="utf-8")


# Modules that a file imports and the hash of its tree, by the version of Python and the bytes; of so many files.
_known: dict[str, tuple[list[str], str]] = {}
_MOST_KNOWN = 2_000


def _recall() -> None:
    """Read what other processes have found, once."""
    if not _known:
        with suppress(OSError):
            digest, _, found = (store_folder() / "code.cache").read_bytes().partition(b"\n")
            # A wrong import would be missing in keys.
            if hashlib.sha256(found).hexdigest().encode() == digest:
                _known.update(json.loads(found))


def _keep() -> None:
    """For other processes; without a word where they cannot be told."""
    found = dict(list(_known.items())[-_MOST_KNOWN:])
    file, own = (store_folder() / f"code{which}.cache" for which in ("", f"-{os.getpid()}"))
    with suppress(OSError, InputError):
        content = json.dumps(found).encode()
        digest = hashlib.sha256(content).hexdigest().encode()
        write_atomically(own, digest + b"\n" + content, sync=False)
        own.replace(file)


def _state(path: Path) -> tuple[int, int]:
    """What a changed file differs in."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@cache
def _read(path: Path, _mtime: int, _bytes: int, package: Sequence[str]) -> tuple[list[str], str]:
    """The modules that a file imports, and the hash of its tree; asked again only when the file has changed."""
    content = path.read_bytes()
    same = f"{sys.version_info[:2]} {package} ".encode() + content
    key = hashlib.sha256(same).hexdigest()
    if key not in _known:
        _known[key] = _parse(path, content, package)
    return _known[key]


def _parse(path: Path, content: bytes, package: Sequence[str]) -> tuple[list[str], str]:
    try:
        tree = ast.parse(content)
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid Python ({error.msg})") from None
    imported = list(imported_modules(tree, package))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
                del body[0]
    return imported, hashlib.sha256(ast.dump(tree).encode()).hexdigest()


if __name__ == "__main__":
    write_deps()
