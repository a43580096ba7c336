"""What all stages share: flags, whole outputs, tables of all jobs, and which errors keep their traceback."""

import json
import logging
import os
import stat
from pathlib import Path

import pytest
from toy_project import GAUSSIAN, POISSON, Toy

from pipeline.jobs.contents import SUMS

OUT = "runs/tiny/toy"
# A stage of one job that no key describes.
UNSTORED = '''
"""A stage whose job reads what no key can see."""
from pathlib import Path
from pipeline.errors import InputError
from pipeline.files import write_csv
from pipeline.jobs.job import Job
from stages import room

STORED = False

def jobs(runs, *, seeds):
    yield Job({}, {"seeds": seeds}, {"runs": runs, "elsewhere": Path("data.txt")})

def work(place, *, seeds, runs, elsewhere):
    assert not list(place.out.iterdir())
    write_csv(place.out / "table.csv", [{"seeds": len(seeds), "text": elsewhere.read_text()}])
    act = Path("acts/unstored")
    if act.exists():
        exec(act.read_text())
    return "read it"
'''


@pytest.fixture
def toy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Toy:
    caplog.set_level(logging.INFO, logger="pipeline")
    toy = Toy(tmp_path / "toy")
    toy.path("stages/unstored.py").write_text(UNSTORED)
    toy.path("runs/tiny").mkdir(parents=True)
    return toy


