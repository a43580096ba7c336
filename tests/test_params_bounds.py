"""params.yaml: every number has both of its bounds, and those that the images' size sets are known before a run."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from tiny_params import TINY, Change, assert_one_error, errors_of

from pipeline.params.params import Params


def numbers(kind: Any, at: str, about: tuple[Any, ...] = ()) -> Iterator[tuple[str, list[Any]]]:
    """Every number at any depth below a type: its place, and all that is said of it."""
    if get_origin(kind) is Annotated:
        yield from numbers(get_args(kind)[0], at, (*about, *get_args(kind)[1:]))
    elif get_origin(kind) in (Union, types.UnionType):
        for each in get_args(kind):
            yield from numbers(each, at, about)
    elif get_origin(kind) in (list, dict, tuple):
        for each in get_args(kind):
            yield from numbers(each, f"{at}[]")
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield from numbers(field.annotation, f"{kind.__name__}.{name}", tuple(field.metadata))
    elif kind in (int, float):
        yield at, [part for each in about for part in getattr(each, "metadata", [each])]


def bounds_of(about: list[Any]) -> tuple[float | None, float | None]:
    def found(*names: str) -> float | None:
        values = [getattr(each, name, None) for each in about for name in names]
        return next((value for value in values if value is not None), None)

    return found("gt", "ge"), found("lt", "le")


def test_every_number_of_the_schema_has_both_bounds() -> None:
    walked = {place: bounds_of(about) for place, about in numbers(Params, "")}
    assert {place: found for place, found in walked.items() if None in found} == {}
    assert {
        *("Params.seeds[]", "Numerics.threads", "Robustness.calibration_bins", "PoissonNoise.peak"),
        *("Retraining.shift_px", "Surgery.round_to", "FoolboxAttack.epsilon", "Runtime.jobs", "Lda.lambda_"),
    } <= set(walked)
    assert len(walked) > 100


@pytest.mark.parametrize("place", ["", "x"])
def test_the_walk_sees_a_number_without_a_bound(place: str) -> None:
    assert [bounds_of(about) for _, about in numbers(dict[str, list[int | None]], place)] == [(None, None)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("noise.poisson.peak", 1e20),
        ("noise.gaussian.std", 1e300),
        ("noise.speckle.strength", 1e200),
        ("robustness.calibration_bins", 10_000_000_000),
        ("robustness.gallery_images", 1_000),
        ("numerics.threads", 100_000),
        ("runtime.jobs", 100_000),
        ("surgery.round_to", 1_000_000),
        ("train.training.shift_px", 1_000_000),
        ("train.training.learning_rate", 1e300),
        ("train.training.epochs", 10**12),
        ("numerics.eval_batch_size", 10**12),
        ("seeds.0", 2**32),
        ("report.dpi", 100_000),
        ("model.width", 1e9),
        ("lda.samples_per_class", 10**9),
        ("prune.rounds", 10**9),
    ],
)
def test_a_number_past_any_sensible_use_is_named_on_one_line(key: str, value: float) -> None:
    (line,) = errors_of((key, value))
    assert line.startswith(f"{key}: expected ")
    assert f"(got {value!r}" in line


NOISE_THAT_IS_NONE = [("gaussian", "std"), ("speckle", "strength"), ("poisson", "peak")]


@pytest.mark.parametrize(("noise", "key"), NOISE_THAT_IS_NONE)
def test_noise_that_would_be_none_is_refused(noise: str, key: str) -> None:
    assert_one_error(
        f"noise.{noise}.{key}", "greater than or equal to", changes=[(f"noise.{noise}.{key}", 1e-300)]
    )


FILES = {**{"root": "x", "resize_px": 64, "store": "pixels", "max_unreadable_share": 0.0}}
ARRAYS: dict[str, Any] = {
    **{"source": "arrays", "file": "x.npz", "images_per_class": None, "crop_px": None, "resize_px": None},
    **{"copies": "refuse", "validation": None},
}
CIFAR = {
    **{key: ARRAYS[key] for key in ("images_per_class", "crop_px", "resize_px", "copies")},
    **{"source": "cifar10", "root": "x", "download": False, "validation": {"rule": "first", "images": 10}},
}


@pytest.mark.parametrize(
    ("data", "side"),
    [
        (TINY["data"], 8),
        (TINY["data"] | {"crop_px": 6}, 6),
        (CIFAR, 32),
        (CIFAR | {"resize_px": 24}, 24),
        (CIFAR | {"resize_px": 24, "crop_px": 20}, 20),
        (CIFAR | {"source": "mnist"}, 28),
        (ARRAYS | {"resize_px": 10}, 10),
    ],
)
def test_a_shift_by_more_than_half_of_the_image_is_refused(data: dict[str, Any], side: int) -> None:
    key = "prune.retraining.shift_px"
    changes: list[Change] = [("data", data), (key, side // 2 + 1)]
    words = (f"expected at most {side // 2}, half of the images' {side} pixels", f"got {side // 2 + 1}")
    assert_one_error(key, *words, changes=changes)
    assert errors_of(("data", data), (key, side // 2)) == []


def test_every_training_is_held_against_the_image() -> None:
    keys = (
        "train.training",
        "grow.training",
        "push.training",
        "compare.retraining",
        "sources.resnet.training",
    )
    for key in keys:
        assert_one_error(f"{key}.shift_px", "half of the images' 8 pixels", changes=[(f"{key}.shift_px", 9)])


def test_where_only_the_files_know_the_size_the_check_is_left_to_the_training() -> None:
    assert errors_of(("data", ARRAYS), ("train.training.shift_px", 1_000)) == []


def test_a_crop_that_is_larger_than_the_image_is_refused() -> None:
    words = ("expected at most the images' 8 pixels", "got 9")
    assert_one_error("data.crop_px", *words, changes=[("data.crop_px", 9)])
