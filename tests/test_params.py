"""params.yaml: every error on a line of its own, with file, key, what is allowed and what was got."""

import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Workspace

from pipeline.errors import InputError
from pipeline.params.file import main, read_params

GOOD = (ROOT / "presets/tiny.yaml").read_text(encoding="utf-8")

# A misspelt key is one too many and one too few.
MISSPELT = {"train.training.epohcs", "lda.lambda"}

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


def _edited(folder: Path, *edits: tuple[str, str, str]) -> Path:
    """The tiny preset with edits: in section `after`, replace the first `old` by `new`."""
    text = GOOD
    for after, old, new in edits:
        at = text.index(old, text.index(f"\n{after}"))
        text = text[:at] + new + text[at + len(old) :]
    file = folder / "bad.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def _without_section(text: str, section: str) -> str:
    lines = text.splitlines(keepends=True)
    start = lines.index(f"{section}:\n")
    end = next(i for i in range(start + 1, len(lines)) if lines[i][0] not in " #\n")
    return "".join(lines[:start] + lines[end:])


@pytest.mark.parametrize("preset", sorted(path.stem for path in (ROOT / "presets").glob("*.yaml")))
def test_every_preset_passes_and_says_nothing(check: Check, preset: str) -> None:
    file = ROOT / f"presets/{preset}.yaml"
    assert check(file) == []
    assert read_params(file).name == preset


def test_params_file_is_the_digits_preset() -> None:
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "presets/digits.yaml").read_bytes()


