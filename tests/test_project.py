"""The project's own rules."""

import ast
import os
import re
import shutil
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from pipeline.jobs.code import import_closure

SOURCES = sorted(
    path.relative_to(ROOT) for room in ("pipeline", "stages") for path in (ROOT / room).rglob("*.py")
)
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@cache
def _text(source: Path) -> str:
    return (ROOT / source).read_text(encoding="utf-8")


@cache
def _tree(source: Path) -> ast.Module:
    return ast.parse(_text(source))


def _imports(tree: ast.AST, *, in_functions: bool = True) -> set[str]:
    """Modules that run when this one does; not those that the type checker alone sees."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif in_functions or not isinstance(node, ast.FunctionDef):
            found |= _imports(node, in_functions=in_functions)
    return found


def _loaded_with(source: Path) -> set[Path]:
    """The project's files that are imported when this one is, itself among them."""
    pending, seen = [source], set[Path]()
    while pending:
        file = pending.pop()
        if file not in seen and file in SOURCES:
            seen.add(file)
            for name in _imports(_tree(file), in_functions=False):
                place = Path(*name.split("."))
                pending += [place.with_suffix(".py"), place / "__init__.py"]
    return seen


def _calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def _names(tree: ast.AST) -> set[str]:
    """Dotted names, imported ones in full."""
    dotted = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return dotted | _imports(tree)


def _loads(tree: ast.AST, *functions: str) -> list[str]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if ast.unparse(call.func) in functions]


def test_files_stay_under_three_hundred_lines_and_functions_under_about_sixty() -> None:
    """Code lines of functions: docstring and signature are not counted."""
    long = {}
    for source in SOURCES:
        if (n_lines := len(_text(source).splitlines())) > 300:
            long[f"{source}"] = n_lines
        for node in ast.walk(_tree(source)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                if (n_lines := (body[-1].end_lineno or 0) - body[0].lineno + 1) > 65:
                    long[f"{source}: {node.name}"] = n_lines
    assert long == {}


def test_the_product_stays_small() -> None:
    """As large as its method, and no larger: whoever raises the bound says what came for it.

    Last: what a user's net has to bear, tried before; reports side by side with what they cost and stand, their means;
    each variant of ours held against every competitor.
    """
    assert sum(len(_text(source).splitlines()) for source in SOURCES) <= 24_950


def test_nothing_is_pickled_printed_or_evaluated() -> None:
    """joblib and connections pickle calls on their way to a process, in one place each, and nothing to disk.

    A user's `state_dict` is read in one place, as bare tensors.
    """
    found = {}
    for source in SOURCES:
        tree = _tree(source)
        banned = {"pickle", "dill", "shelve", "marshal", "cloudpickle"}
        banned |= {"joblib"} if source != Path("pipeline/jobs/executors.py") else set()
        bad = {name for name in _imports(tree) if name.split(".")[0] in banned}
        bad |= _calls(tree) & {"torch.load", "torch.save", "pd.read_pickle", "print", "eval", "exec"}
        bad |= {name for name in _names(tree) if re.fullmatch(r"joblib(\.\w+)*\.(load|dump|Memory)", name)}
        bad |= {call for call in _loads(tree, "np.load", "numpy.load") if "allow_pickle=False" not in call}
        if source == Path("pipeline/models/own.py"):
            (call,) = _loads(tree, "torch.load")
            bad -= {"torch.load"} if "weights_only=True" in call else set()
        if bad:
            found[f"{source}"] = bad
    assert found == {}


def test_results_know_no_clock_and_no_unseeded_chance() -> None:
    """The same bytes every time. What the job store and its progress say of time is in no result."""
    clocks = {"time.time", "datetime.now", "datetime.datetime.now", "date.today"}
    chance = {"random.random", "random.shuffle", "random.choice"}
    found = {}
    for source in SOURCES:
        banned = chance if source.is_relative_to("pipeline/jobs") else chance | clocks
        calls = _calls(_tree(source))
        seeded = r"(np|numpy)\.random\.(?!default_rng|Generator|PCG64|SeedSequence)"
        if bad := calls & banned | {call for call in calls if re.match(seeded, call)}:
            found[f"{source}"] = bad
    assert found == {}


def test_every_module_says_what_it_is() -> None:
    assert [f"{source}" for source in SOURCES if not ast.get_docstring(_tree(source))] == []
    vague = {"utils", "helpers", "common", "misc"}
    assert [f"{source}" for source in SOURCES if source.stem in vague] == []


def test_packages_hold_a_docstring_alone() -> None:
    """An `__init__` runs with every module of its package, and would be a dependency of all that imports one."""
    public = {
        Path("pipeline", room, "__init__.py") for room in ("models", "deconv", "prune", "readers", "report")
    }
    packages = [source for source in SOURCES if source.name == "__init__.py" and source not in public]
    assert [f"{source}" for source in packages if len(_tree(source).body) != 1] == []
    assert len(packages) > 5


def test_the_library_imports_no_stage_and_its_rooms_form_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for source in SOURCES:
        if source.parts[0] != "pipeline":
            continue
        modules = [name.split(".") for name in _imports(_tree(source))]
        assert not [name for name in modules if name[0] == "stages"], source
        room = source.parts[1].removesuffix(".py")
        own = {name[1] for name in modules if name[0] == "pipeline" and len(name) > 1}
        graph.setdefault(room, set()).update(own - {room})
    assert len(graph) > 15
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"rooms import each other: {error.args[1]}")


