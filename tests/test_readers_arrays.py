"""Archives of arrays: what is read from them, and what is said of those that are damaged."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.images.image_set import ImageSet
from pipeline.params.data import ArraysData, FirstPerClass, ImagesPerClass, ValidationRule
from pipeline.readers import read_dataset

Arrays = dict[str, Any]
RULE = FirstPerClass(rule="first_per_class", images=2)
ALL = ImagesPerClass(train=None, validation=None, test=None, perturbed=None, seed=0)


def _arrays(shape: tuple[int, ...] = (4, 5, 3), n_train: int = 18, n_test: int = 6) -> Arrays:
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (n_train, *shape), dtype=np.uint8),
        "y_train": np.arange(n_train) % 3,
        "x_test": random.integers(0, 256, (n_test, *shape), dtype=np.uint8),
        "y_test": np.arange(n_test) % 3,
        "classes": np.array(["ant", "bée", "-cow cat"]),
    }


def _with_validation(arrays: Arrays) -> Arrays:
    return arrays | {"x_validation": arrays["x_test"] // 2, "y_validation": arrays["y_test"][::-1]}


def _read(path: Path, rule: ValidationRule | None = RULE, **others: Any) -> ImageSet:
    settings = {"images_per_class": ALL, "crop_px": None, "copies": "allow", "resize_px": None} | others
    return read_dataset(ArraysData(source="arrays", file=str(path), validation=rule, **settings))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "own images.npz"


def test_images_come_out_channels_first_train_then_test(file: Path) -> None:
    arrays = _arrays()
    np.savez(file, **arrays)
    data = _read(file)
    assert data.images.shape == (24, 3, 4, 5)
    assert isinstance(data.images, np.ndarray)
    assert data.images.dtype == np.uint8
    assert data.images.flags.c_contiguous
    for idx in (0, 7, 17):
        assert np.array_equal(data.images[idx], np.moveaxis(arrays["x_train"][idx], -1, 0))
    for idx in (0, 5):
        assert np.array_equal(data.images[18 + idx], np.moveaxis(arrays["x_test"][idx], -1, 0))
    assert data.labels.tolist() == [*arrays["y_train"], *arrays["y_test"]]
    assert data.labels.dtype == np.int64
    assert data.classes == ("ant", "bée", "-cow cat")
    assert data.split["validation"].tolist() == [0, 1, 2, 3, 4, 5]
    assert data.split["train"].tolist() == list(range(6, 18))
    assert data.split["test"].tolist() == list(range(18, 24))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.uint64, ">i4"])
def test_grey_images_and_any_integer_labels(file: Path, save: Callable[..., None], kind: Any) -> None:
    arrays = _arrays((6, 6))
    save(file, **arrays | {key: arrays[key].astype(kind) for key in ("y_train", "y_test")})
    data = _read(file)
    assert data.image_shape == (1, 6, 6)
    assert isinstance(data.images, np.ndarray)
    assert np.array_equal(data.images[:18, 0], arrays["x_train"])
    assert data.labels.dtype == np.int64


def test_a_channel_axis_of_one_is_the_same_as_none(file: Path) -> None:
    arrays = _arrays((6, 6))
    np.savez(file, **arrays)
    plain = _read(file).checksum()
    np.savez(file, **arrays | {"x_train": arrays["x_train"][..., None]})
    assert _read(file).checksum() == plain


def test_own_validation_images_are_used(file: Path) -> None:
    arrays = _with_validation(_arrays())
    np.savez(file, **arrays)
    data = _read(file, None)
    assert {name: idx.tolist() for name, idx in data.split.items()} == {
        "train": list(range(18)),
        "validation": list(range(18, 24)),
        "test": list(range(24, 30)),
    }
    images, labels = data.part("validation")
    assert np.array_equal(images, arrays["x_validation"].transpose(0, 3, 1, 2))
    assert labels.tolist() == arrays["y_validation"].tolist()


def test_without_names_classes_are_called_by_their_numbers(file: Path) -> None:
    """As in the archives that Keras downloads."""
    arrays = _arrays()
    del arrays["classes"]
    np.savez(file, **arrays)
    assert _read(file).classes == ("0", "1", "2")


def test_sizes_are_handed_on(file: Path) -> None:
    np.savez(file, **_arrays())
    data = _read(file, resize_px=8, crop_px=6)
    assert (data.resize_px, data.crop_px, data.image_shape) == (8, 6, (3, 6, 6))
    assert data.images.shape == (24, 3, 4, 5)


def test_at_most_so_many_of_each_class(file: Path) -> None:
    np.savez(file, **_arrays())
    limits = ImagesPerClass(train=3, validation=1, test=2, perturbed=1, seed=0)
    data = _read(file, images_per_class=limits)
    assert {name: len(idx) for name, idx in data.split.items()} == {"train": 9, "validation": 3, "test": 6}
    assert len(data.images) == 18
    assert data.perturbed_per_class == 1


def test_a_home_folder_is_known(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(file, **_arrays())
    monkeypatch.setenv("HOME", str(file.parent))
    assert len(_read(Path("~") / file.name).images) == 24


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _flip(path: Path) -> None:
    """One bit of a pixel, which the archive's own checksum sees."""
    content = bytearray(path.read_bytes())
    content[content.index(b"x_train") + 400] ^= 1
    path.write_bytes(content)


