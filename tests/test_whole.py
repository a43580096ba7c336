"""Nets that a cut can get wrong: the smaller net computes what the whole one does without the removed channels.

The nets below say themselves where a layer's channels are read (`seen`), and set them to zero there, without any graph.
Which channels a cut has left is read off the biases, which are all different.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from test_surgery import layers_of, random_utilities
from torch import Tensor, nn
from torch.nn import functional

from pipeline.cost import measure_cost
from pipeline.deconv import Utility
from pipeline.prune import n_channels, prune_like, prune_model
from pipeline.prune.surgery import Surgery
from pipeline.prune.whole import kept_layers, whole_layers

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

SIDE = 8


class Odd(nn.Module):
    """A convolution `first` of 8 channels, what a subclass puts behind it, a mean over positions, and 3 classes."""

    n_middle = 8

    def __init__(self) -> None:
        super().__init__()
        self.silent: dict[str, Tensor] = {}
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.build()
        self.last = nn.Conv2d(self.n_middle, 6, 3, padding=1)
        self.decision = nn.Linear(6, 3)

    def build(self) -> None:
        """The layers in the middle; the decision layer is the last one."""

    def seen(self, layer: str, x: Tensor) -> Tensor:
        """A layer's channels as others read them; removed ones are zero."""
        if layer not in self.silent:
            return x
        return x * self.silent[layer].view(1, -1, *[1] * (x.ndim - 2))

    def middle(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(functional.relu(self.first(x)))
        x = self.seen("last", functional.relu(self.last(x)).mean((2, 3)))
        logits: Tensor = self.decision(x)
        return logits


class Twice(Odd):
    """One convolution run twice: what it reads and what it writes are the same channels."""

    def build(self) -> None:
        self.again = nn.Conv2d(8, 8, 3, padding=1)

    def middle(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = functional.relu(self.again(self.seen("first", x)))
        return self.seen("first", x)


class Bounded(Odd):
    def middle(self, x: Tensor) -> Tensor:
        return self.seen("first", functional.hardtanh(x, 0.0, 0.5))


class AsksForWidth(Odd):
    """Computes otherwise where it has no more than some channels, or just so many."""

    def __init__(self, least: int, odd: int = 0) -> None:
        super().__init__()
        self.least, self.odd = least, odd

    def middle(self, x: Tensor) -> Tensor:
        x = self.seen("first", x)
        return 2 * x if x.shape[1] < self.least or x.shape[1] == self.odd else x


class Gate(Odd):
    """Squeeze and excite."""

    def build(self) -> None:
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def middle(self, x: Tensor) -> Tensor:
        pooled = self.seen("first", x).mean((2, 3), keepdim=True)
        gate = self.excite(self.seen("squeeze", functional.relu(self.squeeze(pooled)))).sigmoid()
        return self.seen("first", x * gate)


class ChannelAttention(Odd):
    """Two linear layers on the pooled channels, whose output multiplies them as (B, C, 1, 1)."""

    def build(self) -> None:
        self.inner, self.outer = nn.Linear(8, 4), nn.Linear(4, 8)

    def middle(self, x: Tensor) -> Tensor:
        pooled = self.seen("first", x).mean((2, 3))
        weight = self.outer(self.seen("inner", functional.relu(self.inner(pooled)))).sigmoid()
        return self.seen("first", x * weight.view(len(x), -1, 1, 1))


class SpatialGate(Odd):
    """A convolution of one output channel multiplies all channels: (B, 1, H, W)."""

    def build(self) -> None:
        self.gate = nn.Conv2d(8, 1, 3, padding=1)

    def middle(self, x: Tensor) -> Tensor:
        return self.seen("first", x * self.gate(self.seen("first", x)).sigmoid())


class Grouped(Odd):
    """A grouped convolution with as many groups as it has outputs, a depth multiplier, and two parts."""

    def __init__(self, groups: int, n_out: int) -> None:
        self.n_middle, self.groups = n_out, groups
        super().__init__()

    def build(self) -> None:
        self.grouped = nn.Conv2d(8, self.n_middle, 3, padding=1, groups=self.groups)

    def middle(self, x: Tensor) -> Tensor:
        return self.seen("grouped", functional.relu(self.grouped(self.seen("first", x))))


class Shuffle(Odd):
    """ShuffleNet's: channels change places, by how many there are."""

    def build(self) -> None:
        self.inner, self.outer = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)

    def middle(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        x = x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, channels, height, width)
        return self.seen("outer", self.outer(self.seen("inner", functional.relu(self.inner(x)))))


class GroupsShuffled(Grouped):
    """ShuffleNet's first unit: what comes out of the parts of a convolution changes places between them."""

    def middle(self, x: Tensor) -> Tensor:
        x = super().middle(x)
        n, channels, height, width = x.shape
        x = x.view(n, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return x.reshape(n, channels, height, width)


class OneBias(Odd):
    """Two convolutions that share their bias alone."""

    def build(self) -> None:
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.again.bias = self.first.bias

    def middle(self, x: Tensor) -> Tensor:
        return self.seen("again", functional.relu(self.again(self.seen("first", x))))


class Halves(Odd):
    """A gated linear unit: one half of the channels multiplies the other."""

    n_middle = 4

    def middle(self, x: Tensor) -> Tensor:
        one, other = x.chunk(2, 1)
        return one * other.sigmoid()


class Normed(Odd):
    """A layer norm over the channels."""

    def build(self) -> None:
        self.norm = nn.LayerNorm(8)

    def middle(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class Softmax(Odd):
    """A softmax over the channels."""

    def middle(self, x: Tensor) -> Tensor:
        return x.softmax(1)


class Viewed(Odd):
    """A `view` before the classifier; with a width that is written down, or that of the images."""

    def __init__(self, width: int | None) -> None:
        super().__init__()
        self.width = width
        del self.decision
        self.hidden = nn.Linear(6 * 4, 5)
        self.decision = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.last(self.seen("first", functional.relu(self.first(x)))))
        x = self.seen("last", functional.adaptive_avg_pool2d(x, 2))
        x = x.view(-1, self.width) if self.width else x.view(len(x), -1)
        logits: Tensor = self.decision(self.seen("hidden", functional.relu(self.hidden(x))))
        return logits


@dataclass(frozen=True)
class Case:
    """A net, the layers that stay whole with a word of the reason, and the widths of those that are cut."""

    net: Callable[[], Odd]
    whole: dict[str, str] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)


CASES = {
    "shared by running twice": Case(Twice, cut={"first": 4, "again": 4, "last": 3}),
    "one bias for two": Case(OneBias, cut={"first": 4, "again": 4, "last": 3}),
    "hardtanh": Case(Bounded, cut={"first": 4, "last": 3}),
    "asks for less than half": Case(
        lambda: AsksForWidth(4), whole={"first": "counts channels"}, cut={"last": 3}
    ),
    "squeeze and excite": Case(Gate, cut={"first": 4, "squeeze": 2, "excite": 4, "last": 3}),
    "channel attention": Case(ChannelAttention, cut={"first": 4, "inner": 2, "outer": 4, "last": 3}),
    "one output channel": Case(SpatialGate, whole={"first": "", "gate": ""}, cut={"last": 3}),
    "two parts": Case(lambda: Grouped(2, 8), cut={"first": 4, "grouped": 4, "last": 3}),
    "depthwise": Case(lambda: Grouped(8, 8), cut={"first": 4, "grouped": 4, "last": 3}),
    "depth multiplier": Case(
        lambda: Grouped(8, 16), whole={"first": "grouped convolution", "grouped": "grouped"}, cut={"last": 3}
    ),
    "as many groups as outputs": Case(
        lambda: Grouped(4, 4), whole={"first": "grouped convolution", "grouped": "grouped"}, cut={"last": 3}
    ),
    "shuffle": Case(Shuffle, whole={"first": "reshape that mixes"}, cut={"inner": 3, "outer": 4, "last": 3}),
    # In four parts the trial cut nothing where it drew by channel, and called that right.
    "shuffled parts": Case(
        lambda: GroupsShuffled(4, 16), whole={"grouped": "grouped convolution"}, cut={"first": 4, "last": 3}
    ),
    "halves": Case(Halves, whole={"first": ""}, cut={"last": 3}),
    "layer norm": Case(Normed, whole={"first": r"layer norm over its channels \(norm\)"}, cut={"last": 3}),
    "softmax": Case(Softmax, whole={"first": "Softmax"}, cut={"last": 3}),
    "view": Case(lambda: Viewed(None), cut={"first": 4, "last": 3, "hidden": 2}),
    "view to a fixed width": Case(
        lambda: Viewed(24), whole={"last": "reshape"}, cut={"first": 4, "hidden": 2}
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


def net_of(name: str) -> Odd:
    torch.manual_seed(0)
    net = CASES[name].net()
    for layer in layers_of(net).values():
        assert layer.bias is not None
        nn.init.uniform_(layer.bias, 0, 0.5)  # so that no rectifier is silent for good
    return net.double().eval()


def kept(whole: nn.Conv2d | nn.Linear, cut: nn.Conv2d | nn.Linear) -> list[int]:
    """The channels that are left, by their biases."""
    assert whole.bias is not None
    assert cut.bias is not None
    return [whole.bias.tolist().index(value) for value in cut.bias.tolist()]


@every_case
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_cut_net_computes_what_the_whole_one_does_without_the_removed_channels(
    name: str, seed: int
) -> None:
    case, net = CASES[name], net_of(name)
    images = torch.rand(4, 3, SIDE, SIDE, dtype=torch.float64)
    latent = net.decision.in_features // 2
    pruned, rows = prune_model(
        net, random_utilities(net, seed), 0.5, images[:1], widths="uniform", latent_kept=latent
    )
    whole = {row.name: row.left_whole for row in rows if row.left_whole}
    assert whole.keys() == case.whole.keys()
    for layer, words in case.whole.items():
        assert re.search(words, whole[layer])
    layers, cut = layers_of(net), layers_of(pruned)
    assert {layer: n for layer, n in n_channels(pruned).items() if layer in case.cut} == case.cut
    for layer in case.cut:
        net.silent[layer] = torch.zeros(len(layers[layer].weight), dtype=torch.float64)
        net.silent[layer][kept(layers[layer], cut[layer])] = 1
    with torch.no_grad():
        expected, found = net(images), pruned(images)
        net.silent = {}
        assert float((net(images) - expected).abs().max()) > 1e-3  # what was removed was listened to
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@every_case
def test_what_is_planned_to_be_left_is_what_is_left(name: str) -> None:
    net = net_of(name)
    images = torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64)
    surgery = Surgery(net, list(layers_of(net)), images)
    score = torch.rand(surgery.plan.n_channels, generator=torch.Generator().manual_seed(0)).double()
    selection = surgery.plan.select(score, score < 0.6)
    expected = surgery.plan.cost(selection)
    found = measure_cost(surgery.cut(selection), images.shape[1:])
    assert (found.params, found.flops) == expected


@every_case
def test_competitors_follow_ours_where_layers_are_whole(name: str) -> None:
    net = net_of(name)
    images = torch.rand(1, 3, SIDE, SIDE, dtype=torch.float64)
    ours, _ = prune_model(net, random_utilities(net), 0.5, images, widths="uniform")
    scores = {layer: utility.channels for layer, utility in random_utilities(net, 8).items()}
    assert n_channels(prune_like(net, scores, ours, images)) == n_channels(ours)


def test_what_is_whole_does_not_go_by_weights() -> None:
    """A trained net's dead channels and closed gates hide who reads what."""
    for name in CASES:
        net, images = net_of(name), torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64)
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
        state = {key: tensor.clone() for key, tensor in net.state_dict().items()}
        assert whole_layers(net, images).keys() == CASES[name].whole.keys(), name
        assert all(torch.equal(tensor, state[key]) for key, tensor in net.state_dict().items())


def test_a_pruned_net_has_the_same_layers_whole() -> None:
    # With a channel for each part that is left, a grouped convolution has a depth multiplier.
    for name in CASES.keys() - {"shuffled parts"}:
        net, images = net_of(name), torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64)
        pruned, _ = prune_model(net, random_utilities(net), 0.5, images, widths="uniform")
        del pruned.whole_layers
        assert whole_layers(pruned, images).keys() == CASES[name].whole.keys(), name


