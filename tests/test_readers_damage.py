"""Damaged folders of images: each kind is one line that names the file, or a counted skip."""

import os
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Workspace
from PIL import Image
from ruamel.yaml import YAML

from pipeline import files
from pipeline.errors import InputError
from pipeline.files import read_csv
from pipeline.images.image_set import SPLITS
from pipeline.jobs.job import Workplace
from pipeline.params.data import ImageFolderData, ImagesPerClass
from pipeline.readers import read_dataset, scan
from stages import prepare

N_FILES = 24


def jpeg(seed: int, side_px: int = 32) -> bytes:
    opened = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(opened, format="JPEG")
    return opened.getvalue()


def data_section(root: Path, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "source": "image_folder",
        "root": str(root),
        "folders": {"train": "train", "validation": "validation", "test": "test"},
        "split_seed": 0,
        "validation_fraction": 0.2,
        "test_fraction": 0.2,
        "images_per_class": dict.fromkeys((*SPLITS, "perturbed")) | {"seed": 0},
        "resize_px": 8,
        "crop_px": None,
        "copies": "allow",
        "store": "index",
        "max_unreadable_share": 0.0,
    }
    return options | changes


def params_of(root: Path, **changes: Any) -> ImageFolderData:
    options = data_section(root, **changes)
    return ImageFolderData(**(options | {"images_per_class": ImagesPerClass(**options["images_per_class"])}))


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Two classes of four images in each of three parts."""
    root = tmp_path / "good"
    for part in SPLITS:
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for i in range(4):
                (root / part / name / f"{i}.jpg").write_bytes(jpeg(i))
    return root


def test_nothing_is_skipped_of_a_good_folder(good: Path) -> None:
    data = read_dataset(params_of(good))
    assert (len(data.images), data.skipped) == (N_FILES, ())


def _truncate(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 3 // 4])


def _replace(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


def _broken_link(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere.jpg")


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _bomb(file: Path) -> None:
    """A few hundred bytes that would unpack to a gigabyte: enough of a PNG that its size is believed."""
    opened = BytesIO()
    Image.new("1", (40_000, 8)).save(opened, format="PNG")
    content = bytearray(opened.getvalue())
    content[20:24] = (10_000).to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    file.write_bytes(content)


def _html(file: Path) -> None:
    file.write_text("<html>404 Not Found</html>")


UNREADABLE_FILES: list[Any] = [
    pytest.param(_truncate, "a damaged image (", id="truncated-jpeg"),
    pytest.param(_replace(b""), "an empty file", id="zero-bytes"),
    pytest.param(_html, "no image", id="text-named-jpg"),
    pytest.param(_replace(jpeg(0)[:2]), "no image", id="two-bytes"),
    pytest.param(_replace(bytes(5000)), "no image", id="zeros"),
    pytest.param(_broken_link, "no such file", id="broken-link"),
    pytest.param(_pipe, "no regular file", id="pipe"),
    pytest.param(_bomb, "more than ", id="decompression-bomb"),
    pytest.param(
        lambda file: file.chmod(0),
        "no permission to read it",
        id="no-permission",
        marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything"),
    ),
]


@pytest.mark.parametrize(("damage", "reason"), UNREADABLE_FILES)
@pytest.mark.parametrize("store", ["index", "pixels"])
def test_a_file_that_cannot_be_read_is_skipped_with_its_reason(
    good: Path, damage: Callable[[Path], object], reason: str, store: str
) -> None:
    damage(good / "train/bee/2.jpg")
    data = read_dataset(params_of(good, store=store, max_unreadable_share=1 / N_FILES))
    ((path, found),) = data.skipped
    assert path == "train/bee/2.jpg"
    assert found.startswith(reason)
    assert len(data.images) == N_FILES - 1
    assert data.labels[data.split["train"]].tolist() == [0] * 4 + [1] * 3
    assert data.part("train")[0].shape == (7, 3, 8, 8)


@pytest.mark.parametrize(("damage", "reason"), UNREADABLE_FILES)
def test_one_file_more_than_allowed_stops_with_its_name_and_the_count(
    good: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(good / "train/bee/2.jpg")
    with pytest.raises(InputError) as caught:
        read_dataset(params_of(good, max_unreadable_share=0.99 / N_FILES))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{good}/train/bee/2.jpg: expected an image, got {reason}")
    assert f"1 of {N_FILES} files cannot be read, data.max_unreadable_share is 0.04125" in line


def test_no_share_is_large_enough_for_a_set_without_a_readable_file(good: Path) -> None:
    for file in good.glob("*/*/*.jpg"):
        file.write_bytes(b"")
    with pytest.raises(InputError) as caught:
        read_dataset(params_of(good, max_unreadable_share=1.0))
    assert str(caught.value) == (
        f"{good}/train/ant/0.jpg: expected an image, got an empty file; 24 of 24 files cannot be read, "
        "data.max_unreadable_share is 1"
    )


def test_a_class_that_loses_all_its_images_is_named(good: Path) -> None:
    for file in (good / "test/bee").iterdir():
        file.write_bytes(b"")
    with pytest.raises(InputError) as caught:
        read_dataset(params_of(good, max_unreadable_share=0.5))
    assert str(caught.value) == (
        "data set image_folder: expected images of every class in the test part, got none of 'bee'"
    )


def _name_that_is_not_utf8(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/train/ant/\xff.jpg")).write_bytes(jpeg(9))


def test_a_file_name_that_is_not_utf8_is_skipped(good: Path) -> None:
    _name_that_is_not_utf8(good)
    data = read_dataset(params_of(good, max_unreadable_share=0.1))
    assert data.skipped == (("train/ant/\\udcff.jpg", "a name that is not UTF-8"),)


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _class_that_is_not_utf8(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/train/\xff")).mkdir()


def _move_classes_away(root: Path) -> None:
    for name in ("ant", "bee"):
        (root / "train" / name).rename(root / f"{name}_away")


def _single_class(root: Path) -> None:
    for part in SPLITS:
        (root / part / "bee").rename(root / f"{part}_bee")


def _contrast_free(root: Path) -> None:
    for file in root.glob("train/*/*.jpg"):
        Image.new("RGB", (9, 9), (7, 7, 7)).save(file)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        pytest.param(
            lambda root: root.rename(root.parent / "other"),
            "{root}: expected data.root, got no such folder",
            id="no-root",
        ),
        pytest.param(
            lambda root: (root.rename(root.parent / "other"), root.write_text("")),
            "{root}: expected data.root, got a file",
            id="root-is-a-file",
        ),
        pytest.param(
            lambda root: (root.rename(root.parent / "other"), root.mkdir()),
            "{root}/train: expected a folder of class folders, got no such folder",
            id="empty-root",
        ),
        pytest.param(
            lambda root: (root / "validation").rename(root / "val"),
            "{root}/validation: expected a folder of class folders, got no such folder",
            id="no-part",
        ),
        pytest.param(_move_classes_away, "{root}/train: expected class folders, got none", id="no-classes"),
        pytest.param(
            lambda root: _empty(root / "train/bee"),
            "{root}/train/bee: expected images (.jpg, .jpeg, .png, ",
            id="empty-class",
        ),
        pytest.param(
            lambda root: (root / "test/bee").rename(root / "test_bee"),
            "data set image_folder: expected images of every class in the test part, got none of 'bee'",
            id="class-missing-in-a-part",
        ),
        pytest.param(
            lambda root: (root / "test/bee").rename(root / "test/wasp"),
            "{root}/test/wasp: expected a class of the training folder (ant, bee), got 'wasp'",
            id="unknown-class",
        ),
        pytest.param(
            lambda root: (root / "train/ant/0.jpg").rename(root / "train/0.jpg"),
            "{root}/train/0.jpg: expected images in class folders only, got one beside them",
            id="image-beside-classes",
        ),
        pytest.param(
            _single_class, "data set image_folder: expected at least 2 classes, got 1", id="single-class"
        ),
        pytest.param(
            lambda root: (root / "train/ant/round").symlink_to(root / "train/ant"),
            "{root}/train/ant/round: expected a folder, got a link to one that it lies in",
            id="circular-link",
        ),
        pytest.param(
            _class_that_is_not_utf8,
            "{root}/train: expected class folders named in UTF-8, got \\udcff",
            id="class-name-not-utf8",
        ),
        pytest.param(
            _contrast_free,
            "data set image_folder: expected training images with some contrast",
            id="no-contrast",
        ),
        pytest.param(
            lambda root: (root / "train").chmod(0),
            "{root}/train: expected a folder to read (Permission denied)",
            id="folder-without-permission",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything"),
        ),
    ],
)
def test_a_damaged_folder_is_one_line(good: Path, damage: Callable[[Path], object], line: str) -> None:
    damage(good)
    with pytest.raises(InputError) as caught:
        read_dataset(params_of(good))
    assert str(caught.value).startswith(line.format(root=good))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("folders", "n_removed", "line"),
    [
        ({"validation": None, "test": None}, 3, "data.test_fraction: "),
        ({"validation": None, "test": "test"}, 3, "data.validation_fraction: 5 images cannot be split so"),
        ({"validation": "validation", "test": None}, 3, "data.test_fraction: 5 images cannot be split so"),
    ],
)
def test_too_little_to_split_is_one_line(
    good: Path, folders: dict[str, str | None], n_removed: int, line: str
) -> None:
    for i in range(n_removed):
        (good / f"train/bee/{i}.jpg").unlink()
    with pytest.raises(InputError) as caught:
        read_dataset(params_of(good, folders={"train": "train"} | folders))
    assert str(caught.value).startswith(line)
    assert len(str(caught.value).splitlines()) == 1


def test_a_crop_larger_than_the_images_is_refused_by_the_params(good: Path) -> None:
    with pytest.raises(ValueError, match="crop_px: expected at most resize_px, 8"):
        params_of(good, crop_px=9)


def test_pixels_that_do_not_fit_in_memory_are_one_line(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(scan.np, "empty", full)
    with pytest.raises(InputError) as caught:
        read_dataset(params_of(good, store="pixels", resize_px=10_000))
    assert str(caught.value) == "data.store: expected pixels that fit in memory, got 7 GB; take index"


def test_pixels_that_do_not_fit_on_the_disk_are_one_line_before_any_is_decoded(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    monkeypatch.setattr(scan, "_read_all", None)
    with pytest.raises(InputError) as caught:
        read_dataset(params_of(good, store="pixels", resize_px=8), out=tmp_path / "out")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path}/out: expected room for 4,608 bytes, got 1,000 bytes free; make room ")


def set_data(workspace: Workspace, section: dict[str, Any]) -> Path:
    """Put another data section into params.yaml; gives the folder that `prepare` will write."""
    file, yaml = workspace.path("params.yaml"), YAML()
    params = yaml.load(file)
    params["data"] = section
    yaml.dump(params, file)
    return workspace.path("runs", params["name"], "prepare")


def test_what_was_skipped_is_listed_and_counted(good: Path, tmp_path: Path) -> None:
    (good / "train/bee/2.jpg").write_bytes(b"")
    _truncate(good / "train/bee/3.jpg")
    place = Workplace(tmp_path / "out", tmp_path / "resume")
    place.out.mkdir()
    summary = prepare.work(place, settings=params_of(good, max_unreadable_share=0.1))
    assert summary.startswith(
        "22 images of 2 classes: 6 train, 8 validation, 8 test; 2 files cannot be read, see "
    )
    assert sorted(p.name for p in place.out.iterdir()) == [
        "copies.csv",
        "files.csv",
        "images.json",
        "images.safetensors",
        "unreadable.csv",
    ]
    rows = read_csv(place.out / "unreadable.csv")
    assert [row["path"] for row in rows] == ["train/bee/2.jpg", "train/bee/3.jpg"]
    assert rows[0]["reason"] == "an empty file"


@pytest.mark.dvc
def test_the_stage_stops_with_one_line_and_of_a_good_folder_dvc_keeps_no_image(
    good: Path, workspace: Workspace, tmp_path: Path
) -> None:
    """A second repro reads no image: with them gone nothing is missed."""
    own, sound = workspace.copy(tmp_path / "workspace"), (good / "train/bee/3.jpg").read_bytes()
    out = set_data(own, data_section(good))
    _truncate(good / "train/bee/3.jpg")
    result = own.run("python", "-m", "stages.prepare")
    (line,) = [line for line in result.output.splitlines() if line.startswith("prepare: ")]
    assert result.code == 1
    assert f"{good}/train/bee/3.jpg: expected an image, got a damaged image" in line
    assert "Traceback" not in result.output
    assert not out.exists()
    (good / "train/bee/3.jpg").write_bytes(sound)
    assert own.must("dvc", "repro", "prepare").ran == ["prepare"]
    images = {file.read_bytes() for file in good.glob("*/*/*.jpg")}
    kept = own.contents(".dvc/cache", str(out.relative_to(own.root)))
    assert any(path.endswith("files.csv") for path in kept)
    assert any(path.startswith(".dvc/cache/files/") for path in kept)
    assert not images & set(kept.values())
    good.rename(good.with_name("elsewhere"))
    again = own.must("dvc", "repro", "prepare")
    assert (again.ran, again.restored) == ([], [])
