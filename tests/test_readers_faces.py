"""LFWA and Adience as they are published: labels, and nobody in two parts."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from pipeline.errors import InputError
from pipeline.images.file_index import FileIndex
from pipeline.images.image_set import SPLITS, ImageSet
from pipeline.params.data import AdienceData, ImagesPerClass, LfwaData, PeopleFile, ShareOfPeople
from pipeline.readers import read_dataset
from pipeline.readers.adience import AGE_GROUPS, age_group
from pipeline.readers.annotations import Row
from pipeline.readers.lfwa import last_name

# First name, last name, number of images, Male, Smiling.
PEOPLE = [
    *[(f"Ann{i}", f"A{chr(97 + i)}dams", 2, -1.0, 1.0) for i in range(8)],
    *[(f"Bob{i}", f"B{chr(97 + i)}ker", 2, 1.0, -1.0) for i in range(8)],
    ("Rosa", "Reed", 2, -0.5, -0.5),
    ("Sam", "Zhu", 3, 0.5, 0.5),
    ("Carl", "Roe Jr", 1, 2.0, -2.0),
    ("Dee", "Quinn", 1, -2.0, 2.0),
    ("Zoe", "Smith Abel", 1, -2.0, 2.0),
]
SHARE = ShareOfPeople(rule="share_of_people", share=0.25, seed=0)

ADIENCE_HEADER = (
    "user_id\toriginal_image\tface_id\tage\tgender\tx\ty\tdx\tdy"
    "\ttilt_ang\tfiducial_yaw_angle\tfiducial_score"
)


def write_face(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format="JPEG")


def files_of(root: Path) -> dict[str, Any]:
    """What all sections on files need."""
    nothing: dict[str, Any] = dict.fromkeys((*SPLITS, "perturbed")) | {"seed": 0}
    return {
        "root": str(root),
        "images_per_class": ImagesPerClass(**nothing),
        "resize_px": 6,
        "crop_px": None,
        "copies": "allow",
        "store": "index",
        "max_unreadable_share": 0.0,
    }


def lfwa_params(root: Path, **changes: Any) -> LfwaData:
    options: dict[str, Any] = files_of(root) | {
        "source": "lfwa",
        "attribute": "gender",
        "images": "lfw",
        "attributes": "lfw_attributes.txt",
        "validation_initials": "R-Z",
        "test": SHARE,
    }
    return LfwaData(**(options | changes))


def adience_params(root: Path, **changes: Any) -> AdienceData:
    options: dict[str, Any] = files_of(root) | {
        "source": "adience",
        "attribute": "age",
        "images": "aligned",
        "train_folds": [1, 2, 3],
        "validation_folds": [4],
        "test_folds": [5],
    }
    return AdienceData(**(options | changes))


@pytest.fixture
def lfw(tmp_path: Path) -> Path:
    """The table with its two lines of header, as Kumar et al. publish it, and the images."""
    rows = []
    for first, last, n, male, smiling in PEOPLE:
        name = f"{first} {last}"
        folder = name.replace(" ", "_")
        for i in range(1, n + 1):
            write_face(tmp_path / "lfw" / folder / f"{folder}_{i:04d}.jpg", len(rows))
            rows.append(f"{name}\t{i}\t{male * i:.6f}\t0.25\t{smiling / i:.6f}")
    header = ["<format> attributes of faces", "#\tperson\timagenum\tMale\tAsian\tSmiling"]
    (tmp_path / "lfw_attributes.txt").write_text("\n".join([*header, *rows]) + "\n")
    return tmp_path


def paths_in(data: ImageSet, part: str) -> list[str]:
    assert isinstance(data.images, FileIndex)
    return data.images.take(data.split[part]).paths.tolist()  # type: ignore[index]


def people(data: ImageSet, part: str) -> set[str]:
    return {Path(path).parent.name for path in paths_in(data, part)}


def test_gender_is_the_sign_of_the_attribute(lfw: Path) -> None:
    data = read_dataset(lfwa_params(lfw))
    assert data.classes == ("female", "male")
    men = {f"{first}_{last}".replace(" ", "_") for first, last, _, male, _ in PEOPLE if male > 0}
    for path, label in zip(data.images.paths, data.labels, strict=True):  # type: ignore[union-attr]
        assert (Path(path).parent.name in men) == bool(label)


def test_smile_is_an_attribute_of_each_image(lfw: Path) -> None:
    table = lfw / "lfw_attributes.txt"
    table.write_text(
        table.read_text().replace("Sam Zhu\t2\t1.000000\t0.25\t0", "Sam Zhu\t2\t1.000000\t0.25\t-0")
    )
    data = read_dataset(lfwa_params(lfw, attribute="smile"))
    assert data.classes == ("not smiling", "smiling")
    labels = dict(zip(data.images.paths.tolist(), data.labels.tolist(), strict=True))  # type: ignore[union-attr]
    assert [labels[f"lfw/Sam_Zhu/Sam_Zhu_000{i}.jpg"] for i in (1, 2, 3)] == [1, 0, 1]
    assert labels["lfw/Rosa_Reed/Rosa_Reed_0001.jpg"] == 0


def test_people_from_r_to_z_are_for_validation_and_nobody_is_in_two_parts(lfw: Path) -> None:
    for attribute in ("gender", "smile"):
        data = read_dataset(lfwa_params(lfw, attribute=attribute))
        assert people(data, "validation") == {"Rosa_Reed", "Sam_Zhu", "Carl_Roe_Jr"}
        train, test = people(data, "train"), people(data, "test")
        assert not train & test
        assert len(train) + len(test) == len(PEOPLE) - 3
        assert len(test) == 5  # a quarter of 18, rounded up
        assert len(data.images) == sum(n for _, _, n, _, _ in PEOPLE)


def test_the_share_for_testing_has_both_labels_as_often_and_goes_by_its_seed(lfw: Path) -> None:
    data, again = (read_dataset(lfwa_params(lfw)) for _ in range(2))
    other = read_dataset(lfwa_params(lfw, test=SHARE.model_copy(update={"seed": 1})))
    assert people(data, "test") == people(again, "test") != people(other, "test")
    of_people = [name.startswith("Bob") for name in people(data, "test")]
    assert sum(of_people) in (2, 3)
    assert people(other, "validation") == people(data, "validation")


def test_people_in_a_file_are_for_testing_whatever_their_initial(lfw: Path) -> None:
    """In the format of LFW's peopleDevTest.txt: a count, then names and their numbers of images."""
    (lfw / "peopleDevTest.txt").write_text("4\nSam_Zhu\t3\nAnn0_Aadams\t2\nBob0_Baker\t2\nNot_Here\t5\n")
    rule = PeopleFile(rule="people_file", file="peopleDevTest.txt")
    data = read_dataset(lfwa_params(lfw, test=rule))
    assert people(data, "test") == {"Sam_Zhu", "Ann0_Aadams", "Bob0_Baker"}
    assert people(data, "validation") == {"Rosa_Reed", "Carl_Roe_Jr"}
    assert len(people(data, "train")) == len(PEOPLE) - 5


