"""What Python files import, read off their syntax, and the code that a user's own module stands for."""

import ast
import hashlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

# The project's own code, which the keys of jobs hold by themselves, and no net of a user's stands in.
_PROJECT = ("pipeline", "stages", "tests", "benchmarks")
# Functions that the user of this process has named.
_trusted: set[str] = set()


def imported_modules(node: ast.AST, package: Sequence[str]) -> Iterator[str]:
    """Names of the modules that a file of `package` imports, in functions too; not under `if TYPE_CHECKING:`."""
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
                yield from imported_modules(ast.Module([other], []), package)
        else:
            yield from imported_modules(child, package)


def module_files(module: str, root: Path) -> Iterator[Path]:
    """The module's own file and the `__init__` of every package above it, where they lie below `root`."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        base = Path(*parts[:depth])
        for candidate in (base / "__init__.py", base.parent / f"{base.name}.py"):
            if (root / candidate).is_file():
                yield candidate


def own_code_digest(module: str) -> str | None:
    """SHA-256 over the source of a user's module and of what it imports; None where there is none to be read.

    Of a module in the project's folder everything counts that lies there, too, but for the project's own code; of an
    installed one its own package. The source counts as it is, remarks and all, so that every version of Python finds
    the same. The module is looked for, and not imported.
    """
    top, root = module.partition(".")[0], _root(module)
    if root is None:
        return None
    at_home = root == Path.cwd().resolve()
    pending, seen = [*module_files(module, root)], dict[Path, bytes]()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen[path] = (root / path).read_bytes().replace(b"\r\n", b"\n")
        try:
            tree = ast.parse(seen[path])
        except (SyntaxError, ValueError):  # whoever imports it says so
            continue
        for name in imported_modules(tree, path.parent.parts):
            first = name.partition(".")[0]
            if first == top or (at_home and first not in _PROJECT):
                pending += module_files(name, root)
    digests = [f"{path.as_posix()}\0{hashlib.sha256(seen[path]).hexdigest()}\0" for path in sorted(seen)]
    return hashlib.sha256("".join(digests).encode()).hexdigest() if seen else None


def trust(*factories: str) -> None:
    """Let functions, as `module:function`, be called where a stored model names them."""
    _trusted.update(factories)


def trusted() -> tuple[str, ...]:
    """All that were named."""
    return tuple(sorted(_trusted))


def may_be_called(factory: str) -> bool:
    """Whether a function may be called because a file names it, which anyone may have written.

    One that the user has named, in params.yaml or by `trust`, or that is defined in a module in the current folder.
    """
    module, _, function = factory.partition(":")
    root = _root(module)
    if factory in _trusted or root is None:  # nothing is there
        return True
    if root != Path.cwd().resolve() or module.partition(".")[0] in _PROJECT:
        return False
    file = [*module_files(module, root)][-1:]
    try:
        body = ast.parse((root / file[0]).read_bytes()).body if file else []
    except (SyntaxError, ValueError):
        return False
    defined = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return function in {node.name for node in defined}


def _root(module: str) -> Path | None:
    """The folder that a module is looked up in, without importing it; None where there is none."""
    try:
        spec = find_spec(module.partition(".")[0])
    except ValueError:  # one that was put together by hand
        spec = None
    places = [*(spec.submodule_search_locations or [spec.origin or ""])] if spec else []
    return Path(places[0]).resolve().parent if places else None
