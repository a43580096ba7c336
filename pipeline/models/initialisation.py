"""Fresh weights for a net whose widths surgery has changed, drawn as the builder of its architecture draws them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models import build_model
from pipeline.models.classifier import blueprint_of

Draw = Callable[[Tensor], Any]


def draw_weights(net: nn.Module) -> None:
    """Give every layer new weights and statistics, in place, from torch's global generator: seed it first.

    The architecture is built once more in its full width to see what it calls of `torch.nn.init`, on which
    weights; the same calls are made on the weights of this net, which brings the deviations to its own fans.
    Only where a builder works out a deviation by itself (torchvision's RegNets) is it the full width's.

    Args:
        net: from `build_model`, or what surgery has left of such a net.

    Raises:
        ValueError: for any other net.
    """
    blueprint = blueprint_of(net)
    with torch.random.fork_rng(devices=[]), _recorded() as draws:
        whole = build_model(blueprint.architecture, blueprint.num_classes, **blueprint.options)
    whole_weights = dict(whole.named_parameters())
    for place, module in net.named_modules():
        resets = hasattr(module, "reset_parameters")
        weights = {
            f"{place}.{name}".lstrip("."): weight for name, weight in module.named_parameters(recurse=False)
        }
        # The first draw of a layer's weight is that of its constructor, by `reset_parameters`.
        later = {name: draws.get(whole_weights[name], [])[1 if resets else 0 :] for name in weights}
        if resets and not all(later.values()):
            module.reset_parameters()
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
        for name, weight in weights.items():
            if later[name]:
                later[name][-1](weight)
            elif (
                not resets and weight.shape == whole_weights[name].shape
            ):  # set without a draw of `torch.nn.init`
                weight.data.copy_(whole_weights[name].data)
            elif not resets:  # of fewer channels, as ConvNeXt's layer scale: a constant
                nn.init.constant_(weight, float(whole_weights[name].detach().flatten()[0]))


@contextmanager
def _recorded() -> Iterator[dict[Tensor, list[Draw]]]:
    """Inside the block: every call of a function of `torch.nn.init`, by the tensor that it fills."""
    draws: dict[Tensor, list[Draw]] = {}
    functions = {
        name: function
        for name, function in vars(nn.init).items()
        if callable(function) and name.endswith("_") and not name.startswith("_")
    }

    def recording(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(function)
        def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            draws.setdefault(tensor, []).append(lambda weight: function(weight, *args, **kwargs))
            return function(tensor, *args, **kwargs)

        return call

    try:
        for name, function in functions.items():
            setattr(nn.init, name, recording(function))
        yield draws
    finally:
        for name, function in functions.items():
            setattr(nn.init, name, function)
