"""MNIST, Fashion-MNIST and CIFAR from files in their real formats, written here; damaged ones; downloads."""

import functools
import gzip
import hashlib
import http.server
import pickle
import shutil
import tarfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from torchvision import datasets

from pipeline.errors import InputError
from pipeline.images.file_index import Pixels
from pipeline.images.image_set import ImageSet, Labels
from pipeline.params.data import (
    BenchmarkData,
    FirstImages,
    FirstPerClass,
    ImagesPerClass,
    LastSharePerClass,
    ValidationRule,
)
from pipeline.readers import read_dataset

ALL = ImagesPerClass(train=None, validation=None, test=None, perturbed=None, seed=0)
IDX_NAMES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
RULES: dict[str, ValidationRule] = {
    "mnist": FirstPerClass(rule="first_per_class", images=1),
    "fashion_mnist": FirstPerClass(rule="first_per_class", images=1),
    "cifar10": FirstImages(rule="first", images=10),
    "cifar100": LastSharePerClass(rule="last_share_per_class", share=0.5),
}


def _read(source: str, root: Path, *, download: bool = False, **others: Any) -> ImageSet:
    settings = {
        "images_per_class": ALL,
        "crop_px": None,
        "copies": "allow",
        "resize_px": None,
        "validation": RULES[source],
    }
    return read_dataset(BenchmarkData(source=source, root=str(root), download=download, **settings | others))


def _pixels(*shape: int) -> Pixels:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def _idx(array: Labels | Pixels) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


def _idx_arrays() -> dict[str, Any]:
    return {
        TRAIN_IMAGES: _pixels(30, 28, 28),
        TRAIN_LABELS: np.random.default_rng(0).permutation(np.arange(30) % 10),
        TEST_IMAGES: _pixels(20, 28, 28),
        TEST_LABELS: np.arange(20) % 10,
    }


