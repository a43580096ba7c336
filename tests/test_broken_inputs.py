"""Every stage on damaged inputs, params and flags: one line each, nothing written, and no damage taken for a result.

All in one process, on a finished run. Most damage would change no more than a number; each stage holds what it reads
against what the earlier stage noted of it.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from conftest import ROOT, Workspace
from ruamel.yaml import YAML
from tiny_params import ABLATE, LATENCY, TINY, edited, errors_of, params_of
from toy_project import inside

from pipeline.jobs import output
from pipeline.jobs.job import Job
from pipeline.jobs.stage import run_stage
from pipeline.params.params import Params
from pipeline.report.results import load_results

# One process for all that share a full run.
pytestmark = [pytest.mark.xdist_group("workspace"), pytest.mark.dvc]

STAGES = list(YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
READERS = [stage for stage in STAGES if stage != "prepare"]
PARAMS = params_of(("ablate", ABLATE), ("latency", LATENCY), ("runtime.jobs", 1))
OUTPUTS = ("runs", "metrics", "reports", ".jobs/done")


def _middle(file: bytes, new: bytes) -> bytes:
    at = len(file) // 2
    return file[:at] + new + file[at + len(new) :]


def _with_nan(file: Path, sound: bytes) -> bytes:
    if file.suffix == ".csv":
        head, _, last = sound.rpartition(b",")
        return head + b",nan\n" if head else b"nan\n" + last
    if file.suffix == ".json":
        return sound.replace(b": ", b": NaN, ", 1)
    return sound[:-4] + np.array([np.nan], np.float32).tobytes()


# What becomes of a file that a stage reads, given its path, its bytes and those of another one of its kind.
DAMAGES: dict[str, Callable[[Path, bytes, bytes], object]] = {
    "missing": lambda *_: None,
    "empty": lambda file, *_: file.touch(),
    "half": lambda file, sound, _: file.write_bytes(sound[: len(sound) // 2]),
    "a byte short": lambda file, sound, _: file.write_bytes(sound[:-1]),
    "a byte more": lambda file, sound, _: file.write_bytes(sound + b"\0"),
    "a flipped bit": lambda file, sound, _: file.write_bytes(
        _middle(sound, bytes([sound[len(sound) // 2] ^ 1]))
    ),
    "a flipped bit at the end": lambda file, sound, _: file.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1])),
    "another one": lambda file, _, other: file.write_bytes(other),
    "text": lambda file, sound, _: file.write_bytes(_middle(sound, b"abc")),
    "a web page": lambda file, *_: file.write_text("<html>404</html>"),
    "not a number": lambda file, sound, _: file.write_bytes(_with_nan(file, sound)),
    "a folder": lambda file, *_: file.mkdir(),
    "a folder with a file": lambda file, *_: (file.mkdir(), (file / file.name).touch()),
    "a link to nowhere": lambda file, *_: file.symlink_to("nowhere"),
    "a pipe": lambda file, *_: os.mkfifo(file),
}


@pytest.fixture(scope="module")
def run(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A finished run whose files the tests damage, and put back."""
    copy = finished.copy(tmp_path_factory.mktemp("broken") / "copy", without=[".git", ".dvc"])
    yield copy
    shutil.rmtree(copy.root, ignore_errors=True)


def said_by(
    workspace: Workspace, stage: str, *flags: str, params: Params | None = PARAMS
) -> tuple[int, list[str]]:
    """A stage in this process: its exit code, and every line that it says."""
    heard = io.StringIO()
    handler, log = logging.StreamHandler(heard), logging.getLogger("pipeline")
    log.addHandler(handler)
    code = 0
    try:
        read = (lambda: params) if params else output.read_params
        said = redirect_stderr(heard), redirect_stdout(heard)
        with inside(workspace), said[0], said[1], patch.object(output, "read_params", read):
            run_stage(f"stages.{stage}", flags)
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        log.removeHandler(handler)
    return code, heard.getvalue().splitlines()


def state(workspace: Workspace) -> dict[str, tuple[int, ...]]:
    """Every output, so that one that was touched shows."""
    files = (file for folder in OUTPUTS for file in workspace.path(folder).rglob("*"))
    found = {str(file): file.lstat() for file in files if not file.is_dir()}
    return {file: (each.st_ino, each.st_size, each.st_mtime_ns) for file, each in found.items()}


def inputs_of(workspace: Workspace, stage: str) -> list[Path]:
    """The files of the run that a stage reads, all but those of its own earlier jobs."""
    module = import_module(f"stages.{stage}")
    found = set[Path]()
    for job in output.list_jobs(module, PARAMS):
        for each in job.inputs.values():
            for path in each.values() if isinstance(each, dict) else [each]:
                if not isinstance(path, Job):
                    found |= set(_files(workspace.path(str(path)), getattr(module, "READS", ("",))))
    assert found
    return sorted(found)


