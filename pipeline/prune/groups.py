"""Which channels of a net go together, and who reads them; the graph of layers is Torch-Pruning's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.machine.float64 import float64
from pipeline.models.classifier import Classifier, output_layer
from pipeline.prune.library import OPTYPE, torch_pruning


@dataclass(frozen=True)
class Member:
    """One layer of a group: where its channels, written or read, sit among the group's root channels."""

    name: str
    own_idx: list[int]
    root_idx: list[int]

    def gone(self, removed: Tensor) -> list[int]:
        """Its own channels, of those of the group's root that a mask (n_channels,) removes."""
        goes = removed[torch.tensor(self.root_idx)].tolist()
        return [own for own, is_gone in zip(self.own_idx, goes, strict=True) if is_gone]


@dataclass(frozen=True)
class ChannelGroup:
    """Layers whose output channels must go together; most groups hold one layer.

    `members` may be asked to lose channels, `writers` are all layers that lose output channels with the group, and
    `readers` those that lose inputs; behind a flattening an input for each position of a channel. `between` says what
    else its channels run through, where that may be why they cannot go.
    """

    root: nn.Module
    prune_fn: object
    n_channels: int
    members: tuple[Member, ...]
    writers: tuple[Member, ...] = ()
    readers: tuple[Member, ...] = ()
    n_parts: int = 1
    between: str = ""

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


class LayerGraph(torch_pruning.DependencyGraph):  # type: ignore[misc]
    """Torch-Pruning's graph without the links that it guesses at: past them nobody is known to read a channel.

    It takes every reshape for a flattening, also of tokens and windows, and fails, or counts indices without end.

    Args:
        opaque: kinds of functions that no link goes through, beside reshapes that move channels.

    Attributes:
        cut_off: what a node's channels are read by that has no link.
        reshapes: reshapes that keep channels where these come last.
    """

    def __init__(self, opaque: Collection[OPTYPE] = ()) -> None:
        super().__init__()
        self._opaque = frozenset(opaque)
        self.cut_off: dict[Any, str] = {}
        self.reshapes: set[Any] = set()

    def _build_dependency(self, module2node: dict[Any, Any]) -> None:
        for module, node in list(module2node.items()):
            if node.type in (OPTYPE.RESHAPE, OPTYPE.EXPAND):
                before, after = _shapes(node.grad_fn)
                if _keeps_channels(before, after):
                    node.type = OPTYPE.ELEMENTWISE
                    if before[:2] != after[:2]:
                        self.reshapes.add(node)
                    continue
                is_flattening = len(before) == 4 and after == (before[0], math.prod(before[1:]))
                if is_flattening and node.type == OPTYPE.RESHAPE:
                    continue
            elif node.type not in self._opaque:
                continue
            for one, others in ((node, node.inputs), (node, node.outputs)):
                for other in set(others):
                    self.cut_off[other] = _FUNCTIONS[node.type]
                    for links in (other.inputs, other.outputs):
                        links[:] = [each for each in links if each is not one]
            del module2node[module]
        super()._build_dependency(module2node)


# What stands between layers where their channels cannot go, in words.
_FUNCTIONS = {
    OPTYPE.MHA: "attention",
    OPTYPE.LN: "a layer norm over its channels",
    OPTYPE.GN: "a group norm over its channels",
    OPTYPE.LSTM: "a recurrent layer",
    OPTYPE.RESHAPE: "a reshape that mixes channels",
    OPTYPE.EXPAND: "a broadcast",
    OPTYPE.UNBIND: "an unbind",
    OPTYPE.SPLIT: "a split",
    OPTYPE.SLICE: "a slice",
    OPTYPE.CONCAT: "a concatenation",
}
# Where the graph cannot be built with links through these, it is built without.
_FRAGILE = (OPTYPE.SPLIT, OPTYPE.SLICE, OPTYPE.UNBIND, OPTYPE.CONCAT)


