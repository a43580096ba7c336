"""A data set's parts as tensors on the training device, and the classifier that fits them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data import ImageSet, load_image_set
from pipeline.errors import InputError
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, evaluation_mode
from pipeline.params import Architecture, FcModel, TorchvisionModel


@dataclass(frozen=True)
class Images:
    """A part of a data set: uint8 images (n, c, h, w) and int64 labels (n,) on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def scaled(self) -> Tensor:
        """All images as float32 in [0, 1]."""
        return self.images.float() / 255


@dataclass(frozen=True)
class Parts:
    """The three parts of a split, and the set that they come from."""

    train: Images
    validation: Images
    test: Images
    source: ImageSet


def load_parts(folder: Path, device: torch.device) -> Parts:
    """Read a prepared set onto a device.

    Raises:
        InputError: if the set is missing or damaged.
    """
    data = load_image_set(folder)

    def part(name: str) -> Images:
        images, labels = data.part(name)  # type: ignore[arg-type]
        return Images(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))

    return Parts(part("train"), part("validation"), part("test"), data)


def build_classifier(params: Architecture, data: ImageSet, *, wanted_for: str) -> Classifier:
    """A fresh classifier for a data set: the architecture of the params behind the set's normalisation.

    Args:
        params: a section that describes a net.
        data: gives image shape, classes and normalisation.
        wanted_for: the section's place in params.yaml, for errors.

    Raises:
        InputError: if the architecture cannot be built as the params say, or cannot take the set's images.
    """
    name, options = _build_call(params, data.image_shape)
    try:
        net = build_model(name, len(data.classes), **options)
    except ValueError as error:
        raise InputError(f"params.yaml: {wanted_for}: {error}") from None
    mean, std = data.normalization()
    model = Classifier(net, image_shape=data.image_shape, mean=mean, std=std, classes=data.classes)
    shape = "x".join(str(size) for size in data.image_shape)
    try:
        with evaluation_mode(model), torch.no_grad():
            model(torch.zeros(1, *data.image_shape))
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"params.yaml: {wanted_for}: expected a net that takes images of {shape}, {name} does not ({reason})"
        ) from None
    return model


def _build_call(params: Architecture, image_shape: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """The name and options of `build_model` for a section and the images that the net is to take."""
    options = params.model_dump(exclude={"architecture"})
    if isinstance(params, TorchvisionModel):
        return f"torchvision/{options.pop('name')}", options
    if isinstance(params, FcModel):
        return params.architecture, options | {"in_features": math.prod(image_shape)}
    return params.architecture, options | {"in_channels": image_shape[0]}
