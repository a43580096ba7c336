"""Resume points: whole or absent, exact to the bit, one a name."""

import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.training.resume import ResumePoint


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert ResumePoint(tmp_path / "fit").load() is None


def test_round_trip_is_exact(tmp_path: Path) -> None:
    tensors = {
        "weight.a": torch.tensor([0.1, -0.0, 1e-40, float("inf")]),
        "half": torch.linspace(0, 1, 5, dtype=torch.float16),
        "double": torch.tensor([[0.1], [0.2]], dtype=torch.float64),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
    }
    state = {"history": [{"epoch": 1, "loss": 0.1 + 0.2, "note": "ü"}], "none": None}
    ResumePoint(tmp_path / "fit").save(tensors, state)
    loaded = ResumePoint(tmp_path / "fit").load()
    assert loaded is not None
    assert loaded[1] == state
    assert loaded[0].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[0][name].dtype == tensor.dtype
        assert loaded[0][name].shape == tensor.shape
        assert loaded[0][name].numpy().tobytes() == tensor.numpy().tobytes()


def test_views_and_gradients_are_saved_as_they_are(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).reshape(2, 3).requires_grad_()
    ResumePoint(tmp_path / "fit").save({"t": matrix.T, "row": matrix[0]}, {})
    loaded = ResumePoint(tmp_path / "fit").load()
    assert loaded is not None
    assert torch.equal(loaded[0]["t"], matrix.detach().T)
    assert torch.equal(loaded[0]["row"], torch.arange(3.0))
    assert not loaded[0]["t"].requires_grad


def test_later_save_replaces_the_earlier(tmp_path: Path) -> None:
    point = ResumePoint(tmp_path / "fit")
    point.save({"a": torch.zeros(2)}, {"epoch": 1})
    point.save({"b": torch.ones(2)}, {"epoch": 2})
    loaded = point.load()
    assert loaded is not None
    assert (list(loaded[0]), loaded[1]) == (["b"], {"epoch": 2})
    assert len(list(tmp_path.iterdir())) == 1


def test_half_written_file_is_ignored_and_replaced(tmp_path: Path) -> None:
    point = ResumePoint(tmp_path / "fit")
    leftover = tmp_path / "fit.safetensors.new"
    leftover.write_bytes(b"torn")
    assert point.load() is None
    point.save({"a": torch.zeros(2)}, {"epoch": 1})
    leftover.write_bytes(b"torn again")
    loaded = point.load()
    assert loaded is not None
    assert loaded[1] == {"epoch": 1}
    point.save({"a": torch.zeros(2)}, {"epoch": 2})
    assert not leftover.exists()


def test_save_that_dies_before_the_rename_keeps_the_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = ResumePoint(tmp_path / "fit")
    point.save({"a": torch.zeros(2)}, {"epoch": 1})

    def die(_temporary: Path, _target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        point.save({"a": torch.ones(2)}, {"epoch": 2})
    loaded = point.load()
    assert loaded is not None
    assert (loaded[0]["a"].tolist(), loaded[1]) == ([0, 0], {"epoch": 1})


@pytest.mark.parametrize("names", [("round", 1), (0.5,), (1, 2, "x"), ("eta1.25",)])
def test_children_are_kept_apart(tmp_path: Path, names: tuple[object, ...]) -> None:
    point = ResumePoint(tmp_path / "grow")
    child, sibling = point.child(*names), point.child(*names[:-1], "other")
    child.save({}, {"who": "child"})
    assert point.load() is None
    assert sibling.load() is None
    point.save({}, {"who": "parent"})
    states = [loaded[1]["who"] for loaded in (child.load(), point.load()) if loaded is not None]
    assert states == ["child", "parent"]


def test_etas_that_differ_after_the_dot_are_kept_apart(tmp_path: Path) -> None:
    point = ResumePoint(tmp_path / "prune")
    for eta in (1.0, 1.5, 1.25):
        point.child(eta).save({}, {"eta": eta})
    states = [loaded[1]["eta"] for eta in (1.0, 1.5, 1.25) if (loaded := point.child(eta).load())]
    assert states == [1.0, 1.5, 1.25]


def test_file_is_safetensors_and_no_pickle(tmp_path: Path) -> None:
    ResumePoint(tmp_path / "fit").save({"a": torch.zeros(2)}, {"epoch": 1})
    (file,) = tmp_path.iterdir()
    assert file.name == "fit.safetensors"
    content = file.read_bytes()
    (header_size,) = struct.unpack("<Q", content[:8])
    assert content[8:9] == b"{"
    assert len(content) == 8 + header_size + 8


def test_point_that_a_power_failure_has_spoilt_counts_as_none(tmp_path: Path) -> None:
    point = ResumePoint(tmp_path / "fit")
    point.save({"a": torch.zeros(2)}, {"epoch": 1})
    file = tmp_path / "fit.safetensors"
    whole = file.read_bytes()
    flipped = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(len(whole))]
    for broken in (b"", whole[:-3], *flipped):
        file.write_bytes(broken)
        assert point.load() is None
    file.write_bytes(whole)
    assert point.load() is not None


def test_another_programs_file_counts_as_none(tmp_path: Path) -> None:
    """A trained net's weights, which are safetensors, too: `metadata()` is None there."""
    save_file({"weight": torch.zeros(2)}, tmp_path / "fit.safetensors")
    assert ResumePoint(tmp_path / "fit").load() is None
    save_file({"weight": torch.zeros(2)}, tmp_path / "fit.safetensors", {"state": "{}"})
    assert ResumePoint(tmp_path / "fit").load() is None
