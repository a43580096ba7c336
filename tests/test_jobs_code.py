"""The import closure and the hash of its code, on small projects made for the purpose."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.jobs import code
from pipeline.jobs.code import code_deps, code_digest, code_trees, import_closure, write_deps


def _project(root: Path, **files: str) -> Path:
    """Files by name, with `__` for `/` and `.py` added; packages get their `__init__.py`."""
    for name, text in {"pipeline/__init__": "", "stages/__init__": "", **files}.items():
        path = root / f"{name.replace('__', '/') if '/' not in name else name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _closure(root: Path, script: str = "stages/run.py") -> list[str]:
    return [path.as_posix() for path in import_closure(Path(script), root)]


@pytest.mark.parametrize(
    "statement",
    [
        "import pipeline.a",
        "import pipeline.a as b",
        "import os, pipeline.a",
        "from pipeline.a import x",
        "from pipeline import a",
        "from pipeline import a as b",
        "from pipeline.a import *",
        "def f():\n    from pipeline.a import x",
        "class C:\n    def f(self):\n        import pipeline.a",
        "try:\n    import pipeline.a\nexcept ImportError:\n    pass",
        "if True:\n    pass\nelse:\n    import pipeline.a",
        "with open('x') as f:\n    import pipeline.a",
    ],
)
def test_every_form_of_import_counts(tmp_path: Path, statement: str) -> None:
    _project(tmp_path, stages__run=statement, pipeline__a="x = 1", pipeline__unused="")
    assert _closure(tmp_path) == ["pipeline/__init__.py", "pipeline/a.py", "stages/run.py"]


def test_imports_of_imports_count(tmp_path: Path) -> None:
    _project(
        tmp_path,
        stages__run="from pipeline.a import x",
        pipeline__a="from pipeline.b import x",
        pipeline__b="def f():\n    import pipeline.c",
        pipeline__c="",
        pipeline__d="import pipeline.a",
    )
    assert _closure(tmp_path) == [
        "pipeline/__init__.py",
        "pipeline/a.py",
        "pipeline/b.py",
        "pipeline/c.py",
        "stages/run.py",
    ]


def test_circles_end(tmp_path: Path) -> None:
    _project(
        tmp_path,
        stages__run="import pipeline.a",
        pipeline__a="import pipeline.b",
        pipeline__b="import pipeline.a",
    )
    assert "pipeline/b.py" in _closure(tmp_path)


def test_packages_above_a_module_count_with_what_they_import(tmp_path: Path) -> None:
    _project(tmp_path, stages__run="from pipeline.models.fc import net", pipeline__base="")
    for name, text in {"__init__": "import pipeline.base", "fc": "net = 1", "other": ""}.items():
        (tmp_path / "pipeline/models").mkdir(exist_ok=True)
        (tmp_path / f"pipeline/models/{name}.py").write_text(text)
    assert _closure(tmp_path) == [
        "pipeline/__init__.py",
        "pipeline/base.py",
        "pipeline/models/__init__.py",
        "pipeline/models/fc.py",
        "stages/run.py",
    ]


@pytest.mark.parametrize(
    "guard",
    ["from typing import TYPE_CHECKING\nif TYPE_CHECKING:", "import typing\nif typing.TYPE_CHECKING:"],
)
def test_imports_for_the_type_checker_do_not_run(tmp_path: Path, guard: str) -> None:
    _project(
        tmp_path,
        stages__run=f"{guard}\n    import pipeline.a\nimport pipeline.b",
        pipeline__a="",
        pipeline__b="",
    )
    assert _closure(tmp_path) == ["pipeline/__init__.py", "pipeline/b.py", "stages/run.py"]


def test_else_of_the_type_checkers_guard_runs(tmp_path: Path) -> None:
    guard = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pipeline.a\nelse:\n    import pipeline.b"
    _project(tmp_path, stages__run=guard, pipeline__a="", pipeline__b="")
    assert "pipeline/b.py" in _closure(tmp_path)


def test_relative_imports_count(tmp_path: Path) -> None:
    _project(
        tmp_path,
        stages__run="import pipeline.a",
        pipeline__a="from . import b\nfrom .c import x",
        pipeline__b="",
        pipeline__c="x = 1",
    )
    assert {"pipeline/b.py", "pipeline/c.py"} <= set(_closure(tmp_path))


def test_other_peoples_packages_do_not_count(tmp_path: Path) -> None:
    _project(tmp_path, stages__run="import json, numpy.linalg\nfrom tests import x")
    (tmp_path / "json.py").write_text("")
    assert _closure(tmp_path) == ["stages/run.py"]


def test_a_stage_that_imports_a_stage(tmp_path: Path) -> None:
    _project(
        tmp_path, stages__run="from stages.other import f", stages__other="import pipeline.a", pipeline__a=""
    )
    assert _closure(tmp_path) == [
        "pipeline/__init__.py",
        "pipeline/a.py",
        "stages/__init__.py",
        "stages/other.py",
        "stages/run.py",
    ]


def test_modules_in_rooms_import_relative_to_their_room(tmp_path: Path) -> None:
    _project(tmp_path, stages__run="import pipeline.room.a", pipeline__b="")
    for name, text in {"__init__": "from . import c", "a": "from ..b import x\nfrom .d import y"}.items():
        (tmp_path / "pipeline/room").mkdir(exist_ok=True)
        (tmp_path / f"pipeline/room/{name}.py").write_text(text)
    for name in ("c", "d"):
        (tmp_path / f"pipeline/room/{name}.py").write_text("")
    assert _closure(tmp_path) == [
        "pipeline/__init__.py",
        "pipeline/b.py",
        *(f"pipeline/room/{name}.py" for name in ("__init__", "a", "c", "d")),
        "stages/run.py",
    ]


def test_how_jobs_are_run_counts_itself_but_not_what_it_imports(tmp_path: Path) -> None:
    """dvc.yaml names `pipeline/jobs` for every stage, and no more for its sake."""
    _project(tmp_path, stages__run="import pipeline.jobs.stage\nimport pipeline.progress", pipeline__a="")
    (tmp_path / "pipeline/jobs").mkdir()
    (tmp_path / "pipeline/jobs/stage.py").write_text("import pipeline.a")
    (tmp_path / "pipeline/progress.py").write_text("import pipeline.a")
    closure = ["pipeline/__init__.py", "pipeline/jobs/stage.py", "pipeline/progress.py", "stages/run.py"]
    assert _closure(tmp_path) == closure
    assert sorted(code_trees("stages.run", tmp_path)) == ["pipeline/__init__.py", "stages/run.py"]


CODE = '''"""A module."""

import pipeline.a


class Thing:
    """A thing."""

    def method(self):
        """A method."""
        return "text", 1


async def wait():
    """Wait."""
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another module."""'),
        ('"""A module."""', "# nothing is said"),
        ('    """A thing."""\n', ""),
        ('"""A method."""', '"""A method,\n\n        in three lines."""'),
        ('"""Wait."""', '"""Wait for it."""'),
        ("import pipeline.a\n", "import pipeline.a  # and a remark\n"),
        ('"text", 1', "('text', 1)"),
        ("\n", "\r\n"),
        ("\n\n", "\n\n\n"),
    ],
)
def test_words_and_layout_are_none_of_the_digest(tmp_path: Path, old: str, new: str) -> None:
    _project(tmp_path, stages__run=CODE, pipeline__a="")
    before = code_digest("stages.run", tmp_path)
    assert old in CODE
    (tmp_path / "stages/run.py").write_bytes(CODE.replace(old, new).encode())
    assert code_digest("stages.run", tmp_path) == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("stages/run.py", CODE.replace('"text", 1', '"text", 2')),
        ("stages/run.py", CODE.replace('"text", 1', '"Text", 1')),
        ("stages/run.py", CODE.replace("method", "other")),
        ("stages/run.py", CODE.replace("import pipeline.a", "import pipeline.a, pipeline.b")),
        ("stages/run.py", CODE.replace("import pipeline.a", "")),
        ("pipeline/a.py", "x = 1"),
        ("pipeline/__init__.py", "x = 1"),
    ],
)
def test_code_is_all_of_the_digest(tmp_path: Path, file: str, text: str) -> None:
    _project(tmp_path, stages__run=CODE, pipeline__a="", pipeline__b="")
    before = code_digest("stages.run", tmp_path)
    (tmp_path / file).write_text(text)
    assert code_digest("stages.run", tmp_path) != before


