"""Every architecture by name: `build_model` is the one door, a file per family behind it."""

from collections.abc import Callable
from typing import Any

from torch import nn

from pipeline.models.classifier import Blueprint, lay_out, set_blueprint
from pipeline.models.fc import FullyConnected
from pipeline.models.inception import Inception
from pipeline.models.resnet import ResNet

_FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "fc": FullyConnected,
    "inception": Inception,
    "resnet": ResNet,
}

_TORCHVISION = "torchvision/"


def build_model(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Build a fresh classifier: images (n, channels, height, width) in, logits (n, classes) out.

    The last linear layer of every model is its decision layer, whose input is the papers' latent space. The
    weights come from torch's global generator: seed it first.

    Args:
        name: `fc`, `inception`, `resnet`, or `torchvision/<name>` for any classifier there.
        num_classes: the number of classes, at least 2.
        **options: the architecture's own, see its class; `torchvision/<name>` takes those of its builder.

    Raises:
        ValueError: for an unknown name or option, or a value that the architecture cannot take.
    """
    if num_classes < 2:
        raise ValueError(f"expected at least 2 classes, got {num_classes}")
    if name.startswith(_TORCHVISION):
        build = _torchvision_builder(name.removeprefix(_TORCHVISION))
    elif name in _FAMILIES:
        build = _FAMILIES[name]
    else:
        raise ValueError(f"expected a model among {', '.join(_FAMILIES)}, torchvision/<name>; got {name!r}")
    try:
        model = build(num_classes=num_classes, **options)
    except TypeError as error:
        raise ValueError(f"model {name!r}: {error}") from error
    set_blueprint(model, Blueprint(name, num_classes, options))
    return lay_out(model)


def _torchvision_builder(name: str) -> Callable[..., nn.Module]:
    import torchvision.models as zoo

    if name not in zoo.list_models(module=zoo):
        raise ValueError(f"expected a classifier of torchvision.models, got {name!r}")
    builder: Callable[..., nn.Module] = zoo.get_model_builder(name)
    return builder