@pytest.mark.parametrize(
    ("edit", "key", "words"),
    [
        pytest.param(
            ("train:", "    epochs: 4", "    epohcs: 4"),
            "train.training.epohcs",
            ("unknown key", "got 4", "epochs", "batch_size"),
            id="typo",
        ),
        pytest.param(
            ("push:", "  training:", "  speed: 1\n  training:"),
            "push.speed",
            ("unknown key", "got 1", "allowed: training"),
            id="unknown-key",
        ),
        pytest.param(
            ("report:", "report:", "reprot:\n  dpi: 1\nreport:"),
            "reprot",
            ("unknown key", "dpi", "seeds", "report"),
            id="unknown-section",
        ),
        pytest.param(
            ("train:", "epochs: 4", "epochs: four"),
            "train.training.epochs",
            ("integer", 'got "four"'),
            id="word-for-integer",
        ),
        pytest.param(
            ("train:", "epochs: 4", "epochs: 4.5"),
            "train.training.epochs",
            ("integer", "got 4.5"),
            id="fraction-for-integer",
        ),
        pytest.param(
            ("train:", "epochs: 4", 'epochs: "4"'),
            "train.training.epochs",
            ("integer", 'got "4"'),
            id="string-for-integer",
        ),
        pytest.param(
            ("train:", "epochs: 4", "epochs: true"),
            "train.training.epochs",
            ("integer", "got true"),
            id="boolean-for-integer",
        ),
        pytest.param(
            ("runtime:", "device: cpu", "device: gpu"),
            "runtime.device",
            ("'auto', 'cpu' or 'cuda'", 'got "gpu"'),
            id="choice",
        ),
        pytest.param(
            ("train:", "epochs: 4", "epochs: 0"),
            "train.training.epochs",
            ("greater than 0", "got 0"),
            id="zero",
        ),
        pytest.param(
            ("train:", "momentum: 0.9", "momentum: 1.0"),
            "train.training.momentum",
            ("less than 1", "got 1.0"),
            id="momentum-one",
        ),
        pytest.param(
            ("attacks:", "epsilon: 16.0", "epsilon: 256.0"),
            "attacks.fgsm.epsilon",
            ("less than or equal to 255", "got 256.0"),
            id="out-of-range-in-a-union",
        ),
        pytest.param(
            ("train:", "learning_rate: 0.1", "learning_rate: .nan"),
            "train.training.learning_rate",
            ("finite", "NaN"),
            id="nan",
        ),
        pytest.param(
            ("lda:", "gamma: 0.05", "gamma: .inf"), "lda.gamma", ("finite", "Infinity"), id="infinity"
        ),
        pytest.param(("seeds:", "\n  - 0\n", " []\n"), "seeds", ("at least 1", "got []"), id="no-seeds"),
        pytest.param(("seeds:", "- 0", "- -1"), "seeds.0", ("got -1",), id="negative-seed"),
        pytest.param(("seeds:", "- 0", "- 3\n  - 3"), "seeds", ("repeats", "[3, 3]"), id="seed-twice"),
        pytest.param(("prune:", "- 1.0", "- 0.5"), "prune.etas", ("repeats", "[0.5, 0.5]"), id="eta-twice"),
        pytest.param(
            ("train:", "    epochs: 4\n", ""), "train.training.epochs", ("missing",), id="missing-key"
        ),
        pytest.param(
            ("attacks:", "method: fgsm", "method: pgd"),
            "attacks.fgsm",
            ("'fgsm', 'newton_fool'", "pgd"),
            id="unknown-attack",
        ),
        pytest.param(
            ("attacks:", "    method: fgsm\n", ""), "attacks.fgsm", ("method",), id="attack-without-method"
        ),
        pytest.param(
            ("noise:", "kind: gaussian", "kind: salt"),
            "noise.gaussian",
            ("'speckle'", "salt"),
            id="noise-kind",
        ),
        pytest.param(
            ("attacks:", "epsilon: 16.0", "epsilon: 16.0\n    steps: 4"),
            "attacks.fgsm.steps",
            ("unknown key", "got 4", "epsilon"),
            id="key-of-another-attack",
        ),
        pytest.param(
            ("source:", "architecture: resnet", "architecture: vgg"),
            "source.model",
            ("'resnet'", "vgg"),
            id="unknown-architecture",
        ),
        pytest.param(
            ("source:", "config: i64-c128", "config: banana"),
            "source.model.config",
            ("banana",),
            id="config-that-cannot-be-read",
        ),
        pytest.param(
            ("rounds:", "prune/round1", "prune/round7"),
            "rounds.1.previous",
            ("prune/round1", "prune/round7"),
            id="broken-chain",
        ),
        pytest.param(
            ("rounds:", "previous: push", "previous: train"),
            "rounds.0.previous",
            ("'push'", "'train'"),
            id="chain-without-start",
        ),
        pytest.param(
            ("rounds:", "name: round2", "name: round1"), "rounds", ("different names",), id="round-twice"
        ),
        pytest.param(("rounds:", "name: round2", "name: Round/2"), "rounds.1.name", ("Round/2",), id="slug"),
        pytest.param(("attacks:", "  fgsm:", "  FGSM!:"), "attacks.FGSM!", ("pattern",), id="slug-of-a-key"),
        pytest.param(
            ("attacks:", "  fgsm:", "  gaussian:"), "noise and attacks", ("'gaussian'",), id="name-in-both"
        ),
        pytest.param(
            ("data:", "test_fraction: 0.2", "test_fraction: 0.8"),
            "data",
            ("validation_fraction", "test_fraction", "1"),
            id="nothing-left-to-train-on",
        ),
        pytest.param(
            ("data:", "test_fraction: 0.2", "test_fraction: 0.0"), "data.test_fraction", (), id="no-test"
        ),
        pytest.param(
            ("train:", "warmup_epochs: 1", "warmup_epochs: 9"),
            "train.training",
            ("warmup_epochs", "4", "9"),
            id="warm-up-longer-than-the-run",
        ),
        pytest.param(
            ("model:", "    - 1\n  base:", "  base:"), "model.stages", ("3 items", "[1, 1]"), id="two-stages"
        ),
        pytest.param(("lda:", "gamma: 0.05", "gamma:"), "lda.gamma", ("number", "got null"), id="null"),
        pytest.param(
            ("lda:", "  lambda: 0.0001", "  lambda_: 0.0001"),
            "lda.lambda",
            ("missing",),
            id="name-in-the-code",
        ),
    ],
)
def test_a_bad_value_is_named_on_one_line(
    check: Check, tmp_path: Path, edit: tuple[str, str, str], key: str, words: tuple[str, ...]
) -> None:
    file = _edited(tmp_path, edit)
    lines = check(file)
    mine = [
        line for line in lines if line.startswith(f"{file}: {key}") and all(word in line for word in words)
    ]
    assert mine, lines
    assert len(lines) == (2 if key in MISSPELT else 1), lines
    assert all("(got " in line or line.endswith("required key is missing") for line in lines)


