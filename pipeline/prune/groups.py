"""Which channels of a net go together, and who reads them; the graph of layers is Torch-Pruning's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch_pruning
from torch import Tensor, nn

from pipeline.machine.float64 import float64
from pipeline.models.classifier import Classifier, output_layer


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


def channel_groups(
    model: nn.Module, graph: torch_pruning.DependencyGraph, layers: Collection[str]
) -> Iterator[ChannelGroup]:
    """The groups of a net's channels, but for the classes'; `layers` names those that may lose channels."""
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


def best_first(channels: Tensor, score: Tensor) -> Tensor:
    """Channels (n,) by descending score; of equals those that come first."""
    return channels[torch.argsort(score[channels], descending=True, stable=True)]


def rounding_step(group: ChannelGroup, round_to: int) -> int:
    """Channels that a layer of the group gains or loses at a time."""
    return math.lcm(round_to, group.n_parts)
