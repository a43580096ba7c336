"""Image sets: the digits as they are, one split for one seed, and damage named before any training."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_digits

from pipeline.errors import InputError
from pipeline.images.image_set import (
    SPLITS,
    ImageSet,
    check_image_set,
    draw_per_class,
    load_image_set,
    save_image_set,
)
from pipeline.params.data import DigitsData, ImagesPerClass
from pipeline.readers import read_dataset


def _settings(split_seed: int = 0, validation: float = 0.2, test: float = 0.2) -> DigitsData:
    return DigitsData(
        source="digits",
        split_seed=split_seed,
        validation_fraction=validation,
        test_fraction=test,
        images_per_class=ImagesPerClass(train=None, validation=None, test=None, perturbed=None, seed=0),
        crop_px=None,
        copies="refuse",
    )


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return read_dataset(_settings())


@pytest.fixture
def small() -> ImageSet:
    """Eighteen images of three classes, six of each: two a class in every part."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 6).astype(np.int64)
    places = np.arange(18).reshape(3, 3, 2)
    split = {name: np.sort(places[:, i].ravel()) for i, name in enumerate(SPLITS)}
    images = random.integers(0, 256, (18, 2, 4, 5), dtype=np.uint8)
    return ImageSet(images, labels, ("ant", "bee", "cow"), split)


def test_digits_are_all_there(digits: ImageSet) -> None:
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.dtype == np.uint8
    assert digits.labels.dtype == np.int64
    assert digits.classes == tuple("0123456789")
    assert digits.image_shape == (1, 8, 8)
    assert {name: len(digits.split[name]) for name in SPLITS} == {
        "train": 1077,
        "validation": 360,
        "test": 360,
    }


def test_a_name_of_half_a_letter_is_one_line(small: ImageSet) -> None:
    damaged = dataclasses.replace(small, classes=("ant", "b\ud800e", "cow"))
    with pytest.raises(InputError, match=r"^here: expected class names that are text, got 'b.ud800e'$"):
        check_image_set(damaged, "here")


def test_digits_keep_their_grey_levels(digits: ImageSet) -> None:
    """Seventeen levels, spread over 0-255, in the order of scikit-learn's."""
    theirs = load_digits()
    assert np.array_equal(digits.labels, theirs.target)
    assert np.abs(digits.images[:, 0] - theirs.images * 255 / 16).max() <= 0.5
    assert len(np.unique(digits.images)) == 17
    assert (digits.images.min(), digits.images.max()) == (0, 255)


def test_split_takes_every_image_once(digits: ImageSet) -> None:
    used = np.concatenate([digits.split[name] for name in SPLITS])
    assert np.array_equal(np.sort(used), np.arange(1797))


def test_split_is_stratified(digits: ImageSet) -> None:
    for name, fraction in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        counts = np.bincount(digits.part(name)[1], minlength=10)
        assert np.abs(counts - fraction * np.bincount(digits.labels)).max() <= 1


def test_split_depends_on_its_seed_alone(digits: ImageSet) -> None:
    again, other = read_dataset(_settings()), read_dataset(_settings(split_seed=1))
    assert again.checksum() == digits.checksum()
    assert other.checksum() != digits.checksum()
    for name in SPLITS:
        assert np.array_equal(again.split[name], digits.split[name])
        assert not np.array_equal(other.split[name], digits.split[name])
    assert np.array_equal(other.images, digits.images)


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.3), (0.25, 0.25), (0.5, 0.4)])
def test_fractions_are_of_all_images(validation: float, test: float) -> None:
    data = read_dataset(_settings(validation=validation, test=test))
    assert abs(len(data.split["validation"]) - validation * 1797) <= 1
    assert abs(len(data.split["test"]) - test * 1797) <= 1


def test_part_gives_images_with_their_labels(small: ImageSet) -> None:
    images, labels = small.part("validation")
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(images, small.images[[2, 3, 8, 9, 14, 15]])


def test_normalization_is_that_of_the_training_images(small: ImageSet) -> None:
    mean, std = small.normalization()
    for channel in range(2):
        pixels = small.images[[0, 1, 6, 7, 12, 13], channel] / 255
        assert mean[channel] == pytest.approx(pixels.mean(), rel=1e-12)
        assert std[channel] == pytest.approx(pixels.std(), rel=1e-12)
    others = small.images.copy()
    others[small.split["test"]] = 0
    assert dataclasses.replace(small, images=others).normalization() == (mean, std)


def test_save_and_load_give_the_same_set(small: ImageSet, tmp_path: Path) -> None:
    save_image_set(small, tmp_path)
    loaded = load_image_set(tmp_path)
    assert np.array_equal(loaded.images, small.images)
    assert np.array_equal(loaded.labels, small.labels)
    assert (loaded.images.dtype, loaded.labels.dtype) == (np.uint8, np.int64)
    assert loaded.classes == small.classes
    assert all(np.array_equal(loaded.split[name], small.split[name]) for name in SPLITS)
    assert loaded.checksum() == small.checksum()
    info = json.loads((tmp_path / "images.json").read_text(encoding="utf-8"))
    assert info["counts"] == {"train": 6, "validation": 6, "test": 6}
    assert info["image_shape"] == [2, 4, 5]


