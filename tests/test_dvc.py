"""dvc.yaml: what an edit reruns, and that deps and params name what the stages really read."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Workspace
from ruamel.yaml import YAML

from pipeline.jobs.code import import_closure
from pipeline.params.file import read_params
from pipeline.params.params import Params

# One process for all that share a full run.
pytestmark = pytest.mark.xdist_group("workspace")

STAGES: dict[str, dict[str, Any]] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
SECTIONS = {field.alias or name for name, field in Params.model_fields.items()}

PRUNED = ("prune@0-round0", "prune@0-round1", "select@0", "evaluate@0")
CONTEST = ("compete@0-l1", "compete@0-han", "compete@0-scratch", "compete@0-resnet6")
SHRUNK = ("shrink@0", *CONTEST)
LATE = ("robustness@0", "report")
WHITE_BOX = ("white_box@0-pgd",)
ATTACKED = ("source@0-resnet", "craft@0-resnet-fgsm", "craft@0-resnet-newton_fool")
NOISES = ("noise@gaussian", "noise@poisson", "noise@speckle")
# What a change of the grown model reruns.
GROWN_ON = ("push@0", "control@0", "variant@0-ours", *PRUNED, *SHRUNK, *WHITE_BOX)
EVERYTHING = ("prepare", "train@0", "grow@0", *GROWN_ON, *ATTACKED, *NOISES, *LATE)
OF_SEED_1 = tuple(name.replace("@0", "@1") for name in EVERYTHING if "@0" in name)


@pytest.fixture(scope="module")
def shared_copy(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    copy = finished.copy(tmp_path_factory.mktemp("rerun") / "copy")
    yield copy
    shutil.rmtree(copy.root, ignore_errors=True)


@pytest.fixture
def dry(shared_copy: Workspace) -> Iterator[Workspace]:
    """A finished workspace whose params.yaml may be edited; nothing runs there, so that tests can share it."""
    params, lock = shared_copy.path("params.yaml"), shared_copy.path("dvc.lock")
    before = params.read_bytes(), lock.read_bytes()
    yield shared_copy
    assert lock.read_bytes() == before[1]
    params.write_bytes(before[0])


@pytest.mark.parametrize(
    ("after", "old", "new", "reruns"),
    [
        pytest.param("name:", "name: tiny", "name: tiny  # a remark", (), id="remark"),
        pytest.param(
            "attacks:", "epsilon: 16.0", "epsilon: 8.0", ("craft@0-resnet-fgsm", *LATE), id="epsilon"
        ),
        pytest.param(
            "attacks:", "steps: 3", "steps: 4", ("craft@0-resnet-newton_fool", *LATE), id="newton-steps"
        ),
        pytest.param("noise:", "std: 5.0", "std: 6.0", ("noise@gaussian", *LATE), id="gaussian"),
        pytest.param("noise:", "peak: 255.0", "peak: 100.0", ("noise@poisson", *LATE), id="poisson"),
        pytest.param("prune:", "epochs: 2", "epochs: 3", (*PRUNED, *WHITE_BOX, *LATE), id="retraining"),
        pytest.param("prune:", "- 1.0", "- 1.0\n    - 2.0", (*PRUNED, *WHITE_BOX, *LATE), id="eta-added"),
        pytest.param(
            "surgery:", "round_to: 1", "round_to: 2", (*PRUNED, *SHRUNK, *WHITE_BOX, *LATE), id="surgery"
        ),
        pytest.param("shrink:", "- 0.25", "- 0.2", (*SHRUNK, *WHITE_BOX, *LATE), id="size"),
        pytest.param("variants:", "gamma: 0.3", "gamma: 0.2", ("variant@0-ours", "report"), id="variant"),
        pytest.param(
            "competitors:", "width: 0.125", "width: 0.25", ("compete@0-resnet6", *WHITE_BOX, *LATE), id="net"
        ),
        pytest.param(
            "competitors:",
            "  han:",
            "  chance:\n    criterion: random\n  han:",
            ("compete@0-chance", *WHITE_BOX, *LATE),
            id="competitor-added",
        ),
        pytest.param(
            "select:", "max_drop: 0.9", "max_drop: 0.5", (*PRUNED[2:], *WHITE_BOX, *LATE), id="select"
        ),
        pytest.param("lda:", "gamma: 0.05", "gamma: 0.06", (*GROWN_ON, *LATE), id="lda"),
        pytest.param("push:", "epochs: 3", "epochs: 4", (*GROWN_ON, *LATE), id="push"),
        pytest.param("grow:", "max_modules: 1", "max_modules: 2", ("grow@0", *GROWN_ON, *LATE), id="grow"),
        pytest.param("train:", "epochs: 4", "epochs: 5", ("train@0", "grow@0", *GROWN_ON, *LATE), id="train"),
        pytest.param("sources:", "epochs: 4", "epochs: 5", (*ATTACKED, *WHITE_BOX, *LATE), id="source"),
        pytest.param("white_box:", "steps: 2", "steps: 3", (*WHITE_BOX, "report"), id="white-box"),
        pytest.param("lineup:", "size: 0", "size: 1", (*WHITE_BOX, *LATE), id="lineup"),
        pytest.param(
            "numerics:",
            "eval_batch_size: 512",
            "eval_batch_size: 256",
            tuple(name for name in EVERYTHING if name not in ("prepare", *NOISES)),
            id="numerics",
        ),
        pytest.param("data:", "split_seed: 0", "split_seed: 1", EVERYTHING, id="split"),
        pytest.param("robustness:", "gallery_images: 3", "gallery_images: 4", LATE, id="gallery"),
        pytest.param("report:", "dpi: 60", "dpi: 61", ("report",), id="dpi"),
        pytest.param("report:", "0.98", "0.9", ("report",), id="target"),
        pytest.param("seeds:", "- 0", "- 0\n  - 1", (*OF_SEED_1, "report"), id="seed-added"),
        pytest.param(
            "attacks:",
            "  newton_fool:",
            "  strong:\n    method: fgsm\n    epsilon: 32.0\n  newton_fool:",
            ("craft@0-resnet-strong", *LATE),
            id="attack-added",
        ),
        pytest.param(
            "noise:",
            "  speckle:",
            "  coarse:\n    kind: gaussian\n    std: 20.0\n    seed: 1\n  speckle:",
            ("noise@coarse", *LATE),
            id="noise-added",
        ),
        pytest.param(
            "rounds:",
            "    previous: prune/round1\n",
            "    previous: prune/round1\n  - name: round3\n    previous: prune/round2\n",
            ("prune@0-round2", *PRUNED[2:], *WHITE_BOX, *LATE),
            id="round-added",
        ),
    ],
)
def test_an_edit_reruns_only_what_it_touches(
    dry: Workspace,
    edges: set[tuple[str, str]],
    after: str,
    old: str,
    new: str,
    reruns: tuple[str, ...],
) -> None:
    read_params(dry.path("params.yaml"))
    dry.edit_params(after=after, old=old, new=new)
    read_params(dry.path("params.yaml"))
    assert sorted(_reruns(dry, edges)) == sorted(reruns)


def _reruns(workspace: Workspace, edges: set[tuple[str, str]]) -> set[str]:
    """Stages whose code, params or inputs differ from the lock, and all that stands below them in the DAG.

    `dvc repro --dry` names the former only: it knows of no output that it has not made.
    """
    found = set(json.loads(workspace.must("dvc", "status", "--json").output))
    if not found <= {stage for edge in edges for stage in edge}:  # the edit has added stages
        edges = _edges(workspace)
    while below := {later for earlier, later in edges if earlier in found} - found:
        found |= below
    return found


def _edges(workspace: Workspace) -> set[tuple[str, str]]:
    """The DAG: (stage, a stage that reads its output)."""
    drawn = workspace.must("dvc", "dag", "--dot").output
    edges = set(re.findall(r'^"([^"]+)" -> "([^"]+)";$', drawn, re.MULTILINE))
    assert ("prune@0-round0", "prune@0-round1") in edges
    return edges


@pytest.fixture(scope="module")
def edges(shared_copy: Workspace) -> set[tuple[str, str]]:
    """The DAG of the unedited params."""
    return _edges(shared_copy)


def test_dry_run_of_an_edit_names_what_it_changes(dry: Workspace) -> None:
    """The table above is read from `dvc status`; `dvc repro` sees the same."""
    dry.edit_params(after="attacks:", old="epsilon: 16.0", new="epsilon: 8.0")
    assert sorted(dry.must("dvc", "repro", "--dry").ran) == sorted(["craft@0-resnet-fgsm", *LATE])


def test_stage_scripts_and_outputs_have_one_name() -> None:
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert set(STAGES) == scripts
    for name, stage in STAGES.items():
        assert re.match(rf"python -m stages\.{name}( |$)", stage["cmd"])
        assert _folders(stage["outs"]) == ["reports/${name}" if name == "report" else _output(name)]


def _output(stage: str) -> str:
    tails = {
        "prepare": "prepare",
        "noise": "noise/${item.noise}",
        "source": "${item.seed}/source/${item.source}",
        "craft": "${item.seed}/craft/${item.source}/${item.attack}",
        "white_box": "${item.seed}/white_box/${item.attack}",
        "prune": "${item.seed}/prune/${item.round.name}",
        "variant": "${item.seed}/variant/${item.variant}",
        "compete": "${item.seed}/compete/${item.competitor}",
    }
    return f"runs/${{name}}/{tails.get(stage, f'${{item.seed}}/{stage}')}"


def _folders(outs: list[Any]) -> list[str]:
    return [next(iter(out)) if isinstance(out, dict) else out for out in outs]


@pytest.mark.parametrize("stage", STAGES)
def test_script_writes_where_dvc_looks(stage: str) -> None:
    """The template that the script hands to `run_stage` is the output of dvc.yaml."""
    tree = ast.parse((ROOT / f"stages/{stage}.py").read_text())
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node.func) == "run_stage"
    ]
    assert len(calls) == 1
    out = next(keyword.value for keyword in calls[0].keywords if keyword.arg == "out")
    assert isinstance(out, ast.Constant)
    declared = re.sub(r"\$\{(?:item\.)?(?:round\.name|(\w+))\}", r"{\1}", _folders(STAGES[stage]["outs"])[0])
    assert out.value == declared.replace("{}", "{round}")


def _name(node: ast.AST) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_import_closure(stage: str) -> None:
    declared = [dep for dep in STAGES[stage]["deps"] if dep.startswith(("pipeline/", "stages/"))]
    closure = import_closure(Path(f"stages/{stage}.py"), ROOT)
    assert len(set(declared)) == len(declared)
    assert sorted(declared) == sorted({"/".join(path.parts[:2]) for path in closure})


_LOADED = """
import importlib, json, sys
found = {}
for stage in sys.argv[1:]:
    for name in [name for name in sys.modules if name.split(".")[0] in ("pipeline", "stages")]:
        del sys.modules[name]
    importlib.import_module(f"stages.{stage}")
    ours = [name for name in sys.modules if name.split(".")[0] in ("pipeline", "stages")]
    found[stage] = [sys.modules[name].__file__ for name in ours]