def test_other_initials_make_another_validation_part(lfw: Path) -> None:
    data = read_dataset(lfwa_params(lfw, validation_initials="Q-R"))
    assert people(data, "validation") == {"Rosa_Reed", "Carl_Roe_Jr", "Dee_Quinn"}


@pytest.mark.parametrize(
    ("person", "expected"),
    [
        ("George_W_Bush", "Bush"),
        ("Edwin_van_der_Sar", "Sar"),
        ("Martin_Luther_King_III", "King"),
        ("Sammy_Sosa_Jr.", "Sosa"),
        ("Madonna", "Madonna"),
        ("Jr", "Jr"),
    ],
)
def test_the_last_name_is_the_last_word_that_is_a_name(person: str, expected: str) -> None:
    assert last_name(person) == expected


def test_an_image_that_is_absent_is_counted_among_the_unreadable(lfw: Path) -> None:
    gone = "lfw/Ann0_Aadams/Ann0_Aadams_0002.jpg"
    (lfw / gone).unlink()
    data = read_dataset(lfwa_params(lfw, max_unreadable_share=0.05))
    assert data.skipped == ((gone, "no such file"),)
    with pytest.raises(InputError) as caught:
        read_dataset(lfwa_params(lfw, max_unreadable_share=0.02))
    assert str(caught.value) == (
        f"{lfw}/{gone}: expected an image, got no such file; 1 of 40 files cannot be read, "
        "data.max_unreadable_share is 0.02"
    )


def edit(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new, 1))

    return change