def _npy_instead(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _text_inside(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for key in ("x_train", "y_train", "x_test", "y_test", "classes"):
            archive.writestr(f"{key}.npy", "no array")


def _npy_of(path: Path, header: str, content: bytes = b"") -> None:
    """The same header and bytes for every array."""
    text = header.ljust(117)
    with zipfile.ZipFile(path, "w") as archive:
        for key in ("classes", "x_train", "y_train", "x_test", "y_test"):
            start = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
            archive.writestr(f"{key}.npy", start + content)


def _header_of_terabytes(path: Path) -> None:
    _npy_of(path, "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000, 28, 28), }")


def _open_header(path: Path) -> None:
    """A tokenize.TokenError of numpy's parser."""
    _npy_of(path, "{'descr': '|u1', 'fortran_order': False, 'shape': (1, ")


def _no_letters(path: Path) -> None:
    """A SystemError where the array is made a list: no letter has this number."""
    _npy_of(path, "{'descr': '<U1', 'fortran_order': False, 'shape': (2,), }", b"\xff" * 8)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        pytest.param(Path.unlink, "no such file", id="missing"),
        pytest.param(lambda path: (path.unlink(), path.mkdir()), "no such file", id="folder"),
        pytest.param(lambda path: path.write_bytes(b""), "another kind of file", id="empty"),
        pytest.param(lambda path: path.write_text("x,y\n"), "another kind of file", id="text"),
        pytest.param(_npy_instead, "another kind of file", id="npy"),
        pytest.param(_cut, "or a part of one", id="truncated"),
        pytest.param(_flip, "x_train: cannot be read (Bad CRC", id="flipped"),
        pytest.param(_text_inside, "x_train: cannot be read", id="no-arrays-inside"),
        pytest.param(_header_of_terabytes, "classes: cannot be read", id="too-large"),
        pytest.param(_open_header, "classes: cannot be read", id="open-header"),
        pytest.param(_no_letters, "classes: cannot be read", id="no-letters"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(
    file: Path, damage: Callable[[Path], object], says: str
) -> None:
    np.savez(file, **_arrays())
    damage(file)
    _expect_line(file, says)


def _without(key: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {other: value for other, value in arrays.items() if other != key}


def _put(key: str, edit: Callable[[Any], Any]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {key: edit(arrays[key])}


def _edited(place: int, value: int) -> Callable[[Any], Any]:
    return lambda labels: np.concatenate([labels[:place], [value], labels[place + 1 :]])


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        pytest.param(_without("y_test"), "expected y_test in it", id="key-missing"),
        pytest.param(lambda _: {"images": np.zeros(3)}, "in it, got images", id="other-keys"),
        pytest.param(lambda a: a | {"x_val": a["x_test"]}, "got x_val", id="key-unknown"),
        pytest.param(
            lambda a: a | {"x_validation": a["x_test"]}, "expected y_validation", id="half-validation"
        ),
        pytest.param(_with_validation, "expected data.validation to be null", id="validation-and-rule"),
        pytest.param(_put("x_train", lambda x: x / 255), "x_train: expected uint8", id="float-images"),
        pytest.param(_put("x_test", lambda x: x.astype(np.int64)), "x_test: expected uint8", id="int-images"),
        pytest.param(_put("x_train", lambda x: x.astype(object)), "x_train: cannot be read", id="objects"),
        pytest.param(
            _put("x_train", lambda x: x.transpose(0, 3, 1, 2)), "got uint8 (18, 3, 4, 5)", id="nchw"
        ),
        pytest.param(_put("x_train", lambda x: x[0]), "y_train: expected 4 integer labels", id="one-image"),
        pytest.param(_put("x_train", lambda x: x.reshape(18, -1)), "got uint8 (18, 60)", id="flat"),
        pytest.param(_put("x_train", lambda x: x[..., :2]), "channels 1 or 3", id="two-channels"),
        pytest.param(_put("x_test", lambda x: x[:, :3]), "x_test: expected 4x5 with 3 channels", id="sizes"),
        pytest.param(_put("x_test", lambda x: x[..., 0]), "got 4x5 with 1 channel", id="channels-differ"),
        pytest.param(_put("x_test", lambda x: x[:-1]), "y_test: expected 5 integer labels", id="counts"),
        pytest.param(
            lambda a: a | {k: a[k][:0] for k in ("x_test", "y_test")}, "x_test: expected", id="none"
        ),
        pytest.param(_put("y_train", lambda y: y[:, None]), "got int64 (18, 1)", id="labels-2d"),
        pytest.param(_put("y_train", lambda y: y + 0.5), "y_train: expected 18 integer", id="labels-float"),
        pytest.param(
            _put("y_train", _edited(4, 3)), "y_train: expected labels from 0 to 2, got 3", id="label-high"
        ),
        pytest.param(
            _put("y_test", _edited(0, -1)), "y_test: expected labels from 0 to 2, got -1", id="label-low"
        ),
        pytest.param(
            _put("y_train", lambda y: y.astype(np.uint64) - np.uint64(1)),
            "to 2, got 1844",
            id="label-wrapped",
        ),
        pytest.param(_put("y_train", lambda y: y % 2), "got none of '-cow cat'", id="class-without-images"),
        pytest.param(
            _put("y_test", lambda y: y * 0), "y_test: expected images of each of the 3", id="one-in-test"
        ),
        pytest.param(
            lambda a: a | {k: a[k] * 0 for k in ("y_train", "y_test")} | {"classes": np.array(["ant"])},
            "expected at least 2 classes, got 1",
            id="single-class",
        ),
        pytest.param(
            lambda a: _without("classes")(a | {k: a[k] * 0 for k in ("y_train", "y_test")}),
            "expected at least 2 classes, got 1",
            id="single-class-unnamed",
        ),
        pytest.param(
            lambda a: _without("classes")(_put("y_train", lambda y: y * 5)(a)),
            "got 0 to 10",
            id="unnamed-gaps",
        ),
        pytest.param(
            lambda a: _without("classes")(_put("y_train", lambda y: y / 2)(a)), "integer", id="unnamed-floats"
        ),
        pytest.param(
            _put("classes", lambda c: c.astype(object)), "save it as one of strings", id="names-objects"
        ),
        pytest.param(
            _put("classes", lambda c: np.arange(3)), "classes: expected strings", id="names-numbers"
        ),
        pytest.param(_put("classes", lambda c: c[:0]), "at least 2 classes, got 0", id="names-none"),
        pytest.param(_put("classes", lambda c: c[None]), "classes: expected strings", id="names-2d"),
        pytest.param(_put("classes", lambda c: c[[0, 1, 1]]), "expected different names", id="names-twice"),
        pytest.param(_put("classes", lambda c: c[:2]), "from 0 to 1, got 2", id="names-too-few"),
    ],
)
def test_wrong_contents_are_one_line_that_names_the_file(
    file: Path, edit: Callable[[Arrays], Arrays], says: str
) -> None:
    np.savez(file, **edit(_arrays()))
    _expect_line(file, says)


def test_a_rule_is_needed_without_validation_images(file: Path) -> None:
    np.savez(file, **_arrays())
    _expect_line(file, "expected a rule in data.validation (got null)", rule=None)


def test_objects_are_not_unpickled(file: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    np.savez(file, **_arrays() | {"classes": np.array([Trap()], dtype=object)})
    _expect_line(file, "classes: cannot be read")
    assert not (tmp_path / "sprung").exists()


def _expect_line(file: Path, says: str, rule: ValidationRule | None = RULE) -> None:
    with pytest.raises(InputError) as error:
        _read(file, rule)
    line = str(error.value)
    assert line.startswith(f"{file}: ")
    assert says in line
    assert "\n" not in line
    assert len(line) < 400