sys.stdout.write(json.dumps(found))
"""


def test_deps_hold_what_python_really_imports() -> None:
    """Independent of `pipeline.jobs.code`: what lies in `sys.modules` once a stage's script is imported."""
    said = subprocess.run(
        [sys.executable, "-c", _LOADED, *STAGES],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    ).stdout
    for stage, files in json.loads(said).items():
        loaded = {Path(file).relative_to(ROOT).as_posix() for file in files}
        assert f"stages/{stage}.py" in loaded
        # Every script's own package is imported with it; it holds nothing.
        covered = {file for file in loaded if "/".join(Path(file).parts[:2]) in STAGES[stage]["deps"]}
        assert loaded - covered <= {"stages/__init__.py"}
    (only,) = ast.parse((ROOT / "stages/__init__.py").read_text()).body
    assert isinstance(only, ast.Expr)
    assert isinstance(only.value, ast.Constant)


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_the_folders_that_the_script_reads(stage: str) -> None:
    """Every literal first part of `run.artefact(...)` has a dep, and every folder dep an `artefact`."""
    tree = ast.parse((ROOT / f"stages/{stage}.py").read_text())
    read = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "artefact"
        ):
            literal = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            read.update(str(value) for value in literal[:1])
    folders = [dep for dep in STAGES[stage]["deps"] if not dep.startswith(("pipeline/", "stages/"))]
    parts = {part for folder in folders for part in folder.split("/")}
    assert read <= parts
    assert bool(folders) == any(
        isinstance(node, ast.Attribute) and node.attr == "artefact" for node in ast.walk(tree)
    )


