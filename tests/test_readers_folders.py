"""Folders of class folders, a user's own and ImageNet's: which images belong to which part and class."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from pipeline.errors import InputError
from pipeline.images.file_index import FileIndex, decode_image
from pipeline.images.image_set import SPLITS, ImageSet
from pipeline.params.data import (
    FirstPerClass,
    ImageFolderData,
    ImageNetData,
    ImagesPerClass,
    LastSharePerClass,
    StratifiedShare,
    ValidationRule,
)
from pipeline.readers import read_dataset

PX = 6


def write_image(file: Path, seed: int = 0, shape: tuple[int, int] = (7, 9)) -> Path:
    """A JPEG or PNG of noise, different for every path and seed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    seeds = [seed, *hashlib.sha256(file.name.encode()).digest()[:4]]
    pixels = np.random.default_rng(seeds).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format="PNG" if file.suffix.lower() == ".png" else "JPEG")
    return file


def write_classes(folder: Path, classes: dict[str, int]) -> None:
    """Class folders with so many images each."""
    for name, n in classes.items():
        for i in range(n):
            write_image(folder / name / f"{i:03d}.jpg", i)


def limits(**changes: int | None) -> ImagesPerClass:
    options: dict[str, Any] = dict.fromkeys((*SPLITS, "perturbed")) | {"seed": 0}
    return ImagesPerClass(**(options | changes))


def folder_params(root: Path, **changes: Any) -> ImageFolderData:
    options: dict[str, Any] = {
        "source": "image_folder",
        "root": str(root),
        "folders": {"train": "train", "validation": "validation", "test": "test"},
        "split_seed": 0,
        "validation_fraction": 0.25,
        "test_fraction": 0.25,
        "images_per_class": limits(),
        "resize_px": PX,
        "crop_px": None,
        "copies": "allow",
        "store": "index",
        "max_unreadable_share": 0.0,
    }
    return ImageFolderData(**(options | changes))


def imagenet_params(root: Path, rule: ValidationRule, **changes: Any) -> ImageNetData:
    options: dict[str, Any] = {
        "source": "imagenet",
        "root": str(root),
        "validation": rule,
        "images_per_class": limits(),
        "resize_px": PX,
        "crop_px": None,
        "copies": "allow",
        "store": "index",
        "max_unreadable_share": 0.0,
    }
    return ImageNetData(**(options | changes))


def names(data: ImageSet, part: str) -> list[str]:
    """Paths of a part's images, in its order."""
    assert isinstance(data.images, FileIndex)
    return data.images.take(data.split[part]).paths.tolist()  # type: ignore[index]


@pytest.fixture
def three_parts(tmp_path: Path) -> Path:
    for name, n in (("train", 4), ("validation", 2), ("test", 3)):
        write_classes(tmp_path / name, {"ant": n, "bee": n})
    return tmp_path


def test_every_part_has_the_images_of_its_folder(three_parts: Path) -> None:
    data = read_dataset(folder_params(three_parts))
    assert data.classes == ("ant", "bee")
    for name, n in (("train", 4), ("validation", 2), ("test", 3)):
        assert names(data, name) == [f"{name}/{c}/{i:03d}.jpg" for c in ("ant", "bee") for i in range(n)]
        assert data.labels[data.split[name]].tolist() == [0] * n + [1] * n  # type: ignore[index]
    assert data.skipped == ()


def test_the_index_knows_size_and_hash_of_every_file(three_parts: Path) -> None:
    files = read_dataset(folder_params(three_parts)).images
    assert isinstance(files, FileIndex)
    contents = [(three_parts / path).read_bytes() for path in files.paths]
    assert files.sizes.tolist() == [len(content) for content in contents]
    assert files.hex_hashes() == [hashlib.sha256(content).hexdigest() for content in contents]


def test_stored_pixels_are_those_of_the_files(three_parts: Path) -> None:
    index = read_dataset(folder_params(three_parts))
    pixels = read_dataset(folder_params(three_parts, store="pixels"))
    assert isinstance(pixels.images, np.ndarray)
    assert pixels.images.shape == (18, 3, PX, PX)
    assert pixels.image_shape == index.image_shape == (3, PX, PX)
    for i, path in enumerate(index.images.paths):  # type: ignore[union-attr]
        assert np.array_equal(pixels.images[i], decode_image(three_parts / path, PX))
    assert np.array_equal(pixels.labels, index.labels)
    assert pixels.normalization() == index.normalization()


def test_two_parts_without_a_folder_are_split_off_by_class_and_seed(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 8, "bee": 16})
    alone = {"train": ".", "validation": None, "test": None}
    data = read_dataset(folder_params(tmp_path, folders=alone))
    again = read_dataset(folder_params(tmp_path, folders=alone))
    other = read_dataset(folder_params(tmp_path, folders=alone, split_seed=1))
    counts = {name: np.bincount(data.labels[data.split[name]]).tolist() for name in SPLITS}
    assert counts == {"train": [4, 8], "validation": [2, 4], "test": [2, 4]}
    assert sorted(np.concatenate(list(data.split.values())).tolist()) == list(range(24))
    assert data.checksum() == again.checksum() != other.checksum()
    assert names(data, "train")[0].startswith("ant/")