@pytest.mark.parametrize("section", ["attacks", "noise"])
def test_an_empty_mapping_is_refused(check: Check, tmp_path: Path, section: str) -> None:
    """DVC would quietly make no stage of it."""
    file = tmp_path / "bad.yaml"
    file.write_text(f"{_without_section(GOOD, section)}{section}: {{}}\n")
    (line,) = check(file)
    assert line.startswith(f"{file}: {section}: ")
    assert "at least 1" in line


def test_an_empty_section_is_refused(check: Check, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(f"{_without_section(GOOD, 'lda')}lda:\n")
    (line,) = check(file)
    assert line.startswith(f"{file}: lda: ")
    assert "got null" in line


@pytest.mark.parametrize("section", ["seeds", "prune", "rounds", "report", "data"])
def test_a_missing_section_is_named(check: Check, tmp_path: Path, section: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(_without_section(f"{GOOD}\nend:\n", section).replace("\nend:\n", ""))
    assert check(file) == [f"{file}: {section}: required key is missing"]


def test_every_error_has_its_line(check: Check, tmp_path: Path) -> None:
    file = _edited(
        tmp_path,
        ("runtime:", "threads: 1", "threads: 0"),
        ("train:", "momentum: 0.9", "momentum: 9"),
        ("push:", "epochs: 3", "epochs: many"),
        ("attacks:", "epsilon: 16.0", "epsilon: -1.0"),
        ("report:", "dpi: 60", "dbi: 60"),
    )
    keys = [line.removeprefix(f"{file}: ").split(": ")[0] for line in check(file)]
    assert sorted(keys) == sorted(
        [
            "runtime.threads",
            "train.training.momentum",
            "push.training.epochs",
            "attacks.fgsm.epsilon",
            "report.dpi",
            "report.dbi",
        ]
    )


def test_errors_between_sections_have_their_lines(check: Check, tmp_path: Path) -> None:
    file = _edited(
        tmp_path,
        ("seeds:", "- 0", "- 3\n  - 3"),
        ("rounds:", "prune/round1", "prune/round7"),
        ("prune:", "- 1.0", "- 0.5"),
    )
    keys = [line.removeprefix(f"{file}: ").split(": ")[0] for line in check(file)]
    assert sorted(keys) == ["prune.etas", "rounds.1.previous", "seeds"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"train: [1, 2\nseeds: 3\n", ("not valid YAML", "line")),
        (b"a: 1\n\tb: 2\n", ("not valid YAML", "line 2")),
        (b"name: tiny\nname: other\n", ("name", "duplicate")),
        (b"name: \xff\xfe\n", ("UTF-8",)),
        (b"", ("got null",)),
        (b"- 1\n- 2\n", ("got [1, 2]",)),
        (b"just a sentence\n", ("just a sentence",)),
        (b"name: !!python/object:os.system {}\n", ("not valid YAML",)),
        (b"name: 2020-01-01\n", ()),
        (b"a: &a [*a]\n", ()),
    ],
    ids=["syntax", "tab", "twice", "encoding", "empty", "list", "text", "tag", "date", "recursive"],
)
def test_a_file_that_is_no_params_file(
    check: Check, tmp_path: Path, content: bytes, words: tuple[str, ...]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    lines = check(file)
    assert lines
    assert all(line.startswith(f"{file}: ") for line in lines)
    for word in words:
        assert word in lines[0]


def test_a_yaml_error_takes_one_line(check: Check, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    for content in ("a: [1\nb: 2\n", "a: 1\na: 2\n", "a: b: c\n"):
        file.write_text(content)
        assert len(check(file)) == 1


def test_a_missing_file_is_named(check: Check, tmp_path: Path) -> None:
    (line,) = check(tmp_path / "none.yaml")
    assert line.startswith(f"{tmp_path / 'none.yaml'}: ")
    assert "No such file" in line


def test_a_folder_is_no_file(check: Check, tmp_path: Path) -> None:
    (line,) = check(tmp_path)
    assert line.startswith(f"{tmp_path}: ")


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    """PyYAML would read the string '1e-3'."""
    params = read_params(_edited(tmp_path, ("lda:", "gamma: 0.05", "gamma: 1e-3")))
    assert math.isclose(params.lda.gamma, 0.001, rel_tol=1e-12)


def test_integers_do_for_fractions(tmp_path: Path) -> None:
    assert read_params(_edited(tmp_path, ("lda:", "gamma: 0.05", "gamma: 1"))).lda.gamma == 1


def test_params_are_frozen() -> None:
    params = read_params(ROOT / "presets/tiny.yaml")
    with pytest.raises(ValueError, match="frozen"):
        params.runtime.threads = 2


def test_keys_are_those_of_the_method() -> None:
    assert read_params(ROOT / "presets/tiny.yaml").model_dump(by_alias=True)["lda"]["lambda"] == 0.0001


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
def test_unknown_preset_names_the_known_ones(
    project: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--preset", name])
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"(got {name!r})" in line
    for preset in (ROOT / "presets").glob("*.yaml"):
        assert preset.stem in line
    assert (project / "params.yaml").read_text() == "what stood here before\n"


def test_bad_preset_is_not_used(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "presets/broken.yaml").write_text(GOOD.replace("threads: 1", "threads: -1"))
    with pytest.raises(SystemExit):
        main(["--preset", "broken"])
    assert capsys.readouterr().err.startswith("presets/broken.yaml: runtime.threads: ")
    assert (project / "params.yaml").read_text() == "what stood here before\n"


def test_read_params_raises_what_main_prints(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"runtime\.threads: .*got 0"):
        read_params(_edited(tmp_path, ("runtime:", "threads: 1", "threads: 0")))


def test_command_prints_the_errors_and_exits_with_one(workspace: Workspace, tmp_path: Path) -> None:
    file = _edited(tmp_path, ("train:", "epochs: 4", "epohcs: 4"))
    bad = workspace.run(sys.executable, "-m", "pipeline.params", str(file))
    assert bad.code == 1
    assert all(line.startswith(f"{file}: train.training.") for line in bad.output.splitlines())
    good = workspace.run(sys.executable, "-m", "pipeline.params")
    assert (good.code, good.output) == (0, "")


def test_no_stage_starts_with_bad_params(workspace: Workspace, tmp_path: Path) -> None:
    """Even the first stage checks every section, not only its own."""
    copy = workspace.copy(tmp_path / "copy")
    copy.edit_params(after="report:", old="dpi: 60", new="dpi: 6")
    copy.edit_params(after="push:", old="epochs: 3", new="epochs: 0")
    result = copy.run(sys.executable, "-m", "stages.prepare")
    assert result.code == 1
    assert result.output.splitlines() == [
        "prepare: params.yaml: push.training.epochs: expected greater than 0 (got 0)",
        "prepare: params.yaml: report.dpi: expected greater than or equal to 50 (got 6)",
    ]
    assert not copy.path("runs").exists()
    assert not copy.path(".resume").exists()
