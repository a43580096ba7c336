"""Hashes of what lies on disk: for keys, and to find every damage of what a stage has left."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.jobs import contents
from pipeline.jobs.contents import SUMS, hashes_of, left_by_stage, write_sums


def content_of(path: Path) -> str:
    return contents.content_of(hashes_of(path))


def test_content_of_a_folder_is_names_and_bytes(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, bytes]) -> Path:
        for file, content in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        return tmp_path / name

    files = {"a.txt": b"one", "room/b.txt": b"two"}
    first = content_of(folder("first", files))
    assert content_of(folder("second", files)) == first
    others = [
        files | {"a.txt": b"One"},
        files | {"c.txt": b""},
        {"a.txt": b"one", "b.txt": b"two"},
        {"a.txt": b"two", "room/b.txt": b"one"},
        {"a.txt": b"one"},
    ]
    assert len({first, *(content_of(folder(f"other{idx}", other)) for idx, other in enumerate(others))}) == 6


def test_content_of_a_saved_model_is_that_of_both_its_files(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = content_of(tmp_path / "model")
    (tmp_path / "model.json").write_text("[]")
    second = content_of(tmp_path / "model")
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert len({first, second, content_of(tmp_path / "model")}) == 3
    (tmp_path / "model.json").unlink()
    with pytest.raises(FileNotFoundError):
        content_of(tmp_path / "model")


FOLDER = Path("runs/tiny/train")
FILES = {
    "0/model.json": b"{}",
    "0/model.safetensors": b"weights",
    "0/heads.safetensors": b"",
    "table.csv": b"a\n1\n",
}


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a stage has left, below the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_bytes(content)
    write_sums(FOLDER, hashes_of(FOLDER))
    return FOLDER


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="not on this system")
def test_the_list_can_be_checked_by_the_systems_own_tool(left: Path) -> None:
    check = ["sha256sum", "--check", "--strict", "--quiet", SUMS]
    assert subprocess.run(check, cwd=left, timeout=60).returncode == 0
    (left / "0/model.safetensors").write_bytes(b"weighty")
    assert subprocess.run(check, cwd=left, timeout=60, capture_output=True).returncode == 1


def test_what_was_left_is_the_same_wherever_it_is_asked_for(left: Path) -> None:
    whole = {name: found for name, found in hashes_of(left).items() if name != SUMS}
    assert left_by_stage(left) == whole
    assert sorted(left_by_stage(left / "0").values()) == sorted(hashes_of(left / "0").values())
    assert left_by_stage(left / "0/model") == hashes_of(left / "0/model")
    assert [*left_by_stage(left / "0/heads.safetensors").values()] == [whole["0/heads.safetensors"]]
    (left / ".DS_Store").write_bytes(b"a file manager's")
    assert left_by_stage(left) == whole


def test_only_what_will_be_read_is_held_against_its_hash(left: Path) -> None:
    (left / "0/model.safetensors").unlink()
    assert left_by_stage(left, (".csv", ".json")).keys() == FILES.keys()
    with pytest.raises(
        InputError, match=r"model.safetensors: expected one with \w{12} .+, got no such file; remove"
    ):
        left_by_stage(left, (".csv", ".safetensors"))


@pytest.mark.parametrize("place", ["0/other", "0/mode", "1", "0/model.onnx"])
def test_what_no_stage_has_left_is_none(left: Path, place: str) -> None:
    with pytest.raises(FileNotFoundError):
        left_by_stage(left / place)
    with pytest.raises(FileNotFoundError):
        left_by_stage(Path("runs/tiny/other") / place)


def test_every_byte_of_the_list_counts(left: Path) -> None:
    """A list that lost a line would make what that line is about look sound."""
    file = left / SUMS
    whole = file.read_bytes()
    damaged = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    damaged += [whole[:at] for at in range(len(whole))] + [b"\n".join(whole.split(b"\n")[1:])]
    for content in damaged:
        file.write_bytes(content)
        with pytest.raises(
            InputError, match=r"^runs/tiny/train/SHA256SUMS: expected .+, got (none|a damaged one); "
        ):
            left_by_stage(left / "0/model")
    file.unlink()
    with pytest.raises(
        InputError, match=r"SHA256SUMS: expected the stage's list of its files, got none; remove runs"
    ):
        left_by_stage(left)
