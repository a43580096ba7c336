"""What the installed foolbox and torchvision offer, read off their sources: importing them takes seconds."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def torchvision_classifiers() -> frozenset[str]:
    """Names of `torchvision.models.list_models(torchvision.models)`: functions that `register_model()` decorates."""
    return frozenset(
        node.name
        for file in _folder("torchvision", "models").glob("*.py")
        for node in _parsed(file).body
        if isinstance(node, ast.FunctionDef)
        and any("register_model" in ast.unparse(decorator) for decorator in node.decorator_list)
    )


@cache
def foolbox_attacks() -> frozenset[str]:
    """Attack classes of `foolbox.attacks` and their other names: what its `__init__` imports and assigns."""
    names = set[str]()
    for node in _parsed(_folder("foolbox", "attacks") / "__init__.py").body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(names - {"Attack"})


def _folder(package: str, *below: str) -> Path:
    spec = find_spec(package)  # of a top-level package: looks for it, and imports nothing
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"expected {package} to be installed; run `make setup`")
    return Path(spec.origin).parent.joinpath(*below)


def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))
