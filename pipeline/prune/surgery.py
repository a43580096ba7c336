"""Surgery: a new model without some of its channels, and without whole branches."""

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Generic

import torch
from torch import Tensor, nn

from pipeline.models.classifier import (
    Classifier,
    Net,
    blueprint_of,
    is_foreign,
    lay_out,
    memory_layout,
    set_blueprint,
)
from pipeline.models.inception import Inception
from pipeline.models.torchvision_models import drop_auxiliary_heads
from pipeline.prune.groups import ChannelGroup, cannot_cut, dependency_graph
from pipeline.prune.kept_channels import KeptChannels
from pipeline.prune.library import torch_pruning
from pipeline.prune.plan import ChannelPlan, Selection
from pipeline.prune.whole import computes_alike, kept_layers, random_images, whole_layers


@dataclass(frozen=True)
class Cut:
    """What is to happen to a group: the score of each root channel, and a mask of those to remove."""

    score: Tensor
    removed: Tensor


class Surgery(Generic[Net]):
    """A copy of a model on the table: its channels planned, to be cut once.

    torchvision's auxiliary heads are dropped.

    Args:
        model: left untouched.
        layers: names of the layers that may lose output channels; others only follow.
        example_input: one image or more, as the model takes them, to trace the layers' connections.
        keep: patterns over the names of modules whose layers are left whole, as `whole.kept_layers` reads them.

    Raises:
        ValueError: if the layers' connections cannot be traced.
    """

    def __init__(
        self, model: Net, layers: Collection[str], example_input: Tensor, *, keep: Collection[str] = ()
    ) -> None:
        layout = memory_layout(model)
        filters = [each.weight for each in model.modules() if isinstance(each, nn.Conv2d)]
        # Somebody's own net stays as it is laid out: a `view` in it may rely on that.
        self._laid_out = all(weight.is_contiguous(memory_format=layout) for weight in filters)
        self._smaller = copy.deepcopy(model).eval()
        _without_auxiliary_heads(self._smaller)
        whole = whole_layers(self._smaller, example_input)
        model.whole_layers = whole  # type: ignore[assignment]
        whole = {**whole, **kept_layers(model, keep)}
        self._trainable = {
            name: each.requires_grad for name, each in self._smaller.named_parameters(remove_duplicate=False)
        }
        self._smaller.requires_grad_(True)  # the graph of layers is read off autograd's
        self._example_input = example_input
        self.plan = ChannelPlan(self._smaller, layers, example_input, whole=whole)

    def cut(self, selection: Selection) -> Net:
        """The model without the selected channels and branches, in evaluation mode.

        Raises:
            ValueError: if the cut net does not run, or computes something else than the net whose removed channels
                are read with weights of zero.
        """
        smaller, plan, kept = self._smaller, self.plan, KeptChannels(self._smaller)
        images = random_images(self._example_input.shape[1:], torch.Generator().manual_seed(0))
        images = images.to(self._example_input)
        try:
            plan.silence(plan.gone(selection))
            with torch.no_grad():
                expected = smaller(images)
            plan.cut(selection, kept)
            if selection.branches:
                _remove_branches(smaller, selection.branches, self._example_input, kept)
            kept.note()
            with torch.no_grad():
                logits = smaller(images)
            if not computes_alike(logits, expected):
                raise ValueError(
                    "something in it computes otherwise at these widths; surgery.keep can name it"
                )
        except (RuntimeError, ValueError, ZeroDivisionError, IndexError, AssertionError) as error:
            raise cannot_cut(smaller, error) from error
        for name, parameter in smaller.named_parameters():
            parameter.requires_grad_(self._trainable[name])
        return lay_out(smaller) if self._laid_out else smaller


def remove_channels(
    model: Net,
    layers: Collection[str],
    decide: Callable[[ChannelGroup], Cut],
    example_input: Tensor,
    *,
    round_to: int = 1,
    remove_branches: bool = False,
) -> tuple[Net, dict[str, str]]:
    """A copy of the model without the channels that `decide` names.

    The best channel of every layer stays. The one exception are branches of an Inception module, with
    `remove_branches`: one whose last channels are all named is taken out whole, and the module concatenates
    what is left; its best branch with convolutions stays.

    Args:
        model, layers, example_input: as for `Surgery`.
        decide: from a group to its scores and what to remove.
        round_to: every layer keeps a multiple of this many channels, or all of them.
        remove_branches: see above.

    Returns:
        The smaller model, in evaluation mode, and each layer's group, by the name of its first layer.

    Raises:
        ValueError: if the layers' connections cannot be traced, or the cut net does not run.
    """
    surgery = Surgery(model, layers, example_input)
    cuts = [decide(group) for group in surgery.plan.groups]
    score, removed = (torch.cat([getattr(cut, each) for cut in cuts]) for each in ("score", "removed"))
    selection = surgery.plan.select(score, removed, round_to=round_to, remove_branches=remove_branches)
    return surgery.cut(selection), surgery.plan.group_of


def _without_auxiliary_heads(model: nn.Module) -> None:
    """Take torchvision's GoogLeNet and Inception-v3 out of the state in which they return several logits."""
    net = model.net if isinstance(model, Classifier) else model
    if is_foreign(net) or not getattr(net, "aux_logits", False):
        return
    drop_auxiliary_heads(net)
    blueprint = blueprint_of(net)
    set_blueprint(net, replace(blueprint, options=blueprint.options | {"aux_logits": False}))


def _remove_branches(
    model: nn.Module, branches: Collection[str], example_input: Tensor, kept: KeptChannels
) -> None:
    """Take the last channel of each branch from its readers, then the branch from its module."""
    net = model.net if isinstance(model, Classifier) else model
    assert isinstance(net, Inception)
    modules = net.removable_branches()
    graph = dependency_graph(model, example_input)
    for branch in branches:
        short = branch.rpartition(".")[2]
        for end in modules[branch].branch_ends(short):
            idxs = list(range(end.out_channels))
            kept.prune(graph, end, torch_pruning.prune_conv_out_channels, idxs)
        modules[branch].remove_branch(short)
    blueprint = blueprint_of(net)
    without = [*blueprint.options.get("without", ()), *branches]
    set_blueprint(net, replace(blueprint, options=blueprint.options | {"without": without}))