@pytest.mark.parametrize("missing", ["validation", "test"])
def test_one_part_without_a_folder_takes_its_fraction_of_the_training_folder(
    tmp_path: Path, missing: str
) -> None:
    given = "test" if missing == "validation" else "validation"
    write_classes(tmp_path / "train", {"ant": 8, "bee": 16})
    write_classes(tmp_path / "held", {"ant": 3, "bee": 1})
    params = folder_params(
        tmp_path,
        folders={"train": "train", missing: None, given: "held"},
        **{f"{missing}_fraction": 0.5, f"{given}_fraction": 0.01},
    )
    data = read_dataset(params)
    counts = {name: np.bincount(data.labels[data.split[name]]).tolist() for name in SPLITS}
    assert counts == {"train": [4, 8], missing: [4, 8], given: [3, 1]}
    assert set(names(data, "train")) | set(names(data, missing)) == {
        f"train/{c}/{i:03d}.jpg" for c, n in (("ant", 8), ("bee", 16)) for i in range(n)
    }


def test_class_names_may_hold_spaces_dashes_and_any_script(tmp_path: Path) -> None:
    classes = {"-rf *": 3, "été 花": 3, "two words": 3, "ZZ, \"quoted\" 'name'": 3, "#1": 3}
    for name in SPLITS:
        write_classes(tmp_path / name, classes)
    data = read_dataset(folder_params(tmp_path))
    assert data.classes == tuple(sorted(classes))
    first = names(data, "train")[0]
    assert first == f"train/{data.classes[0]}/000.jpg"
    assert data.part("test")[0].shape == (15, 3, PX, PX)


def test_folders_below_a_class_are_of_that_class_and_other_files_are_passed_over(three_parts: Path) -> None:
    deep = write_image(three_parts / "train/ant/more/and more/x.PNG")
    write_image(three_parts / "train/ant/.hidden.jpg")
    write_image(three_parts / "train/ant/.cache/x.jpg")
    write_image(three_parts / "train/.ipynb_checkpoints/x.jpg")
    (three_parts / "train/ant/notes.txt").write_text("no image")
    (three_parts / "train/Thumbs.db").write_text("no image")
    data = read_dataset(folder_params(three_parts))
    found = set(names(data, "train"))
    expected = {f"train/{c}/{i:03d}.jpg" for c in ("ant", "bee") for i in range(4)}
    assert found == expected | {deep.relative_to(three_parts).as_posix()}
    assert data.labels[data.split["train"]].tolist() == [0] * 5 + [1] * 4


