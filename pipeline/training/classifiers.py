"""The classifier that the params ask for, made for a data set."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline.checkpoint import load_model
from pipeline.errors import InputError
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, blueprint_of, evaluation_mode
from pipeline.params.nets.sections import Architecture, FcModel, SavedModel, TorchvisionModel

if TYPE_CHECKING:
    from pipeline.images.image_set import ImageSet


def build_classifier(params: Architecture, data: ImageSet, *, wanted_for: str) -> Classifier:
    """A classifier for a data set: the architecture of the params behind the set's normalisation.

    It is fresh, or starts from the weights that the params name (torchvision's, or a file's).

    Args:
        params: a section that describes a net.
        data: gives image shape, classes and normalisation.
        wanted_for: the section's place in params.yaml, for errors.

    Raises:
        InputError: if the architecture cannot be built as the params say, or cannot take the set's images,
            or if a file is missing or made for other classes.
    """
    if isinstance(params, SavedModel):
        model, name = _load_saved(params, data, wanted_for), params.path
    else:
        name, options = _build_call(params, data.image_shape)
        try:
            net = build_model(name, len(data.classes), **options)
        except ValueError as error:
            raise InputError(f"params.yaml: {wanted_for}: {error}") from None
        model = _normalized(net, data)
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


def _normalized(net: nn.Module, data: ImageSet) -> Classifier:
    mean, std = data.normalization()
    return Classifier(net, image_shape=data.image_shape, mean=mean, std=std, classes=data.classes)


def _load_saved(params: SavedModel, data: ImageSet, wanted_for: str) -> Classifier:
    """The classifier in the file, with the normalisation that it was saved with; a bare net gets the set's."""
    place = f"params.yaml: {wanted_for}"
    weights = Path(f"{params.path.removesuffix('.safetensors')}.safetensors")
    model = load_model(params.path)
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != params.sha256:
        raise InputError(f"{place}.sha256: expected {found}, that of {weights} (got {params.sha256})")
    if not isinstance(model, Classifier):
        if (n_classes := blueprint_of(model).num_classes) != len(data.classes):
            raise InputError(
                f"{place}: expected a net for {len(data.classes)} classes, got one for {n_classes}"
            )
        return _normalized(model, data).train()
    if model.classes != data.classes:
        expected, got = (", ".join(map(repr, classes)) for classes in (data.classes, model.classes))
        raise InputError(f"{place}: expected a net for the classes {expected}, in this order, got {got}")
    if model.image_shape[0] != data.image_shape[0]:
        raise InputError(
            f"{place}: expected a net for images with {data.image_shape[0]} channels, got {model.image_shape[0]}"
        )
    model.image_shape = data.image_shape
    return model.train()
