"""Files are whole or absent; JSON and CSV have one form."""

import json
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.files import read_csv, read_json, write_atomically, write_csv, write_json


def test_write_atomically_makes_folders_and_leaves_nothing_beside(tmp_path: Path) -> None:
    file = tmp_path / "a/b/file.bin"
    write_atomically(file, b"first")
    write_atomically(file, b"second")
    assert file.read_bytes() == b"second"
    assert [path.name for path in file.parent.iterdir()] == ["file.bin"]


def test_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file.bin"
    write_atomically(file, b"old")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.files.os.fsync", no_space)
    with pytest.raises(
        InputError, match=r"file\.bin: expected room for 3 bytes, got [\d,]+ bytes free; make room"
    ):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def test_content_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file.bin"
    seen: list[tuple[bytes, bool]] = []

    def record(descriptor: int) -> None:
        seen.append((file.with_name("file.bin.new").read_bytes(), file.exists()))

    monkeypatch.setattr("pipeline.files.os.fsync", record)
    write_atomically(file, b"content")
    assert seen == [(b"content", False)]


def test_json_is_sorted_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": {"d": "ü", "c": None}})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text == '{\n  "a": {\n    "c": null,\n    "d": "ü"\n  },\n  "b": 1\n}\n'
    assert json.loads(text) == read_json(tmp_path / "x.json") == {"a": {"c": None, "d": "ü"}, "b": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_holds_no_number_that_other_readers_refuse(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": value})
    assert list(tmp_path.iterdir()) == []


def test_csv_round_trip(tmp_path: Path) -> None:
    rows = [{"name": "a,b", "n": 1, "x": 0.1 + 0.2}, {"name": 'say "x"', "n": 2, "x": 1e-30}]
    write_csv(tmp_path / "new/x.csv", rows)
    content = (tmp_path / "new/x.csv").read_bytes()
    assert content.startswith(b"name,n,x\n")
    assert b"\r" not in content
    read = read_csv(tmp_path / "new/x.csv")
    assert [row["name"] for row in read] == ["a,b", 'say "x"']
    assert [float(row["x"]) for row in read] == [row["x"] for row in rows]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.csv"]


def test_csv_without_rows_has_its_header(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", [], fields=["a", "b"])
    assert (tmp_path / "x.csv").read_text() == "a,b\n"


def test_csv_refuses_a_row_with_other_keys(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="c"):
        write_csv(tmp_path / "x.csv", [{"a": 1}, {"a": 2, "c": 3}])
    assert not (tmp_path / "x.csv").exists()
