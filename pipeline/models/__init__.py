"""Every architecture by name: `build_model` is the one door, a file per family behind it."""

from collections.abc import Callable
from typing import Any

from torch import nn

from pipeline.models.classifier import Blueprint, lay_out, set_blueprint
from pipeline.models.fc import FullyConnected
from pipeline.models.inception import Inception, bn_googlenet, googlenet
from pipeline.models.mobilenet import MobileNet, mobilenet_v2
from pipeline.models.own import build_from_factory, build_timm
from pipeline.models.resnet import ResNet
from pipeline.models.squeezenet import SqueezeNet
from pipeline.models.torchvision_models import build_torchvision
from pipeline.models.vgg import Vgg16
from pipeline.params.nets.resnet_config import PUBLISHED

_FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "fc": FullyConnected,
    "vgg16": Vgg16,
    "inception": Inception,
    "googlenet": googlenet,
    "bn_googlenet": bn_googlenet,
    "resnet": ResNet,
    "mobilenet": MobileNet,
    "mobilenet_v2": mobilenet_v2,
    "squeezenet": SqueezeNet,
}

_TORCHVISION, _TIMM, _PYTHON = "torchvision/", "timm/", "python/"


def build_model(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Build a fresh classifier: images (n, channels, height, width) in, logits (n, classes) out.

    The last linear layer of every model, or the one that its option `decision` names, is its decision layer, whose
    input is the papers' latent space (only torchvision's SqueezeNets have none). The weights come from torch's global
    generator: seed it first.

    Args:
        name: `fc`, `vgg16`, `inception`, `googlenet`, `bn_googlenet`, `resnet`, `mobilenet`, `mobilenet_v2`,
            `squeezenet`; `ResNet6` to `ResNet50`, the papers' names for a `resnet`; `torchvision/<name>` or
            `timm/<name>` for any classifier there; or `python/<module>:<function>` for what a user's function
            makes.
        num_classes: the number of classes, at least 2.
        **options: the architecture's own, see its class; `torchvision/<name>` takes `pretrained` and those of its
            builder, `timm/<name>` those of `build_timm`, `python/...` those of `build_from_factory`. They are stored
            with the model, all but `pretrained`, so JSON has to be able to hold them.
            Most take `width`, a multiplier of every channel count; `stem`: `imagenet` (7x7 at stride 2 and a max
            pool, for 224 pixels) or `small` (3x3, no reduction, for up to 64), of `inception` also `v3`;
            `in_channels`, those of an image; and `dropout`, the drop probability before the decision layer.

    Raises:
        ValueError: for an unknown name or option, or a value that the architecture cannot take.
    """
    if num_classes < 2:
        raise ValueError(f"expected at least 2 classes, got {num_classes}")
    try:
        if name.startswith(_TORCHVISION):
            model, options = build_torchvision(name.removeprefix(_TORCHVISION), num_classes, **options)
            architecture = name
        elif name.startswith(_TIMM):
            model, options = build_timm(name.removeprefix(_TIMM), num_classes, **options)
            architecture = name
        elif name.startswith(_PYTHON):
            model, options = build_from_factory(name.removeprefix(_PYTHON), **options)
            architecture = name
        elif name in PUBLISHED:
            model = ResNet(num_classes, config=name, **options)
            architecture, options = "resnet", {"config": name, **options}
        elif name in _FAMILIES:
            model = _FAMILIES[name](num_classes=num_classes, **options)
            architecture = name
        else:
            others = (f"{_TORCHVISION}<name>", f"{_TIMM}<name>", f"{_PYTHON}<module>:<function>")
            known = ", ".join([*_FAMILIES, *PUBLISHED, *others])
            raise ValueError(f"expected a model among {known}; got {name!r}")
    except TypeError as error:
        raise ValueError(f"model {name!r}: {error}") from error
    set_blueprint(model, Blueprint(architecture, num_classes, options))
    return lay_out(model)
