"""The plan of a net's channels, from one reading of its graph: what goes for any mask, and what the rest costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.models.classifier import Classifier, output_layer, weight_layers
from pipeline.models.inception import Inception
from pipeline.prune.costs import PlannedCosts
from pipeline.prune.groups import ChannelGroup, best_first, read_groups, rounding_step

if TYPE_CHECKING:
    from pipeline.prune.kept_channels import KeptChannels


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
        whole: names of layers that lose nothing, nor does what is coupled to them, and why.

    Attributes:
        whole: of the layers that lose nothing, each with the reason.

    Raises:
        ValueError: if the layers' connections cannot be traced.
    """

    def __init__(
        self, model: nn.Module, layers: Collection[str], example_input: Tensor, *, whole: Mapping[str, str]
    ) -> None:
        self.model, self.layers = model, tuple(layers)
        self.graph, groups = read_groups(model, layers, example_input)
        self.whole = dict.fromkeys(layers, "its channels are not followed")
        self.groups: list[ChannelGroup] = []
        for group in groups:
            reasons = [whole[writer.name] for writer in group.writers if writer.name in whole]
            for member in group.members:
                if reasons:
                    self.whole[member.name] = whole.get(member.name, reasons[0])
                else:
                    self.whole.pop(member.name, None)
            if not reasons:
                self.groups.append(group)
        self.whole |= {name: reason for name, reason in whole.items() if name in self.whole}
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
        self,
        score: Tensor,
        removed: Tensor,
        *,
        round_to: int = 1,
        min_channels: int = 1,
        remove_branches: bool = False,
    ) -> Selection:
        """What goes of what is to go: every layer keeps its best channel, and as many as rounding asks for.

        Args:
            score: (N,), the higher the better; rounding gives back the best.
            removed: (N,) mask of what is to go.
            round_to: every layer keeps a multiple of this many channels, or all of them.
            min_channels: and no fewer than this, or all of them.
            remove_branches: a branch whose last channels are all to go goes whole, unless one of its layers is to stay
                whole; a module's best one stays.
        """
        branches = self._emptied(score, removed) if remove_branches else ()
        spared = removed.clone()
        for group, at in zip(self.groups, self.slices, strict=True):
            spared[at] = _spare(group, score[at], removed[at], round_to, min_channels)
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

    def silence(self, removed: Tensor) -> None:
        """Set to zero, in the model itself, the weights by which the channels of a mask (N,) are read.

        Without these channels the model has to compute the same.
        """
        layers = weight_layers(self.model)
        for group, at in zip(self.groups, self.slices, strict=True):
            for reader in group.readers:
                _silence(layers[reader.name], reader.gone(removed[at]))

    def cut(self, selection: Selection, kept: KeptChannels) -> None:
        """Cut the model itself, once, keeping account in `kept`; branches are left."""
        for group, at in zip(self.groups, self.slices, strict=True):
            if idxs := selection.removed[at].nonzero().flatten().tolist():
                kept.prune(self.graph, group.root, group.prune_fn, idxs)

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
            stays = any(self._inside(layer, branch) for layer in self.whole)
            if not stays and len(found) == len(ends) and all(bool(removed[at].all()) for at in found):
                emptied.append(branch)
        for module, (_, branch) in best.items():
            if all(name in emptied for name in self._branches if name.rpartition(".")[0] == module):
                emptied.remove(branch)
        return tuple(emptied)


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


def _silence(layer: nn.Conv2d | nn.Linear, inputs: list[int]) -> None:
    """Set the weights of some inputs to zero; a grouped convolution has them in the rows of their group."""
    n_parts = layer.groups if isinstance(layer, nn.Conv2d) else 1
    rows = layer.weight.data.view(n_parts, -1, *layer.weight.shape[1:])
    at = torch.tensor(inputs, dtype=torch.long)
    rows[at // rows.shape[2], :, at % rows.shape[2]] = 0


def _spare(group: ChannelGroup, score: Tensor, removed: Tensor, round_to: int, min_channels: int) -> Tensor:
    """The mask to remove, less what has to stay: each member's best channel, a least number, what rounding asks for."""
    removed, score = removed.clone(), score.view(group.n_parts, -1).mean(0).repeat(group.n_parts)
    for member in group.members:
        removed[member.root_idx[int(score[member.root_idx].argmax())]] = False
    # A place goes from all parts of a grouped convolution or from none.
    removed = removed.view(group.n_parts, -1).all(0).repeat(group.n_parts)
    step = rounding_step(group, round_to)
    for channels, _ in group.segments:
        n_kept = int((~removed[channels]).sum())
        n_missing = min(-(-max(n_kept, min_channels) // step) * step, len(channels)) - n_kept
        if n_missing:
            candidates = best_first(channels[removed[channels]], score)
            removed[candidates[:n_missing]] = False
    return removed
