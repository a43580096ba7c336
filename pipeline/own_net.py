"""What a user's own net has to bear in the stages, tried on random images before any of them runs."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from pipeline.checkpoint import load_model, save_model
from pipeline.errors import InputError, first_line
from pipeline.models.classifier import decision_layer, weight_layers

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.models.classifier import Classifier

_PACKAGE = Path(__file__).resolve().parent


def check_own_net(model: Classifier, images: Tensor) -> None:
    """Hold its logits against those of a second call, of one image alone and of a copy, and take a training step.

    Args:
        model: in evaluation mode; left as it is.
        images: (n, channels, height, width), two or more.

    Raises:
        InputError: for logits that change from call to call or with the other images of a batch; for a net that cannot
            be copied, trained, or stored and read back.
    """
    with torch.no_grad():
        logits = model(images)
        if not torch.equal(model(images), logits):
            raise InputError(
                "model: expected the same logits from every call in evaluation mode (got others: it draws, or keeps "
                "what it has seen)"
            )
        if not _alike(model(images[:1]), logits[:1]):
            raise InputError(
                "model: expected logits of an image that do not depend on the others of its batch (got others)"
            )
    _check_copy(model, images)
    check_training(model, images)
    check_file(model, images)


def check_training(model: Classifier, images: Tensor) -> None:
    """Take a step of training, on a copy.

    Raises:
        InputError: if that gives no logits, or none of its parameters can be trained.
    """
    trained = copy.deepcopy(model).train()
    try:
        logits = trained(images)
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        if found != (len(images), len(model.classes)):
            raise InputError(
                f"model: expected logits in training, too, of shape {(len(images), len(model.classes))} (got {found})"
            )
        logits.sum().backward()
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"model: expected a net that can be trained ({first_line(error)}{where(error)})"
        ) from None


def check_file(model: Classifier, images: Tensor) -> None:
    """Refuse a net that its own file does not bring back: what it has learned could not be kept."""
    with TemporaryDirectory() as folder, torch.no_grad():
        try:
            save_model(model, Path(folder, "model"))
            again = load_model(Path(folder, "model")).eval()(images)
        except (InputError, RuntimeError, ValueError) as error:
            reason = first_line(error).replace(f"{folder}/", "")
            raise InputError(f"model: expected a net that can be stored and read back ({reason})") from None
        if not _alike(again, model(images)):
            raise InputError(
                "model: expected a net that its weights bring back, got other logits from its stored copy; layers "
                "in a plain list or dictionary are not stored: nn.ModuleList, nn.ModuleDict are for them"
            )


def untraced(model: Classifier, traced: Collection[str]) -> list[str]:
    """Layers whose own forward pass nobody runs or follows: they stay as they are."""
    last = decision_layer(model)
    return [name for name, layer in weight_layers(model).items() if layer is not last and name not in traced]


def where(error: BaseException) -> str:
    """The place in a user's code that an error came from, behind a comma; empty where none of it was on the way."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(Path(frame.filename))]
    return f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""


def _is_users(file: Path) -> bool:
    return file.exists() and not file.is_relative_to(_PACKAGE) and "site-packages" not in file.parts


def _check_copy(model: Classifier, images: Tensor) -> None:
    """Refuse a net that cannot be copied after a forward pass, or whose copy has forgotten what it is."""
    model(images)
    try:
        copied = copy.deepcopy(model)
    except Exception as error:  # whatever its attributes raise
        raise InputError(
            f"model: expected a net that can be copied ({first_line(error)}); maps of a forward pass, locks and "
            "generators are no attributes"
        ) from None
    if not hasattr(copied.net, "blueprint"):
        raise InputError(
            f"model: expected a net whose copies keep its attributes (got {type(model.net).__name__})"
        )


def _alike(logits: Tensor, expected: Tensor) -> bool:
    return torch.allclose(logits, expected, rtol=1e-4, atol=1e-5)
