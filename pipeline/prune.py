"""Threshold and surgery: from utilities to a smaller model (thesis section 3.2.3, CVIU 3.2 and 5.4)."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn

from pipeline.deconv import Utility
from pipeline.models.classifier import decision_layer, lay_out


@dataclass(frozen=True)
class LayerPruning:
    """What became of one layer's output channels."""

    name: str
    group: str
    n_before: int
    n_after: int
    threshold: float


@dataclass(frozen=True)
class _Member:
    """One layer of a group: where its channels sit among the group's root channels."""

    name: str
    own_idx: list[int]
    root_idx: list[int]


@dataclass(frozen=True)
class _Group:
    """Layers whose output channels must go together; most groups hold one layer."""

    root: nn.Module
    prune_fn: object
    n_channels: int
    members: tuple[_Member, ...]


def utility_spread(utility: Utility) -> float:
    """The standard deviation in Eq. 3.13: over all positions of the map with non-zero utility."""
    values = utility.map[utility.map != 0]
    return float(values.std(correction=1)) if values.numel() > 1 else 0.0


def utility_threshold(utility: Utility, eta: float) -> float:
    """Eq. 3.13: t = eta x the standard deviation of the layer's non-zero utilities."""
    return eta * utility_spread(utility)


def prune_model(
    model: nn.Module, utilities: Mapping[str, Utility], eta: float, example_input: Tensor
) -> tuple[nn.Module, list[LayerPruning]]:
    """Remove every channel whose utility is under its layer's threshold (Eq. 3.13).

    Coupled layers (a residual sum, a depthwise convolution) are pruned as one group by the average of their
    utilities, each in units of its own layer's standard deviation, so that one `eta` fits all (CVIU 5.4). A
    channel without positive utility goes at any `eta`. The best channel of every group stays.

    Args:
        model: the model to prune; it is left untouched. Auxiliary heads must be detached before.
        utilities: from `deconv.trace_utility`, for this model.
        eta: the threshold's factor, one for all layers.
        example_input: one image or more, as the model takes them, to trace the layers' connections.

    Returns:
        A new, smaller model in evaluation mode, and a row for each traced layer.

    Raises:
        ValueError: if the surgery fails on this architecture.
    """
    if eta <= 0:
        raise ValueError(f"expected a positive eta, got {eta}")
    smaller = copy.deepcopy(model).eval()
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    smaller.requires_grad_(True)  # the graph of layers is read off autograd's
    graph = _dependency_graph(smaller, example_input)
    groups = _groups(smaller, graph, utilities)
    group_of: dict[str, str] = {}
    for group in groups:
        cut = _channels_to_cut(group, utilities, eta)
        if cut:
            graph.get_pruning_group(group.root, group.prune_fn, idxs=cut).prune()
        for member in group.members:
            group_of.setdefault(member.name, group.members[0].name)
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(trainable[name])
    rows = [
        LayerPruning(
            name=name,
            group=group_of[name],
            n_before=_n_channels(model, name),
            n_after=_n_channels(smaller, name),
            threshold=utility_threshold(utility, eta),
        )
        for name, utility in utilities.items()
        if name in group_of
    ]
    return lay_out(smaller), rows


def _dependency_graph(model: nn.Module, example_input: Tensor) -> torch_pruning.DependencyGraph:
    try:
        with torch.enable_grad():
            return torch_pruning.DependencyGraph().build_dependency(model, example_inputs=example_input)
    except Exception as error:  # the library raises whatever its tracing runs into
        raise ValueError(
            f"expected an architecture whose channels can be traced, {type(model).__name__} cannot: {error}"
        ) from error


def _groups(
    model: nn.Module, graph: torch_pruning.DependencyGraph, utilities: Mapping[str, Utility]
) -> list[_Group]:
    names = {module: name for name, module in model.named_modules()}
    groups = []
    layer_types = [nn.Conv2d, nn.Linear]
    for found in graph.get_all_groups(ignored_layers=[decision_layer(model)], root_module_types=layer_types):
        members = tuple(
            _Member(names[item.dep.target.module], list(item.idxs), list(item.root_idxs))
            for item in found
            if graph.is_out_channel_pruning_fn(item.dep.handler)
            and isinstance(item.dep.target.module, nn.Conv2d | nn.Linear)
            and names[item.dep.target.module] in utilities
        )
        if members:
            root = found[0]
            groups.append(_Group(root.dep.target.module, root.dep.handler, len(root.idxs), members))
    return groups


def _channels_to_cut(group: _Group, utilities: Mapping[str, Utility], eta: float) -> list[int]:
    """Root channels under the threshold, by the group's average utility in standard deviations."""
    total = torch.zeros(group.n_channels, dtype=torch.float64)
    n_layers = torch.zeros(group.n_channels, dtype=torch.float64)
    for member in group.members:
        utility = utilities[member.name]
        spread = utility_spread(utility)
        # Without spread there is no scale: any positive utility is above the threshold of zero.
        in_spreads = utility.channels.cpu() / spread if spread > 0 else utility.channels.cpu().sign() * eta
        at = torch.tensor(member.root_idx)
        total.index_add_(0, at, in_spreads[member.own_idx])
        n_layers.index_add_(0, at, torch.ones(len(at), dtype=torch.float64))
    mean = total / n_layers.clamp_min(1)
    cut = (mean < eta) | (mean <= 0)
    for member in group.members:  # where branches meet, each one keeps its best
        cut[member.root_idx[int(mean[member.root_idx].argmax())]] = False
    return _indices(cut)


def _n_channels(model: nn.Module, name: str) -> int:
    weight: Tensor = model.get_parameter(f"{name}.weight")
    return len(weight)


def _indices(mask: Tensor) -> list[int]:
    found: Sequence[int] = mask.nonzero().flatten().tolist()
    return list(found)
