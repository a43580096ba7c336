"""Folders of class folders: a user's own, and ImageNet's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import InputError
from pipeline.images.image_set import SPLITS, Indices, Labels, SplitName
from pipeline.readers.scan import Listing
from pipeline.readers.splits import draw_share, hold_out, one_after_another, split_by_fractions

if TYPE_CHECKING:
    from pipeline.params.data import ImageFolderData, ImageNetData

# What torchvision's ImageFolder takes for images, in lower case, and GIF, of which the first frame is read.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")

# What systems leave in folders, beside names that begin with a dot.
_NOT_CLASSES = {
    "__MACOSX",
    "@eaDir",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "__pycache__",
}

_Part = tuple[list[str], Labels]


def list_image_folder(params: ImageFolderData) -> Listing:
    """Any folder of class folders, or one for each part; classes are the sorted names below the training one.

    Images in folders below a class folder are of that class; hidden files and folders, those that systems make
    (`__MACOSX` and the like) and other suffixes than `SUFFIXES` are passed over and counted. A part without a folder
    is split off the training folder.

    Raises:
        InputError: if a folder is missing or not what it should be, or there is too little to split.
    """
    root, folders = Path(params.root), params.folders
    check_folder(root, "data.root")
    classes = class_names(root / folders.train)
    given: dict[SplitName, _Part] = {
        name: list_part(root, folder, classes)
        for name in SPLITS
        if (folder := getattr(folders, name)) is not None
    }
    listing = _listing(root, given, classes)
    _split_off(listing.split, given["train"][1], params)
    n_files = sum(_count_files(root / folder) for folder in set(dict(folders).values()) if folder is not None)
    return replace(listing, n_passed_over=n_files - len(listing.paths))


def list_imagenet(params: ImageNetData) -> Listing:
    """`train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`; the latter is the test part, as in the papers.

    Raises:
        InputError: if a folder is missing or not what it should be; `val/` as it is published, with all images
            in one folder, has to be sorted first.
    """
    root = Path(params.root)
    check_folder(root, "data.root")
    classes = class_names(root / "train")
    check_folder(root / "val", "ImageNet's validation images")
    if flat := _image_in(root / "val"):
        raise InputError(
            f"{flat}: expected val/<wnid>/*.JPEG like train/, got images in val/ itself; sort them into folders first"
        )
    train = list_part(root, "train", classes)
    listing = _listing(root, {"train": train, "test": list_part(root, "val", classes)}, classes)
    listing.split["train"], listing.split["validation"] = hold_out(train[1], params.validation)
    return listing


def _listing(root: Path, parts: Mapping[SplitName, _Part], classes: tuple[str, ...]) -> Listing:
    paths = [path for of_part, _ in parts.values() for path in of_part]
    labels = np.concatenate([of_part for _, of_part in parts.values()])
    split = one_after_another({name: len(of_part) for name, (of_part, _) in parts.items()})
    return Listing(root, paths, labels, classes, split)


def class_names(folder: Path) -> tuple[str, ...]:
    """The sorted names of the class folders in a folder.

    Raises:
        InputError: if it is missing, holds none, or images beside them.
    """
    check_folder(folder, "a folder of class folders")
    if beside := _image_in(folder):
        raise InputError(f"{beside}: expected images in class folders only, got one beside them")
    names = sorted(entry.name for entry in _entries(folder) if _is_folder(entry))
    if not names:
        raise InputError(f"{folder}: expected class folders, got none")
    for name in names:
        if (shown := name.encode("utf-8", "backslashreplace").decode()) != name:
            raise InputError(f"{folder}: expected class folders named in UTF-8, got {shown}")
    return tuple(names)


def list_part(root: Path, folder: str, classes: tuple[str, ...]) -> _Part:
    """The image files below one part's class folders, sorted by class and path, and their labels (n,).

    Raises:
        InputError: if a class folder is unknown, or has no images.
    """
    paths, labels = list[str](), list[int]()
    for name in class_names(root / folder):
        where = root / folder / name
        if name not in classes:
            known = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise InputError(f"{where}: expected a class of the training folder ({known}), got {name!r}")
        found = sorted(_images_below(root, str(Path(folder, name)), ()))
        if not found:
            raise InputError(f"{where}: expected images ({', '.join(SUFFIXES)}), got none")
        paths += found
        labels += [classes.index(name)] * len(found)
    return paths, np.array(labels, dtype=np.int64)


def _split_off(split: dict[SplitName, Indices], labels: Labels, params: ImageFolderData) -> None:
    """Fill in the parts without a folder from the training images, whose labels these are."""
    missing = [name for name in SPLITS if name not in split]
    if len(missing) == 2:
        split |= split_by_fractions(labels, params)
    elif missing:
        (name,) = missing
        key = f"{name}_fraction"
        train, drawn = draw_share(
            labels, split["train"], getattr(params, key), params.split_seed, f"data.{key}"
        )
        split |= {"train": np.sort(train), name: np.sort(drawn)}


def check_folder(folder: Path, what: str) -> None:
    """Refuse what is no folder; `what` says what it should have been."""
    if not _leads_to_folder(folder):
        raise InputError(
            f"{folder}: expected {what}, got {'a file' if os.access(folder, os.F_OK) else 'no such folder'}"
        )


def _leads_to_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a folder above, or behind a link, may not be looked into
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not _is_hidden(entry.name)]
    except OSError as error:
        raise InputError(f"{folder}: expected a folder to read ({error.strerror})") from None


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _NOT_CLASSES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return _leads_to_folder(Path(entry.path)) if entry.is_symlink() else entry.is_dir()


def _is_image(entry: os.DirEntry[str]) -> bool:
    # A link that leads nowhere is one, to be counted among the unreadable.
    return entry.name.lower().endswith(SUFFIXES) and not _is_folder(entry)


def _image_in(folder: Path) -> str | None:
    return min((entry.path for entry in _entries(folder) if _is_image(entry)), default=None)


def _count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder, followlinks=True))


def _images_below(root: Path, folder: str, above: tuple[str, ...]) -> Iterator[str]:
    """Paths relative to `root`; `above` are the real paths of the folders on the way here."""
    real = os.path.realpath(root / folder)
    if real in above:
        raise InputError(f"{root / folder}: expected a folder, got a link to one that it lies in")
    for entry in _entries(root / folder):
        if _is_image(entry):
            yield f"{folder}/{entry.name}"
        elif _is_folder(entry):
            yield from _images_below(root, f"{folder}/{entry.name}", (*above, real))