def _shapes(function: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a function's input and output, off autograd's record of it."""
    return tuple(function._saved_self_sym_sizes), tuple(function._input_metadata[0].shape)


def _keeps_channels(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether channels stay what they are, second or last."""
    return before[:2] == after[:2] or before[-1] == after[-1]


def dependency_graph(
    model: nn.Module, example_input: Tensor, *, opaque: Collection[OPTYPE] = ()
) -> LayerGraph:
    """The graph of a model's layers; `opaque` as for `LayerGraph`.

    Raises:
        ValueError: if the layers' connections cannot be traced.
    """
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            # Free parameters (ConvNeXt's layer scale) are cut along their one long dimension, as is right.
            warnings.filterwarnings("ignore", "Unwrapped parameters")
            warnings.filterwarnings("ignore", "Maximum recursive depth")
            graph = LayerGraph(opaque)
            graph.build_dependency(model, example_inputs=[example_input])
            return graph
    except Exception as error:  # the library raises whatever its tracing runs into
        raise cannot_cut(model, error) from error


def read_groups(
    model: nn.Module, layers: Collection[str], example_input: Tensor
) -> tuple[LayerGraph, list[ChannelGroup]]:
    """The graph of a model's layers, and the groups of its channels; where links are too many, without some.

    Raises:
        ValueError: if the layers' connections cannot be traced.
    """
    try:
        graph = dependency_graph(model, example_input)
        return graph, list(channel_groups(model, graph, layers))
    except (ValueError, IndexError, TypeError, ZeroDivisionError):
        graph = dependency_graph(model, example_input, opaque=_FRAGILE)
        return graph, list(channel_groups(model, graph, layers))


def cannot_cut(model: nn.Module, error: Exception) -> ValueError:
    """The error that says in one line that an architecture's channels cannot be cut, and why."""
    net = model.net if isinstance(model, Classifier) else model
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(
        f"expected an architecture whose channels can be cut, {type(net).__name__} cannot: {reason}"
    )


def channel_groups(model: nn.Module, graph: LayerGraph, layers: Collection[str]) -> Iterator[ChannelGroup]:
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
                root,
                prune_fn,
                len(found[0].idxs),
                members,
                tuple(writers),
                tuple(readers),
                _n_parts(found),
                _between(found, graph, model),
            )


# Functions of autograd that leave channels apart, by the beginnings of their names.
_APART = (
    *("Add", "Sub", "Mul", "Div", "Neg", "Relu", "Hardtanh", "Hardswish", "Hardsigmoid", "Silu", "Gelu"),
    *("Elu", "LeakyRelu", "Sigmoid", "Tanh", "Clamp", "Threshold", "Mish", "Softplus"),
    *("NativeBatchNorm", "CudnnBatch", "MaxPool", "AvgPool", "AdaptiveAvg", "AdaptiveMax", "MeanBackward1"),
    *("Permute", "T", "Clone", "Addmm", "Convolution", "MkldnnConvolution"),
    *("Squeeze", "Unsqueeze", "View", "UnsafeView", "Reshape", "Expand"),
)


def _between(found: torch_pruning.Group, graph: LayerGraph, model: nn.Module) -> str:
    """What else a group's channels run through, in words: a module by its name, or a kind of function."""
    net = model.net if isinstance(model, Classifier) else model
    names = {module: name for name, module in net.named_modules()}
    nodes = [item.dep.target for item in found]
    for kind in (OPTYPE.MHA, OPTYPE.LSTM, OPTYPE.LN, OPTYPE.GN):
        for node in nodes:
            if node.type == kind:
                return f"{_FUNCTIONS[kind]} ({names[node.module]})"
    for node in nodes:
        if node in graph.cut_off:
            return graph.cut_off[node]
    known = (nn.Conv2d, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.PReLU)
    for node in nodes:
        if node.module in names and not isinstance(node.module, known):
            return f"{type(node.module).__name__} ({names[node.module]})"
    if any(isinstance(each.module, nn.Conv2d) and each.module.groups > 1 for each in nodes):
        return "a grouped convolution"
    for node in nodes:
        function = node.grad_fn.name() if hasattr(node.grad_fn, "name") else ""
        if not function.startswith(_APART):
            return f"a function that is not followed ({function})"
    reshaped = any(node.type == OPTYPE.RESHAPE or node in graph.reshapes for node in nodes)
    return _FUNCTIONS[OPTYPE.RESHAPE] if reshaped else ""


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
