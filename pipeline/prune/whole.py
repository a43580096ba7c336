"""Which layers are left whole, as their channels cannot go without a change of what the others compute.

A cut is right when the smaller net's logits are those of the whole net with the inputs that read the removed channels
set to zero. That is tried, on a copy with random weights, as dead neurons of a trained net would hide a mistake:

1. Half of every group's channels are silenced wherever the graph says that they are read. A gradient that still comes
   to the weights that write them says that something else reads them, too: attention, a layer norm, a shuffle.
2. They are cut. Other logits, or an error, say that a function between the layers counts channels (a `view` to a fixed
   width). Which groups these are is found by halving.
3. The same with all channels but one of every layer, as a function may ask for some width.

What is cut in earnest is tried by `computes_alike` once more, as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from pipeline.models.classifier import Classifier, n_inputs, output_layer, weight_layers
from pipeline.prune.groups import ChannelGroup, Member, cannot_cut
from pipeline.prune.kept_channels import KeptChannels
from pipeline.prune.plan import ChannelPlan, Selection

# Logits of a right cut differ by rounding alone, of a wrong one by as much as they are.
_TOLERANCE = 1e-3
# Random images: more of small ones, so that no rectifier is silent for all of them.
_IMAGES, _PIXELS = 8, 2 * 224 * 224
# Shares of a layer's channels that go in a trial; the best one stays whatever is asked for.
_HALF, _ALL = 0.5, 1.0


def whole_layers(model: nn.Module, example_input: Tensor) -> dict[str, str]:
    """The names of the layers whose output channels cannot go, and why; by the net's connections alone.

    Found once for a model: it is kept as a plain attribute, which copies and pruned models inherit.

    Args:
        model: any net, in any mode; its weights do not matter, and are left as they were.
        example_input: one image or more, as the model takes them; only their shape matters.

    Raises:
        ValueError: if the layers' connections cannot be traced, or two layers share one weight.
    """
    known = getattr(model, "whole_layers", None)
    if known is None:
        try:
            known = _find(model, tuple(example_input.shape[1:]))
        except RuntimeError as error:  # the net's own code does not take such images
            raise cannot_cut(model, error) from None
        model.whole_layers = known  # type: ignore[assignment]
    return dict(known)


def kept_layers(model: nn.Module, keep: Collection[str]) -> dict[str, str]:
    """The names of the layers that patterns say are to stay, and which does; a module's pattern is for all inside it.

    Args:
        model: a net, or a `Classifier` around one, whose own name is no part of the names.
        keep: patterns as the shell has them, such as `features.0` or `*.downsample.*`.
    """
    found = {}
    for name in weight_layers(model):
        parts = name.removeprefix("net." if isinstance(model, Classifier) else "").split(".")
        modules = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        for pattern in keep:
            if any(fnmatchcase(module, pattern) for module in modules):
                found[name] = f"kept by surgery.keep, {pattern}"
    return found


def _find(model: nn.Module, image_shape: Sequence[int]) -> dict[str, str]:
    last = output_layer(model)
    layers = [name for name, layer in weight_layers(model).items() if layer is not last]
    owners: dict[int, str] = {}
    for name, layer in weight_layers(model).items():
        if (owner := owners.setdefault(id(layer.weight), name)) != name:
            raise cannot_cut(model, ValueError(f"{name} shares the weights of {owner}"))
    random = torch.Generator().manual_seed(0)
    images = random_images(image_shape, random)
    probe = _redrawn(model, images, random)
    whole: dict[str, str] = {}
    for share in (_HALF, _ALL):
        while True:
            trial = _Trial(probe, layers, images, whole, share)
            if not (found := trial.misread()):
                break
            whole |= found
        if trial.miscut():
            names = [group.members[0].name for group in trial.plan.groups]
            del trial
            whole |= _halve(probe, layers, images, whole, names, share)
    return whole


def random_images(image_shape: Sequence[int], random: torch.Generator) -> Tensor:
    """Some images (n, channels, height, width) on the CPU to try a net on."""
    n_pixels = max(1, torch.Size(image_shape).numel())
    return torch.rand(max(2, min(_IMAGES, _PIXELS // n_pixels)), *image_shape, generator=random)


def computes_alike(logits: Tensor, expected: Tensor) -> bool:
    """Whether logits (n, classes) of a cut net are those of the net whose channels were silenced instead.

    Each class by its own scale, as one that is masked by a large number would hide the others; of those that vary, one
    that happens to be small by a tenth of the lower quartile.
    """
    if logits.shape != expected.shape:
        return False
    logits, expected = logits.cpu(), expected.cpu()
    known = expected.nan_to_num()
    largest, varying = known.abs().amax(0), known.amax(0) > known.amin(0)
    least = largest[varying].quantile(0.25) / 10 if varying.any() else largest.new_zeros(())
    close = (logits - expected).abs() <= _TOLERANCE * torch.maximum(largest, least)
    return bool((close | (logits.isnan() & expected.isnan())).all())


def _halve(
    probe: nn.Module,
    layers: Collection[str],
    images: Tensor,
    whole: Mapping[str, str],
    names: list[str],
    share: float,
) -> dict[str, str]:
    """Those of the named groups without which all others are cut right."""

    def fails(tried: Collection[str]) -> dict[str, str]:
        others = {name: "" for name in names if name not in tried}
        return _Trial(probe, layers, images, {**whole, **others}, share).miscut()

    def search(tried: list[str]) -> dict[str, str]:
        if not (found := fails(tried)) or len(tried) == 1:
            return found
        half = len(tried) // 2
        apart = search(tried[:half]) | search(tried[half:])
        left = [name for name in tried if name not in apart]
        return apart | (fails(left) if left else {})

    return search(names)


def _redrawn(model: nn.Module, images: Tensor, random: torch.Generator) -> nn.Module:
    """A copy on the CPU with random weights, whose batch norms have seen the images, in evaluation mode."""
    probe = copy.deepcopy(model).cpu().float().eval().requires_grad_(True)
    for name, parameter in probe.named_parameters():
        if parameter.ndim == 2 or parameter.ndim > 3:
            parameter.data.normal_(std=(2 / max(1, parameter[0].numel())) ** 0.5, generator=random)
        else:
            low = 0.0 if name.endswith("bias") else 0.5
            parameter.data.uniform_(low, low + 0.5, generator=random)
    norms = [each for each in probe.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        probe(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval().momentum = momentum
    return probe


class _Trial:
    """A share of the channels of every group that is not whole, silenced and then cut, in a copy of the probe."""

    def __init__(
        self,
        probe: nn.Module,
        layers: Collection[str],
        images: Tensor,
        whole: Mapping[str, str],
        share: float,
    ) -> None:
        self.model, self.images = copy.deepcopy(probe), images
        self.plan = ChannelPlan(self.model, layers, images[:1], whole=whole)
        random, orders = torch.Generator().manual_seed(0), [torch.zeros(0)]
        for group, at in zip(self.plan.groups, self.plan.slices, strict=True):
            # A place goes from all parts of a grouped convolution or from none: drawn by channel, hardly any would.
            places = torch.rand((at.stop - at.start) // group.n_parts, generator=random)
            orders.append((places.argsort().argsort() / len(places)).repeat(group.n_parts))
        score = torch.cat(orders).double()
        self.selection = self.plan.select(score, score < share)
        self.layers = weight_layers(self.model)

    def misread(self) -> dict[str, str]:
        """Layers that something reads beside the graph's readers."""
        if broken := self._broken():
            return _reasons(broken, "a broadcast")
        written: list[tuple[ChannelGroup, Member, list[int]]] = []
        for group, at in zip(self.plan.groups, self.plan.slices, strict=True):
            removed = self.selection.removed[at]
            written += [(group, writer, writer.gone(removed)) for writer in group.writers]
        self.plan.silence(self.selection.removed)
        written = [each for each in written if each[2]]
        with torch.enable_grad():
            logits = self.model(self.images)
            weights = [self.layers[writer.name].weight for _, writer, _ in written]
            start = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
            gradients = torch.autograd.grad(logits, weights, start, allow_unused=True) if weights else ()
        self.silenced = logits.detach()
        leaking = {
            group.members[0].name: group
            for (group, _, idx), gradient in zip(written, gradients, strict=True)
            if gradient is not None and bool(gradient[idx].ne(0).any())
        }
        return _reasons(leaking.values(), "something beside layers")

    def _broken(self) -> list[ChannelGroup]:
        """Groups that know of other channels than a layer has, as where one map multiplies many."""
        known: dict[str, set[int]] = {}
        for group in self.plan.groups:
            for writer in group.writers:
                known.setdefault(writer.name, set()).update(writer.own_idx)
        odd = {name for name, idx in known.items() if idx != set(range(len(self.layers[name].weight)))}
        inputs = {name: n_inputs(layer) for name, layer in self.layers.items()}
        return [
            group
            for group in self.plan.groups
            if any(writer.name in odd for writer in group.writers)
            or any(max(reader.own_idx) >= inputs[reader.name] for reader in group.readers)
        ]

    def miscut(self) -> dict[str, str]:
        """All layers that are tried, if their cut goes wrong."""
        error = ""
        n_left = {name: len(layer.weight) for name, layer in self.layers.items()}
        for group, at in zip(self.plan.groups, self.plan.slices, strict=True):
            for writer in group.writers:
                n_left[writer.name] -= len(writer.gone(self.selection.removed[at]))
        try:
            if not hasattr(self, "silenced") and (found := self.misread()):
                return found
            self.plan.cut(Selection(self.selection.removed), KeptChannels(self.model))
            with torch.no_grad():
                logits = self.model(self.images)
            right = computes_alike(logits, self.silenced)
            right &= n_left == {name: len(layer.weight) for name, layer in weight_layers(self.model).items()}
        except Exception as failed:  # whatever a net's own code runs into
            right, error = False, " ".join(str(failed).split())[:100]
        return {} if right else _reasons(self.plan.groups, error or "a function that counts channels")


def _reasons(groups: Collection[ChannelGroup], otherwise: str) -> dict[str, str]:
    return {writer.name: group.between or otherwise for group in groups for writer in group.writers}
