"""Any classifier of torchvision by name, from random weights or from torchvision's own trained ones."""

from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from pipeline.models.classifier import output_layer

# These return their auxiliary logits too unless told otherwise, and warn about their initialisation.
_WITH_AUXILIARY_LOGITS = ("googlenet", "inception_v3")
# What torchvision sets by itself beside trained weights; without it a stored model would be built differently.
_SET_BY_WEIGHTS = ("transform_input", "image_size")


def build_torchvision(
    name: str, num_classes: int, *, pretrained: bool = False, **options: Any
) -> tuple[nn.Module, dict[str, Any]]:
    """A classifier of torchvision, and the options that build it again without trained weights.

    Args:
        name: as in `torchvision.models.list_models`.
        num_classes: the number of classes.
        pretrained: start from torchvision's DEFAULT weights, out of its file cache or downloaded into it. The
            last layer is a fresh one, unless the weights have as many classes.
        **options: of torchvision's builder.

    Raises:
        ValueError: for a name that is no classifier there, or weights that cannot be had.
        TypeError: for an option that the builder does not know.
    """
    import torchvision.models as zoo  # 2 s to import: only where such a net is built

    if name not in zoo.list_models(module=zoo):
        raise ValueError(f"expected a classifier of torchvision.models, got {name!r}")
    if "weights" in options:
        raise ValueError(f"expected pretrained: true in place of weights, got {options['weights']!r}")
    builder = zoo.get_model_builder(name)
    if not pretrained:
        defaults = {"aux_logits": False, "init_weights": True} if name in _WITH_AUXILIARY_LOGITS else {}
        net: nn.Module = builder(num_classes=num_classes, **(defaults | options))
        return net, options
    if options.get("aux_logits"):
        raise ValueError(f"expected no auxiliary logits beside pretrained weights, got {options}")
    weights = zoo.get_model_weights(name).DEFAULT
    _check_file(weights)
    net = builder(weights=weights, progress=False, **{k: v for k, v in options.items() if k != "aux_logits"})
    if name in _WITH_AUXILIARY_LOGITS:
        drop_auxiliary_heads(net)
    options |= {key: getattr(net, key) for key in _SET_BY_WEIGHTS if hasattr(net, key)}
    if num_classes != len(weights.meta["categories"]):
        _replace_output_layer(net, num_classes)
    return net, options


def drop_auxiliary_heads(net: nn.Module) -> None:
    """Leave a GoogLeNet or Inception v3 its main logits alone, in training too (torchvision forgets it for v3)."""
    net.aux_logits = False  # type: ignore[assignment]
    for key in ("aux1", "aux2", "AuxLogits"):
        if hasattr(net, key):
            setattr(net, key, None)


def _check_file(weights: Any) -> None:
    """Read the weights once as bare tensors: torchvision itself would unpickle whatever the file holds."""
    cached = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(urlparse(weights.url).path).name)
    try:
        weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # a missing file, no network, a wrong hash, or pickle's own errors
        first = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"expected trained weights at {cached} or to be downloaded there, got "
            f"{type(error).__name__}: {first}"
        ) from None


def _replace_output_layer(net: nn.Module, num_classes: int) -> None:
    last = output_layer(net)
    name = next(name for name, module in net.named_modules() if module is last)
    has_bias = last.bias is not None
    if isinstance(last, nn.Linear):
        net.set_submodule(name, nn.Linear(last.in_features, num_classes, bias=has_bias))
    else:  # SqueezeNet: the classes are the channels of a 1x1 convolution
        net.set_submodule(name, nn.Conv2d(last.in_channels, num_classes, 1, bias=has_bias))
