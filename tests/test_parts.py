"""The parts of a set: images from files are those from memory, batch by batch and bit by bit."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import InputError
from pipeline.images.augmentation import augment_images
from pipeline.images.image_set import SPLITS, ImageSet, save_image_set
from pipeline.images.parts import Images, Parts, load_parts
from pipeline.params.data import ImageFolderData, ImagesPerClass
from pipeline.readers import read_dataset
from pipeline.training.batches import Batching, balanced_batches, shuffled_batches

torch.set_num_threads(1)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs and PNGs of many shapes, grey ones among them: three classes of twelve and one folder."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        (root / name).mkdir()
        for i in range(12):
            shape = (10 + i, 25 - i, 3)[: 2 if i == 5 else 3]
            pixels = random.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:02d}.{'png' if i % 3 else 'jpg'}")
    return root


def prepare(folder: Path, out: Path, store: str) -> Path:
    options: dict[str, Any] = {"source": "image_folder", "root": str(folder), "split_seed": 0}
    options |= {
        "folders": {"train": ".", "validation": None, "test": None},
        "resize_px": 16,
        "crop_px": 12,
        "copies": "allow",
    }
    options |= {"validation_fraction": 0.25, "test_fraction": 0.25, "max_unreadable_share": 0.0}
    limits = ImagesPerClass(train=None, validation=None, test=None, perturbed=2, seed=0)
    out.mkdir()
    save_image_set(read_dataset(ImageFolderData(images_per_class=limits, store=store, **options)), out)
    return out


@pytest.fixture(scope="module")
def prepared(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("prepared")
    return {store: prepare(folder, out / store, store) for store in ("pixels", "index")}


@pytest.fixture
def parts(prepared: dict[str, Path]) -> Callable[[str, int], Parts]:
    return lambda store, workers: load_parts(prepared[store], CPU, workers=workers)


def training_batches(images: Images, batching: Batching) -> list[Tensor]:
    """Two epochs as training sees them: random crops and mirror images."""
    random = torch.Generator().manual_seed(7)
    seen = []
    for _ in range(2):
        batches = list(batching(images.labels.cpu(), random))
        seen += [
            augment_images(uncropped.float() / 255, crop_px=12, shift_px=1, mirror=True, random=random)
            for uncropped in images.uncropped(batches)
        ]
    return seen


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "batching", [shuffled_batches(5), balanced_batches(2, None)], ids=["shuffled", "balanced"]
)
def test_training_batches_are_the_same_from_files_and_from_memory(
    parts: Callable[[str, int], Parts], batching: Batching, workers: int
) -> None:
    expected = training_batches(parts("pixels", 0).train, batching)
    found = training_batches(parts("index", workers).train, batching)
    assert len(found) == len(expected) > 4
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert expected[0].shape[1:] == (3, 12, 12)
    assert len({batch.sum().item() for batch in expected}) == len(expected)


@pytest.mark.parametrize(("name", "workers"), [*((name, 0) for name in SPLITS), ("train", 2)])
def test_every_part_is_the_same_from_files_and_from_memory(
    parts: Callable[[str, int], Parts], name: str, workers: int
) -> None:
    memory, files = getattr(parts("pixels", 0), name), getattr(parts("index", workers), name)
    assert torch.equal(memory.labels, files.labels)
    assert torch.equal(memory.scaled(), files.scaled())
    for one, other in zip(memory.in_batches(4), files.in_batches(4), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(memory.first(3), files.first(3))
    assert torch.equal(memory.take(torch.tensor([2, 0])).scaled(), files.take(torch.tensor([2, 0])).scaled())


def test_the_perturbed_images_and_the_normalisation_are_the_same(parts: Callable[[str, int], Parts]) -> None:
    memory, files = parts("pixels", 0), parts("index", 0)
    assert torch.bincount(files.perturbed.labels).tolist() == [2, 2, 2]
    assert torch.equal(memory.perturbed.scaled(), files.perturbed.scaled())
    assert memory.image_set.normalization() == files.image_set.normalization()


@pytest.mark.parametrize(
    ("workers", "damage", "words"),
    [
        pytest.param(0, lambda file: file.unlink(), "got no such file", id="gone"),
        pytest.param(0, lambda file: file.write_bytes(b"other"), "bytes, got 5", id="changed"),
        pytest.param(2, lambda file: file.write_bytes(b"other"), "bytes, got 5", id="changed, processes"),
    ],
)
def test_a_file_that_is_not_the_one_prepared_is_one_line_whoever_reads_it(
    folder: Path, tmp_path: Path, workers: int, damage: Callable[[Path], object], words: str
) -> None:
    copy = tmp_path / "copy"
    for file in folder.glob("*/*"):
        (copy / file.parent.name).mkdir(parents=True, exist_ok=True)
        (copy / file.parent.name / file.name).write_bytes(file.read_bytes())
    train = load_parts(prepare(copy, tmp_path / "out", "index"), CPU, workers=workers).train
    damage(copy / str(train.images.paths[4]))  # type: ignore[union-attr]
    me = psutil.Process()
    before = set(me.children())
    try:
        list(train.in_batches(2))
    except InputError as error:
        (line,) = str(error).splitlines()
    assert line.startswith(f"{copy}/")
    assert words in line
    gc.collect()  # a test runner may hold the error for longer than its block
    assert set(me.children()) - before == set()


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_files_draws_nothing_from_the_generator_of_dropout(
    parts: Callable[[str, int], Parts], workers: int
) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    parts("index", workers).train.scaled()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_reader_keeps_its_processes_from_pass_to_pass(
    parts: Callable[[str, int], Parts], workers: int
) -> None:
    memory, files = parts("pixels", 0).train, parts("index", workers).train.with_reader()
    me = psutil.Process()
    before = set(me.children())
    expected, started = memory.scaled(), []
    for _ in range(3):
        assert torch.equal(torch.cat(list(files.in_batches(4))), expected)
        started.append(set(me.children()) - before)
    next(files.in_batches(2))  # a pass that nobody ends is no part of the next one
    assert torch.equal(torch.cat(list(files.in_batches(3))), expected)
    assert [len(each) for each in started] == [workers] * 3
    assert started[0] == started[1] == started[2]
    assert files.take(torch.tensor([1])).reader is None
    del files
    assert set(me.children()) - before == set()


def test_images_in_memory_need_no_reader(parts: Callable[[str, int], Parts]) -> None:
    memory = parts("pixels", 2).train
    assert memory.with_reader() is memory


def test_loading_prepared_files_reads_none_of_them(
    prepared: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages that start again after a change elsewhere read the index, not a million files."""
    opened: list[Any] = []
    monkeypatch.setattr(Image, "open", lambda *args, **_: opened.append(args))
    parts = load_parts(prepared["index"], CPU)
    parts.image_set.normalization()
    parts.perturbed.take(torch.tensor([0]))
    assert opened == []
    assert len(parts.train) == 18


def test_images_are_scaled_between_zero_and_one() -> None:
    images = Images(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8), torch.tensor([0]))
    assert len(images) == 1
    assert images.scaled().dtype == torch.float32
    torch.testing.assert_close(images.scaled(), torch.tensor([[[[0.0, 0.2, 1.0]]]]))


def test_the_parts_of_a_prepared_set_are_those_of_its_split(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 2, 5, 6), dtype=np.uint8)
    split = dict(zip(SPLITS, np.split(random.permutation(12), [6, 9]), strict=True))
    data = ImageSet(images, random.integers(0, 3, 12), ("a", "b", "c"), split)
    save_image_set(data, tmp_path)
    parts = load_parts(tmp_path, torch.device("cpu"))
    for name in SPLITS:
        part = getattr(parts, name)
        images, labels = data.part(name)
        assert np.array_equal(part.images.numpy(), images)
        assert np.array_equal(part.labels.numpy(), labels)
    assert parts.image_set.classes == data.classes