def _write_idx(folder: Path, *, packed: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in _idx_arrays().items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(_idx(array)))
        else:
            (folder / name).write_bytes(_idx(array))


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _batch(path: Path, images: Pixels, labels: Labels, key: str) -> None:
    """A CIFAR batch: rows of 3,072 values, all red ones of an image first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"data": images.reshape(len(images), -1), key: labels.tolist(), "batch_label": path.name}
    path.write_bytes(pickle.dumps(content, protocol=2))


def _sign(monkeypatch: pytest.MonkeyPatch, root: Path, cifar: Any) -> None:
    """Make the checksums of the files as they are the published ones."""
    folder = root / cifar.base_folder
    for part in ("train_list", "test_list"):
        signed = [[name, _md5(folder / name)] for name, _ in getattr(cifar, part)]
        monkeypatch.setattr(cifar, part, signed)
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": _md5(folder / cifar.meta["filename"])})


def _write_cifar10(root: Path) -> tuple[Pixels, Labels]:
    images, labels, folder = _pixels(35, 3, 32, 32), np.arange(35) % 10, root / "cifar-10-batches-py"
    for number in range(5):
        part = slice(5 * number, 5 * number + 5)
        _batch(folder / f"data_batch_{number + 1}", images[part], labels[part], "labels")
    _batch(folder / "test_batch", images[25:], labels[25:], "labels")
    meta = {"label_names": ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    return images, labels


def _write_cifar100(root: Path) -> tuple[Pixels, Labels]:
    images, labels, folder = _pixels(300, 3, 32, 32), np.arange(300) % 100, root / "cifar-100-python"
    _batch(folder / "train", images[:200], labels[:200], "fine_labels")
    _batch(folder / "test", images[200:], labels[200:], "fine_labels")
    meta = {"fine_label_names": [f"kind {i}" for i in range(100)], "coarse_label_names": ["kinds"]}
    (folder / "meta").write_bytes(pickle.dumps(meta))
    return images, labels


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Pixels, Labels]:
    written = _write_cifar10(tmp_path)
    _sign(monkeypatch, tmp_path, datasets.CIFAR10)
    return written


@pytest.mark.parametrize("source", IDX_NAMES)
@pytest.mark.parametrize("packed", [True, False], ids=["gz", "unpacked"])
@pytest.mark.parametrize("below", [True, False], ids=["torchvision-folder", "root"])
def test_idx_files_are_read_wherever_users_have_them(
    tmp_path: Path, source: str, packed: bool, below: bool
) -> None:
    _write_idx(tmp_path / IDX_NAMES[source] / "raw" if below else tmp_path, packed=packed)
    data, arrays = _read(source, tmp_path), _idx_arrays()
    assert data.images.shape == (50, 1, 28, 28)
    assert isinstance(data.images, np.ndarray)
    assert np.array_equal(data.images[:30, 0], arrays[TRAIN_IMAGES])
    assert np.array_equal(data.images[30:, 0], arrays[TEST_IMAGES])
    assert data.labels.tolist() == [*arrays[TRAIN_LABELS], *arrays[TEST_LABELS]]
    first = [arrays[TRAIN_LABELS].tolist().index(label) for label in range(10)]
    assert data.split["validation"].tolist() == sorted(first)
    assert data.split["test"].tolist() == list(range(30, 50))
    assert data.classes[9] == {"mnist": "9 - nine", "fashion_mnist": "Ankle boot"}[source]


def test_idx_files_are_what_torchvision_reads(tmp_path: Path) -> None:
    _write_idx(tmp_path / "MNIST" / "raw", packed=False)
    data = _read("mnist", tmp_path)
    for train, part in ((True, slice(0, 30)), (False, slice(30, 50))):
        theirs = datasets.MNIST(tmp_path, train=train)
        assert np.array_equal(data.images[part, 0], theirs.data.numpy())
        assert data.labels[part].tolist() == theirs.targets.tolist()


def test_cifar10_is_read_in_its_official_order(tmp_path: Path, cifar10: tuple[Pixels, Labels]) -> None:
    data = _read("cifar10", tmp_path)
    assert np.array_equal(data.images, cifar10[0])
    assert isinstance(data.images, np.ndarray)
    assert data.images.flags.c_contiguous
    assert data.labels.tolist() == cifar10[1].tolist()
    assert data.classes[:3] == ("plane", "car", "bird")
    assert {name: idx.tolist() for name, idx in data.split.items()} == {
        "validation": list(range(10)),
        "train": list(range(10, 25)),
        "test": list(range(25, 35)),
    }


def test_cifar100_has_its_fine_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = _write_cifar100(tmp_path)
    _sign(monkeypatch, tmp_path, datasets.CIFAR100)
    data = _read("cifar100", tmp_path)
    assert np.array_equal(data.images, images)
    assert data.labels.tolist() == labels.tolist()
    assert data.classes == tuple(f"kind {i}" for i in range(100))
    assert data.split["validation"].tolist() == list(range(100, 200))


@pytest.mark.parametrize("source", RULES)
def test_an_archive_comes_before_everything_else(tmp_path: Path, source: str) -> None:
    labels = np.arange(30) % 5
    arrays = {"x_train": _pixels(30, 8, 8, 3), "y_train": labels, "x_test": _pixels(10, 8, 8, 3)}
    np.savez(tmp_path / f"{source}.npz", **arrays, y_test=labels[:10], classes=np.array(list("abcde")))
    _write_idx(tmp_path, packed=True)
    data = _read(source, tmp_path, resize_px=6)
    assert data.images.shape == (40, 3, 8, 8)
    assert data.image_shape == (3, 6, 6)
    assert data.classes == tuple("abcde")


def test_too_many_validation_images_are_one_line(tmp_path: Path) -> None:
    _write_idx(tmp_path, packed=True)
    with pytest.raises(
        InputError, match=r"^data\.validation\.images: .* 3 training images of class 0 \(got 3\)$"
    ):
        _read("mnist", tmp_path, validation=FirstPerClass(rule="first_per_class", images=3))


def _expect_line(source: str, root: Path, names: Path, *says: str, download: bool = False) -> None:
    with pytest.raises(InputError) as error:
        _read(source, root, download=download)
    line = str(error.value)
    assert "\n" not in line
    assert str(names) in line
    assert all(text in line for text in says), line


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _rewrite(edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(gzip.compress(_idx(np.asarray(edit(_idx_arrays()[path.stem])))))

    return damage


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        pytest.param(TEST_LABELS, Path.unlink, "expected mnist.npz", id="missing"),
        pytest.param(TRAIN_IMAGES, _cut, "cannot be read (Compressed file ended", id="truncated"),
        pytest.param(TRAIN_IMAGES, lambda path: path.write_bytes(b""), "got an empty file", id="empty"),
        pytest.param(
            TRAIN_IMAGES, lambda path: path.write_text("<html>"), "Not a gzipped file", id="web-page"
        ),
        pytest.param(
            TRAIN_LABELS,
            lambda path: path.write_bytes(path.read_bytes()[:20] + b"\xff" * 20),
            "cannot be read",
            id="broken-stream",
        ),
        pytest.param(
            TRAIN_LABELS,
            lambda path: shutil.copy(path.with_name(f"{TRAIN_IMAGES}.gz"), path),
            "beginning with 00000801, got 00000803",
            id="images-for-labels",
        ),
        pytest.param(
            TEST_IMAGES,
            lambda path: path.write_bytes(gzip.compress(b"\0\0\x0d\x03" + bytes(12))),
            "beginning with 00000803, got 00000d03",
            id="floats",
        ),
        pytest.param(
            TEST_IMAGES,
            lambda path: path.write_bytes(gzip.compress(b"\0\0\x08\x03" + bytes(6))),
            "expected a header of 16 bytes, got 10",
            id="torn-header",
        ),
        pytest.param(
            TEST_LABELS,
            lambda path: path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-5])),
            "expected 20 bytes for 20, got 15",
            id="too-short",
        ),
        pytest.param(
            TRAIN_IMAGES,
            lambda path: path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0")),
            "expected 23520 bytes for 30x28x28, got 23521",
            id="too-long",
        ),
        pytest.param(
            TRAIN_LABELS, _rewrite(lambda y: y + 1), "labels from 0 to 9, got 10", id="labels-out-of-range"
        ),
        pytest.param(
            TRAIN_LABELS, _rewrite(lambda y: y[:-1]), "expected 30 integer labels", id="fewer-labels"
        ),
        pytest.param(
            TEST_LABELS, _rewrite(lambda y: [*y, 1]), "expected 20 integer labels", id="more-labels"
        ),
        pytest.param(TEST_IMAGES, _rewrite(lambda x: x[:, :14]), "expected 28x28", id="other-size"),
        pytest.param(TEST_IMAGES, _rewrite(lambda x: x[:0]), "expected uint8 images", id="no-images"),
        pytest.param(TRAIN_LABELS, _rewrite(lambda y: y * 0), "got none of '1 - one'", id="one-class-only"),
    ],
)
def test_a_damaged_idx_file_is_one_line_that_names_it(
    tmp_path: Path, name: str, damage: Callable[[Path], object], says: str
) -> None:
    _write_idx(tmp_path, packed=True)
    damage(tmp_path / f"{name}.gz")
    _expect_line("mnist", tmp_path, Path(name), says)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        pytest.param(np.arange(6), "expected 25 integer labels", id="more-labels"),
        pytest.param(np.arange(5) + 8, "labels from 0 to 9, got 10", id="labels-out-of-range"),
    ],
)
@pytest.mark.usefixtures("cifar10")
def test_wrong_labels_in_a_cifar_batch_are_one_line(
    tmp_path: Path, labels: Labels, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    _batch(folder / "data_batch_2", _pixels(5, 3, 32, 32), labels, "labels")
    _sign(monkeypatch, tmp_path, datasets.CIFAR10)
    _expect_line("cifar10", tmp_path, folder, says)


@pytest.mark.parametrize(
    ("name", "damage", "says"),
    [
        pytest.param("data_batch_3", Path.unlink, "expected cifar10.npz (x_train", id="missing"),
        pytest.param("batches.meta", Path.unlink, "expected cifar10.npz (x_train", id="no-names"),
        pytest.param("data_batch_1", _cut, "data_batch_1: expected md5", id="truncated"),
        pytest.param(
            "test_batch", lambda path: path.write_bytes(b""), "test_batch: expected md5", id="empty"
        ),
        pytest.param("batches.meta", _cut, "batches.meta: expected md5", id="names-truncated"),
    ],
)
@pytest.mark.usefixtures("cifar10")
def test_a_damaged_cifar_file_is_one_line_that_names_it(
    tmp_path: Path, name: str, damage: Callable[[Path], object], says: str
) -> None:
    damage(tmp_path / "cifar-10-batches-py" / name)
    _expect_line("cifar10", tmp_path, Path(name), says, "data.download: true fetches it")


@pytest.mark.usefixtures("cifar10")
def test_a_pickle_with_another_checksum_is_not_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    (tmp_path / "cifar-10-batches-py" / "data_batch_5").write_bytes(pickle.dumps(Trap()))
    _expect_line("cifar10", tmp_path, Path("data_batch_5"), "expected md5")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("source", RULES)
def test_a_damaged_archive_is_one_line_that_names_it(tmp_path: Path, source: str) -> None:
    file = tmp_path / f"{source}.npz"
    np.savez(file, x_train=_pixels(4, 8, 8))
    _expect_line(source, tmp_path, file, "expected x_test, y_test, y_train in it, got x_train")
    _cut(file)
    _expect_line(source, tmp_path, file, "expected an .npz archive")


@pytest.mark.parametrize("source", RULES)
@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_without_files_it_is_said_what_belongs_where(tmp_path: Path, source: str, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    root = tmp_path / folder
    place = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw"} | {
        "cifar10": "cifar-10-batches-py",
        "cifar100": "cifar-100-python",
    }
    expected = f"{source}.npz (x_train, y_train, x_test, y_test, classes)"
    _expect_line(source, root, root / place[source], expected, "data.download: true fetches it")


@pytest.mark.parametrize("source", RULES)
def test_a_download_without_a_network_is_one_line(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("Temporary failure in\nname resolution")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    says = (f"expected {source}.npz", "the download failed", "Temporary failure in name resolution")
    _expect_line(source, tmp_path, tmp_path, *says, download=True)
    with pytest.raises(InputError) as error:
        _read(source, tmp_path, download=True)
    assert "fetches it" not in str(error.value)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which it is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def mnist_mirror(mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The second of two; the first has nothing."""
    folder, address = mirror
    _write_idx(folder, packed=True)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{address}nothing/", address])
    signed = [(name, _md5(folder / name)) for name, _ in datasets.MNIST.resources]
    monkeypatch.setattr(datasets.MNIST, "resources", signed)
    return folder