@pytest.mark.parametrize("stage", STAGES)
def test_params_name_the_sections_that_the_script_reads(stage: str) -> None:
    tree = ast.parse((ROOT / f"stages/{stage}.py").read_text())
    reads, whole = _sections_read(tree)
    declared = [entry.split(".")[0] for entry in STAGES[stage]["params"]]
    assert len(set(declared)) == len(declared)
    if stage == "report":
        assert set(declared) == SECTIONS
        return
    assert not whole, "only the report may take the params whole"
    # `name` and `seeds` are in the paths and keys of every matrix stage.
    assert set(declared) == {section.rstrip("_") for section in reads}


def _sections_read(tree: ast.AST) -> tuple[set[str], bool]:
    """First attributes after `.params`, and whether `.params` stands anywhere without one."""
    inner = {
        id(node.value): node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute)
    }
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "params"]
    ours = [node for node in found if _name(node.value) == "run"]
    sections = {inner[id(node)] for node in ours if id(node) in inner}
    return sections, any(id(node) not in inner for node in ours)


@pytest.mark.parametrize("stage", STAGES)
def test_script_hands_its_run_to_no_library(stage: str) -> None:
    """A `StageRun` holds all params; library functions get the sections that they need."""
    tree = ast.parse((ROOT / f"stages/{stage}.py").read_text())
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            if any(_name(argument) == "run" for argument in arguments):
                assert _name(node.func) in own


