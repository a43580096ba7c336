"""Images that are there twice: exactly, under two labels, or resized and recompressed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_readers_folders import folder_params

from pipeline.errors import InputError
from pipeline.files import read_csv, read_json
from pipeline.images.image_set import ImageSet, save_image_set
from pipeline.images.rare_classes import rare_classes_remark
from pipeline.readers import read_dataset, remark_copies


def photograph(seed: int) -> Image.Image:
    """Soft blobs of colour, as unlike each other as photographs."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes in training, validation and test, all images different."""
    seed = 0
    for part, n in (("train", 4), ("validation", 2), ("test", 2)):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                photograph(seed).save(tmp_path / part / name / f"{i}.png")
                seed += 1
    return tmp_path


# Folders as other tests have them, of images that are large enough to look alike.
params = partial(folder_params, resize_px=48, copies="refuse", store="pixels")


def copy(root: Path, source: str, target: str) -> None:
    (root / target).write_bytes((root / source).read_bytes())


def test_without_copies_there_is_nothing_to_remark(folder: Path) -> None:
    data = read_dataset(params(folder))
    assert (data.remarks, [*map(len, data.tables.values())]) == ((), [0, 0])


@pytest.mark.parametrize("store", ["pixels", "index"])
def test_a_training_image_in_the_test_part_is_refused_unless_allowed(folder: Path, store: str) -> None:
    copy(folder, "train/bee/3.png", "test/bee/again.png")
    copy(folder, "train/ant/0.png", "validation/ant/x.png")
    with pytest.raises(InputError) as raised:
        read_dataset(params(folder, store=store))
    line = str(raised.value)
    assert "2 images in two parts of the split: " in line
    assert "train/bee/3.png (bee, train) = test/bee/again.png (bee, test)" in line
    assert "data.copies: allow" in line
    data = read_dataset(params(folder, store=store, copies="allow"))
    repeats, across = data.remarks
    assert repeats == "2 images repeat another one exactly (ant 1, bee 1): see copies.csv"
    assert across.startswith("2 images in two parts")
    assert [(row["group"], row["part"], row["class"], row["image"]) for row in data.tables["copies"]] == [
        (0, "train", "ant", "train/ant/0.png"),
        (0, "validation", "ant", "validation/ant/x.png"),
        (1, "train", "bee", "train/bee/3.png"),
        (1, "test", "bee", "test/bee/again.png"),
    ]


def test_copies_within_a_part_are_counted_and_one_under_two_labels_is_named(folder: Path) -> None:
    for target in ("train/ant/same.png", "train/bee/same.png"):
        copy(folder, "train/ant/1.png", target)
    data = read_dataset(params(folder))
    repeats, labels = data.remarks
    assert repeats == "2 images repeat another one exactly (ant 1, bee 1): see copies.csv"
    assert labels == (
        "1 images under two labels: train/ant/1.png (ant, train) = train/ant/same.png (ant, train)"
        " = train/bee/same.png (bee, train)"
    )


def test_arrays_name_copies_by_their_place(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 1, 4, 4), dtype=np.uint8)
    images[9] = images[2]
    split = {"train": np.arange(4), "validation": np.arange(4, 8), "test": np.arange(8, 12)}
    data = ImageSet(images, np.arange(12) % 2, ("a", "b"), split)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"train image 2 \(a, train\) = test image 1 \(b, test\)"):
        remark_copies(data, refuse=True)
    save_image_set(remark_copies(data, refuse=False), tmp_path)
    about = read_json(tmp_path / "images.json")
    assert (about["train_counts"], len(about["remarks"])) == ([2, 2], 3)
    assert [row["image"] for row in read_csv(tmp_path / "copies.csv")] == ["train image 2", "test image 1"]


def test_a_resized_and_recompressed_copy_is_in_the_table_of_near_copies(folder: Path) -> None:
    with Image.open(folder / "train/bee/0.png") as image:
        image.resize((60, 60)).save(folder / "test/bee/small.jpg", quality=60)
    data = read_dataset(params(folder))
    (row,) = data.tables["near_copies"]
    found = [row[f"{what}_{n}"] for n in (1, 2) for what in ("image", "class", "part")]
    assert found == ["train/bee/0.png", "bee", "train", "test/bee/small.jpg", "bee", "test"]
    (remark,) = data.remarks
    assert remark.startswith(
        "1 pairs look alike (resized or recompressed?), 1 of them across parts, 0 across classes"
    )


def test_rare_classes_are_named_with_their_counts() -> None:
    assert rare_classes_remark(("a", "b"), (12, 40), 12) is None
    line = rare_classes_remark(("a", "b", "c"), (3, 40, 11), 12)
    assert line is not None
    assert "the 12 of each class in a batch (lda.samples_per_class): a (3), c (11);" in line