def _files(path: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file() and file.name.endswith(endings))
    else:
        places = [path, *(path.with_name(path.name + ending) for ending in (".json", ".safetensors"))]
        yield from (place for place in places if place.is_file())


def chosen(files: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Every damage of two or three files, other ones for each."""
    step = max(1, len(files) // 2)
    for idx, damage in enumerate(DAMAGES):
        for file in files[idx % step :: step]:
            yield damage, file


@pytest.mark.parametrize("stage", READERS)
def test_damaged_artefacts_are_a_line_that_names_the_file(run: Workspace, stage: str) -> None:
    files, wrong = inputs_of(run, stage), []
    kinds = {file.suffix: [each for each in files if each.suffix == file.suffix] for file in files}
    before, n = state(run), 0
    for damage, file in chosen(files):
        sound, kind = file.read_bytes(), kinds[file.suffix]
        other = kind[kind.index(file) - 1].read_bytes()
        if other == sound:
            other += b" "
        aside = run.root / "aside"
        file.rename(aside)
        began = time.monotonic()
        try:
            DAMAGES[damage](file, sound, other)
            code, lines = said_by(run, stage)
        finally:
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            file.unlink(missing_ok=True)
            aside.rename(file)
        n += 1
        name = file.relative_to(run.root).as_posix()
        place = f"{stage}: {name}: expected "
        good = code == 1 and len(lines) == 1 and lines[0].startswith(place)
        good = good and ", got " in lines[0] and lines[0].endswith("say `make repro`, which makes it anew")
        if not good or time.monotonic() - began > 60:
            wrong.append((damage, name, code, lines[-3:]))
    assert wrong == []
    assert state(run) == before
    assert n >= 2 * len(DAMAGES)


def test_the_stages_find_their_sound_inputs_sound(run: Workspace) -> None:
    """So that what is refused above is refused for its damage."""
    for stage in READERS:
        if stage not in ("ablate", "latency", "report"):  # which are not in the store
            code, lines = said_by(run, stage)
            assert (code, len(lines)) == (0, 1), lines
            assert ", 0 of them ran (" in lines[0]


def test_the_report_reads_no_other_files_than_those_it_checks(run: Workspace, tmp_path: Path) -> None:
    reads = import_module("stages.report").READS
    sound = run.path("runs/tiny")
    for file in sound.rglob("*"):
        if file.is_file() and file.name.endswith(reads):
            (tmp_path / file.relative_to(sound)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / file.relative_to(sound))
    assert load_results(params_of(), tmp_path).tables.keys() == load_results(params_of(), sound).tables.keys()


@pytest.mark.parametrize("stage", READERS)
def test_folders_that_are_missing_or_from_before_are_a_line(run: Workspace, stage: str) -> None:
    before = state(run)
    for file in inputs_of(run, stage)[:1]:
        folder = run.path(*file.relative_to(run.root).parts[:3])
        for damage in ("gone", "without its list", "a file"):
            aside = run.root / "aside"
            hidden = folder / "SHA256SUMS" if damage == "without its list" else folder
            hidden.rename(aside)
            if damage == "a file":
                folder.write_text("")
            code, lines = said_by(run, stage)
            if damage == "a file":
                folder.unlink()
            aside.rename(hidden)
            assert (code, len(lines)) == (1, 1), (damage, lines)
            assert ": expected " in lines[0]
            assert "`make repro`" in lines[0] or "`dvc repro`" in lines[0]
    assert state(run) == before


def _other_classes(about: dict[str, Any]) -> None:
    about["classes"] = about["classes"][:3]


def _other_names(about: dict[str, Any]) -> None:
    about["classes"] = [f"{name}!" for name in about["classes"]]


def _other_shape(about: dict[str, Any]) -> None:
    about["image_shape"] = [3, 8, 8]


@pytest.mark.parametrize("change", [_other_classes, _other_names, _other_shape])
@pytest.mark.parametrize(
    "stage", [stage for stage in READERS if stage not in ("train", "source", "noise", "report")]
)
def test_a_folder_of_another_run_is_a_line(run: Workspace, stage: str, change: Callable[[Any], None]) -> None:
    """With its own list of hashes: sound in itself, and of other images."""
    described = [
        file for file in inputs_of(run, stage) if file.suffix == ".json" and file.name != "images.json"
    ]
    file = next(file for file in described if "classes" in json.loads(file.read_text()))
    folder = file.relative_to(run.root).parts[:3]
    kept = {path: path.read_bytes() for path in (file, run.path(*folder, "SHA256SUMS"))}
    about = json.loads(kept[file])
    change(about)
    before = state(run)
    try:
        file.unlink()
        file.write_text(json.dumps(about))
        run.note("/".join(folder))
        code, lines = said_by(run, stage)
    finally:
        for path, content in kept.items():
            path.unlink()
            path.write_bytes(content)
    assert (code, len(lines)) == (1, 1), lines
    assert "/".join(folder[:3]) in lines[0]
    assert ": expected classes to be " in lines[0] or ": expected image_shape to be " in lines[0]
    assert "(got " in lines[0]
    touched = {str(path) for path in kept}
    assert {file: each for file, each in state(run).items() if file not in touched} == {
        file: each for file, each in before.items() if file not in touched
    }


FLAGS = [
    *(["--only"], ["--only", "seed"], ["--only", "seed="], ["--only", "=0"], ["--only", "seed=abc"]),
    *(["--only", "seed=-1"], ["--only", "nonsense=1"], ["--seed", "0"], ["--list", "more"], ["more"]),
]


@pytest.mark.parametrize("stage", STAGES)
def test_wrong_flags_are_a_line(run: Workspace, stage: str) -> None:
    before = state(run)
    for flags in FLAGS:
        code, lines = said_by(run, stage, *flags)
        assert (code, len(lines)) == (2, 1), (flags, lines)
    assert state(run) == before


PARAMS_FILES: dict[str, bytes] = {
    **{
        "empty": b"",
        "blank": b"\n\n",
        "null": b"null",
        "a list": b"[1, 2]",
        "text": b"params",
        "a number": b"3",
    },
    **{"binary": bytes(range(256)), "utf-16": "seeds: [0]".encode("utf-16"), "zeros": bytes(100)},
    **{"tabs": b"seeds:\n\t- 0\n", "bracket": b"seeds: [0", "quote": b'name: "tiny', "twice": b"a: 1\na: 2"},
    **{
        "no such day": b"seeds: 2024-13-45",
        "bare tag": b"seeds: !!int",
        "tag": b"seeds: !!python/object:os.x x",
    },
    **{"no anchor": b"seeds: *nothing", "itself": b"&a [*a]", "merge of a number": b"seeds: {<<: 3}"},
    **{"deep": b"[" * 3_000, "deep mapping": b"{a: " * 3_000, "endless": b"seeds: " + b"9" * 10_000},
    **{
        "keys": b"{1: 2, null: 3, [1, 2]: 4}",
        "web page": b"<html><p>404</p></html>",
        "two": b"a: 1\n---\na: 2",
    },
}


@pytest.mark.parametrize("content", PARAMS_FILES.values(), ids=PARAMS_FILES)
def test_what_is_no_params_file_is_lines(run: Workspace, content: bytes) -> None:
    file, before = run.path("params.yaml"), state(run)
    sound = file.read_bytes()
    try:
        file.write_bytes(content)
        code, lines = said_by(run, "train", params=None)
    finally:
        file.write_bytes(sound)
    assert code == 1
    assert lines
    assert all(line.startswith("train: params.yaml: ") and line.isprintable() for line in lines), lines
    assert state(run) == before


def leaves(node: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a params file."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        place = f"{at}.{key}".lstrip(".")
        if isinstance(value, dict | list) and value:
            yield from leaves(value, place)
        else:
            yield place, value


WHOLE = edited(("ablate", ABLATE), ("latency", LATENCY))
NUMBERS = [
    key for key, value in leaves(TINY) if isinstance(value, int | float) and not isinstance(value, bool)
]
NAMES = [key for key, value in leaves(TINY) if isinstance(value, str)]


def test_no_number_of_params_can_be_what_is_none() -> None:
    assert len(NUMBERS) > 80
    passed = []
    for key in NUMBERS:
        for value in (math.nan, math.inf, "text", [1], {"a": 1}, True):
            lines = errors_of((key, value))
            if not lines or not all(line.isprintable() and len(line) < 500 for line in lines):
                passed.append((key, value, lines))
    assert passed == []


def test_any_number_of_params_is_taken_or_refused_in_lines() -> None:
    n_refused = 0
    for key in NUMBERS:
        for value in (None, 0, -1, 10**30, 1e300, -1e-300):
            lines = errors_of((key, value))
            assert all(line.isprintable() and len(line) < 500 for line in lines), (key, value, lines)
            n_refused += bool(lines)
    assert n_refused > 2 * len(NUMBERS)


def test_no_name_of_params_can_be_what_is_none() -> None:
    """But for the run's, which the user is free to give, and the number of jobs."""
    taken = [("name", "nope"), ("runtime.jobs", 1)]
    passed = []
    for key in NAMES:
        for value in ("nope", "", "../x", 1, [1], {"a": 1}, "a\nb", "\x1b[31m", None):
            lines = errors_of((key, value))
            assert all(line.isprintable() for line in lines), (key, value, lines)
            if not lines and value is not None and (key, value) not in taken:
                passed.append((key, value))
    assert passed == []
