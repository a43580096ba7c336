"""What the images' size says of numbers elsewhere, where the params know it before anything is read."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from pipeline.params.data import Data
from pipeline.params.training import Schedule

# Pixels along a side of sets that come in one size.
_SIDES = {"digits": 8, "mnist": 28, "fashion_mnist": 28, "cifar10": 32, "cifar100": 32}


def image_side(data: Data) -> int | None:
    """Pixels along a side of what a net sees; None where only the files know it."""
    return data.crop_px or _uncropped_side(data)


def _uncropped_side(data: Data) -> int | None:
    return getattr(data, "resize_px", None) or _SIDES.get(data.source)


def problems_with_images(data: Data, params: BaseModel) -> Iterator[str]:
    """Lines `KEY: expected ... (got ...)` for crops and shifts that leave no image."""
    whole, side = _uncropped_side(data), image_side(data)
    if data.crop_px is not None and whole is not None and data.crop_px > whole:
        yield f"data.crop_px: expected at most the images' {whole} pixels (got {data.crop_px})"
    elif side is not None:
        for key, schedule in _schedules(params):
            if schedule.shift_px > side // 2:
                yield (
                    f"{key}.shift_px: expected at most {side // 2}, half of the images' {side} pixels "
                    f"(got {schedule.shift_px})"
                )


def _schedules(node: Any, at: str = "") -> Iterator[tuple[str, Schedule]]:
    """Every training of the params with its dotted key."""
    if isinstance(node, Schedule):
        yield at, node
        return
    for name, value in node.items() if isinstance(node, dict) else node:
        if isinstance(value, BaseModel | dict):
            yield from _schedules(value, f"{at}.{name}".lstrip("."))
