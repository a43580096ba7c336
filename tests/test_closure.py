"""The import closure, on small projects made for the purpose."""

from pathlib import Path

import pytest

from pipeline.jobs.code import import_closure, write_deps


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


def test_write_deps_mends_the_code_and_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _project(tmp_path, stages__run="import pipeline.a", pipeline__a="", pipeline__old="")
    monkeypatch.chdir(tmp_path)
    text = """# a remark
stages:
  run:
    cmd: python -m stages.run
    deps:
{deps}
      - runs/${{name}}/prepare
    params:
      - data
    outs:
      - runs/${{name}}/run
"""
    dvc_file = tmp_path / "dvc.yaml"
    dvc_file.write_text(text.format(deps="      - pipeline/old.py"))
    write_deps(dvc_file)
    files = ("pipeline/__init__.py", "pipeline/a.py", "stages/run.py")
    assert dvc_file.read_text() == text.format(deps="\n".join(f"      - {file}" for file in files))