def test_same_set_gives_the_same_files(small: ImageSet, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_image_set(small, tmp_path / name)
    for file in ("images.safetensors", "images.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("place", [0, 1, 100, -1, -200, -1000])
def test_a_flipped_byte_is_found(small: ImageSet, tmp_path: Path, place: int) -> None:
    save_image_set(small, tmp_path)
    file = tmp_path / "images.safetensors"
    content = bytearray(file.read_bytes())
    content[place] ^= 0x40
    file.write_bytes(content)
    with pytest.raises(InputError, match=str(tmp_path)) as error:
        load_image_set(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_a_swapped_label_and_index_are_found(small: ImageSet, tmp_path: Path) -> None:
    for key in ("labels", "split.train"):
        save_image_set(small, tmp_path)
        arrays = load_file(tmp_path / "images.safetensors")
        arrays[key] = np.ascontiguousarray(arrays[key][::-1])
        save_file(arrays, tmp_path / "images.safetensors")
        with pytest.raises(InputError, match="checksum"):
            load_image_set(tmp_path)


def _truncate(folder: Path) -> None:
    file = folder / "images.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def _without_split(folder: Path) -> None:
    arrays = load_file(folder / "images.safetensors")
    save_file({k: v for k, v in arrays.items() if k != "split.test"}, folder / "images.safetensors")


def _without_checksum(folder: Path) -> None:
    info = json.loads((folder / "images.json").read_text())
    del info["sha256"]
    (folder / "images.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: (folder / "images.safetensors").unlink(), id="no-images"),
        pytest.param(lambda folder: (folder / "images.json").unlink(), id="no-json"),
        pytest.param(lambda folder: (folder / "images.json").write_text("{"), id="torn-json"),
        pytest.param(lambda folder: (folder / "images.json").write_text("[]"), id="json-of-another-kind"),
        pytest.param(lambda folder: (folder / "images.safetensors").write_bytes(b""), id="empty"),
        pytest.param(_truncate, id="truncated"),
        pytest.param(_without_split, id="no-test-part"),
        pytest.param(_without_checksum, id="no-checksum"),
    ],
)
def test_damage_is_one_line_with_the_folder(
    small: ImageSet, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    save_image_set(small, tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=str(tmp_path)) as error:
        load_image_set(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_a_good_set_passes(small: ImageSet, digits: ImageSet) -> None:
    check_image_set(small, "small")
    check_image_set(digits, "digits")


def _with_labels(data: ImageSet, *values: tuple[int, int]) -> ImageSet:
    labels = data.labels.copy()
    for place, label in values:
        labels[place] = label
    return dataclasses.replace(data, labels=labels)


def _with_split(data: ImageSet, **parts: list[int]) -> ImageSet:
    return dataclasses.replace(data, split=data.split | {name: np.array(idx) for name, idx in parts.items()})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(
            lambda d: dataclasses.replace(d, images=d.images.astype(np.float32)),
            ("uint8", "float32"),
            id="dtype",
        ),
        pytest.param(
            lambda d: dataclasses.replace(d, images=d.images[:, 0]),
            ("(n, channels, height, width)", "(18, 4, 5)"),
            id="no-channels",
        ),
        pytest.param(
            lambda d: dataclasses.replace(d, labels=d.labels[:-1]), ("18", "(17,)"), id="label-short"
        ),
        pytest.param(
            lambda d: dataclasses.replace(d, labels=d.labels[:, None]), ("(18, 1)",), id="labels-2d"
        ),
        pytest.param(lambda d: _with_labels(d, (0, 3)), ("0 to 2", "got 3"), id="label-over"),
        pytest.param(lambda d: _with_labels(d, (5, -1)), ("0 to 2", "got -1"), id="label-under"),
        pytest.param(lambda d: dataclasses.replace(d, classes=("all",)), ("2 classes", "1"), id="one-class"),
        pytest.param(
            lambda d: _with_labels(d, (10, 0), (11, 0)), ("test", "'bee'"), id="class-missing-from-test"
        ),
        pytest.param(
            lambda d: _with_labels(d, (12, 0), (13, 0)), ("train", "'cow'"), id="class-missing-from-train"
        ),
        pytest.param(
            lambda d: dataclasses.replace(d, classes=(*d.classes, "dog")), ("'dog'",), id="class-of-no-image"
        ),
        pytest.param(
            lambda d: _with_split(d, test=[4, 5, 10, 11, 16, 17, 0]), ("repeats",), id="image-in-two-parts"
        ),
        pytest.param(lambda d: _with_split(d, test=[4, 4, 10, 16]), ("repeats",), id="image-twice-in-a-part"),
        pytest.param(lambda d: _with_split(d, test=[4, 10, 18]), ("18",), id="index-over"),
        pytest.param(lambda d: _with_split(d, test=[4, 10, -1]), ("-1",), id="index-under"),
        pytest.param(
            lambda d: dataclasses.replace(d, images=d.images[:0], labels=d.labels[:0]), (), id="no-images"
        ),
    ],
)
def test_a_spoilt_set_is_refused_with_one_line(
    small: ImageSet, spoil: Callable[[ImageSet], ImageSet], words: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as error:
        check_image_set(spoil(small), "here")
    (line,) = str(error.value).splitlines()
    assert line.startswith("here: expected")
    for word in words:
        assert word in line


def test_images_of_each_class_are_drawn_by_seed_and_are_not_the_first() -> None:
    labels = np.repeat(np.array([0, 1, 2]), [400, 300, 5])
    drawn = draw_per_class(labels, 100, (0, 3))
    assert np.bincount(labels[drawn]).tolist() == [100, 100, 5]
    assert np.array_equal(drawn, np.unique(drawn))
    # Spread over the whole class: the mean place of 100 of 400 has a standard deviation of 10.
    assert abs(drawn[:100].mean() - 199.5) < 40
    assert np.array_equal(drawn, draw_per_class(labels, 100, (0, 3)))
    for other in ((1, 3), (0, 2)):
        assert not np.array_equal(drawn, draw_per_class(labels, 100, other))
    assert np.array_equal(draw_per_class(labels, None, (0, 3)), np.arange(705))
