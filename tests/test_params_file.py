"""The file itself: its YAML, the command that checks it, and switching to a preset."""

from __future__ import annotations

import errno
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from ruamel.yaml import YAML
from tiny_params import TINY_FILE

from pipeline.errors import InputError
from pipeline.params import file
from pipeline.params.file import main, read_params

GOOD = TINY_FILE.read_text(encoding="utf-8")
Check = Callable[[Path], list[str]]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """Run `python -m pipeline.params FILE` in this process: the lines that it wrote; exits with 1 if any."""

    def run(file: Path) -> list[str]:
        code: object = 0
        try:
            main([str(file)])
        except SystemExit as stop:
            code = stop.code
        written = capsys.readouterr()
        assert written.out == ""
        lines = written.err.splitlines()
        assert code == (1 if lines else 0)
        return lines

    return run


def _edited(folder: Path, old: str, new: str) -> Path:
    assert GOOD.count(old) == 1, old
    file = folder / "edited.yaml"
    file.write_text(GOOD.replace(old, new), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"train: [1, 2\nseeds: 3\n", "not valid YAML at line 2: while parsing", id="syntax"),
        pytest.param(b"a: 1\n\tb: 2\n", "not valid YAML at line 2: ", id="tab"),
        pytest.param(b"a: b: c\n", "not valid YAML at line 1: ", id="two-colons"),
        pytest.param(b"a: 1\n---\nb: 2\n", "not valid YAML at line 2: ", id="two-documents"),
        pytest.param(
            b"name: tiny\n\nname: other\n", 'not valid YAML at line 3: .*duplicate key "name"', id="twice"
        ),
        pytest.param(
            b"a:\n  x: {b: 1, b: 2}\n", 'not valid YAML at line 2: .*duplicate key "b"', id="twice-in-flow"
        ),
        pytest.param(
            b"a: &a 1\nb: &a 2\n", "not valid YAML at line 2: found duplicate anchor", id="anchor-twice"
        ),
        pytest.param(
            b"a: 1\nb: *none\n", "not valid YAML at line 2: found undefined alias", id="no-such-anchor"
        ),
        pytest.param(
            b"a: 1\nb: {<<: 3}\n", "not valid YAML at line 2: .* for merging", id="merge-of-a-number"
        ),
        pytest.param(b"a: \x07\n", "not valid YAML: unacceptable character", id="control"),
        pytest.param(b"name: !!python/object:os.system {}\n", "not valid YAML at line 1: ", id="tag"),
        pytest.param(b"name: \xff\xfe\n", "expected UTF-8 text", id="encoding"),
        pytest.param(b"", r"the file: expected an object \(got null\)", id="empty"),
        pytest.param(b"- 1\n- 2\n", r"the file: expected an object \(got \[1, 2\]\)", id="list"),
        pytest.param(b"a sentence\n", r'the file: expected an object \(got "a sentence"\)', id="text"),
        pytest.param(b"name: 2020-01-01\n", r"expected text, numbers.*\(got 2020-01-01\)", id="date"),
        pytest.param(b"a: !!binary aGk=\n", r"expected text, numbers.*\(got b'hi'\)", id="bytes"),
        pytest.param(b"a: &a [*a]\n", "Circular reference", id="recursive"),
        pytest.param(b"? [1, 2]\n: 3\n", "keys must be str", id="list-for-a-key"),
    ],
)
def test_a_file_that_is_no_params_file_gets_one_line(
    check: Check, tmp_path: Path, content: bytes, words: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    (line,) = check(file)
    assert re.match(f"{re.escape(str(file))}: {words}", line), line
    with pytest.raises(InputError) as error:
        read_params(file)
    assert str(error.value) == line


def test_a_key_that_is_a_number_is_unknown(check: Check, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(f"{GOOD}\n1: 2\n")
    (line,) = check(file)
    assert line.startswith(f"{file}: 1: unknown key (got 2); allowed: name, seeds")


@pytest.mark.parametrize(("name", "words"), [("none.yaml", "No such file"), ("", "Is a directory")])
def test_what_cannot_be_read_is_named(check: Check, tmp_path: Path, name: str, words: str) -> None:
    (line,) = check(tmp_path / name)
    assert line.startswith(f"{tmp_path / name}: cannot be read ({words}")


@pytest.mark.parametrize(
    ("written", "value"), [("1e-3", 0.001), ("1E-3", 0.001), ("1.e+2", 100), (".5", 0.5)]
)
def test_numbers_with_an_exponent_are_numbers(tmp_path: Path, written: str, value: float) -> None:
    """PyYAML would read the string '1e-3'."""
    params = read_params(_edited(tmp_path, "  gamma: 0.05\n", f"  gamma: {written}\n"))
    assert math.isclose(params.lda.gamma, value, rel_tol=1e-12)


def test_a_number_in_quotes_is_text(check: Check, tmp_path: Path) -> None:
    file = _edited(tmp_path, "  gamma: 0.05\n", '  gamma: "0.05"\n')
    assert check(file) == [f'{file}: lda.gamma: expected a valid number (got "0.05")']


@pytest.mark.parametrize(("start", "end"), [("", "\r\n"), ("\ufeff", "\n")], ids=["crlf", "byte-order-mark"])
def test_other_systems_texts_are_read_alike(tmp_path: Path, start: str, end: str) -> None:
    file = tmp_path / "other.yaml"
    file.write_bytes((start + GOOD.replace("\n", end)).encode())
    assert read_params(file) == read_params(TINY_FILE)


def test_yaml_is_read_by_the_c_loader() -> None:
    """It takes a fifth of the time, in DVC as well; ruamel.yaml brings it in a package of its own."""
    assert YAML(typ="safe").Parser.__name__ == "CParser"


PUSH = "{<<: *schedule, epochs: 3, batch_size: null, learning_rate: 0.05}"


@pytest.mark.parametrize(
    "written", [PUSH, "{epochs: 3, batch_size: null, <<: *schedule, learning_rate: 0.05}"]
)
def test_a_schedule_is_another_but_for_the_keys_that_it_names(tmp_path: Path, written: str) -> None:
    params = read_params(_edited(tmp_path, PUSH, written))
    own = {"epochs": 3, "batch_size": None, "learning_rate": 0.05}
    assert params.push.training.model_dump() == params.train.training.model_dump() | own


def test_an_alias_is_the_whole_of_what_its_anchor_names(tmp_path: Path) -> None:
    params = read_params(_edited(tmp_path, "&heads {weight: 0.3,", "&heads {weight: 0.4,"))
    assert params.grow is not None
    assert params.grow.auxiliary == params.train.auxiliary
    assert params.grow.auxiliary is not None
    assert params.grow.auxiliary.weight == 0.4


@pytest.mark.parametrize(
    ("old", "new", "key", "error"),
    [
        ("epochs: 3,", "epochs: many,", "epochs", 'expected a valid integer (got "many")'),
        ("epochs: 3,", "epochs: 0,", "epochs", "expected greater than 0 (got 0)"),
        ("epochs: 3,", "epochs: ,", "epochs", "expected a valid integer (got null)"),
        ("epochs: 3,", "epochs: 3, warmup_epochs: 4,", "warmup_epochs", "expected at most epochs, 3 (got 4)"),
        ("epochs: 3,", "epohcs: 3,", "epohcs", "unknown key (got 3); allowed: epochs, batch_size, "),
        ("batch_size: null", "batch_size: 32", "batch_size", "expected null (got 32)"),
        (" batch_size: null,", "", "batch_size", "expected null (got 128)"),
    ],
)
def test_an_error_in_a_merged_schedule_names_the_key_that_holds_it(
    check: Check, tmp_path: Path, old: str, new: str, key: str, error: str
) -> None:
    assert old in PUSH
    file = _edited(tmp_path, PUSH, PUSH.replace(old, new))
    (line,) = check(file)
    assert line.startswith(f"{file}: push.training.{key}: {error}")


def test_an_error_in_what_other_schedules_merge_is_named_once(check: Check, tmp_path: Path) -> None:
    file = _edited(tmp_path, "    learning_rate: 0.1 ", "    learning_rate: 0 ")
    assert check(file) == [f"{file}: train.training.learning_rate: expected greater than 0 (got 0)"]


def test_an_error_in_a_flow_of_flows_names_its_key(check: Check, tmp_path: Path) -> None:
    file = _edited(tmp_path, "config: ResNet6, width: 0.125", "config: ResNet6, width: wide")
    key = "compare.fixed_nets.resnet6.model.width"
    assert check(file) == [f'{file}: {key}: expected a valid number (got "wide")']


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with presets and params.yaml, to work in."""
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    (tmp_path / "params.yaml").write_text("what stood here before\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_preset_replaces_the_params(project: Path) -> None:
    main(["--preset", "tiny"])
    assert (project / "params.yaml").read_text(encoding="utf-8") == GOOD
    assert sorted(path.name for path in project.iterdir()) == ["params.yaml", "presets"]


@pytest.mark.parametrize("name", ["", "tinny", "../params", "tiny.yaml"])
def test_an_unknown_preset_gets_one_line_with_the_known_ones(
    project: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--preset", name])
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    known = ", ".join(sorted(path.stem for path in (ROOT / "presets").glob("*.yaml")))
    assert line == f"preset: expected one of {known} (got {name!r})"
    assert (project / "params.yaml").read_text() == "what stood here before\n"


def test_a_bad_preset_is_not_used(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "presets/broken.yaml").write_text(GOOD.replace("  threads: 1 ", "  threads: -1 "))
    with pytest.raises(SystemExit):
        main(["--preset", "broken"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "presets/broken.yaml: numerics.threads: expected greater than 0 (got -1)"
    assert (project / "params.yaml").read_text() == "what stood here before\n"


def test_a_preset_where_nothing_may_be_written_is_a_line(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_source: Path, target: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", f"{target}")

    monkeypatch.setattr(file.shutil, "copyfile", refuse)
    with pytest.raises(SystemExit) as stop:
        main(["--preset", "tiny"])
    assert stop.value.code == 1
    assert capsys.readouterr().err == "params.yaml.new: cannot be read or written (Read-only file system)\n"
    assert (project / "params.yaml").read_text() == "what stood here before\n"


def _command(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_checks_params_yaml_and_says_nothing_of_a_good_one(tmp_path: Path) -> None:
    shutil.copy(TINY_FILE, tmp_path / "params.yaml")
    good = _command(tmp_path, "pipeline.params")
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")


def test_the_command_prints_the_errors_of_a_file_and_exits_with_one(tmp_path: Path) -> None:
    file = _edited(tmp_path, "    epochs: 4 ", "    epohcs: 4 ")
    bad = _command(tmp_path, "pipeline.params", str(file))
    assert (bad.returncode, bad.stdout) == (1, "")
    (line,) = bad.stderr.splitlines()
    assert line.startswith(f"{file}: train.training.epohcs: unknown key (got 4); allowed: epochs, ")


def test_the_command_names_an_unknown_preset_on_one_line_and_exits_with_one(project: Path) -> None:
    bad = _command(project, "pipeline.params", "--preset", "nope")
    assert (bad.returncode, bad.stdout) == (1, "")
    (line,) = bad.stderr.splitlines()
    assert line.startswith("preset: expected one of adience_age, ")
    assert line.endswith("(got 'nope')")


def test_checking_a_file_loads_no_library_that_takes_seconds(tmp_path: Path) -> None:
    """Classifiers of torchvision and attacks of foolbox are known by name without them."""
    net = "{architecture: torchvision, name: resnet18, pretrained: false}"
    old = "{architecture: resnet, config: i64-c128, width: 0.25, stem: small, dropout: 0.0}"
    file = _edited(tmp_path, old, net)
    code = (
        "import sys; from pathlib import Path; from pipeline.params.file import read_params\n"
        f"assert read_params(Path({str(file)!r})).sources['resnet'].model.name == 'resnet18'\n"
        "print({'torch', 'torchvision', 'foolbox', 'numpy', 'pandas', 'dvc'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert printed.stdout == "set()\n"


def test_no_stage_starts_with_bad_params(tmp_path: Path) -> None:
    """Even the first stage checks every section, not only its own."""
    text = GOOD.replace("  dpi: 60 ", "  dpi: 6 ").replace(PUSH, PUSH.replace("epochs: 3", "epochs: 0"))
    (tmp_path / "params.yaml").write_text(text)
    result = _command(tmp_path, "stages.prepare")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "prepare: params.yaml: push.training.epochs: expected greater than 0 (got 0)",
        "prepare: params.yaml: report.dpi: expected greater than or equal to 50 (got 6)",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
