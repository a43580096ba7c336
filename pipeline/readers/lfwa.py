"""Labeled faces in the wild with attributes: gender and smile, nobody in two parts."""

import math
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from pipeline.errors import InputError
from pipeline.images.image_set import SPLITS, Labels, SplitName
from pipeline.params.data import LfwaData, PeopleFile, ShareOfPeople
from pipeline.readers.annotations import Row, read_lines, read_table
from pipeline.readers.folders import check_folder
from pipeline.readers.scan import Listing

# The table's column, and what its negative and its positive values mean.
_ATTRIBUTES = {"gender": ("Male", ("female", "male")), "smile": ("Smiling", ("not smiling", "smiling"))}
# What may follow a last name.
_NAME_SUFFIXES = {"jr", "sr", "ii", "iii", "iv"}


def list_lfwa(params: LfwaData) -> Listing:
    """The images that the attributes' table names, by the sign of one attribute, split by people.

    The table is `lfw_attributes.txt` (Kumar et al., Attribute and simile classifiers for face verification):
    a line of format, a line of column names behind `#`, then person, number of the image, and a real value for
    each attribute, positive where it is there. A person's images are
    `<images>/<First_Last>/<First_Last>_0001.jpg`. Liu et al.'s own `lfw_att_40.mat` is HDF5 and not read; a
    table of `person`, `imagenum` and its labels of 0 and 1 is.

    The thesis has people from R to Z for validation and refers to suggested splits for the rest. Here `test`
    says who is for testing: people in a file, who then are in no other part, or a share drawn among the people
    who are not for validation. Everybody else is for training.

    Raises:
        InputError: if a file is missing or not what it should be, or a part would have nobody.
    """
    root = Path(params.root)
    column, classes = _ATTRIBUTES[params.attribute]
    check_folder(root, "data.root")
    rows = read_table(root / params.attributes, ("person", "imagenum", column))
    check_folder(root / params.images, "the folder of people's folders")
    people = [row.values[0].replace(" ", "_") for row in rows]
    labels = np.array([_is_positive(row) for row in rows], dtype=np.int64)
    part_of = _parts(people, labels, params)
    split = {
        name: np.flatnonzero([part_of[person] == name for person in people]).astype(np.int64)
        for name in SPLITS
    }
    paths = [
        f"{params.images}/{person}/{person}_{_number(row):04d}.jpg"
        for person, row in zip(people, rows, strict=True)
    ]
    return Listing(root, paths, labels, classes, split)


def last_name(person: str) -> str:
    """Of `First_Middle_Last_Jr`; of a single name, that."""
    words = [word for word in person.split("_") if word.lower().rstrip(".") not in _NAME_SUFFIXES]
    return words[-1] if words else person


def _parts(people: list[str], labels: Labels, params: LfwaData) -> dict[str, SplitName]:
    """Everybody's part."""
    first, last = params.validation_initials.split("-")
    images_of: dict[str, list[int]] = {}
    for person, label in zip(people, labels.tolist(), strict=True):
        images_of.setdefault(person, []).append(label)
    everybody = sorted(images_of)
    validation = {person for person in everybody if first <= last_name(person)[:1].upper() <= last}
    match params.test:
        case PeopleFile():
            file = Path(params.root, params.test.file)
            test = _named_in(file) & set(everybody)
            if not test:
                raise InputError(f"{file}: expected people of {params.attributes}, got none of them")
        case ShareOfPeople():
            others = [person for person in everybody if person not in validation]
            mostly = [round(sum(images_of[person]) / len(images_of[person])) for person in others]
            test = _draw(others, mostly, params.test)
    chosen: dict[str, SplitName] = dict.fromkeys(everybody, "train")
    chosen |= dict.fromkeys(validation, "validation")
    return chosen | dict.fromkeys(test, "test")


def _draw(people: list[str], mostly: list[int], rule: ShareOfPeople) -> set[str]:
    try:
        _, test = train_test_split(people, test_size=rule.share, random_state=rule.seed, stratify=mostly)
    except ValueError as error:
        raise InputError(f"data.test.share: {len(people)} people cannot be split so ({error})") from None
    return set(test)


def _named_in(file: Path) -> set[str]:
    """Names of LFW's lists: counts stand on lines of their own, and behind each name."""
    names = (line.split("\t")[0].strip() for line in read_lines(file))
    return {name.replace(" ", "_") for name in names if name and not name.isdigit()}


def _is_positive(row: Row) -> bool:
    value = row.values[2]
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{row.where}: expected a number for the attribute, got {value!r}")
    return number > 0


def _number(row: Row) -> int:
    if not row.values[1].isdecimal():
        raise InputError(f"{row.where}: expected the number of an image, got {row.values[1]!r}")
    return int(row.values[1])
