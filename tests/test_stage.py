"""What all stage scripts share: flags, whole outputs, and which errors keep their traceback."""

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Workspace

from pipeline.errors import InputError
from pipeline.jobs.stage import StageRun, run_stage
from pipeline.training.resume import ResumePoint

Body = Callable[[StageRun], Any]
OUT = Path("runs/tiny/0/fake")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """A folder with params.yaml, a library module and a stage script that imports it."""
    shutil.copy(ROOT / "presets/tiny.yaml", tmp_path / "params.yaml")
    for name, text in {"stages/fake.py": "import pipeline.room\n", "pipeline/room.py": "x = 1\n"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stages/fake.py", "--seed", "0"])
    caplog.set_level(logging.INFO, logger="pipeline")
    return tmp_path


def _run(body: Body) -> None:
    run_stage(body, out="runs/{name}/{seed}/fake", keys=["seed"])


def _write(run: StageRun) -> str:
    (run.out / "result.txt").write_text("whole")
    return "all is well"


def _fails(body: Body, caplog: pytest.LogCaptureFixture) -> list[str]:
    with pytest.raises(SystemExit) as stop:
        _run(body)
    assert stop.value.code == 1
    return caplog.messages


def test_output_is_moved_into_place_and_logged(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    _run(_write)
    assert [path.name for path in OUT.iterdir()] == ["result.txt"]
    (line,) = caplog.messages
    assert line.startswith("fake seed 0: all is well (")
    assert [path for path in Path(".resume").rglob("*") if path.name != "partial"] == []


def test_body_gets_params_seed_and_an_empty_folder(project: Path) -> None:
    seen: list[StageRun] = []

    def body(run: StageRun) -> None:
        assert list(run.out.iterdir()) == []
        assert not OUT.exists()
        seen.append(run)

    _run(body)
    _run_again_after_clutter(body)
    assert [run.seed for run in seen] == [0, 0]
    assert seen[0].params.name == "tiny"
    assert sorted(seen[0].code) == ["pipeline/room.py", "stages/fake.py"]


def _run_again_after_clutter(body: Body) -> None:
    shutil.rmtree(OUT)
    partial = Path(".resume/partial/fake-tiny-0")
    partial.mkdir(parents=True)
    (partial / "from-a-killed-run.txt").write_text("half")
    _run(body)


def test_old_output_is_replaced_whole(project: Path) -> None:
    OUT.mkdir(parents=True)
    (OUT / "old.txt").write_text("old")
    _run(_write)
    assert [path.name for path in OUT.iterdir()] == ["result.txt"]


@pytest.mark.parametrize("file", ["params.yaml", "stages/fake.py", "pipeline/room.py"])
def test_a_change_while_it_runs_is_an_error_and_leaves_no_output(
    project: Path, caplog: pytest.LogCaptureFixture, file: str
) -> None:
    def body(run: StageRun) -> None:
        _write(run)
        Path(file).write_text(f"{Path(file).read_text()}\n# edited meanwhile\n")

    (line,) = _fails(body, caplog)
    assert "changed while it ran" in line
    assert not OUT.exists()
    _run(_write)
    assert OUT.exists()


def test_a_new_import_while_it_runs_is_a_change(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    def body(run: StageRun) -> None:
        Path("pipeline/other.py").write_text("")
        Path("pipeline/room.py").write_text("import pipeline.other\n")

    (line,) = _fails(body, caplog)
    assert "changed" in line


def test_a_change_elsewhere_is_none(project: Path) -> None:
    def body(run: StageRun) -> str:
        Path("pipeline/other.py").write_text("")
        return _write(run)

    _run(body)
    assert OUT.exists()


def test_input_error_is_one_line_each_and_no_output(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    def body(run: StageRun) -> None:
        _write(run)
        raise InputError("first: expected 1, got 2\nsecond: expected 3, got 4")

    assert _fails(body, caplog) == [
        "fake seed 0: first: expected 1, got 2",
        "fake seed 0: second: expected 3, got 4",
    ]
    assert not OUT.exists()


def test_other_errors_keep_their_traceback(project: Path) -> None:
    def body(run: StageRun) -> None:
        _write(run)
        raise ZeroDivisionError("a defect of the program")

    with pytest.raises(ZeroDivisionError, match="a defect"):
        _run(body)
    assert not OUT.exists()


def test_failure_keeps_the_old_output(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    _run(_write)

    def body(run: StageRun) -> None:
        raise InputError("no")

    _fails(body, caplog)
    assert (OUT / "result.txt").read_text() == "whole"


def test_bad_params_stop_it_before_the_body(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("threads: 1", "threads: none"))
    called: list[StageRun] = []
    (line,) = _fails(called.append, caplog)
    assert line.startswith("fake seed 0: params.yaml: numerics.threads: ")
    assert called == []
    assert not Path("runs").exists()


def test_a_missing_flag_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["stages/fake.py"])
    with pytest.raises(SystemExit) as stop:
        _run(_write)
    assert stop.value.code == 2
    assert "--seed" in capsys.readouterr().err


def test_a_missing_artefact_names_itself(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    (line,) = _fails(lambda run: run.artefact("prepare"), caplog)
    assert "runs/tiny/prepare" in line
    assert "dvc repro" in line


def _key(run: StageRun) -> Path:
    return run.resume_folder([Path("input")], [run.params.numerics, run.params.push])


def _resume_folders(*changes: Callable[[], object]) -> list[Path]:
    folders: list[Path] = []
    for change in (lambda: None, *changes):
        change()
        _run(lambda run: folders.append(_key(run)))
    return folders


def test_resume_key_changes_with_code_inputs_and_params(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("input").mkdir()
    Path("input/a.txt").write_text("a")
    params = Path("params.yaml")
    text = params.read_text()
    folders = _resume_folders(
        lambda: Path("input/a.txt").write_text("b"),
        lambda: Path("pipeline/room.py").write_text("x = 2\n"),
        lambda: params.write_text(text.replace("threads: 1", "threads: 2")),
        lambda: monkeypatch.setattr(sys, "argv", ["stages/fake.py", "--seed", "1"]),
    )
    assert len(set(folders)) == 5


def test_resume_key_stays_for_the_same_and_for_other_sections(project: Path) -> None:
    Path("input").mkdir()
    params = Path("params.yaml")
    folders = _resume_folders(lambda: params.write_text(params.read_text().replace("dpi: 60", "dpi: 61")))
    assert folders[0] == folders[1]


def test_resume_points_outlive_a_failure_and_end_with_a_success(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path("input").mkdir()

    def dies(run: StageRun) -> None:
        ResumePoint(_key(run) / "fit").save({}, {"epoch": 1})
        raise InputError("no space")

    _fails(dies, caplog)
    found: list[Any] = []
    _run(lambda run: found.append(ResumePoint(_key(run) / "fit").load()))
    assert found == [({}, {"epoch": 1})]
    assert list(Path(".resume").glob("fake*")) == []


@pytest.mark.parametrize("previous", ["push", "prune/round1"])
def test_flags_with_slashes_leave_nothing_behind(
    project: Path, monkeypatch: pytest.MonkeyPatch, previous: str
) -> None:
    """Prune rounds name the round before as `prune/round1`."""
    Path("input").mkdir()
    monkeypatch.setattr(sys, "argv", ["stages/fake.py", "--seed", "0", "--previous", previous])

    def body(run: StageRun) -> None:
        ResumePoint(_key(run) / "fit").save({}, {})

    run_stage(body, out="runs/{name}/{seed}/fake", keys=["seed", "previous"])
    assert [str(path) for path in Path(".resume").rglob("*")] in ([], [".resume/partial"])


def test_real_stage_without_its_input_says_so_in_a_line(workspace: Workspace, tmp_path: Path) -> None:
    copy = workspace.copy(tmp_path / "copy")
    result = copy.run(sys.executable, "-m", "stages.noise", "--noise", "gaussian")
    assert result.code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("noise noise gaussian: runs/tiny/prepare: expected an earlier stage's output")
    assert not copy.path("runs").exists()


@pytest.mark.parametrize("stage", ["prepare", "noise"])
def test_real_stage_explains_its_flags(workspace: Workspace, stage: str) -> None:
    result = workspace.must(sys.executable, "-m", f"stages.{stage}", "--help")
    assert "dvc repro" in result.output