@pytest.mark.parametrize(
    "file", ["pipeline/b.py", "pipeline/jobs/run.py", "pipeline/progress.py", "stages/other.py"]
)
def test_other_code_is_none_of_it(tmp_path: Path, file: str) -> None:
    (tmp_path / "pipeline/jobs").mkdir(parents=True)
    (tmp_path / "pipeline/jobs/run.py").write_text("")
    _project(
        tmp_path,
        stages__run=f"{CODE}import pipeline.jobs.run, pipeline.progress\n",
        pipeline__a="",
        pipeline__b="",
        pipeline__progress="",
    )
    before = code_digest("stages.run", tmp_path)
    (tmp_path / file).write_text("x = 1")
    assert code_digest("stages.run", tmp_path) == before


def test_a_file_that_moves_changes_the_digest(tmp_path: Path) -> None:
    _project(tmp_path, stages__run="import pipeline.a, pipeline.b", pipeline__a="x = 1", pipeline__b="x = 2")
    before = code_digest("stages.run", tmp_path)
    (tmp_path / "pipeline/a.py").write_text("x = 2")
    (tmp_path / "pipeline/b.py").write_text("x = 1")
    assert code_digest("stages.run", tmp_path) != before


def test_half_saved_code_is_named_in_a_line(tmp_path: Path) -> None:
    _project(tmp_path, stages__run="import pipeline.a", pipeline__a="x = 1\ndef f(\n")
    with pytest.raises(InputError, match=r"pipeline/a\.py, line 2: not valid Python \(.*\)$"):
        code_digest("stages.run", tmp_path)


