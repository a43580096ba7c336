"""A user's own images as arrays in an .npz archive, read without a pickle; what all arrays must be."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError
from pipeline.images.image_set import SPLITS, ImageSet, SplitName
from pipeline.readers.splits import hold_out, one_after_another

if TYPE_CHECKING:
    from pipeline.images.file_index import Pixels
    from pipeline.params.data import ValidationRule

Array = npt.NDArray[Any]

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("x_validation", "y_validation", "classes")


@dataclass(frozen=True)
class Part:
    """One part of a data set as it was read, and where from, for what there is to say against it.

    `images` (n, height, width) or (n, height, width, channels) with 1 or 3 channels, uint8; `labels` (n,) of
    any integers. Neither is checked yet.
    """

    images: Array
    labels: Array
    images_from: str
    labels_from: str


def read_npz(path: Path, rule: ValidationRule | None, resize_px: int | None) -> ImageSet:
    """An .npz of `x_train, y_train, x_test, y_test`, of `classes`, and of `x_validation, y_validation`.

    `x_*` are uint8 (n, height, width) or (n, height, width, channels) with 1 or 3 channels, `y_*` integers (n,)
    that count `classes`, an array of strings. Without `classes`, which Keras's archives do not have, classes are
    called by their numbers, and these have to be 0 to k - 1. Without `x_validation` and `y_validation`, the rule
    holds validation images out of the training images; with them there must be no rule.

    Raises:
        InputError: naming the file, if it is missing, damaged, or holds anything else.
    """
    arrays = _load(path)
    parts = {
        name: Part(arrays[f"x_{name}"], arrays[f"y_{name}"], f"{path}: x_{name}", f"{path}: y_{name}")
        for name in SPLITS
        if f"x_{name}" in arrays
    }
    if "validation" in parts and rule is not None:
        raise InputError(
            f"{path}: has x_validation; expected data.validation to be null (got rule {rule.rule})"
        )
    if "validation" not in parts and rule is None:
        raise InputError(f"{path}: has no x_validation; expected a rule in data.validation (got null)")
    return join_parts(parts, _class_names(arrays, path), rule, resize_px)


def join_parts(
    parts: Mapping[SplitName, Part],
    classes: Sequence[str],
    rule: ValidationRule | None,
    resize_px: int | None,
) -> ImageSet:
    """Training, validation and test images, one after another; without a validation part, the rule makes it.

    Raises:
        InputError: naming the place, if a part is not what `Part` says, if images of two parts differ in shape,
            if a part has no image of some class, or if there are fewer than two classes.
    """
    for part in parts.values():
        _check_part(part, classes)
    of_part: dict[SplitName, Pixels] = {
        name: _channels_first(parts[name]) for name in SPLITS if name in parts
    }
    shape = of_part["train"].shape[1:]
    for name, part_images in of_part.items():
        if part_images.shape[1:] != shape:
            raise InputError(
                f"{parts[name].images_from}: expected {_size(shape)} images, as for training, "
                f"got {_size(part_images.shape[1:])}"
            )
    split = one_after_another({name: len(part_images) for name, part_images in of_part.items()})
    images = np.empty((sum(map(len, of_part.values())), *shape), dtype=np.uint8)
    np.concatenate(list(of_part.values()), out=images)
    labels = np.concatenate([parts[name].labels.astype(np.int64) for name in of_part])
    if rule is not None:
        split["train"], split["validation"] = hold_out(labels[split["train"]], rule)
    return ImageSet(images, labels, tuple(classes), split, resize_px=resize_px)


def _load(path: Path) -> dict[str, Array]:
    if not path.is_file():
        raise InputError(f"{path}: expected an .npz archive of {', '.join(_REQUIRED)}, got no such file")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: expected an .npz archive, got another kind of file or a part of one")
    key = "its list of arrays"
    try:
        with np.load(path, allow_pickle=False) as archive:
            _check_keys(archive.files, path)
            arrays = {}
            for key in archive.files:
                arrays[key] = archive[key]
                if not isinstance(arrays[key], np.ndarray):
                    raise ValueError("it is no array")
                if arrays[key].dtype.kind == "U":
                    arrays[key].tolist()  # which letters that are none do not survive
    except Exception as error:  # numpy and zipfile raise anything for what is cut off, altered or encrypted
        hint = "; save it as one of strings, with dtype=str" if "Object arrays" in str(error) else ""
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: {key}: cannot be read ({reason}){hint}") from None
    return arrays


def _check_keys(keys: Sequence[str], path: Path) -> None:
    pair = {"x_validation", "y_validation"}
    required = {*_REQUIRED, *(pair if pair & set(keys) else ())}
    missing, unknown = sorted(required - set(keys)), sorted(set(keys) - {*_REQUIRED, *_OPTIONAL})
    if missing:
        raise InputError(f"{path}: expected {', '.join(missing)} in it, got {', '.join(keys) or 'nothing'}")
    if unknown:
        raise InputError(
            f"{path}: expected no arrays but {', '.join((*_REQUIRED, *_OPTIONAL))}, got {', '.join(unknown)}"
        )


def _class_names(arrays: Mapping[str, Array], path: Path) -> list[str]:
    if "classes" in arrays:
        names = arrays["classes"]
        if names.ndim != 1 or names.dtype.kind != "U":
            got = f"{names.dtype} {names.shape}"
            raise InputError(f"{path}: classes: expected strings of shape (k,), got {got}")
        if len(set(names.tolist())) != len(names):
            raise InputError(f"{path}: classes: expected different names, got {', '.join(names)}")
        return [str(name) for name in names]
    labels = arrays["y_train"]
    if labels.dtype.kind not in "iu":
        return []  # which is said of the labels where all parts are checked
    found = np.unique(labels)
    if not np.array_equal(found, np.arange(len(found))):
        raise InputError(
            f"{path}: y_train: expected labels 0 to {len(found) - 1}, one for each of the {len(found)} classes, "
            f"as `classes` is not there to say more, got {found.min()} to {found.max()}"
        )
    return [str(number) for number in found]


def _check_part(part: Part, classes: Sequence[str]) -> None:
    images, labels = part.images, part.labels
    shaped = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if images.dtype != np.uint8 or not shaped or 0 in images.shape:
        raise InputError(
            f"{part.images_from}: expected uint8 images (n, height, width) or (n, height, width, channels), "
            f"channels 1 or 3, got {images.dtype} {images.shape}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise InputError(
            f"{part.labels_from}: expected {len(images)} integer labels, one for each image, "
            f"got {labels.dtype} {labels.shape}"
        )
    if len(classes) < 2:
        raise InputError(f"{part.labels_from}: expected at least 2 classes, got {len(classes)}")
    for bad in labels[(labels < 0) | (labels >= len(classes))][:1]:
        raise InputError(f"{part.labels_from}: expected labels from 0 to {len(classes) - 1}, got {bad}")
    missing = sorted(set(range(len(classes))) - set(np.unique(labels).tolist()))
    if missing:
        raise InputError(
            f"{part.labels_from}: expected images of each of the {len(classes)} classes, "
            f"got none of {classes[missing[0]]!r}"
        )


def _channels_first(part: Part) -> Pixels:
    """A view (n, channels, height, width)."""
    return part.images[:, None] if part.images.ndim == 3 else part.images.transpose(0, 3, 1, 2)


def _size(shape: tuple[int, ...]) -> str:
    channels, height, width = shape
    return f"{height}x{width} with {channels} channel{'s'[: channels != 1]}"