@pytest.mark.usefixtures("mnist_mirror")
def test_mnist_is_downloaded_once_into_torchvisions_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _read("mnist", tmp_path / "data", download=True)
    assert np.array_equal(data.images[:30], _idx_arrays()[TRAIN_IMAGES][:, None])
    assert len(datasets.MNIST(tmp_path / "data")) == 30
    monkeypatch.setattr(datasets.MNIST, "mirrors", [])
    assert _read("mnist", tmp_path / "data", download=True).checksum() == data.checksum()


@pytest.mark.usefixtures("mnist_mirror")
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_download_replaces_what_an_interrupted_one_left(tmp_path: Path, suffix: str) -> None:
    root = tmp_path / "data"
    _write_idx(root / "MNIST" / "raw", packed=bool(suffix))
    whole = _read("mnist", root).checksum()
    _cut(root / "MNIST" / "raw" / f"{TRAIN_LABELS}{suffix}")
    _expect_line("mnist", root, root / "MNIST" / "raw" / TRAIN_LABELS, "data.download: true fetches it")
    assert _read("mnist", root, download=True).checksum() == whole


def test_a_download_of_something_else_is_one_line(tmp_path: Path, mnist_mirror: Path) -> None:
    (mnist_mirror / f"{TEST_IMAGES}.gz").write_text("<html>please log in</html>")
    says = (TEST_IMAGES, "the download failed", "404", "corrupted")
    _expect_line("mnist", tmp_path / "data", tmp_path / "data", *says, download=True)


def _pack_cifar10(root: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(target / datasets.CIFAR10.filename, "w:gz") as archive:
        archive.add(root / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", _md5(target / datasets.CIFAR10.filename))
    shutil.rmtree(root / "cifar-10-batches-py")


def test_cifar_is_downloaded(
    tmp_path: Path,
    cifar10: tuple[Pixels, Labels],
    mirror: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _pack_cifar10(tmp_path, mirror[0], monkeypatch)
    monkeypatch.setattr(datasets.CIFAR10, "url", mirror[1] + datasets.CIFAR10.filename)
    assert np.array_equal(_read("cifar10", tmp_path, download=True).images, cifar10[0])


def test_an_archive_of_cifar_is_unpacked_without_a_network(
    tmp_path: Path, cifar10: tuple[Pixels, Labels], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("no network is needed")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    _pack_cifar10(tmp_path, tmp_path, monkeypatch)
    assert np.array_equal(_read("cifar10", tmp_path, download=True).images, cifar10[0])