HEAVY = {"torch", "torchvision", "foolbox", "lightning_fabric", "torch_pruning", "safetensors.torch"}


def test_params_jobs_and_reports_import_no_torch() -> None:
    """Params are read and jobs listed in no time, and reports come from tables.

    Not even in functions, but for the jobs' frame and the stages, whose functions do the work.
    """
    light = [
        source
        for source in SOURCES
        if source.parts[1] in ("params", "report")
        or source
        in map(Path, ("pipeline/robustness/conditions.py", "pipeline/files.py", "pipeline/compared.py"))
    ]
    found = {
        f"{source} -> {file}"
        for source in light
        for file in import_closure(source, ROOT)
        if _imports(_tree(file)) & HEAVY
    }
    # The processes that train one net together are there when torch is.
    frame = [s for s in SOURCES if s.parts[1] == "jobs" and s != Path("pipeline/jobs/together.py")]
    stages = [source for source in SOURCES if source.parts[0] == "stages"]
    found |= {
        f"{source} -> {file}"
        for source in [*frame, *stages]
        for file in _loaded_with(source)
        if _imports(_tree(file), in_functions=False) & HEAVY
    }
    assert found == set()
    assert len(light) > 15
    assert len(frame) > 10


def test_the_readmes_map_names_every_room() -> None:
    layout = README.read_text(encoding="utf-8").partition("\n## Layout\n")[2].partition("\n## ")[0]
    rooms = {path.name for path in (ROOT / "pipeline").iterdir() if (path / "__init__.py").exists()}
    assert {room for room in rooms if f"`{room}/`" not in layout} == set()


def test_stages_and_scripts_are_the_same() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} == {"__init__", *stages}


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


def test_make_has_the_targets_that_others_call() -> None:
    for target in ("setup", "repro", "test", "bench", "preset", "check", "clean"):
        assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE), target


def test_links_and_anchors_of_the_documentation_lead_somewhere() -> None:
    lost = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        targets = re.findall(r"\]\(<?([^)\s>]+)", text) + re.findall(r"<img[^>]+src=\"([^\"]+)\"", text)
        for target in targets:
            if "://" in target or target.startswith("mailto:"):
                continue
            file, _, anchor = target.partition("#")
            place = page.parent / file if file else page
            if not place.exists() or (anchor and anchor not in _anchors(place)):
                lost.append(f"{page.name}: {target}")
    assert lost == []


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_documentation_names_files_modules_and_targets_that_exist() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    paths = re.findall(r"`((?:pipeline|stages|tests|presets|benchmarks)/[\w./]+\w)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    targets = set(re.findall(r"`make (\w+)", text)) | set(re.findall(r"^\$? *make (\w+)", text, re.MULTILINE))
    assert {target for target in targets if not re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)} == set()
    modules = re.findall(r"python -m (benchmarks\b|(?:pipeline|stages)(?:\.\w+)+)", text)
    places = {name: name.replace(".", "/") for name in modules}
    assert [
        name
        for name, place in places.items()
        if not (ROOT / f"{place}.py").exists() and not (ROOT / place / "__main__.py").exists()
    ] == []


def test_git_ignores_what_runs_write() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert {"/runs/", "/.jobs/", ".venv"} <= set(ignored)


def test_tools_of_the_stages_are_installed_beside_python() -> None:
    """`make repro` calls `dvc` and `python` from the environment's `bin` alone."""
    import sys

    folder = Path(sys.executable).parent
    assert shutil.which("dvc", path=os.fspath(folder))
