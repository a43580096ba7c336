"""`python -m benchmarks.fuzz`: damaged inputs for whatever reads what users bring: params, checkpoints, arrays, images.

Each input is a good one with a few edits that hypothesis draws: of bytes (flipped, cut out, doubled, swapped for tokens
that parsers trip over, cut off), and of what is written in it (a value of params or of a model's description for any
other, an array of any type and shape). A loader takes it or refuses it in one line; anything else is a crash, and so is
more than `SECONDS`. Prints a row for each loader; `--keep FOLDER` keeps the inputs that crashed.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from ruamel.yaml import YAML

from pipeline.checkpoint import load_model, save_model
from pipeline.errors import InputError
from pipeline.images.file_index import UNREADABLE, decode_image, decoder_warnings, read_problem
from pipeline.models import build_model
from pipeline.models.classifier import Classifier
from pipeline.params.file import check_params, read_params
from pipeline.readers.arrays import read_npz

N_INPUTS = 3_000  # of each loader
SECONDS = 60
_TINY = Path(__file__).parents[1] / "presets/tiny.yaml"

# Files by their names.
Files = Mapping[str, bytes]

_TOKENS = (
    *(b"0", b"-1", b"1e999", b".nan", b"NaN", b"null", b"true", b"~", b"''", b"[]", b"{}", b"9" * 30, b"0.0"),
    *(
        b"\xff\xfe",
        b"\x00" * 8,
        b"\xff" * 8,
        b": ",
        b"\n",
        b"- ",
        b"<<: ",
        b"*a",
        b"&a ",
        b"!!int ",
        b"2024-13-45",
    ),
)
_edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "swap", "cut", "double", "token", "end"]),
        st.integers(0, 2**30),
        st.integers(1, 64),
        st.sampled_from(_TOKENS),
    ),
    min_size=1,
    max_size=4,
)
_values = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.text(max_size=6), st.sampled_from(["1e999", "auto", "a/b", "../x"])),
        st.sampled_from(
            [0, -1, 1, 2**31, 2**63, 10**30, 10**400, 0.0, -0.5, 1e-300, 1e300, math.nan, math.inf]
        ),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
_places = st.lists(st.tuples(st.integers(0, 2**30), _values), min_size=1, max_size=3)
_arrays = st.tuples(
    st.sampled_from(["u1", "i8", "u8", "f8", "f2", "c16", "?", "U3", "S3", "M8[s]"]),
    st.lists(st.integers(0, 9), max_size=5),
)


def edited(content: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    """The bytes after the edits."""
    for kind, at, n, token in edits:
        at %= len(content) + 1
        head, tail = content[:at], content[at:]
        match kind:
            case "flip":
                content = head + bytes([byte ^ (1 << n % 8) for byte in tail[:1]]) + tail[1:]
            case "swap":
                content = head + tail[n : 2 * n] + tail[:n] + tail[2 * n :]
            case "cut":
                content = head + tail[n:]
            case "double":
                content = head + tail[:n] + tail
            case "token":
                content = head + token + tail[len(token) if n % 2 else 0 :]
            case "end":
                content = head
    return content


def replaced(data: Any, places: list[tuple[int, Any]]) -> Any:
    """A copy of JSON data with other values at some of its places."""
    data = json.loads(json.dumps(data))
    for at, value in places:
        spots = [*_spots(data)]
        if spots:
            node, key = spots[at % len(spots)]
            node[key] = value
    return data


def _spots(node: Any) -> Iterator[tuple[Any, Any]]:
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from _spots(node[key])


def _params() -> st.SearchStrategy[Any]:
    text = _TINY.read_bytes()
    data = json.loads(json.dumps(YAML(typ="safe").load(text)))
    of_bytes = _edits.map(lambda edits: {"params.yaml": edited(text, edits)})
    return st.one_of(of_bytes, _places.map(lambda places: replaced(data, places)))


def _load_params(found: Any, folder: Path) -> None:
    if "params.yaml" not in found:
        check_params(found)
        return
    read_params(_written(found, folder) / "params.yaml")


def _checkpoints() -> st.SearchStrategy[Files]:
    goods = []
    with tempfile.TemporaryDirectory() as folder:
        for name, options in {
            "fc": {"in_features": 64, "hidden": (6,)},
            "inception": {
                "stages": (1, 1, 1),
                "base": (1, 1, 1),
                "width": 0.0625,
                "stem": "small",
                "in_channels": 1,
            },
            "resnet": {"config": "c8-c16", "width": 1.0, "stem": "small", "in_channels": 1},
        }.items():
            net = build_model(name, 2, **options)
            about = {"mean": (0.5,), "std": (0.25,), "classes": ("a", "b"), "image_shape": (1, 8, 8)}
            save_model(Classifier(net, **about), Path(folder, name))  # type: ignore[arg-type]
            goods.append(
                {f"m{end}": Path(folder, name + end).read_bytes() for end in (".json", ".safetensors")}
            )
    return st.one_of(
        st.builds(
            lambda good, name, edits: good | {name: edited(good[name], edits)},
            st.sampled_from(goods),
            st.sampled_from(["m.json", "m.safetensors"]),
            _edits,
        ),
        st.builds(
            lambda good, places: (
                good | {"m.json": json.dumps(replaced(json.loads(good["m.json"]), places)).encode()}
            ),
            st.sampled_from(goods),
            _places,
        ),
        st.builds(  # one net's description, another one's weights
            lambda one, other: {"m.json": one["m.json"], "m.safetensors": other["m.safetensors"]},
            st.sampled_from(goods),
            st.sampled_from(goods),
        ),
    )


def _npz() -> st.SearchStrategy[Files]:
    random = np.random.default_rng(0)
    good: dict[str, Any] = {"classes": np.array(["a", "b"])}
    for part in ("train", "validation", "test"):
        good |= {f"x_{part}": random.integers(0, 256, (6, 4, 4), np.uint8), f"y_{part}": np.arange(6) % 2}
    whole = _zipped({name: _npy(array) for name, array in good.items()})

    def with_header(name: str, edits: list[Any]) -> bytes:
        """The archive is sound, the array in it is not."""
        return _zipped(
            {each: _npy(array) for each, array in good.items()} | {name: edited(_npy(good[name]), edits)}
        )

    def with_array(name: str, array: tuple[str, list[int]]) -> bytes:
        return _zipped(
            {each: _npy(a) for each, a in good.items()} | {name: _npy(np.zeros(array[1], array[0]))}
        )

    names = st.sampled_from([*good, "extra"])
    return st.one_of(
        _edits.map(lambda edits: edited(whole, edits)),
        st.builds(with_header, st.sampled_from([*good]), _edits),
        st.builds(with_array, names, _arrays),
    ).map(lambda content: {"set.npz": content})


def _npy(array: Any) -> bytes:
    opened = BytesIO()
    np.save(opened, array, allow_pickle=False)
    return opened.getvalue()


def _zipped(members: Mapping[str, bytes]) -> bytes:
    opened = BytesIO()
    with zipfile.ZipFile(opened, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return opened.getvalue()


def _images() -> st.SearchStrategy[Files]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    rgb = Image.fromarray(pixels)
    kinds: list[tuple[str, Image.Image, dict[str, Any]]] = [
        *((each, rgb, {}) for each in ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TGA")),
        ("PNG", Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), {}),
        ("GIF", rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        ("PNG", rgb.quantize(16), {"transparency": 3}),
        ("TIFF", rgb.convert("F"), {}),
        *(("TIFF", rgb, {"compression": each}) for each in ("tiff_lzw", "jpeg", "packbits")),
        ("JPEG", rgb, {"progressive": True, "exif": _exif()}),
    ]
    goods = []
    for kind, image, options in kinds:
        opened = BytesIO()
        image.save(opened, format=kind, **options)
        goods.append(opened.getvalue())
    return st.builds(lambda good, edits: {"image": edited(good, edits)}, st.sampled_from(goods), _edits)


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    return exif


def _load_image(files: Files, folder: Path) -> None:
    try:
        decode_image(_written(files, folder) / "image", 8)
    except UNREADABLE as error:
        raise InputError(read_problem(error)) from None


def _written(files: Files, folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


# By its name: the inputs, and what reads them from a folder.
LOADERS: dict[str, tuple[Callable[[], st.SearchStrategy[Any]], Callable[[Any, Path], object]]] = {
    "params": (_params, _load_params),
    "checkpoint": (_checkpoints, lambda files, folder: load_model(_written(files, folder) / "m")),
    "npz": (_npz, lambda files, folder: read_npz(_written(files, folder) / "set.npz", None, None)),
    "image": (_images, _load_image),
}


@dataclass
class Found:
    """What became of a loader's inputs; `crashes` by what was raised where, the first input of each."""

    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    crashed: int = 0
    crashes: dict[str, Any] = field(default_factory=dict)