def test_stage_module_reads_no_section_of_its_own() -> None:
    """`pipeline.jobs.stage` runs in every stage: what it reads from the params would be undeclared."""
    tree = ast.parse((ROOT / "pipeline/workflow/stage.py").read_text())
    reads = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (_name(node.value) == "params" or getattr(node.value, "attr", None) == "params")
    }
    assert reads <= {"name"}


@pytest.mark.parametrize(
    ("stage", "key", "section"),
    [
        ("noise", "noise", "noise"),
        ("source", "source", "sources"),
        ("craft", "attack", "attacks"),
        ("white_box", "attack", "white_box"),
        ("variant", "variant", "variants"),
        ("compete", "competitor", "competitors"),
    ],
)
def test_one_entry_of_a_mapping_is_declared_alone(stage: str, key: str, section: str) -> None:
    assert f"{section}.${{item.{key}}}" in STAGES[stage]["params"]
    assert section not in STAGES[stage]["params"]


def test_only_the_report_is_kept_out_of_the_cache() -> None:
    """Plain outs with `cache: false` switch the run-cache off; metrics do not."""
    for name, stage in STAGES.items():
        options = [next(iter(out.values())) for out in stage["outs"] if isinstance(out, dict)]
        assert options == ([{"cache": False}] if name == "report" else [])
        for metric in stage.get("metrics", []):
            assert next(iter(metric.values())) == {"cache": False}
