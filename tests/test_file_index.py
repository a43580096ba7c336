"""Decoding of image files of all sorts, and the index that reads them when they are needed."""

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from pipeline.errors import InputError
from pipeline.images.file_index import UNREADABLE, FileIndex, decode_image, decoder_warnings, read_problem
from pipeline.images.image_set import SPLITS, ImageSet, load_image_set, save_image_set


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def indexed(root: Path, names: list[str], px: int = 8) -> FileIndex:
    contents = [(root / name).read_bytes() for name in names]
    hashes = [hashlib.sha256(content).hexdigest() for content in contents]
    return FileIndex.of(root, names, [len(content) for content in contents], hashes, resize_px=px)


@pytest.fixture
def files(tmp_path: Path) -> FileIndex:
    """Twelve PNGs of different shapes."""
    names = [f"{i}.png" for i in range(12)]
    for i, name in enumerate(names):
        Image.fromarray(noise((9 + i, 20 - i, 3), i)).save(tmp_path / name)
    return indexed(tmp_path, names)


@pytest.fixture
def index_set(files: FileIndex) -> ImageSet:
    """Two classes, four images a part."""
    labels = np.arange(12) % 2
    return ImageSet(files, labels, ("a", "b"), {n: np.arange(4 * i, 4 * i + 4) for i, n in enumerate(SPLITS)})


def test_an_image_comes_with_channels_first_and_its_own_colours(tmp_path: Path) -> None:
    pixels = noise((8, 8, 3))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    decoded = decode_image(tmp_path / "a.png", 8)
    assert (decoded.dtype, decoded.flags.c_contiguous) == (np.uint8, True)
    assert np.array_equal(decoded, pixels.transpose(2, 0, 1))


