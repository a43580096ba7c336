"""Surgery: which channels must go together, and a new model without some of them.

The graph of layers is Torch-Pruning's; which channels go is the caller's affair (`prune`, `criteria`).
"""

import copy
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
import torch_pruning
from torch import Tensor, nn

from pipeline.machine.float64 import float64
from pipeline.models.classifier import Classifier, Net, blueprint_of, lay_out, output_layer, set_blueprint
from pipeline.models.inception import Inception
from pipeline.models.torchvision_models import drop_auxiliary_heads


@dataclass(frozen=True)
class Member:
    """One layer of a group: where its channels sit among the group's root channels."""

    name: str
    own_idx: list[int]
    root_idx: list[int]


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose output channels must go together; most groups hold one layer."""

    root: nn.Module
    prune_fn: object
    n_channels: int
    members: tuple[Member, ...]
    n_parts: int = 1

    def average(self, scores: Mapping[str, Tensor]) -> Tensor:
        """Mean of the members' scores for each root channel (CVIU 5.4), (n_channels,) float64.

        Where a grouped convolution among them has `n_parts` groups, each must keep as many channels as the
        others: the channels of one place in all groups share the mean of their scores.

        Args:
            scores: for each layer's name the scores of its channels, in a unit that layers share.
        """
        total = torch.zeros(self.n_channels, dtype=torch.float64)
        n_layers = torch.zeros(self.n_channels, dtype=torch.float64)
        for member in self.members:
            at = torch.tensor(member.root_idx)
            total.index_add_(0, at, float64(scores[member.name]).cpu()[member.own_idx])
            n_layers.index_add_(0, at, torch.ones(len(at), dtype=torch.float64))
        mean = (total / n_layers.clamp_min(1)).view(self.n_parts, -1).mean(0)
        return mean.repeat(self.n_parts)

    def segments(self) -> Iterator[tuple[list[int], tuple[Member, ...]]]:
        """Root channels that the same members cover, and those members.

        One segment in most groups; more where a depthwise convolution reads a concatenation.
        """
        covering: dict[int, list[int]] = {}
        for idx, member in enumerate(self.members):
            for channel in member.root_idx:
                covering.setdefault(channel, []).append(idx)
        segments: dict[tuple[int, ...], list[int]] = {}
        for channel, owners in sorted(covering.items()):
            segments.setdefault(tuple(dict.fromkeys(owners)), []).append(channel)
        for owners_key, channels in segments.items():
            yield channels, tuple(self.members[idx] for idx in owners_key)


@dataclass(frozen=True)
class Cut:
    """What is to happen to a group: the score of each root channel, and a mask of those to remove."""

    score: Tensor
    removed: Tensor


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
    what is left; its best branch with convolutions stays. torchvision's auxiliary heads are dropped.

    Args:
        model: left untouched.
        layers: names of the layers that may lose output channels; others only follow.
        decide: from a group to its scores and what to remove.
        example_input: one image or more, as the model takes them, to trace the layers' connections.
        round_to: every layer keeps a multiple of this many channels, or all of them.
        remove_branches: see above.

    Returns:
        The smaller model, in evaluation mode, and each layer's group, by the name of its first layer.

    Raises:
        ValueError: if the layers' connections cannot be traced, or the cut net does not run.
    """
    if any(isinstance(module, nn.MultiheadAttention) for module in model.modules()):
        raise _cannot_cut(model, ValueError("it has attention, whose heads share their channels"))
    smaller = copy.deepcopy(model).eval()
    _without_auxiliary_heads(smaller)
    trainable = {name: parameter.requires_grad for name, parameter in smaller.named_parameters()}
    smaller.requires_grad_(True)  # the graph of layers is read off autograd's
    graph = _dependency_graph(smaller, example_input)
    groups = list(_groups(smaller, graph, layers))
    cuts = [decide(group) for group in groups]
    emptied = _emptied_branches(smaller, groups, cuts) if remove_branches else []
    group_of: dict[str, str] = {}
    try:
        for group, cut in zip(groups, cuts, strict=True):
            removed = _spare(group, cut, round_to)
            if removed.any():
                idxs = removed.nonzero().flatten().tolist()
                graph.get_pruning_group(group.root, group.prune_fn, idxs=idxs).prune()
            for member in group.members:
                group_of.setdefault(member.name, group.members[0].name)
        if emptied:
            _remove_branches(smaller, emptied, example_input)
        with torch.no_grad():
            smaller(example_input)  # a cut that the graph got wrong shows here, not after hours
    except (RuntimeError, ValueError, ZeroDivisionError, IndexError, AssertionError) as error:
        raise _cannot_cut(model, error) from error
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(trainable[name])
    return lay_out(smaller), group_of


def _without_auxiliary_heads(model: nn.Module) -> None:
    """Take torchvision's GoogLeNet and Inception-v3 out of the state in which they return several logits."""
    net = model.net if isinstance(model, Classifier) else model
    if not getattr(net, "aux_logits", False):
        return
    drop_auxiliary_heads(net)
    blueprint = blueprint_of(net)
    set_blueprint(net, replace(blueprint, options=blueprint.options | {"aux_logits": False}))


