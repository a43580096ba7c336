"""What others rank filters by: scores for each channel, the higher the better (thesis 3.3.3, CVIU 5.2-5.3).

| criterion             | score of a channel                                             | source                     |
|-----------------------|----------------------------------------------------------------|----------------------------|
| `l1`                  | sum of its filter's absolute weights                           | Li et al. 2017             |
| `fpgm`                | sum of its filter's distances to the layer's other filters     | He et al. 2019             |
| `activation_mean`     | mean activation over images and positions                      | Molchanov et al. 2017      |
| `activation_variance` | variance of the activation over images and positions           | CVIU section 5.2           |
| `apoz`                | share of activations above zero (1 - APoZ)                     | Hu et al. 2016             |
| `taylor`              | mean over images of |mean over positions of gradient x activation| | Molchanov et al. 2017  |
| `random`              | a random number                                                |                            |

Activations are those that the layers behind read: after batch norm and rectifier. Scores come by layer, so
that coupled layers are averaged alike for every criterion (`prune.prune_like`). Torch-Pruning's importances
average over a group in ways of their own, and its FPGM takes distances of squared weights; `l1` and `random`
agree with its (`tests/test_criteria.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.deconv.layer_outputs import LayerOutput, LayerOutputs, signals_to
from pipeline.machine.float64 import float64
from pipeline.machine.memory import in_fitting_batches
from pipeline.models.classifier import evaluation_mode, output_layer, weight_layers

if TYPE_CHECKING:
    from pipeline.images.parts import Images

Criterion = Literal["l1", "fpgm", "activation_mean", "activation_variance", "apoz", "taylor", "random"]
Scores = dict[str, Tensor]


def score_filters(
    model: nn.Module,
    criterion: Criterion,
    images: Tensor,
    labels: Tensor,
    *,
    random: torch.Generator,
    batch_size: int = 256,
) -> Scores:
    """The scores (channels,) of every convolution and linear layer but the last, by name, in float64.

    Args:
        model: left as it was, its mode and gradients included.
        criterion: one of the table above.
        images: (n, channels, height, width) training images, as the model takes them.
        labels: (n,) their labels; only `taylor` looks at them.
        random: draws the `random` scores, on the CPU.
        batch_size: images at a time, halved when memory runs out; memory does not grow with n.

    Raises:
        ValueError: for an unknown criterion, or no images where it needs some.
    """
    if criterion in _OF_WEIGHTS:
        return {name: _OF_WEIGHTS[criterion](layer) for name, layer in _layers(model).items()}
    if criterion == "random":
        return {
            name: torch.rand(len(layer.weight), generator=random, dtype=torch.float64)
            for name, layer in _layers(model).items()
        }
    if criterion not in _OF_MOMENTS and criterion != "taylor":
        raise ValueError(f"expected a criterion of pipeline.compare.criteria, got {criterion!r}")
    if len(images) == 0:
        raise ValueError(f"expected at least one image to score by {criterion}, got none")

    def score(size: int) -> Scores:
        if criterion == "taylor":
            return _taylor(model, zip(torch.split(images, size), torch.split(labels, size), strict=True))
        of_moments = _OF_MOMENTS[criterion]
        return {name: of_moments(moments) for name, moments in _moments(model, images, size).items()}

    with evaluation_mode(model):
        return in_fitting_batches(score, batch_size)


def accumulate_taylor(model: nn.Module, train: Images, *, batch_size: int) -> Scores:
    """`taylor` of `score_filters` over all images of a part, which are read a batch at a time.

    The papers accumulate it during one more epoch of training (thesis 3.3.3). Here the weights stay as they are, so
    that no method has an epoch more than another; it costs a forward and a backward pass over the training images.
    """

    def score(size: int) -> Scores:
        return _taylor(model, zip(train.in_batches(size), torch.split(train.labels, size), strict=True))

    with evaluation_mode(model):
        return in_fitting_batches(score, batch_size)


def _layers(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    last = output_layer(model)
    return {name: layer for name, layer in weight_layers(model).items() if layer is not last}


def _l1(layer: nn.Conv2d | nn.Linear) -> Tensor:
    return float64(layer.weight.detach()).flatten(1).abs().sum(1).cpu()


def _fpgm(layer: nn.Conv2d | nn.Linear) -> Tensor:
    filters = float64(layer.weight.detach()).flatten(1)
    return torch.cdist(filters, filters).sum(1).cpu()


_OF_WEIGHTS: dict[str, Callable[[nn.Conv2d | nn.Linear], Tensor]] = {"l1": _l1, "fpgm": _fpgm}


def _outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, LayerOutput]]:
    """Logits, and each layer's output as the layers behind it read it."""
    wanted = _layers(model)
    with LayerOutputs(model) as outputs:
        logits = model(images)
    return logits, {name: output for name, output in outputs.found().items() if name in wanted}


@torch.no_grad()
def _moments(model: nn.Module, images: Tensor, batch_size: int) -> Scores:
    """Of each layer's activations x, by channel over images and positions: means of x, x^2 and x > 0, (3, channels)."""
    sums: Scores = {}
    n: dict[str, int] = {}
    for batch in torch.split(images, batch_size):
        for name, output in _outputs(model, batch)[1].items():
            x = float64(output.values).transpose(0, 1).flatten(1)
            found = torch.stack([x.sum(1), x.square().sum(1), (x > 0).double().sum(1)])
            sums[name], n[name] = sums.get(name, 0) + found, n.get(name, 0) + x.shape[1]
    return {name: (total / n[name]).cpu() for name, total in sums.items()}


_OF_MOMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "activation_mean": lambda moments: moments[0],
    "activation_variance": lambda moments: (moments[1] - moments[0].square()).clamp_min(0),
    "apoz": lambda moments: moments[2],
}


def _taylor(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Scores:
    """First-order Taylor expansion of the loss, Eq. 8 of Molchanov et al. 2017, over images and their labels."""
    sums: Scores = {}
    n = 0
    for part, targets in batches:
        n += len(part)
        batch = part.detach().requires_grad_(True)
        with torch.enable_grad():
            logits, outputs = _outputs(model, batch)
            loss = cross_entropy(logits, targets, reduction="sum")  # each image's own gradient, whatever n is
            for name, output in outputs.items():
                sums.setdefault(name, torch.zeros(output.n_channels, dtype=torch.float64))

            def receive(name: str, gradient: Tensor, outputs: dict[str, LayerOutput] = outputs) -> None:
                product = float64(gradient * outputs[name].values)
                sums[name] += product.reshape(*product.shape[:2], -1).mean(2).abs().sum(0).cpu()

            with signals_to(receive, outputs):
                torch.autograd.grad(loss, batch)
    return {name: total / n for name, total in sums.items()}