def test_a_cut_to_the_one_width_that_no_trial_had_is_refused_unless_the_layer_is_kept() -> None:
    net, images = AsksForWidth(0, odd=5), torch.rand(1, 3, SIDE, SIDE)
    utilities = random_utilities(net)
    utilities["first"] = Utility(torch.tensor([9.0, 8, 7, 6, 5, 1, 1, 1]).double().view(8, 1, 1))
    with pytest.raises(ValueError, match=r"AsksForWidth cannot: something in it computes otherwise at these"):
        prune_model(net, utilities, 1.2, images)
    pruned, _ = prune_model(net, utilities, 1.2, images, keep=["first"])
    assert n_channels(pruned)["first"] == 8


def test_layers_that_share_one_weight_are_refused_by_name() -> None:
    net = net_of("squeeze and excite")
    net.tied = nn.Conv2d(3, 8, 3)
    net.tied.weight = net.first.weight
    with pytest.raises(ValueError, match="tied shares the weights of first"):
        prune_model(net, random_utilities(net), 0.5, torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64))


def test_patterns_are_over_the_names_of_modules_and_stand_for_what_is_inside() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1)), nn.Linear(5, 2)
    )
    for keep, names in {
        ("1",): ["1.0", "1.2"],
        ("1.*",): ["1.0", "1.2"],
        ("0", "*.2"): ["0", "1.2"],
        ("3",): [],
    }.items():
        assert list(kept_layers(net, keep)) == names