TABLE = "lfw_attributes.txt"


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        pytest.param(
            lambda root: (root / TABLE).unlink(), "{root}/" + TABLE + ": expected a file", id="gone"
        ),
        pytest.param(
            edit(TABLE, "\tMale", "\tMan"), "{root}/" + TABLE + ": expected the column 'Male'", id="no-column"
        ),
        pytest.param(
            edit(TABLE, "person", "name"),
            "{root}/" + TABLE + ": expected the column 'person'",
            id="no-header",
        ),
        pytest.param(
            edit(TABLE, "\t0.25\t1.0", ""),
            "{root}/" + TABLE + ":3: expected 5 columns, got 3",
            id="short-row",
        ),
        pytest.param(
            edit(TABLE, "\t-2.000000", "\tnan"),
            "{root}/" + TABLE + ":4: expected a number for the attribute, got 'nan'",
            id="no-value",
        ),
        pytest.param(
            edit(TABLE, "\t1\t", "\tone\t"),
            "{root}/" + TABLE + ":3: expected the number of an image, got 'one'",
            id="no-number",
        ),
        pytest.param(
            lambda root: (root / TABLE).write_bytes(b"MATLAB 7.3 \xff\xfe"),
            "{root}/" + TABLE + ": expected text in UTF-8",
            id="matlab",
        ),
        pytest.param(
            lambda root: (root / TABLE).write_text("x\n#\tperson\timagenum\tMale\n"),
            "{root}/" + TABLE + ": expected rows below the column names, got none",
            id="no-rows",
        ),
        pytest.param(
            lambda root: (root / "lfw").rename(root / "LFW"),
            "{root}/lfw: expected the folder of people's folders, got no such folder",
            id="no-images",
        ),
    ],
)
def test_a_damaged_lfw_is_one_line(lfw: Path, damage: Callable[[Path], object], line: str) -> None:
    damage(lfw)
    with pytest.raises(InputError) as caught:
        read_dataset(lfwa_params(lfw))
    assert str(caught.value).startswith(line.format(root=lfw))
    assert len(str(caught.value).splitlines()) == 1


def test_a_list_of_test_people_that_is_missing_or_of_another_set_is_one_line(lfw: Path) -> None:
    params = lfwa_params(lfw, test=PeopleFile(rule="people_file", file="people.txt"))
    with pytest.raises(InputError, match=r"/people\.txt: expected a file to read"):
        read_dataset(params)
    (lfw / "people.txt").write_text("2\nNobody_Here\t1\nNor_There\t2\n")
    with pytest.raises(
        InputError, match=r"/people\.txt: expected people of lfw_attributes\.txt, got none of"
    ):
        read_dataset(params)


def test_too_few_people_for_a_share_are_one_line(lfw: Path) -> None:
    params = lfwa_params(lfw, test=SHARE.model_copy(update={"share": 0.01}))
    with pytest.raises(InputError, match=r"data\.test\.share: 18 people cannot be split so"):
        read_dataset(params)


@pytest.fixture
def adience(tmp_path: Path) -> Path:
    """Five folds of eight ages and both genders, in both folders of faces."""
    for fold in range(5):
        rows = [ADIENCE_HEADER]
        for i, (first, last) in enumerate(AGE_GROUPS):
            user, image, face = f"{fold}0@N0{i}", f"{fold}{i}_o.jpg", 100 * fold + i
            age, gender = f"({first}, {last})", "fm"[i % 2]
            rows.append(f"{user}\t{image}\t{face}\t{age}\t{gender}\t0\t0\t9\t9\t-45\t15\t59.1")
            write_face(tmp_path / f"aligned/{user}/landmark_aligned_face.{face}.{image}", face)
            write_face(tmp_path / f"faces/{user}/coarse_tilt_aligned_face.{face}.{image}", face + 1000)
        (tmp_path / f"fold_{fold}_data.txt").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_folds_one_to_three_train_the_fourth_validates_and_the_fifth_tests(adience: Path) -> None:
    data = read_dataset(adience_params(adience))
    assert data.classes == ("0-2", "4-6", "8-13", "15-20", "25-32", "38-43", "48-53", "60-100")
    for name, folds in (("train", (0, 1, 2)), ("validation", (3,)), ("test", (4,))):
        assert paths_in(data, name) == [
            f"aligned/{fold}0@N0{i}/landmark_aligned_face.{100 * fold + i}.{fold}{i}_o.jpg"
            for fold in folds
            for i in range(8)
        ]
        assert data.labels[data.split[name]].tolist() == list(range(8)) * len(folds)  # type: ignore[index]


