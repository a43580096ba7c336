"""Whether a job's images and models belong together, by their descriptions; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from pipeline.errors import InputError
from pipeline.files import read_json

_SHARED = ("classes", "image_shape")


def check_same_images(inputs: Mapping[str, Any]) -> None:
    """Refuse images and models of other classes, or of another shape, than each other: folders of two runs, mixed.

    Args:
        inputs: a job's, all paths.

    Raises:
        InputError: naming the first description that does not fit those before it.
    """
    known: dict[str, tuple[Path, Any]] = {}
    for file in _descriptions(inputs):
        try:
            about = dict(read_json(file))
        except (ValueError, TypeError) as error:
            raise InputError(f"{file}: expected a description of images or of a model ({error})") from None
        for key in _SHARED if "classes" in about else ():  # a bare net has none
            other, expected = known.setdefault(key, (file, about.get(key)))
            if about.get(key) != expected:
                want, got = (shorten(str(each), 80) for each in (expected, about.get(key)))
                raise InputError(
                    f"{file}: expected {key} to be {want}, as in {other} (got {got}); where folders of two runs were "
                    "mixed, remove them and say `make repro`"
                )


def _descriptions(inputs: Mapping[str, Any]) -> Iterator[Path]:
    for found in inputs.values():
        for path in found.values() if isinstance(found, Mapping) else (found,):
            places = (path / "images.json", path / "model.json", path.with_name(f"{path.name}.json"))
            yield from (place for place in places if place.is_file())
