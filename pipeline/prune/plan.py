"""The plan of a net's channels: which go together, who reads them, and what the net costs without some of them.

The graph of layers is Torch-Pruning's, built once for each plan; which channels go is the caller's affair.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from pipeline.cost import measure_cost
from pipeline.machine.float64 import float64
from pipeline.models.classifier import Classifier, output_layer, weight_layers
from pipeline.models.inception import Inception


@dataclass(frozen=True)
class Member:
    """One layer of a group: where its channels, written or read, sit among the group's root channels."""

    name: str
    own_idx: list[int]
    root_idx: list[int]


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose output channels must go together; most groups hold one layer.

    `members` may be asked to lose channels, `writers` are all layers that lose output channels with the group, and
    `readers` those that lose inputs; behind a flattening an input for each position of a channel.
    """

    root: nn.Module
    prune_fn: object
    n_channels: int
    members: tuple[Member, ...]
    writers: tuple[Member, ...] = ()
    readers: tuple[Member, ...] = ()
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

    @cached_property
    def segments(self) -> list[tuple[Tensor, tuple[Member, ...]]]:
        """Root channels (n,) that the same members cover, and those members; by their place in a grouped convolution.

        One segment in most groups; more where a depthwise convolution reads a concatenation.
        """
        covering: dict[int, list[int]] = {}
        for idx, member in enumerate(self.members):
            for channel in member.root_idx:
                covering.setdefault(channel, []).append(idx)
        segments: dict[tuple[int, ...], list[int]] = {}
        n_places = self.n_channels // self.n_parts
        for channel, owners in sorted(covering.items(), key=lambda item: (item[0] % n_places, item[0])):
            segments.setdefault(tuple(dict.fromkeys(owners)), []).append(channel)
        return [
            (torch.tensor(channels), tuple(self.members[idx] for idx in owners))
            for owners, channels in segments.items()
        ]


@dataclass(frozen=True)
class Selection:
    """What goes: a mask over all root channels of a plan, and the names (in the net) of branches that go whole."""

    removed: Tensor
    branches: tuple[str, ...] = ()


class ChannelPlan:
    """The groups of a net's channels, one after another in vectors over all N root channels.

    Args:
        model: in evaluation mode, with its gradients on; kept, and looked at only.
        layers: names of the layers that may lose output channels; others only follow.
        example_input: one image or more, as the model takes them.

    Raises:
        ValueError: if the layers' connections cannot be traced.
    """

    def __init__(self, model: nn.Module, layers: Collection[str], example_input: Tensor) -> None:
        self.model, self.layers = model, tuple(layers)
        self.graph = dependency_graph(model, example_input)
        self.groups = list(_groups(model, self.graph, layers))
        ends = torch.tensor([0, *(group.n_channels for group in self.groups)]).cumsum(0).tolist()
        self.slices = [slice(start, end) for start, end in pairwise(ends)]
        self.n_channels: int = ends[-1]
        self._image_shape = example_input.shape[1:]
        self._branches = _branches(model)

    @cached_property
    def group_of(self) -> dict[str, str]:
        """Each layer's group, by the name of its first layer."""
        found: dict[str, str] = {}
        for group in self.groups:
            for member in group.members:
                found.setdefault(member.name, group.members[0].name)
        return found

    @cached_property
    def latent(self) -> tuple[Tensor, Tensor]:
        """Pairs (n,) of a root channel and the output layer's input that reads it, several for a flattened channel."""
        names = {module: name for name, module in self.model.named_modules()}
        last, channels, neurons = names[output_layer(self.model)], list[int](), list[int]()
        for group, at in zip(self.groups, self.slices, strict=True):
            for reader in group.readers:
                if reader.name == last:
                    channels += [at.start + root for root in reader.root_idx]
                    neurons += reader.own_idx
        return torch.tensor(channels, dtype=torch.long), torch.tensor(neurons, dtype=torch.long)

    def average(self, scores: Mapping[str, Tensor]) -> Tensor:
        """`ChannelGroup.average` of all groups, (N,)."""
        found = [group.average(scores) for group in self.groups]
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)

    def select(
        self, score: Tensor, removed: Tensor, *, round_to: int = 1, remove_branches: bool = False
    ) -> Selection:
        """What goes of what is to go: every layer keeps its best channel, and as many as rounding asks for.

        Args:
            score: (N,), the higher the better; rounding gives back the best.
            removed: (N,) mask of what is to go.
            round_to: every layer keeps a multiple of this many channels, or all of them.
            remove_branches: a branch whose last channels are all to go goes whole; a module's best one stays.
        """
        branches = self._emptied(score, removed) if remove_branches else ()
        spared = removed.clone()
        for group, at in zip(self.groups, self.slices, strict=True):
            spared[at] = _spare(group, score[at], removed[at], round_to)
        return Selection(spared, branches)

    def gone(self, selection: Selection) -> Tensor:
        """A selection's mask with the channels that its branches write, and those inside them."""
        gone = torch.ones_like(selection.removed)
        for _, at in self.cuttable(selection):
            gone[at] = selection.removed[at]
        return gone

    @cached_property
    def costs(self) -> PlannedCosts:
        """What the net costs without some channels; to be asked for before the net is cut."""
        return PlannedCosts(self.model, self.groups, self._image_shape)

    def cost(self, selection: Selection) -> tuple[float, float]:
        """Parameters and FLOPs of the net without what goes, as `measure_cost` counts them in the net that is cut."""
        return self.costs.without(self.costs.lost(self.gone(selection)), self.left(selection))

    def left(self, selection: Selection) -> Tensor:
        """Mask over the layers of `costs`: those that are not inside a branch that goes."""
        names = self.costs.names
        inside = [any(self._inside(name, branch) for branch in selection.branches) for name in names]
        return ~torch.tensor(inside)

    def cuttable(self, selection: Selection) -> list[tuple[ChannelGroup, slice]]:
        """The groups, and their places in the vectors, that are not inside a branch that goes."""
        return [
            (group, at)
            for group, at in zip(self.groups, self.slices, strict=True)
            if not any(self._inside(group.members[0].name, branch) for branch in selection.branches)
        ]

    def branch_scores(self, selection: Selection) -> Tensor:
        """Scores (N,) by which the branch of every module is best that costs the fewest parameters; zero elsewhere."""
        params, _ = self.costs.of_layers(self.costs.lost(selection.removed))
        score = torch.zeros(self.n_channels, dtype=torch.float64)
        for branch in self._branches:
            inside = torch.tensor([self._inside(name, branch) for name in self.costs.names])
            for group, at in zip(self.groups, self.slices, strict=True):
                if self._inside(group.members[0].name, branch):
                    score[at] = -params[inside].sum()
        return score

    def _inside(self, layer: str, branch: str) -> bool:
        prefix = "net." if isinstance(self.model, Classifier) else ""
        return layer.startswith(f"{prefix}{branch}.")

    def _emptied(self, score: Tensor, removed: Tensor) -> tuple[str, ...]:
        """Branches without a channel to keep; one with convolutions is left in every module."""
        alone = {
            group.members[0].name: at
            for group, at in zip(self.groups, self.slices, strict=True)
            if len(group.members) == 1
        }
        emptied: list[str] = []
        best: dict[str, tuple[float, str]] = {}
        for branch, ends in self._branches.items():
            module = branch.rpartition(".")[0]
            found = [alone[end] for end in ends if end in alone]
            highest = max((float(score[at].max()) for at in found), default=float("inf"))
            best[module] = max(best.get(module, (-float("inf"), "")), (highest, branch))
            if len(found) == len(ends) and all(bool(removed[at].all()) for at in found):
                emptied.append(branch)
        for module, (_, branch) in best.items():
            if all(name in emptied for name in self._branches if name.rpartition(".")[0] == module):
                emptied.remove(branch)
        return tuple(emptied)


