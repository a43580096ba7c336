"""Adience: faces from photographs that people put on the web, by age group or gender, in five folds."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import InputError
from pipeline.images.image_set import SPLITS, Indices, SplitName
from pipeline.readers.annotations import Row, read_table
from pipeline.readers.folders import check_folder
from pipeline.readers.scan import Listing

if TYPE_CHECKING:
    from pipeline.params.data import AdienceData

log = logging.getLogger(__name__)

AGE_GROUPS = ((0, 2), (4, 6), (8, 13), (15, 20), (25, 32), (38, 43), (48, 53), (60, 100))

_COLUMNS = ("user_id", "original_image", "face_id", "age", "gender")
_GENDERS = {"f": 0, "m": 1}
_FILE = {
    "aligned": "aligned/{user}/landmark_aligned_face.{face}.{image}",
    "faces": "faces/{user}/coarse_tilt_aligned_face.{face}.{image}",
}


def list_adience(params: AdienceData) -> Listing:
    """The faces of the folds' tables that have a label; the papers train on folds 1 to 3 (thesis 3.3).

    Fold k is `fold_<k - 1>_data.txt`. Faces without an age group, or of gender `u`, are left out and counted.

    Raises:
        InputError: if a file is missing or not what it should be.
    """
    root = Path(params.root)
    check_folder(root, "data.root")
    check_folder(root / params.images, "Adience's folder of faces")
    label_of = _gender if params.attribute == "gender" else age_group
    paths, labels, split, n_rows = list[str](), list[int](), dict[SplitName, Indices](), 0
    for name in SPLITS:
        start = len(paths)
        for fold in getattr(params, f"{name}_folds"):
            rows = read_table(root / f"fold_{fold - 1}_data.txt", _COLUMNS)
            n_rows += len(rows)
            for row in rows:
                if (label := label_of(row)) is not None:
                    user, image, face = row.values[:3]
                    paths.append(_FILE[params.images].format(user=user, face=face, image=image))
                    labels.append(label)
        split[name] = np.arange(start, len(paths))
    if left_out := n_rows - len(paths):
        log.info("adience: %d of %d faces have no %s and are left out", left_out, n_rows, params.attribute)
    genders = ("female", "male")
    groups = tuple(f"{first}-{last}" for first, last in AGE_GROUPS)
    classes = genders if params.attribute == "gender" else groups
    return Listing(root, paths, np.array(labels, dtype=np.int64), classes, split)


def age_group(row: Row) -> int | None:
    """The place in `AGE_GROUPS` of a row's age: `(25, 32)`, `35` or `None`.

    A few hundred rows have other intervals or single years. Each goes to the group with which it shares the
    most years, so that `(38, 48)` is 38-43; the published 8-12 is 8-13. Without such a group (`35`), or with
    two (`(8, 23)`), it is left out.

    Raises:
        InputError: if it is no age.
    """
    age = row.values[3]
    if age in ("None", ""):
        return None
    found = re.fullmatch(r"\((\d+), ?(\d+)\)|(\d+)", age)
    if found is None:
        raise InputError(f"{row.where}: expected an age such as (25, 32), 35 or None, got {age!r}")
    first, last = (int(found[1]), int(found[2])) if found[3] is None else (int(found[3]),) * 2
    shared = [min(last, high) - max(first, low) + 1 for low, high in AGE_GROUPS]
    most = max(shared)
    return shared.index(most) if most > 0 and shared.count(most) == 1 else None


def _gender(row: Row) -> int | None:
    gender = row.values[4]
    if gender not in (*_GENDERS, "u", ""):
        raise InputError(f"{row.where}: expected gender f, m or u, got {gender!r}")
    return _GENDERS.get(gender)
