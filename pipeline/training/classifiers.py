"""The classifier that the params ask for, made for a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.checkpoint import load_model
from pipeline.errors import InputError, first_line
from pipeline.models import build_model
from pipeline.models.classifier import (
    Classifier,
    blueprint_of,
    decision_layer,
    evaluation_mode,
)
from pipeline.models.own import fill_with_weights, read_weights
from pipeline.params.nets.sections import (
    Architecture,
    FcModel,
    Normalization,
    OwnModel,
    PythonModel,
    SavedModel,
    TimmModel,
    TorchvisionModel,
)
from pipeline.params.nets.tracked import stale_hashes

if TYPE_CHECKING:
    from pipeline.images.image_set import ImageSet


def build_classifier(params: Architecture, data: ImageSet, *, wanted_for: str) -> Classifier:
    """A classifier for a data set: the net of the params behind its normalisation, with the set's classes in order.

    It is fresh, or starts from the weights that the params name (torchvision's, or a file's), which bring their
    normalisation where the params or the file say it. Weights for the same classes in another order have the rows of
    their decision layer put in the set's.

    Args:
        params: a section that describes a net.
        data: gives image shape, classes and normalisation.
        wanted_for: the section's place in params.yaml, for errors.

    Raises:
        InputError: as `build_net`, or if it was made for other classes.
    """
    place = f"params.yaml: {wanted_for}"
    net = build_net(params, len(data.classes), data.image_shape, wanted_for=wanted_for)
    mean, std = data.normalization()
    trained_for = data.classes
    if isinstance(net, Classifier):  # a saved one
        mean, std = net.mean.flatten().tolist(), net.std.flatten().tolist()
        trained_for, net = net.classes, net.net
    elif isinstance(params, OwnModel):
        if params.normalization is not None:
            check_normalization(params.normalization, data.image_shape[0], place)
            mean, std = params.normalization.mean, params.normalization.std
        trained_for = tuple(params.classes or data.classes)
    model = Classifier(net, image_shape=data.image_shape, mean=mean, std=std, classes=data.classes)
    if trained_for != data.classes:
        _reorder_decision(model, trained_for, place)
    return model


def check_normalization(known: Normalization, n_channels: int, place: str) -> None:
    """Refuse a user's normalisation of other images than those of `n_channels`.

    Raises:
        InputError: naming the key.
    """
    if {len(known.mean), len(known.std)} != {n_channels}:
        raise InputError(
            f"{place}.normalization: expected a mean and a std for each of {n_channels} channels (got "
            f"{len(known.mean)} and {len(known.std)})"
        )


def build_net(
    params: Architecture, num_classes: int, image_shape: Sequence[int], *, wanted_for: str
) -> nn.Module:
    """The net that a section describes, with the weights that it names, tried on a blank image; in training mode.

    Args:
        params: the section.
        num_classes: how many classes it has to tell apart.
        image_shape: (channels, height, width) of the images that it has to take.
        wanted_for: as for `build_classifier`.

    Returns:
        The bare net, or the `Classifier` that a saved one was.

    Raises:
        InputError: if it cannot be built as the params say, if a file is missing or not what they say, or if the net
            does not make logits for so many classes of such images.
    """
    place = f"params.yaml: {wanted_for}"
    if stale := [f"params.yaml: {line}" for line in stale_hashes({wanted_for: params})]:
        raise InputError("\n".join(stale))
    if isinstance(params, SavedModel):
        net, name = load_model(params.path).train(), params.path
        if (n_saved := blueprint_of(net).num_classes) != num_classes:
            raise InputError(f"{place}: expected a net for {num_classes} classes, got one for {n_saved}")
        if isinstance(net, Classifier) and net.image_shape[0] != image_shape[0]:
            raise InputError(
                f"{place}: expected a net for images with {image_shape[0]} channels, got {net.image_shape[0]}"
            )
    else:
        name, options = _build_call(params, image_shape, place)
        try:
            net = build_model(name, num_classes, **options)
            if isinstance(params, OwnModel) and params.weights is not None:
                fill_with_weights(net, read_weights(Path(params.weights)), Path(params.weights))
        except ValueError as error:
            raise InputError(f"{place}: {error}") from None
    _try_on(net, num_classes, image_shape, place, name, is_own=isinstance(params, OwnModel))
    return net


def _try_on(
    net: nn.Module, num_classes: int, image_shape: Sequence[int], place: str, name: str, *, is_own: bool
) -> None:
    """Refuse a net that does not make of two blank images what it has to."""
    captured: list[Tensor] = []
    shape = "x".join(map(str, image_shape))
    with ExitStack() as hooks:
        hooks.enter_context(torch.no_grad())
        hooks.enter_context(evaluation_mode(net))
        if is_own:
            decision = decision_layer(net)
            hooks.enter_context(
                decision.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
            )
        try:
            logits = net(torch.zeros(2, *image_shape))
        except Exception as error:  # whatever its forward pass raises
            reason = first_line(error)
            raise InputError(
                f"{place}: expected a net that takes images of {shape}, {name} does not ({reason})"
            ) from None
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"{place}: expected {name} to give logits for {num_classes} classes, of shape (2, {num_classes}) for two "
            f"images (got {found})"
        )
    if not is_own:
        return
    inputs = [tuple(each.shape) for each in captured]
    if decision.out_features != num_classes or [len(shape) for shape in inputs] != [2]:
        raise InputError(
            f"{place}.decision: expected the linear layer whose {num_classes} outputs are the classes, which reads "
            f"vectors once in a forward pass (got one of {decision.out_features} outputs, inputs {inputs})"
        )


def _reorder_decision(model: Classifier, trained_for: Sequence[str], place: str) -> None:
    """Give the decision layer's rows the order of the model's classes; what they were trained for is theirs now."""
    if sorted(trained_for) != sorted(model.classes):
        missing, unknown = set(model.classes) - set(trained_for), set(trained_for) - set(model.classes)
        raise InputError(
            f"{place}: expected a net for the {len(model.classes)} classes of the data, got one for "
            f"{len(trained_for)}, without {_some(missing)} and with {_some(unknown)}"
        )
    order, decision = [trained_for.index(name) for name in model.classes], decision_layer(model)
    images = torch.rand(4, *model.image_shape, generator=torch.Generator().manual_seed(0))
    with evaluation_mode(model), torch.no_grad():
        expected = model(images)[:, order]
        for parameter in decision.parameters():
            parameter.copy_(parameter[order])
        if not torch.allclose(model(images), expected, rtol=1e-4, atol=1e-5):
            raise InputError(
                f"{place}: expected the classes as the data have them, since the net's logits are not the outputs of "
                f"its decision layer (got them in the order {', '.join(trained_for)})"
            )


def _build_call(params: Architecture, image_shape: Sequence[int], place: str) -> tuple[str, dict[str, Any]]:
    """The name and options of `build_model` for a section and the images that the net is to take."""
    if isinstance(params, PythonModel):
        return f"python/{params.factory}", params.model_dump(
            include={"options", "decision", "factory_sha256"}
        )
    if isinstance(params, TimmModel):
        if taken := sorted({"name", "num_classes", "decision", "in_chans"} & {*params.options}):
            raise InputError(
                f"{place}.options: expected none of what the name, the data and `decision` say (got {taken[0]!r})"
            )
        return f"timm/{params.name}", {
            "in_chans": image_shape[0],
            **params.options,
            "decision": params.decision,
        }
    options = params.model_dump(exclude={"architecture"})
    if isinstance(params, TorchvisionModel):
        return f"torchvision/{options.pop('name')}", options
    if isinstance(params, FcModel):
        return params.architecture, options | {"in_features": math.prod(image_shape)}
    return params.architecture, options | {"in_channels": image_shape[0]}


def _some(names: set[str]) -> str:
    shown = ", ".join(map(repr, sorted(names)[:3])) or "none"
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
