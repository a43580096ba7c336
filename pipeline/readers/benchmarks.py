"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100: an archive of arrays, or the files that torchvision has."""

from __future__ import annotations

import gzip
import http.client
import math
import tarfile
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipeline.errors import InputError
from pipeline.readers.arrays import Part, join_parts, read_npz

if TYPE_CHECKING:
    from pipeline.images.file_index import Pixels
    from pipeline.images.image_set import ImageSet
    from pipeline.params.data import BenchmarkData

# What torchvision's downloads raise without a network, on a full disk, or when something else arrives;
# urllib's URLError is an OSError.
_FAILED_DOWNLOAD = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    http.client.HTTPException,
    tarfile.TarError,
    zlib.error,
)
_IDX_BYTES = 0x08

T = TypeVar("T")


def read_benchmark(params: BenchmarkData) -> ImageSet:
    """The set `data.source`, training images in their official order, then the test images.

    Where `<root>/<source>.npz` exists, it is read as `read_npz` says: machines without a network get such a
    file from elsewhere. Otherwise the files have to lie as torchvision has them; those of MNIST and Fashion-MNIST
    may be packed (.gz) or not, and may lie in `root` itself. What is missing or has a wrong checksum is
    downloaded with `data.download: true`; an archive of CIFAR in `root` is then unpacked without a network.

    Raises:
        InputError: if files are missing and not downloaded, or are damaged.
    """
    root = Path(params.root).expanduser()
    archive = root / f"{params.source}.npz"
    if archive.exists():
        return read_npz(archive, params.validation, params.resize_px)
    read = _read_idx_files if params.source in ("mnist", "fashion_mnist") else _read_cifar
    train, test, classes = read(root, params)
    return join_parts({"train": train, "test": test}, classes, params.validation, params.resize_px)


def _torchvision_class(params: BenchmarkData) -> Any:
    from torchvision import datasets  # importing it takes seconds, which an .npz does without

    return {
        "mnist": datasets.MNIST,
        "fashion_mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
    }[params.source]


def _read_idx_files(root: Path, params: BenchmarkData) -> tuple[Part, Part, list[str]]:
    """MNIST's four files, read here: torchvision's class wants them unpacked in its own folder, and has no message
    that names a damaged one. Files in `root` itself are taken for those of `data.source`."""
    from torchvision.datasets.utils import download_and_extract_archive as fetch

    theirs = _torchvision_class(params)
    raw = root / theirs.__name__ / "raw"
    names = [packed.removesuffix(".gz") for packed, _ in theirs.resources]
    files = {}
    for name, (packed, md5) in zip(names, theirs.resources, strict=True):
        read = partial(_find_and_read_idx, name, names, raw, root, params)
        attempts = [partial(fetch, f"{mirror}{packed}", raw, md5=md5) for mirror in theirs.mirrors]
        files[name] = _read_or_download(read, attempts, params)
    parts = []
    for part in ("train", "t10k"):
        images_from, images = files[f"{part}-images-idx3-ubyte"]
        labels_from, labels = files[f"{part}-labels-idx1-ubyte"]
        parts.append(Part(images, labels, str(images_from), str(labels_from)))
    return parts[0], parts[1], theirs.classes


def _find_and_read_idx(
    name: str, names: list[str], raw: Path, root: Path, params: BenchmarkData
) -> tuple[Path, Pixels]:
    found: dict[str, Path] = {}
    for each in names:
        places = [raw / each, raw / f"{each}.gz", root / each, root / f"{each}.gz"]
        there = [path for path in places if path.is_file()]
        if there:
            found[each] = there[0]
    if name not in found:
        missing = ", ".join(each for each in names if each not in found)
        raise _missing(root, params, f"in {raw} or in itself, packed (.gz) or not: {missing}")
    return found[name], _read_idx(found[name], n_dimensions=3 if "idx3" in name else 1)


def _read_idx(path: Path, *, n_dimensions: int) -> Pixels:
    """An idx file of bytes: two zero bytes, the type, the number of dimensions, each of them, the values."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    magic, header = bytes((0, 0, _IDX_BYTES, n_dimensions)), 4 * (1 + n_dimensions)
    if content[:4] != magic:
        raise InputError(
            f"{path}: expected an idx file of bytes in {n_dimensions} dimensions, beginning with {magic.hex()}, "
            f"got {content[:4].hex() or 'an empty file'}"
        )
    if len(content) < header:
        raise InputError(f"{path}: expected a header of {header} bytes, got {len(content)}")
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], dtype=">u4"))
    if len(content) - header != math.prod(shape):
        raise InputError(
            f"{path}: expected {math.prod(shape)} bytes for {'x'.join(map(str, shape))}, "
            f"got {len(content) - header}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _read_cifar(root: Path, params: BenchmarkData) -> tuple[Part, Part, list[str]]:
    from torchvision.datasets.utils import download_and_extract_archive as fetch

    theirs = _torchvision_class(params)
    attempt = partial(fetch, theirs.url, root, md5=theirs.tgz_md5)
    return _read_or_download(partial(_load_cifar, theirs, root, params), [attempt], params)


def _load_cifar(theirs: Any, root: Path, params: BenchmarkData) -> tuple[Part, Part, list[str]]:
    """CIFAR by torchvision's own class. The files are pickles: it loads none whose md5 is not the published one,
    which is checked here before it, to name the file."""
    from torchvision.datasets.utils import calculate_md5

    folder = root / theirs.base_folder
    files = dict([*theirs.train_list, *theirs.test_list, (theirs.meta["filename"], theirs.meta["md5"])])
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise _missing(root, params, f"in {folder}: {', '.join(missing)}")
    for name, md5 in files.items():
        got = calculate_md5(folder / name)
        if got != md5:
            raise InputError(f"{folder / name}: expected md5 {md5}, got {got}")
    train, test = (theirs(root, train=is_train) for is_train in (True, False))
    place = str(folder)
    parts = [Part(part.data, np.asarray(part.targets), place, place) for part in (train, test)]
    return parts[0], parts[1], train.classes


def _missing(root: Path, params: BenchmarkData, files: str) -> InputError:
    arrays = "x_train, y_train, x_test, y_test, classes"
    return InputError(f"{root}: expected {params.source}.npz ({arrays}), or torchvision's files {files}")


def _read_or_download(
    read: Callable[[], T], attempts: Sequence[Callable[[], object]], params: BenchmarkData
) -> T:
    """What `read` gives; where files are missing or damaged, after the first download that succeeds."""
    try:
        return read()
    except InputError as problem:
        if not params.download:
            raise InputError(f"{problem}; data.download: true fetches it") from None
        reasons = []
        for attempt in attempts:
            try:
                attempt()
            except _FAILED_DOWNLOAD as error:
                reasons.append(" ".join(str(error).split()) or type(error).__name__)
            else:
                return read()
        raise InputError(f"{problem}; the download failed ({'; '.join(reasons)})") from None
