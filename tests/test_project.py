"""The project's own rules."""

import ast
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

SOURCES = sorted(
    path.relative_to(ROOT) for room in ("pipeline", "stages") for path in (ROOT / room).rglob("*.py")
)
README = ROOT / "README.md"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def _tree(source: Path) -> ast.Module:
    return ast.parse((ROOT / source).read_text(encoding="utf-8"))


def _imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def _calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def _numpy_loads(tree: ast.AST) -> list[str]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if ast.unparse(call.func) in {"np.load", "numpy.load"}]


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_file_stays_under_three_hundred_lines(source: Path) -> None:
    assert len((ROOT / source).read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_a_function_stays_under_about_sixty_lines(source: Path) -> None:
    """Code lines: docstring and signature are not counted."""
    long = {}
    for node in ast.walk(_tree(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1
            if lines > 65:
                long[node.name] = lines
    assert long == {}


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_nothing_is_pickled_printed_or_evaluated(source: Path) -> None:
    tree = _tree(source)
    assert not _imports(tree) & {"pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
    banned = {"torch.load", "torch.save", "pd.read_pickle"}
    assert not _calls(tree) & {*banned, "print", "eval", "exec"}
    assert [call for call in _numpy_loads(tree) if "allow_pickle=False" not in call] == []


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_library_functions_seed_no_global_numpy_and_read_no_clock(source: Path) -> None:
    """The same bytes every time: no wall-clock time and no unseeded randomness in results."""
    calls = _calls(_tree(source))
    assert not {
        call
        for call in calls
        if re.match(r"(np|numpy)\.random\.(?!default_rng|Generator|PCG64|SeedSequence)", call)
    }
    assert not calls & {
        "time.time",
        "datetime.now",
        "datetime.datetime.now",
        "random.random",
        "random.shuffle",
    }


@pytest.mark.parametrize("source", [s for s in SOURCES if s.parts[0] == "pipeline"], ids=str)
def test_library_imports_no_stage(source: Path) -> None:
    assert not [name for name in _imports(_tree(source)) if name.split(".")[0] == "stages"]


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_every_module_says_what_it_is(source: Path) -> None:
    assert ast.get_docstring(_tree(source))
    assert source.stem not in {"utils", "helpers", "common", "misc"}


def test_stages_and_scripts_are_the_same() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} == {"__init__", *stages}


def test_report_loads_no_model() -> None:
    """It reruns in seconds: tables only, neither torch nor checkpoints."""
    from pipeline.jobs.code import import_closure

    for file in import_closure(Path("stages/report.py"), ROOT):
        heavy = {name.split(".")[0] for name in _imports(_tree(file))} & {"torch", "torchvision", "foolbox"}
        assert not heavy, file


def test_lock_names_no_index_and_pins_by_hash() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*(-i|--index-url|--extra-index-url|--find-links|-f)\b", text, re.MULTILINE)
    entries = re.findall(
        r"^[a-z0-9][^\n]*==[^\n]*(?:\n    --hash[^\n]*)*", text, re.MULTILINE | re.IGNORECASE
    )
    assert len(entries) > 50
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_lock_pins_every_direct_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    direct = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[<>=~! \[]", line, maxsplit=1)[0].lower() for line in direct}
    names = {re.sub("[._]", "-", name) for name in names}
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").lower()
    assert {name for name in names if not re.search(rf"^{re.escape(name)}==", text, re.MULTILINE)} == set()


@pytest.mark.parametrize("target", ["setup", "repro", "test", "bench", "preset", "check"])
def test_make_has_the_targets_that_others_call(target: str) -> None:
    assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE)


@pytest.mark.skipif(not README.exists(), reason="no README.md yet")
def test_readme_links_lead_somewhere() -> None:
    text = README.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(<?([^)#\s>]+)", text) + re.findall(r"<img[^>]+src=\"([^\"]+)\"", text)
    local = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    assert [target for target in local if not (ROOT / target).exists()] == []


@pytest.mark.skipif(not README.exists(), reason="no README.md yet")
def test_readme_anchors_exist() -> None:
    text = README.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert [anchor for anchor in re.findall(r"\]\(#([^)]+)\)", text) if anchor not in anchors] == []


@pytest.mark.skipif(not README.exists(), reason="no README.md yet")
def test_readme_names_files_modules_and_targets_that_exist() -> None:
    text = README.read_text(encoding="utf-8")
    paths = re.findall(r"`((?:pipeline|stages|tests|presets|benchmarks)/[\w./]+\w)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    targets = set(re.findall(r"`make (\w+)", text)) | set(re.findall(r"^\$? *make (\w+)", text, re.MULTILINE))
    assert {target for target in targets if not re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)} == set()
    modules = re.findall(r"python -m ((?:pipeline|stages|benchmarks)[\w.]*)", text)
    places = {name: name.replace(".", "/") for name in modules}
    assert [
        name
        for name, place in places.items()
        if not (ROOT / f"{place}.py").exists() and not (ROOT / place / "__main__.py").exists()
    ] == []


def test_git_ignores_what_runs_write() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert {"/runs/", "/.resume/", "/.venv/"} <= set(ignored)


def test_tools_of_the_stages_are_installed_beside_python() -> None:
    """`make repro` calls `dvc` and `python` from the environment's `bin` alone."""
    import sys

    folder = Path(sys.executable).parent
    assert shutil.which("dvc", path=os.fspath(folder))