class PlannedCosts:
    """Parameters and FLOPs as a function of which channels go, exact without any cut.

    A layer's weights are its outputs times its inputs times its kernel's positions, and its FLOPs go with them.

    Attributes:
        names: the L layers with weights that run, in their order.
        taken: (2, N, L) output channels and inputs that each layer loses with each root channel.
    """

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup], image_shape: Sequence[int]) -> None:
        rows = measure_cost(model, image_shape).layers
        self.names = [row.name for row in rows]
        layers = [weight_layers(model)[name] for name in self.names]
        self._n_out = _vector([row.out_channels for row in rows])
        self._n_in = _vector([row.in_channels for row in rows])
        depthwise = [isinstance(each, nn.Conv2d) and each.groups == each.in_channels > 1 for each in layers]
        self._depthwise = torch.tensor(depthwise)
        self._n_parts = _vector([each.groups if isinstance(each, nn.Conv2d) else 1 for each in layers])
        self._taps = _vector([each.weight[0, 0].numel() for each in layers])
        self._biased = _vector([each.bias is not None for each in layers])
        per_position = _vector([2 * each.weight.numel() for each in layers])
        self._positions = _vector([row.flops for row in rows]) / per_position
        places = {name: place for place, name in enumerate(self.names)}
        # Counts: exact in float32, and half as large.
        self.taken = torch.zeros(2, sum(group.n_channels for group in groups), len(rows))
        start = 0
        for group in groups:
            for taken, touched in zip(self.taken, (group.writers, group.readers), strict=True):
                for layer in touched:
                    if layer.name in places:
                        at = start + torch.tensor(layer.root_idx)
                        taken[:, places[layer.name]].index_add_(0, at, torch.ones(len(at)))
            start += group.n_channels

    def lost(self, gone: Tensor) -> Tensor:
        """Output channels and inputs (2, L) that the layers lose with a mask (N,) of channels."""
        return torch.einsum("n,snl->sl", gone.float(), self.taken)

    def without(self, lost: Tensor, left: Tensor) -> tuple[float, float]:
        """Parameters and FLOPs of the layers that are `left` (L,), without what they lost (2, L)."""
        params, flops = self.of_layers(lost)
        return float((params * left).sum()), float((flops * left).sum())

    @cached_property
    def whole(self) -> tuple[float, float]:
        """Parameters and FLOPs of the net as it is."""
        return self.without(torch.zeros(2, len(self.names)), torch.ones(len(self.names), dtype=torch.bool))

    @cached_property
    def savings(self) -> tuple[Tensor, Tensor]:
        """Parameters and FLOPs (N,) that each channel saves when it alone goes from the whole net."""
        alone = [[float(each.sum()) for each in self.of_layers(lost)] for lost in self.taken.unbind(1)]
        params, flops = torch.tensor(self.whole, dtype=torch.float64)[:, None] - _vector(alone).view(-1, 2).T
        return params, flops

    def of_layers(self, lost: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters and FLOPs (L,) of each layer without what they lost (2, L)."""
        n_out, n_in = self._n_out - lost[0], self._n_in - lost[1]
        weights = n_out * torch.where(self._depthwise, 1.0, n_in / self._n_parts) * self._taps
        return weights + self._biased * n_out, 2 * weights * self._positions


def dependency_graph(model: nn.Module, example_input: Tensor) -> torch_pruning.DependencyGraph:
    """Torch-Pruning's graph of a model's layers.

    Raises:
        ValueError: if the layers' connections cannot be traced.
    """
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            # Free parameters (ConvNeXt's layer scale) are cut along their one long dimension, as is right.
            warnings.filterwarnings("ignore", "Unwrapped parameters")
            return torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example_input)
    except Exception as error:  # the library raises whatever its tracing runs into
        raise cannot_cut(model, error) from error


def cannot_cut(model: nn.Module, error: Exception) -> ValueError:
    """The error that says in one line that an architecture's channels cannot be cut, and why."""
    net = model.net if isinstance(model, Classifier) else model
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(
        f"expected an architecture whose channels can be cut, {type(net).__name__} cannot: {reason}"
    )


def _vector(values: Sequence[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _groups(
    model: nn.Module, graph: torch_pruning.DependencyGraph, layers: Collection[str]
) -> Iterator[ChannelGroup]:
    names = {module: name for name, module in model.named_modules()}
    for found in graph.get_all_groups(
        ignored_layers=[output_layer(model)], root_module_types=[nn.Conv2d, nn.Linear]
    ):
        writers, readers = list[Member](), list[Member]()
        for item in found:
            if isinstance(item.dep.target.module, nn.Conv2d | nn.Linear):
                touched = Member(names[item.dep.target.module], list(item.idxs), list(item.root_idxs))
                # What cuts a depthwise convolution counts as both, and cuts its outputs.
                (writers if graph.is_out_channel_pruning_fn(item.dep.handler) else readers).append(touched)
        members = tuple(writer for writer in writers if writer.name in layers)
        if members:
            root, prune_fn = found[0].dep.target.module, found[0].dep.handler
            yield ChannelGroup(
                root, prune_fn, len(found[0].idxs), members, tuple(writers), tuple(readers), _n_parts(found)
            )


def _n_parts(found: torch_pruning.Group) -> int:
    """Groups of the grouped convolutions in a group of layers; depthwise ones do not count."""
    convolutions = [item.dep.target.module for item in found if isinstance(item.dep.target.module, nn.Conv2d)]
    return max((each.groups for each in convolutions if 1 < each.groups < each.in_channels), default=1)


def _branches(model: nn.Module) -> dict[str, list[str]]:
    """Full names (in the net) of branches that may go whole, each with the names of the layers that it ends in."""
    net = model.net if isinstance(model, Classifier) else model
    if not isinstance(net, Inception):
        return {}
    names = {module: name for name, module in model.named_modules()}
    return {
        branch: [names[end] for end in module.branch_ends(branch.rpartition(".")[2])]
        for branch, module in net.removable_branches().items()
    }


def best_first(channels: Tensor, score: Tensor) -> Tensor:
    """Channels (n,) by descending score; of equals those that come first."""
    return channels[torch.argsort(score[channels], descending=True, stable=True)]


def rounding_step(group: ChannelGroup, round_to: int) -> int:
    """Channels that a layer of the group gains or loses at a time."""
    return math.lcm(round_to, group.n_parts)


def _spare(group: ChannelGroup, score: Tensor, removed: Tensor, round_to: int) -> Tensor:
    """The mask to remove, less what has to stay: each member's best channel, and what rounding asks for."""
    removed, score = removed.clone(), score.view(group.n_parts, -1).mean(0).repeat(group.n_parts)
    for member in group.members:
        removed[member.root_idx[int(score[member.root_idx].argmax())]] = False
    # A place goes from all parts of a grouped convolution or from none.
    removed = removed.view(group.n_parts, -1).all(0).repeat(group.n_parts)
    step = rounding_step(group, round_to)
    for channels, _ in group.segments:
        n_kept = int((~removed[channels]).sum())
        n_missing = min(-(-n_kept // step) * step, len(channels)) - n_kept
        if n_missing:
            candidates = best_first(channels[removed[channels]], score)
            removed[candidates[:n_missing]] = False
    return removed