class _Hang(BaseException):
    """Not an Exception, which a loader might take for the file's fault."""


@contextmanager
def _limited() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(name: str, n: int) -> Found:
    """Feed a loader `n` inputs, the same ones every time."""
    inputs, load = LOADERS[name]
    found = Found()
    with tempfile.TemporaryDirectory() as folder, decoder_warnings():

        @settings(
            max_examples=n,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=[*HealthCheck],
        )
        @given(inputs())
        def feed(given_input: Any) -> None:
            found.inputs += 1
            try:
                with _limited():
                    load(given_input, Path(folder))
                found.accepted += 1
            except InputError as error:
                one_line = all(len(line) < 2_000 and line.isprintable() for line in str(error).splitlines())
                found.refused += one_line
                if not one_line:
                    _note(found, f"not a line for people: {str(error)[:200]!r}", given_input)
            except (Exception, _Hang) as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                _note(
                    found,
                    f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {error}",
                    given_input,
                )

        feed()
    return found


def _note(found: Found, what: str, given_input: Any) -> None:
    found.crashed += 1
    found.crashes.setdefault(what[:300], given_input)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("loaders", nargs="*", choices=[[], *LOADERS], help="all, if none is named")
    parser.add_argument("--inputs", type=int, default=N_INPUTS, help="of each loader")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that crashed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["loader", "inputs", "refused in one line", "accepted", "crashed", "seconds"])
    n_crashed = 0
    for name in options.loaders or LOADERS:
        started = time.monotonic()
        found = fuzz(name, options.inputs)
        seconds = round(time.monotonic() - started)
        writer.writerow([name, found.inputs, found.refused, found.accepted, found.crashed, seconds])
        sys.stdout.flush()
        n_crashed += found.crashed
        for idx, (what, crasher) in enumerate(found.crashes.items()):
            print(f"  {what}", file=sys.stderr, flush=True)
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                (options.keep / f"{name}-{idx}.txt").write_text(f"{what}\n{crasher!r}\n", encoding="utf-8")
    sys.exit(1 if n_crashed else 0)


if __name__ == "__main__":
    main()