def test_output_is_every_jobs_files_and_its_tables_as_one(
    toy: Toy, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy.here() == 0
    jobs = ("0/base", "0/gaussian", "1/base", "1/gaussian")
    files = [f"{job}/{file}" for job in jobs for file in ("table.csv", "weights/last.bin")]
    assert sorted(toy.outputs()) == sorted([*files, "table.csv"])
    (line,) = caplog.messages
    assert line.startswith("toy: 4 jobs finished, 4 of them ran (")
    lines = capsys.readouterr().err.splitlines()
    assert [each.split(":")[0] for each in lines] == [
        f"[{idx}/4] toy, seed {job[0]}, name {job[2:]}" for idx, job in enumerate(jobs, 1)
    ]
    assert not list(toy.path(".jobs/new").iterdir())


def test_tables_get_label_columns_and_may_differ_in_their_own(toy: Toy) -> None:
    toy.change(("seeds", [1]))
    assert toy.here() == 0
    table = toy.path(OUT, "table.csv").read_text()
    values = {
        name: toy.path(OUT, "1", name, "table.csv").read_text().split()[-1] for name in ("base", "gaussian")
    }
    assert table == f"seed,name,epoch,value,kind\n1,base,{values['base']},\n1,gaussian,{values['gaussian']}\n"
    assert values["gaussian"].endswith(",gaussian")


def test_tables_without_a_row_are_left_out(toy: Toy) -> None:
    script = toy.path("stages/toy.py")
    script.write_text(script.read_text().replace("[row])", "[row] if seed else [], fields=list(row))"))
    toy.change(("seeds", [0]))
    assert toy.here() == 0
    assert "table.csv" not in toy.outputs()
    assert toy.outputs()["0/base/table.csv"] == b"epoch,value\n"
    toy.change(("seeds", [0, 1]))
    assert toy.here() == 0
    assert toy.outputs()["table.csv"].count(b"\n") == 3


def test_files_are_those_of_the_store_under_another_name_and_read_only(toy: Toy) -> None:
    assert toy.here() == 0
    stored = {path.stat().st_ino: path for path in toy.path(".jobs/done").rglob("*") if path.is_file()}
    files = [path for path in toy.path(OUT).rglob("*") if path.is_file() and path.parent != toy.path(OUT)]
    assert len(files) == 8
    for file in files:
        assert stored[file.stat().st_ino].read_bytes() == file.read_bytes()
        assert not stat.S_IMODE(file.stat().st_mode) & 0o222


def test_files_are_copied_where_the_file_system_has_no_links(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert toy.here() == 0
    before = toy.outputs()

    def refuse(*_: object) -> None:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert toy.here() == 0
    assert toy.outputs() == before
    file = toy.path(OUT, "0/base/table.csv")
    assert file.stat().st_nlink == 1
    assert not stat.S_IMODE(file.stat().st_mode) & 0o222


def test_old_output_is_replaced_whole_and_clutter_of_a_killed_run_is_gone(toy: Toy) -> None:
    for folder in (OUT, ".jobs/new/runs-tiny-toy", ".jobs/new/runs-tiny-toy.old"):
        toy.path(folder).mkdir(parents=True)
        toy.path(folder, "old.txt").write_text("old")
    assert toy.here() == 0
    assert sorted(path.name for path in toy.path(OUT).iterdir()) == ["0", "1", SUMS, "table.csv"]
    assert not list(toy.path(".jobs/new").iterdir())


def test_output_can_lie_on_another_disk(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def within_a_disk(old: Path, new: Path) -> None:
        if Path(old).parts[0] != Path(new).parts[0]:
            raise OSError("Invalid cross-device link")
        rename(old, new)

    toy.path(OUT).mkdir()
    monkeypatch.setattr(os, "rename", within_a_disk)
    assert toy.here() == 0
    assert len(toy.outputs()) == 9


def test_bad_params_are_a_line_each_and_nothing_runs(toy: Toy, caplog: pytest.LogCaptureFixture) -> None:
    text = toy.path("params.yaml").read_text()
    toy.path("params.yaml").write_text(
        text.replace('"threads": 1', '"threads": 0').replace('"std": 5.0', '"std": "a"')
    )
    assert toy.here() == 1
    assert len(caplog.messages) == 2
    assert all(line.startswith("toy: params.yaml: ") for line in caplog.messages)
    assert not toy.path(".jobs").exists()


def test_a_missing_input_is_a_line(toy: Toy, caplog: pytest.LogCaptureFixture) -> None:
    toy.path("data.txt").unlink()
    for stage in ("toy", "unstored"):
        caplog.clear()
        assert toy.here(stage=f"stages.{stage}") == 1
        assert caplog.messages == [f"{stage}: data.txt: expected an earlier stage's output; run `dvc repro`"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seed", "abc"], "python -m stages.toy: unrecognized arguments: --seed abc"),
        (["--only", "nonsense"], "--only: expected LABEL=VALUE, such as seed=0 (got 'nonsense')"),
        (["--only", "seed="], "--only: expected LABEL=VALUE, such as seed=0 (got 'seed=')"),
        (["--only"], "python -m stages.toy: argument --only: expected one argument"),
        (["--only", "attack=nope"], "toy: --only attack=nope: expected a label of name, seed"),
        (["--only", "seed=7"], "toy: --only seed=7: expected one of 0, 1"),
        (
            ["--only", "seed=0", "--only", "name=bass"],
            "toy: --only name=bass: expected one of base, gaussian",
        ),
    ],
)
def test_wrong_flags_are_a_line(
    toy: Toy,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    said: str,
) -> None:
    assert toy.here(*flags) == 2
    (line,) = [*caplog.messages, *capsys.readouterr().err.splitlines()]
    assert line.endswith(said)
    assert not toy.path(".jobs").exists()


def test_labels_that_no_job_has_together_are_refused(toy: Toy, caplog: pytest.LogCaptureFixture) -> None:
    script = toy.path("stages/toy.py")
    script.write_text(
        script.read_text().replace(
            "for name, each in noise.items():", "for name, each in [*noise.items()][seed:]:"
        )
    )
    toy.change(("noise", {"gaussian": GAUSSIAN, "poisson": POISSON}))
    assert toy.here("--only", "seed=1", "--only", "name=gaussian") == 2
    assert caplog.messages == ["toy: --only: expected labels of one job (got seed, name of different ones)"]


def test_a_stage_of_one_job_without_labels_has_nothing_to_choose(
    toy: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    assert toy.here("--only", "seed=0", stage="stages.unstored") == 2
    assert caplog.messages == ["unstored: --only seed=0: expected none, as no job has a label"]


def test_jobs_are_listed(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.here("--only", "seed=1", "--only", "name=base") == 0
    capsys.readouterr()
    assert toy.here("--list") == 0
    states = ["to be run", "to be run", "stored", "to be run"]
    names = ["seed 0, name base", "seed 0, name gaussian", "seed 1, name base", "seed 1, name gaussian"]
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: {state}" for name, state in zip(names, states, strict=True)
    ]
    assert toy.names("start") == ["1-base"]
    assert toy.here("--list", stage="stages.unstored") == 0
    assert capsys.readouterr().out == "its only job: to be run\n"


def test_an_unstored_job_runs_every_time(
    toy: Toy, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("one", "two"):
        caplog.clear()
        toy.path("data.txt").write_text(text)
        assert toy.here(stage="stages.unstored") == 0
        (line,) = caplog.messages
        assert line.startswith("unstored: 1 jobs finished, 1 of them ran (")
        assert capsys.readouterr().err.startswith("[1/1] unstored: read it (")
        assert toy.path("runs/tiny/unstored/table.csv").read_text() == f"seeds,text\n2,{text}\n"
    assert len(list(toy.path(".jobs/done").iterdir())) == 1
    assert toy.here("--list", stage="stages.unstored") == 0
    assert capsys.readouterr().out == "its only job: to be run\n"
    assert [line["ran"] for line in toy.log("stage")] == [["unstored"], ["unstored"]]


def test_files_of_an_unstored_job_are_ordinary_and_kept_nowhere_else(toy: Toy) -> None:
    """Reports are edited and committed."""
    assert toy.here(stage="stages.unstored") == 0
    file = toy.path("runs/tiny/unstored/table.csv")
    assert stat.S_IMODE(file.stat().st_mode) & 0o200
    assert file.stat().st_nlink == 1
    assert [path.name for path in toy.path(".jobs/done").rglob("*") if path.is_file()] == ["about.json"]


def test_metrics_are_made_from_the_output_in_place(toy: Toy) -> None:
    script = toy.path("stages/toy.py")
    made = "def metrics(out):\n    return {'table': (out / 'table.csv').read_text(), 'out': str(out)}\n\n\n"
    script.write_text(script.read_text().replace("def jobs(", f'METRICS = "seen.json"\n\n\n{made}def jobs('))
    assert toy.here("--only", "seed=0") == 0
    assert not toy.path("metrics").exists()
    assert toy.here() == 0
    made = json.loads(toy.path("metrics/tiny/seen.json").read_text())
    assert made == {"table": toy.path(OUT, "table.csv").read_text(), "out": OUT}


def test_output_goes_where_the_stage_says(toy: Toy) -> None:
    script = toy.path("stages/unstored.py")
    script.write_text(UNSTORED.replace("STORED = False", 'STORED = False\nOUT = "reports/{name}"'))
    assert toy.here(stage="stages.unstored") == 0
    assert toy.path("reports/tiny/table.csv").exists()
    assert not toy.path("runs/tiny/unstored").exists()


EDITS = {
    "params": 'p = Path("params.yaml"); p.write_text(p.read_text().replace("[0, 1]", "[0, 1, 2]"))',
    "stage": 'p = Path("stages/unstored.py"); p.write_text(p.read_text() + "x = 1\\n")',
    "import": 'p = Path("stages/room.py"); p.write_text(p.read_text() + "x = 1\\n")',
    "new import": 'Path("stages/new.py").write_text("x = 1"); p = Path("stages/room.py"); '
    'p.write_text(p.read_text() + "import stages.new\\n")',
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_change_while_an_unstored_job_runs_leaves_no_output(
    toy: Toy, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, edit: str
) -> None:
    toy.act("unstored", edit)
    assert toy.here(stage="stages.unstored") == 1
    if edit == EDITS["params"]:
        assert caplog.messages == [
            "unstored: its code or params.yaml changed while it ran; run `dvc repro` again"
        ]
    else:
        assert capsys.readouterr().err == "unstored: its code changed while it ran; run it again\n"
    assert not toy.path("runs/tiny/unstored").exists()
    toy.release("unstored")
    assert toy.here(stage="stages.unstored") == 0
    assert toy.path("runs/tiny/unstored").exists()


def test_a_change_elsewhere_is_none(toy: Toy) -> None:
    toy.act(
        "unstored", 'Path("stages/new.py").write_text("x = 1"); Path("stages/toy.py").write_text("x = 1")'
    )
    assert toy.here(stage="stages.unstored") == 0


def test_an_unstored_job_that_fails_keeps_the_old_output(
    toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert toy.here(stage="stages.unstored") == 0
    toy.path("data.txt").write_text("other data")
    toy.act("unstored", 'raise InputError("first: expected 1, got 2\\nsecond: expected 3, got 4")')
    capsys.readouterr()
    assert toy.here(stage="stages.unstored") == 1
    assert capsys.readouterr().err.splitlines() == [
        "unstored: first: expected 1, got 2",
        "unstored: second: expected 3, got 4",
    ]
    toy.act("unstored", "1 / 0")
    assert toy.here(stage="stages.unstored") == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Traceback (most recent call last):"
    assert said[-1] == "unstored: ZeroDivisionError: division by zero"
    assert toy.path("runs/tiny/unstored/table.csv").read_text() == "seeds,text\n2,some data\n"


def test_resume_points_outlive_a_failure_and_end_with_a_success(toy: Toy) -> None:
    toy.act("0-base", "fail no space")
    script = toy.path("stages/toy.py")
    script.write_text(script.read_text().replace("_obey(job, epoch)", "epoch == 2 and _obey(job, epoch)"))
    assert toy.here() == 1
    (point,) = toy.path(".jobs/work").rglob("epochs")
    assert point.read_text() == "0-base 0\n0-base 1\n"
    toy.release("0-base")
    assert toy.here() == 0
    epochs = toy.path("acts/epochs.log").read_text().splitlines()
    assert [line for line in epochs if line.startswith("0-base")] == [f"0-base {idx}" for idx in range(4)]
    assert not list(toy.path(".jobs").rglob("epochs"))