def test_faces_that_were_not_aligned_and_other_folds_are_a_choice(adience: Path) -> None:
    params = adience_params(
        adience, images="faces", attribute="gender", train_folds=[5], validation_folds=[1], test_folds=[3]
    )
    data = read_dataset(params)
    assert data.classes == ("female", "male")
    assert paths_in(data, "train")[1] == "faces/40@N01/coarse_tilt_aligned_face.401.41_o.jpg"
    assert paths_in(data, "validation")[0].startswith("faces/00@N00/")
    assert data.labels[data.split["test"]].tolist() == [0, 1] * 4
    assert len(data.images) == 24


@pytest.mark.parametrize(
    ("age", "group"),
    [
        ("(0, 2)", (0, 2)),
        ("(60, 100)", (60, 100)),
        ("(8, 12)", (8, 13)),
        ("(38, 42)", (38, 43)),
        ("(38, 48)", (38, 43)),
        ("(27, 32)", (25, 32)),
        ("2", (0, 2)),
        ("13", (8, 13)),
        ("29", (25, 32)),
        ("(8, 23)", None),
        ("35", None),
        ("3", None),
        ("58", None),
        ("None", None),
        ("", None),
    ],
)
def test_an_age_belongs_to_the_group_with_which_it_shares_most_years(
    age: str, group: tuple[int, int] | None
) -> None:
    found = age_group(Row("fold:1", ("", "", "", age, "m")))
    assert (None if found is None else AGE_GROUPS[found]) == group


def test_faces_without_a_label_are_left_out_and_counted(
    adience: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit("fold_0_data.txt", "(0, 2)\tf", "35\tu")(adience)
    edit("fold_1_data.txt", "(0, 2)\tf", "None\t")(adience)
    with caplog.at_level(logging.INFO, logger="pipeline"):
        ages = read_dataset(adience_params(adience))
        genders = read_dataset(adience_params(adience, attribute="gender"))
    assert len(paths_in(ages, "train")) == len(paths_in(genders, "train")) == 22
    assert not any(path.startswith(("aligned/00@N00", "aligned/10@N00")) for path in paths_in(ages, "train"))
    assert caplog.messages == [
        f"adience: 2 of 40 faces have no {name} and are left out" for name in ("age", "gender")
    ]
    assert ages.skipped == ()


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        pytest.param(
            lambda root: (root / "fold_3_data.txt").unlink(), "/fold_3_data.txt: expected a file", id="gone"
        ),
        pytest.param(
            edit("fold_2_data.txt", "\t0\t0\t9\t9\t-45\t15\t59.1", "\t0"),
            "/fold_2_data.txt:2: expected 12 columns, got 6",
            id="short-row",
        ),
        pytest.param(
            edit("fold_0_data.txt", "face_id\t", "id\t"),
            "/fold_0_data.txt: expected the column 'face_id'",
            id="no-column",
        ),
        pytest.param(
            edit("fold_1_data.txt", "(4, 6)", "young"),
            "/fold_1_data.txt:3: expected an age such as (25, 32), 35 or None, got 'young'",
            id="no-age",
        ),
        pytest.param(
            lambda root: (root / "aligned").rename(root / "Aligned"),
            "/aligned: expected Adience's folder of faces, got no such folder",
            id="no-faces",
        ),
        pytest.param(
            lambda root: (root / "fold_4_data.txt").write_text(""), "/fold_4_data.txt: ", id="empty"
        ),
    ],
)
def test_a_damaged_adience_is_one_line(adience: Path, damage: Callable[[Path], object], line: str) -> None:
    damage(adience)
    with pytest.raises(InputError) as caught:
        read_dataset(adience_params(adience))
    assert str(caught.value).startswith(f"{adience}{line}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_gender_that_is_none_is_one_line(adience: Path) -> None:
    edit("fold_1_data.txt", "(4, 6)\tm", "(4, 6)\tx")(adience)
    with pytest.raises(InputError, match=r"fold_1_data\.txt:3: expected gender f, m or u, got 'x'"):
        read_dataset(adience_params(adience, attribute="gender"))


@pytest.mark.parametrize(
    "changes",
    [{"train_folds": [0, 1]}, {"test_folds": [6]}, {"test_folds": [4]}, {"train_folds": [1, 1]}],
)
def test_folds_that_are_none_or_in_two_parts_are_refused(changes: dict[str, list[int]]) -> None:
    with pytest.raises(ValidationError, match="fold"):
        adience_params(Path("nowhere"), **changes)