def _dependency_graph(model: nn.Module, example_input: Tensor) -> torch_pruning.DependencyGraph:
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            # Free parameters (ConvNeXt's layer scale) are cut along their one long dimension, as is right.
            warnings.filterwarnings("ignore", "Unwrapped parameters")
            return torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example_input)
    except Exception as error:  # the library raises whatever its tracing runs into
        raise _cannot_cut(model, error) from error


def _cannot_cut(model: nn.Module, error: Exception) -> ValueError:
    net = model.net if isinstance(model, Classifier) else model
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(
        f"expected an architecture whose channels can be cut, {type(net).__name__} cannot: {reason}"
    )


def _groups(
    model: nn.Module, graph: torch_pruning.DependencyGraph, layers: Collection[str]
) -> Iterator[ChannelGroup]:
    names = {module: name for name, module in model.named_modules()}
    for found in graph.get_all_groups(
        ignored_layers=[output_layer(model)], root_module_types=[nn.Conv2d, nn.Linear]
    ):
        members = tuple(
            Member(names[item.dep.target.module], list(item.idxs), list(item.root_idxs))
            for item in found
            if graph.is_out_channel_pruning_fn(item.dep.handler)
            and isinstance(item.dep.target.module, nn.Conv2d | nn.Linear)
            and names[item.dep.target.module] in layers
        )
        if members:
            root, prune_fn = found[0].dep.target.module, found[0].dep.handler
            yield ChannelGroup(root, prune_fn, len(found[0].idxs), members, _n_parts(found))


def _n_parts(found: torch_pruning.Group) -> int:
    """Groups of the grouped convolutions in a group of layers; depthwise ones do not count."""
    convolutions = [item.dep.target.module for item in found if isinstance(item.dep.target.module, nn.Conv2d)]
    return max((each.groups for each in convolutions if 1 < each.groups < each.in_channels), default=1)


def _spare(group: ChannelGroup, cut: Cut, round_to: int) -> Tensor:
    """The mask to remove, less what has to stay: each member's best channel, and what rounding asks for."""
    removed = cut.removed.clone()
    for member in group.members:
        removed[member.root_idx[int(cut.score[member.root_idx].argmax())]] = False
    # A place goes from all parts of a grouped convolution or from none.
    n_places = group.n_channels // group.n_parts
    removed = removed.view(group.n_parts, n_places).all(0).repeat(group.n_parts)
    step = math.lcm(round_to, group.n_parts)
    for channels, _ in group.segments():
        n_kept = int((~removed[channels]).sum())
        n_missing = min(-(-n_kept // step) * step, len(channels)) - n_kept
        by_score = sorted(
            (c for c in channels if removed[c]), key=lambda c: (-float(cut.score[c]), c % n_places)
        )
        removed[by_score[:n_missing]] = False
    return removed


def _emptied_branches(model: nn.Module, groups: list[ChannelGroup], cuts: list[Cut]) -> list[str]:
    """Names (in the net) of branches without a channel to keep; one with convolutions is left in every module."""
    net = model.net if isinstance(model, Classifier) else model
    if not isinstance(net, Inception):
        return []
    names = {module: name for name, module in model.named_modules()}
    alone = {
        group.members[0].name: cut for group, cut in zip(groups, cuts, strict=True) if len(group.members) == 1
    }
    emptied: list[str] = []
    best: dict[nn.Module, tuple[float, str]] = {}
    branches = net.removable_branches()
    for branch, module in branches.items():
        ends = [alone.get(names[end]) for end in module.branch_ends(branch.rpartition(".")[2])]
        score = max((float(cut.score.max()) for cut in ends if cut is not None), default=float("inf"))
        best[module] = max(best.get(module, (-float("inf"), "")), (score, branch))
        if all(cut is not None and bool(cut.removed.all()) for cut in ends):
            emptied.append(branch)
    for owner, (_, branch) in best.items():
        if all(name in emptied for name, module in branches.items() if module is owner):
            emptied.remove(branch)
    return emptied


def _remove_branches(model: nn.Module, branches: list[str], example_input: Tensor) -> None:
    """Take the last channel of each branch from its readers, then the branch from its module."""
    net = model.net if isinstance(model, Classifier) else model
    assert isinstance(net, Inception)
    modules = net.removable_branches()
    graph = _dependency_graph(model, example_input)
    for branch in branches:
        short = branch.rpartition(".")[2]
        for end in modules[branch].branch_ends(short):
            idxs = list(range(end.out_channels))
            graph.get_pruning_group(end, torch_pruning.prune_conv_out_channels, idxs=idxs).prune()
        modules[branch].remove_branch(short)
    blueprint = blueprint_of(net)
    without = [*blueprint.options.get("without", ()), *branches]
    set_blueprint(net, replace(blueprint, options=blueprint.options | {"without": without}))