def test_the_whole_area_is_resized_whatever_its_shape(tmp_path: Path) -> None:
    """The left half is black, the right half white, and so they stay."""
    pixels = np.zeros((10, 40, 3), dtype=np.uint8)
    pixels[:, 20:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    decoded = decode_image(tmp_path / "a.png", 8)
    assert decoded.shape == (3, 8, 8)
    assert decoded[:, :, :3].max() == 0
    assert decoded[:, :, 5:].min() == 255


def _grey() -> Image.Image:
    return Image.fromarray(np.full((8, 8), 100, dtype=np.uint8))


def _palette() -> Image.Image:
    image = Image.fromarray(np.full((8, 8), 3, dtype=np.uint8)).convert("P")
    image.putdata([3] * 64)
    image.putpalette([0, 0, 0, 1, 1, 1, 2, 2, 2, 200, 100, 50])
    return image


def _alpha() -> Image.Image:
    return Image.fromarray(np.broadcast_to(np.uint8([200, 100, 50, 9]), (8, 8, 4)).copy())


def _sixteen_bits() -> Image.Image:
    return Image.fromarray(np.full((8, 8), 100 * 256 + 255, dtype=np.uint16))


def _black_and_white() -> Image.Image:
    return Image.fromarray(np.full((8, 8), 255, dtype=np.uint8)).convert("1")


def _with_transparency(content: bytes) -> dict[str, Any]:
    return {"transparency": content}


@pytest.mark.parametrize(
    ("image", "options", "suffix", "expected"),
    [
        pytest.param(_grey, {}, "png", (100, 100, 100), id="grey"),
        pytest.param(_grey, {}, "pgm", (100, 100, 100), id="pgm"),
        pytest.param(_grey, {"quality": 95}, "jpg", (100, 100, 100), id="grey-jpeg"),
        pytest.param(_palette, {}, "png", (200, 100, 50), id="palette"),
        pytest.param(
            _palette, _with_transparency(bytes([0, 9, 9, 9])), "png", (200, 100, 50), id="palette-alpha"
        ),
        pytest.param(_alpha, {}, "png", (200, 100, 50), id="alpha"),
        pytest.param(_sixteen_bits, {}, "png", (100, 100, 100), id="16-bit-png"),
        pytest.param(_sixteen_bits, {}, "tif", (100, 100, 100), id="16-bit-tiff"),
        pytest.param(_black_and_white, {}, "png", (255, 255, 255), id="one-bit"),
        pytest.param(_black_and_white, {}, "bmp", (255, 255, 255), id="bmp"),
    ],
)
def test_every_kind_of_pixel_becomes_eight_bit_rgb(
    tmp_path: Path,
    image: Callable[[], Image.Image],
    options: dict[str, Any],
    suffix: str,
    expected: tuple[int, int, int],
) -> None:
    image().save(tmp_path / f"a.{suffix}", **options)
    decoded = decode_image(tmp_path / f"a.{suffix}", 4)
    assert decoded.shape == (3, 4, 4)
    assert tuple(decoded[:, 0, 0].tolist()) == expected
    assert np.ptp(decoded.reshape(3, -1), axis=1).tolist() == [0, 0, 0]


def test_cmyk_becomes_the_rgb_that_it_was_made_of(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 100, 50)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    decoded = decode_image(tmp_path / "a.jpg", 4)
    assert np.abs(decoded[:, 0, 0].astype(int) - (200, 100, 50)).max() <= 3


def _encoded(suffix: str) -> bytes:
    opened = io.BytesIO()
    Image.fromarray(noise((24, 24, 3))).save(opened, format=suffix)
    return opened.getvalue()


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_cut_off_files_raise_what_is_called_unreadable(suffix: str) -> None:
    """At every fiftieth byte; the last bytes of a file may hold nothing of the image."""
    content = _encoded(suffix)
    for end in range(0, len(content) - 200, 50):
        with decoder_warnings(), pytest.raises(UNREADABLE):
            decode_image(io.BytesIO(content[:end]), 8)


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_files_with_wrong_bytes_are_decoded_or_unreadable_and_never_anything_else(suffix: str) -> None:
    content, random, n_refused = _encoded(suffix), np.random.default_rng(0), 0
    for _ in range(150):
        damaged = bytearray(content)
        for at in random.integers(0, min(200, len(content)), 3):  # headers, where parsers go astray
            damaged[at] = random.integers(256)
        with decoder_warnings():
            try:
                shape, problem = decode_image(io.BytesIO(damaged), 8).shape, "none"
            except UNREADABLE as error:
                n_refused += 1
                shape, problem = (3, 8, 8), read_problem(error)
        assert shape == (3, 8, 8)
        assert len(problem.splitlines()) == 1
    assert n_refused > 10


def test_an_index_gives_the_images_that_it_is_asked_for(files: FileIndex) -> None:
    asked = np.array([7, 0, 7])
    images = files[asked]
    assert files.shape == (12, 3, 8, 8)
    for image, at in zip(images, asked, strict=True):
        assert np.array_equal(image, decode_image(files.root / f"{at}.png", 8))


def test_part_of_an_index_is_an_index(files: FileIndex) -> None:
    part = files.take([3, 1])
    assert part.paths.tolist() == ["3.png", "1.png"]
    assert part.sizes.tolist() == [files.sizes[3], files.sizes[1]]
    assert part.hex_hashes() == [files.hex_hashes()[3], files.hex_hashes()[1]]
    assert np.array_equal(part[np.array([0, 1])], files[np.array([3, 1])])
    assert len(files.take([])) == 0


def test_a_file_that_changed_its_size_is_named(files: FileIndex) -> None:
    before = (files.root / "2.png").stat().st_size
    (files.root / "2.png").write_bytes(b"other")
    with pytest.raises(InputError) as caught:
        files[np.array([1, 2])]
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{files.root}/2.png: expected {before} bytes, got 5; ")
    assert line.endswith("`dvc repro --force prepare`")


def test_a_file_that_is_gone_is_named(files: FileIndex) -> None:
    (files.root / "2.png").unlink()
    with pytest.raises(InputError) as caught:
        files[np.array([2])]
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{files.root}/2.png: expected the image that was prepared, got no such file; ")


def test_a_file_of_the_same_size_that_is_no_image_any_more_is_named(files: FileIndex) -> None:
    file = files.root / "2.png"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(InputError, match=r"2\.png: expected the image that was prepared, got no image; "):
        files[np.array([2])]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(files: FileIndex) -> None:
    (files.root / "2.png").chmod(0)
    with pytest.raises(InputError, match=r"2\.png: .* got no permission to read it; "):
        files[np.array([2])]


def test_lists_of_different_lengths_make_no_index(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 paths, 1 sizes, 2 hashes"):
        FileIndex.of(tmp_path, ["a", "b"], [1], ["00" * 32] * 2, resize_px=8)


def test_an_index_is_saved_without_pixels_and_loaded_without_reading_an_image(
    index_set: ImageSet, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    save_image_set(index_set, out)
    for file in tmp_path.glob("*.png"):
        file.unlink()
    loaded = load_image_set(out)
    assert isinstance(index_set.images, FileIndex)
    assert isinstance(loaded.images, FileIndex)
    assert loaded.images.root == index_set.images.root
    assert loaded.images.paths.tolist() == index_set.images.paths.tolist()
    assert loaded.images.sizes.tolist() == index_set.images.sizes.tolist()
    assert loaded.images.hex_hashes() == index_set.images.hex_hashes()
    assert loaded.images.resize_px == 8
    assert loaded.normalization() == index_set.normalization()
    assert sorted(file.name for file in out.iterdir()) == ["files.csv", "images.json", "images.safetensors"]
    assert "images" not in load_file(out / "images.safetensors")


def test_names_with_commas_quotes_and_other_scripts_survive(tmp_path: Path) -> None:
    (tmp_path / "-a b").mkdir()
    names = ['-a b/x, "y".png', "-a b/été 花.png"]
    for name in names:
        Image.fromarray(noise((9, 9, 3), len(name))).save(tmp_path / name)
    files = indexed(tmp_path, names)
    whole = {name: np.arange(2) for name in SPLITS}
    save_image_set(ImageSet(files, np.arange(2), ("a", "b"), whole), tmp_path)
    loaded = load_image_set(tmp_path).images
    assert isinstance(loaded, FileIndex)
    assert loaded.paths.tolist() == names
    assert np.array_equal(loaded[np.array([1])], files[np.array([1])])


def _edit(change: Callable[[list[str]], list[str]]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        lines = (folder / "files.csv").read_text(encoding="utf-8").splitlines()
        (folder / "files.csv").write_text("\n".join(change(lines)), encoding="utf-8")

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda folder: (folder / "files.csv").unlink(), id="no-index"),
        pytest.param(lambda folder: (folder / "files.csv").write_text(""), id="empty"),
        pytest.param(lambda folder: (folder / "files.csv").write_bytes(b"\xff\xfe"), id="no-text"),
        pytest.param(_edit(lambda lines: lines[:-1]), id="a-line-less"),
        pytest.param(_edit(lambda lines: [lines[0].replace("sha256", "md5"), *lines[1:]]), id="other-column"),
        pytest.param(_edit(lambda lines: [*lines[:-1], "x.png,12"]), id="short-line"),
        pytest.param(_edit(lambda lines: [*lines[:-1], f"x.png,many,{'0' * 64}"]), id="no-number"),
        pytest.param(_edit(lambda lines: [*lines[:-1], "x.png,12,zz"]), id="no-hash"),
        pytest.param(_edit(lambda lines: [lines[0], lines[2], lines[1], *lines[3:]]), id="swapped"),
    ],
)
def test_a_damaged_index_is_one_line_with_the_folder(
    index_set: ImageSet, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    save_image_set(index_set, tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError) as caught:
        load_image_set(tmp_path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{tmp_path}: expected ")


def test_skipped_files_are_listed_beside_the_set(index_set: ImageSet, tmp_path: Path) -> None:
    skipped = (("a, b.jpg", "no image"), ("c.jpg", "an empty file"))
    set_with = ImageSet(
        index_set.images, index_set.labels, index_set.classes, index_set.split, skipped=skipped
    )
    save_image_set(set_with, tmp_path)
    text = (tmp_path / "unreadable.csv").read_text(encoding="utf-8")
    assert text == 'path,reason\n"a, b.jpg",no image\nc.jpg,an empty file\n'
    assert load_image_set(tmp_path).checksum() == index_set.checksum()


def test_the_checksum_is_that_of_names_and_contents(index_set: ImageSet) -> None:
    files = index_set.images
    assert isinstance(files, FileIndex)
    hashes, names = files.hashes.copy(), files.paths.copy()
    hashes[3, 5] ^= 1
    names[3] = "other.png"
    seen = {index_set.checksum()}
    for changed in (
        FileIndex(files.root, files.paths, files.sizes, hashes, 8),
        FileIndex(files.root, names, files.sizes, files.hashes, 8),
    ):
        seen.add(ImageSet(changed, index_set.labels, index_set.classes, index_set.split).checksum())
    assert len(seen) == 3


def test_normalization_of_files_is_measured_once(
    index_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_read = 0
    read = FileIndex.__getitem__

    def counted(self: FileIndex, idx: np.ndarray) -> np.ndarray:
        nonlocal n_read
        n_read += len(idx)
        return read(self, idx)

    monkeypatch.setattr(FileIndex, "__getitem__", counted)
    mean, _ = index_set.normalization()
    save_image_set(index_set, tmp_path)
    assert n_read == 4
    assert json.loads((tmp_path / "images.json").read_text())["normalization"]["mean"] == mean


def _drawing() -> Image.Image:
    """Wide, and different in all four quarters."""
    pixels = np.zeros((30, 50, 3), dtype=np.uint8)
    pixels[:15, :25], pixels[:15, 25:], pixels[15:, :25] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    return Image.fromarray(pixels)


# Counterclockwise quarter turns of the stored pixels that make the image upright.
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_a_photograph_is_turned_as_its_camera_noted(orientation: int, turns: int) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    _drawing().save(file, format="PNG", exif=exif)
    file.seek(0)
    upright = Image.fromarray(np.ascontiguousarray(np.rot90(np.asarray(_drawing()), turns)))
    expected = np.asarray(upright.resize((20, 20), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(decode_image(file, 20), expected)


def test_a_damaged_note_of_the_camera_leaves_the_image_as_it_is() -> None:
    file = io.BytesIO()
    _drawing().save(file, format="JPEG", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01")
    file.seek(0)
    with decoder_warnings():
        assert decode_image(file, 20)[0].max() > 150


def test_of_an_animation_the_first_frame_is_read() -> None:
    file, black = io.BytesIO(), Image.new("RGB", (50, 30))
    _drawing().save(file, format="GIF", save_all=True, append_images=[black])
    file.seek(0)
    assert decode_image(file, 20).max() > 150


@pytest.mark.parametrize("most", [1.0, 255.0])
def test_floats_are_read_by_their_range(most: float) -> None:
    file = io.BytesIO()
    values = np.linspace(0, most, 16, dtype=np.float32).reshape(4, 4)
    Image.fromarray(values).save(file, format="TIFF")
    file.seek(0)
    expected = np.rint(np.linspace(0, 255, 16)).reshape(4, 4)
    assert np.abs(decode_image(file, 4) - expected[None]).max() <= 1


@pytest.mark.parametrize("worst", [-0.5, 300.0, np.nan])
def test_floats_of_another_range_are_refused_for_the_true_reason(worst: float) -> None:
    file, values = io.BytesIO(), np.full((4, 4), 0.5, dtype=np.float32)
    values[0, 0] = worst
    Image.fromarray(values).save(file, format="TIFF")
    file.seek(0)
    with pytest.raises(ValueError, match="floating-point values from") as raised:
        decode_image(file, 4)
    assert read_problem(raised.value).startswith("floating-point values from")