def test_deps_are_rooms(tmp_path: Path) -> None:
    _project(tmp_path, stages__run="import pipeline.a, pipeline.room.one.two", pipeline__a="")
    (tmp_path / "pipeline/room/one").mkdir(parents=True)
    (tmp_path / "pipeline/room/one/two.py").write_text("")
    deps = ["pipeline/__init__.py", "pipeline/a.py", "pipeline/room", "stages/run.py"]
    assert code_deps(Path("stages/run.py"), tmp_path) == deps


def test_write_deps_mends_the_code_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _project(tmp_path, stages__run="import pipeline.a", stages__other="", pipeline__a="", pipeline__old="")
    monkeypatch.chdir(tmp_path)
    text = """# a remark
stages:
  run:
    cmd: python -m stages.run
    deps: [{deps}'runs/${{name}}/prepare',
      'runs/${{name}}/train']
    params: [data]
    outs: ['runs/${{name}}/run']

  other:
    cmd: python -m stages.other
    deps: [{others}]
    outs: ['runs/${{name}}/other']
"""
    dvc_file = tmp_path / "dvc.yaml"
    dvc_file.write_text(text.format(deps="pipeline/old.py, ", others=""))
    write_deps(dvc_file)
    deps = "pipeline/__init__.py, pipeline/a.py, stages/run.py, "
    written = text.format(deps=deps, others="stages/other.py")
    assert dvc_file.read_text().replace("\n      ", " ") == written.replace("\n      ", " ")
    assert all(len(line) <= 120 for line in dvc_file.read_text().splitlines())
    write_deps(dvc_file)
    assert dvc_file.read_text().replace("\n      ", " ") == written.replace("\n      ", " ")


def test_a_damaged_byte_of_what_was_kept_of_files_makes_all_of_it_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module less among the imports, and an edit of that module would change no key."""
    monkeypatch.chdir(_project(tmp_path, pipeline__a="x = 1", stages__run="import pipeline.a"))
    monkeypatch.delenv("GPP_JOBS", raising=False)
    monkeypatch.setattr(code, "_known", {})
    trees = code_trees("stages.run")
    file = tmp_path / ".jobs/code.cache"
    whole = file.read_bytes()
    assert b"pipeline.a" in whole
    flipped = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 5)]
    for content in (*flipped, whole[:-1], b"", b"[1]", b"\xff"):
        file.write_bytes(content)
        monkeypatch.setattr(code, "_known", {})
        code._recall()
        assert code._known == {}
        assert code_trees("stages.run") == trees
    file.write_bytes(whole)
    monkeypatch.setattr(code, "_known", {})
    code._recall()
    assert ["pipeline.a"] in [imports for imports, _ in code._known.values()]
