"""`benchmarks.gpu` without a GPU: from packing to the report, stopped in between, in folders of its own."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Workspace, jobs_run
from safetensors.numpy import load_file

from benchmarks import gpu
from pipeline.files import read_json
from pipeline.images.image_set import ImageSet, save_image_set
from pipeline.jobs.provenance import FILE
from pipeline.jobs.store import Store


def put_back(workspace: Path, folder: Path) -> None:
    """FOLDER/back as if this workspace had been where an earlier `run` was."""
    files = [path for path in sorted((workspace / ".jobs").rglob("*")) if path.is_file()]
    kept = [path for path in files if "locks" not in path.parts and "dvc.lock" not in path.parts]
    gpu.write_parts(kept, workspace, folder / "back")


@pytest.mark.dvc
def test_from_packing_to_the_report(finished: Workspace, tmp_path: Path) -> None:
    """It goes on from what an earlier machine had finished, here all but one job, and reports as `dvc repro` does."""
    here, there = tmp_path / "here", tmp_path / "there"
    gpu.pack(here, "tiny", wheels=False)
    earlier = shutil.copytree(finished.path(".jobs"), tmp_path / "earlier/.jobs").parent
    abouts = {path: read_json(path) for path in (earlier / ".jobs/done").glob("*/about.json")}
    (lost,) = (path.parent for path, about in abouts.items() if about["stage"] == "evaluate")
    shutil.rmtree(lost)
    put_back(earlier, there)
    shutil.copytree(here / "there", there / "there")
    n_before = len(Store(earlier / ".jobs").read_log())

    assert not gpu.run(there, ["runtime.jobs=2"], minutes=0)
    assert gpu.run(there, ["runtime.jobs=2", "report.notes=[packed]"], minutes=5, leave=["craft"])
    assert jobs_run(Store(there / "work/.jobs").read_log()[n_before:]) == ["evaluate 0", "report"]

    shutil.copytree(there / "back", here / "back")
    checkout = tmp_path / "checkout"
    (checkout / "reports/tiny").mkdir(parents=True)
    (checkout / "reports/tiny/old.md").touch()
    gpu.unpack(here, checkout)
    came, expected = (
        Workspace(checkout).contents("runs", "metrics", "reports"),
        finished.contents("runs", "metrics", "reports"),
    )
    left = {name for name in expected if "/craft/" in name} | {"runs/tiny/prepare/images.safetensors"}
    left |= {"reports/index.html", "reports/README.md"}  # which `make repro` writes
    assert left < set(expected)
    assert set(came) == set(expected) - left
    differing = {name for name in came if came[name] != expected[name]}
    assert differing == {f"reports/tiny/{name}" for name in ("params.yaml", "index.html", "report.md", FILE)}
    assert b"packed" in came["reports/tiny/report.md"]
    assert json.loads((here / "back/params.yaml").read_text())["runtime"]["jobs"] == 2


@pytest.mark.parametrize("shape", [(700, 1, 28, 28), (600, 3, 32, 32), (5, 2, 6, 9)])
def test_images_travel_without_loss(shape: tuple[int, ...], tmp_path: Path) -> None:
    """In more sheets than one, as a WebP file is no higher than 16,383 pixels."""
    random = np.random.default_rng(0)
    n = shape[0]
    idx = np.arange(n)
    split: Any = {"train": idx[: n - 2], "validation": idx[n - 2 : n - 1], "test": idx[n - 1 :]}
    images = random.integers(0, 256, shape, dtype=np.uint8)
    source = ImageSet(images, idx % 2, ("a", "b"), split)
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    save_image_set(source, prepared)
    gpu.encode_images(prepared, tmp_path / "packed")
    gpu.decode_images(tmp_path / "packed", tmp_path / "again")
    assert (load_file(tmp_path / "again/images.safetensors")["images"] == images).all()
    for name in ("images.safetensors", "images.json"):
        assert (tmp_path / "again" / name).read_bytes() == (prepared / name).read_bytes()


def test_parts_are_small_and_what_came_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PART_BYTES", 1000)
    source, random = tmp_path / "source", np.random.default_rng(0)
    source.mkdir()
    for name in ("a", "b", "c"):
        (source / name).write_bytes(random.bytes(1500))
    (source / "d").hardlink_to(source / "b")
    parts = gpu.write_parts(sorted(source.iterdir()), source, tmp_path / "parts")
    assert 4500 < sum(part.stat().st_size for part in parts) < 6000
    assert max(part.stat().st_size for part in parts) == 1000
    assert gpu.extract(tmp_path / "parts", tmp_path / "whole")
    found = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert found == {path.name: path.read_bytes() for path in source.iterdir()}

    for part in parts[3:]:
        part.unlink()
    assert not gpu.extract(tmp_path / "parts", tmp_path / "beginning", but="c")
    assert [path.name for path in (tmp_path / "beginning").iterdir()] == ["a"]
