"""A data set's parts as tensors on the training device, and the classifier that fits them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data import ImageSet, load_image_set
from pipeline.errors import InputError
from pipeline.models import build_model
from pipeline.models.classifier import Classifier
from pipeline.params import InceptionModel, ResNetModel


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


def build_classifier(params: InceptionModel | ResNetModel, data: ImageSet) -> Classifier:
    """A fresh classifier for a data set: the architecture of the params behind the set's normalisation.

    Raises:
        InputError: if the architecture cannot be built as the params say.
    """
    options = params.model_dump(exclude={"architecture"}) | {"in_channels": data.image_shape[0]}
    try:
        net = build_model(params.architecture, len(data.classes), **options)
    except ValueError as error:
        raise InputError(f"params.yaml: model: {error}") from None
    mean, std = data.normalization()
    return Classifier(net, image_shape=data.image_shape, mean=mean, std=std, classes=data.classes)