def test_links_to_folders_and_files_work(three_parts: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (three_parts / "train").rename(elsewhere / "moved")
    (three_parts / "train").symlink_to(elsewhere / "moved")
    (elsewhere / "moved/ant").rename(elsewhere / "ants")
    (elsewhere / "moved/ant").symlink_to(elsewhere / "ants")
    (elsewhere / "ants/100.jpg").symlink_to(elsewhere / "ants/000.jpg")
    data = read_dataset(folder_params(three_parts))
    assert len(data.split["train"]) == 9
    assert names(data, "train")[4] == "train/ant/100.jpg"


def test_a_root_may_be_relative(three_parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(three_parts)
    for root in (".", "train/.."):
        data = read_dataset(folder_params(Path(root)))
        assert names(data, "test")[0] == "test/ant/000.jpg"
        assert data.part("test")[0].shape == (6, 3, PX, PX)


def test_only_so_many_images_of_each_class_are_read(three_parts: Path) -> None:
    """Files that no part uses are not opened: damaged ones among them stop nothing."""
    params = folder_params(three_parts, images_per_class=limits(train=2, test=1, perturbed=1))
    drawn = names(read_dataset(params), "train")
    for path in sorted((three_parts / "train").rglob("*.jpg")):
        if str(path.relative_to(three_parts)) not in drawn:
            path.write_text("no image")
    data = read_dataset(params)
    assert names(data, "train") == drawn
    assert [name.split("/")[1] for name in drawn] == ["ant", "ant", "bee", "bee"]
    assert [name.split("/")[1] for name in names(data, "test")] == ["ant", "bee"]
    assert len(names(data, "validation")) == 4
    assert len(data.images) == 10
    assert data.perturbed_per_class == 1


def test_what_is_unreadable_is_missing_from_its_part_and_moves_no_other_image(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 12, "bee": 12})
    alone = {"train": ".", "validation": None, "test": None}
    before = read_dataset(folder_params(tmp_path, folders=alone))
    images = {name: before.part(name) for name in SPLITS}
    (tmp_path / "ant/003.jpg").write_bytes(b"")
    for store in ("index", "pixels"):
        params = folder_params(tmp_path, folders=alone, max_unreadable_share=0.1, store=store)
        after = read_dataset(params)
        assert after.skipped == (("ant/003.jpg", "an empty file"),)
        if store == "index":
            for name in SPLITS:
                assert names(after, name) == [p for p in names(before, name) if p != "ant/003.jpg"]
        for name in SPLITS:
            kept = [i for i, p in enumerate(names(before, name)) if p != "ant/003.jpg"]
            assert np.array_equal(after.part(name)[0], images[name][0][kept])
            assert np.array_equal(after.part(name)[1], images[name][1][kept])


@pytest.mark.parametrize(
    "folders",
    [
        {"train": ".", "validation": "val", "test": None},
        {"train": "a", "validation": "a", "test": "b"},
        {"train": "a/b", "validation": None, "test": "a"},
    ],
)
def test_parts_that_share_a_folder_are_refused_before_anything_is_read(
    folders: dict[str, str | None],
) -> None:
    with pytest.raises(ValidationError, match="expected folders that share no images"):
        folder_params(Path("nowhere"), folders=folders)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Two classes, ten training and three test images each, named as in ILSVRC2012."""
    for wnid in ("n01440764", "n01443537"):
        for i in range(10):
            write_image(tmp_path / "train" / wnid / f"{wnid}_{i}.JPEG", i)
        for i in range(3):
            write_image(tmp_path / "val" / wnid / f"ILSVRC2012_val_0000000{i}.JPEG", i)
    return tmp_path


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        pytest.param(FirstPerClass(rule="first_per_class", images=2), {0, 1}, id="first"),
        pytest.param(LastSharePerClass(rule="last_share_per_class", share=0.3), {7, 8, 9}, id="last"),
    ],
)
def test_imagenet_holds_out_of_train_what_the_rule_says(
    imagenet: Path, rule: ValidationRule, expected: set[int]
) -> None:
    data = read_dataset(imagenet_params(imagenet, rule))
    assert data.classes == ("n01440764", "n01443537")
    held = {f"train/{c}/{c}_{i}.JPEG" for c in data.classes for i in expected}
    assert set(names(data, "validation")) == held
    everything = {f"train/{c}/{c}_{i}.JPEG" for c in data.classes for i in range(10)}
    assert set(names(data, "train")) == everything - held
    assert len(names(data, "test")) == 6
    assert names(data, "test")[0] == "val/n01440764/ILSVRC2012_val_00000000.JPEG"


def test_imagenet_crops_what_it_resized(imagenet: Path) -> None:
    rule = StratifiedShare(rule="stratified", share=0.2, seed=0)
    data = read_dataset(imagenet_params(imagenet, rule, crop_px=4))
    assert data.image_shape == (3, 4, 4)
    assert data.images.shape == (26, 3, PX, PX)
    assert np.bincount(data.labels[data.split["validation"]]).tolist() == [2, 2]


def _flat(root: Path) -> None:
    for file in (root / "val").glob("*/*"):
        file.rename(root / "val" / f"{file.parent.name}_{file.name}")
    for folder in (root / "val").iterdir():
        if folder.is_dir():
            folder.rmdir()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        pytest.param(_flat, "/val/n01440764_ILSVRC2012_val_00000000.JPEG: expected val/<wnid>/", id="flat"),
        pytest.param(
            lambda root: (root / "val").rename(root / "other"),
            "/val: expected ImageNet's validation",
            id="none",
        ),
        pytest.param(
            lambda root: (root / "val/n01443537").rename(root / "val/n99"),
            "/val/n99: expected a class of the training folder (n01440764, n01443537), got 'n99'",
            id="other-class",
        ),
        pytest.param(
            lambda root: (root / "train").rename(root / "Train"),
            "/train: expected a folder of class folders, got no such folder",
            id="no-train",
        ),
    ],
)
def test_imagenet_in_another_layout_is_one_line(
    imagenet: Path, change: Callable[[Path], object], line: str
) -> None:
    change(imagenet)
    with pytest.raises(InputError) as caught:
        read_dataset(imagenet_params(imagenet, FirstPerClass(rule="first_per_class", images=2)))
    assert str(caught.value).startswith(f"{imagenet}{line}")
    assert len(str(caught.value).splitlines()) == 1


def test_what_systems_leave_in_folders_is_passed_over_and_counted(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"ant": 8, "bee": 8})
    for stray in (
        "ant/.DS_Store",
        "ant/Thumbs.db",
        "bee/._000.png",
        "bee/notes.txt",
        "__MACOSX/bee/._000.jpg",
    ):
        (tmp_path / "train" / stray).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / stray).write_bytes(b"no image")
    write_image(tmp_path / "train/ant/.ipynb_checkpoints/000.jpg", 0)
    data = read_dataset(folder_params(tmp_path, folders={"train": "train", "validation": None, "test": None}))
    assert (data.classes, len(data.images)) == (("ant", "bee"), 16)
    assert data.remarks[0] == "6 files that are no images, or are hidden, were passed over"
