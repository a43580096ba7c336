"""The import closure of a script: which files of the project its result depends on.

DVC does not follow Python imports. dvc.yaml's `deps` name the closure (a test compares), packages below `pipeline`
as a whole, and a stage hashes it when it starts, because DVC does so only when the command has ended.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

_PACKAGES = ("pipeline", "stages")


def import_closure(script: Path, root: Path = Path()) -> list[Path]:
    """Files below `root` that `script` imports, itself included, directly or not; sorted, relative to root.

    Imports inside functions count; those under `if TYPE_CHECKING:` do not run and do not count.
    """
    pending, seen = [script], set[Path]()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        package = path.parent.parts
        for module in _imported_modules(ast.parse((root / path).read_text(encoding="utf-8")), package):
            pending.extend(_files(module, root))
    return sorted(seen)


def _imported_modules(node: ast.AST, package: Sequence[str]) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = package[: len(package) - child.level + 1] if child.level else ()
            origin = ".".join([*above, *([child.module] if child.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from _imported_modules(ast.Module([other], []), package)
        else:
            yield from _imported_modules(child, package)


def _files(module: str, root: Path) -> Iterator[Path]:
    """The module's own file and the `__init__` of every package above it, where they are the project's."""
    parts = module.split(".")
    if parts[0] not in _PACKAGES:
        return
    for depth in range(1, len(parts) + 1):
        base = Path(*parts[:depth])
        for candidate in (base / "__init__.py", base.with_suffix(".py")):
            if (root / candidate).is_file():
                yield candidate


def code_deps(script: Path, root: Path = Path()) -> list[str]:
    """The closure as dvc.yaml names it: a package below `pipeline` as one folder, everything else file by file.

    DVC reads and writes the whole of dvc.lock after every stage: with each file named by itself that took as long as
    many a stage.
    """
    closure = import_closure(script, root)
    return sorted({Path(*path.parts[:2]).as_posix() for path in closure})


def write_deps(dvc_file: Path = Path("dvc.yaml")) -> None:
    """Bring the code among every stage's `deps` up to date; everything else in the file stays."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(dvc_file.read_text(encoding="utf-8"))
    for name, stage in document["stages"].items():
        data = [dep for dep in stage["deps"] if Path(dep).parts[0] not in _PACKAGES]
        stage["deps"] = code_deps(Path("stages") / f"{name}.py") + data
    with dvc_file.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)


if __name__ == "__main__":
    write_deps()
