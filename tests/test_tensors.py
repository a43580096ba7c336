"""Tensors on disk: read back as they were, whole or absent, and with the rights of every other new file."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from conftest import ROOT, AnotherRun, Workspace

from pipeline import files
from pipeline.errors import InputError
from pipeline.tensors import save_tensors

ARRAYS = {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.ones(3, dtype=np.float16)}


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("kind", ["arrays", "tensors"])
def test_files_have_the_rights_of_every_new_file_and_hold_what_was_given(
    kind: str, umask: int, tmp_path: Path
) -> None:
    path = tmp_path / "made/it.safetensors"
    save_tensors(ARRAYS if kind == "arrays" else {k: torch.from_numpy(v) for k, v in ARRAYS.items()}, path)
    assert mode_of(path) == 0o666 & ~umask
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    found = safetensors.numpy.load_file(path)
    assert {name: each.tolist() for name, each in found.items()} == {k: v.tolist() for k, v in ARRAYS.items()}


def test_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = {k: torch.from_numpy(v) for k, v in ARRAYS.items()}
    for given, metadata in ((tensors, {"crafted": "x"}), ({}, None)):
        save_tensors(given, tmp_path / "ours", metadata=metadata)
        safetensors.torch.save_file(given, tmp_path / "theirs", metadata=metadata)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_no_other_file_of_the_project_asks_the_library_to_write() -> None:
    asking = [
        f"{file.relative_to(ROOT)}"
        for room in ("pipeline", "stages")
        for file in (ROOT / room).rglob("*.py")
        if "save_file" in file.read_text(encoding="utf-8")
    ]
    assert asking == ["pipeline/tensors.py"]


def test_a_disk_that_has_too_little_room_is_a_line_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 50, 50))  # type: ignore
    with pytest.raises(InputError, match=r"it: expected room for 54 bytes, got 50 bytes free; make room"):
        save_tensors(ARRAYS, tmp_path / "it")
    assert [*tmp_path.iterdir()] == []


FILLS_IT = """
import resource, sys, numpy as np
from pathlib import Path
from pipeline.errors import InputError
from pipeline.tensors import save_tensors
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_tensors({"a": np.zeros(100_000, dtype=np.uint8)}, Path(sys.argv[1]))
except InputError as error:
    print(error)
"""


def test_a_disk_that_fills_up_meanwhile_is_a_line_and_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    """By a bound on the size of files, which ends a write as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", FILLS_IT, f"{tmp_path}/it"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.stdout.startswith(f"{tmp_path}/it: expected room for 100,000 bytes, got "), done.stderr
    assert [*tmp_path.iterdir()] == []


def test_a_stage_on_a_full_disk_ends_with_a_line(workspace: Workspace, tmp_path: Path) -> None:
    copy = workspace.copy(tmp_path / "copy")
    # In blocks of 1,024 bytes; the images of the digits take 115,008.
    command = f"ulimit -f 64; exec {sys.executable} -m stages.prepare"
    result = copy.run("bash", "-c", command)
    assert result.code == 1
    (line,) = result.output.splitlines()
    assert "images.safetensors: expected room for " in line
    assert " bytes free; make room " in line
    assert [file.name for file in copy.path(".jobs").rglob("images*")] == []


def wrong_modes(root: Path, mask: int) -> dict[str, str]:
    """Files and folders that a run wrote, whose rights are not those of the umask, nor read-only on purpose."""
    allowed = {0o666 & ~mask, 0o444 & ~mask}
    found = {}
    for room in ("runs", "metrics", "reports", ".jobs", ".dvc/cache"):
        for path in (root / room).rglob("*"):
            fits = mode_of(path) & 0o777 == 0o777 & ~mask if path.is_dir() else mode_of(path) in allowed
            if not fits and not path.is_symlink():
                found[f"{path.relative_to(root)}"] = oct(mode_of(path))
    return found


def test_every_file_of_a_run_is_as_the_umask_has_it(finished: Workspace) -> None:
    mask = files.umask()
    assert mask == 0o022, "expected the umask that the run had"
    assert wrong_modes(finished.root, mask) == {}
    assert len([*finished.path("runs").rglob("*.safetensors")]) > 20


def test_where_a_group_shares_a_folder_it_can_go_on_with_everything(another_run: AnotherRun) -> None:
    root = another_run.workspace.root
    assert wrong_modes(root, 0o002) == {}
    assert len([*root.joinpath("runs").rglob("*.safetensors")]) >= 20
