"""Eq. 3.13 against a count written from the equation alone, in exact arithmetic."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.deconv import Utility
from pipeline.prune import prune_model, utility_threshold
from pipeline.prune.widths import utility_spread

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

examples = settings(derandomize=True, deadline=None, max_examples=30)

N_FIRST, N_SECOND = 9, 5
Maps = list[list[float]]


class Dense(nn.Sequential):
    """Linear layers whose bias says which neuron it was."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(3, N_FIRST), nn.ReLU(), nn.Linear(N_FIRST, N_SECOND), nn.ReLU(), nn.Linear(N_SECOND, 2)
        )


class Convolutional(nn.Sequential):
    """The same with convolutions."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, N_FIRST, 1),
            nn.ReLU(),
            nn.Conv2d(N_FIRST, N_SECOND, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(N_SECOND, 2),
        )


NETS = {"dense": (Dense, (1, 3)), "convolutional": (Convolutional, (1, 3, 2, 2))}
every_net = pytest.mark.parametrize("net", NETS)


@cache
def numbered(net: str) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    build, shape = NETS[net]
    model = build().eval()
    for at in (0, 2):
        model[at].bias.data = torch.arange(float(len(model[at].weight)))
    return model, torch.zeros(shape)


def as_utility(maps: Maps) -> Utility:
    return Utility(torch.tensor(maps, dtype=torch.float64)[:, None])  # (channels, 1, positions)


def kept(
    net: str, first: Maps, second: Maps, eta: float, *, round_to: int = 1
) -> tuple[list[int], list[int]]:
    """The channels of both layers that `prune_model` leaves."""
    model, image = numbered(net)
    utilities = {"0": as_utility(first), "2": as_utility(second)}
    pruned, rows = prune_model(model, utilities, eta, image, round_to=round_to)
    left = [pruned.get_submodule(name).bias.int().tolist() for name in ("0", "2")]  # type: ignore[union-attr]
    assert [(row.n_before, row.n_after) for row in rows] == [
        (N_FIRST, len(left[0])),
        (N_SECOND, len(left[1])),
    ]
    return left[0], left[1]


def utilities_of(maps: Maps) -> list[float]:
    """Eq. 3.12 by hand."""
    return [max(positions) for positions in maps]


def by_hand(maps: Maps, eta: float) -> list[int]:
    """Eq. 3.13 by hand: t is eta deviations (n - 1) of the non-zero positions; u < t and u <= 0 go; one stays.

    u < t is u^2 < eta^2 variance, in fractions: no rounding, a tie is a tie.
    """
    values = [Fraction(value) for positions in maps for value in positions if value != 0]
    variance = Fraction(0)
    if len(values) > 1:
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    utilities = utilities_of(maps)
    stays = [
        idx for idx, u in enumerate(utilities) if u > 0 and Fraction(u) ** 2 >= Fraction(eta) ** 2 * variance
    ]
    return stays or [utilities.index(max(utilities))]


def is_clear(maps: Maps, eta: float) -> bool:
    """Whether no utility is so near the threshold that the last bit of a rounded one decides."""
    threshold = utility_threshold(as_utility(maps), eta)
    return all(abs(u - threshold) > 1e-12 * threshold or threshold == 0 for u in utilities_of(maps))


def maps_of(n_channels: int, n_positions: int = 3) -> st.SearchStrategy[Maps]:
    """Zeros, ties, negatives, whole numbers and fractions, at scales from the tiny to the huge."""
    whole = st.integers(-6, 12).map(float)
    values = whole | st.sampled_from([0.0, 1.0, 2.5]) | st.floats(-10, 100, allow_subnormal=False)
    scales = st.sampled_from([1.0, 2.0**-200, 2.0**200, 1e-18, 1e12])
    raw = st.lists(
        st.lists(values, min_size=n_positions, max_size=n_positions),
        min_size=n_channels,
        max_size=n_channels,
    )
    return st.builds(lambda maps, scale: [[v * scale for v in row] for row in maps], raw, scales)


etas = st.sampled_from([0.125, 0.5, 1.0, 1.5, 2.0, 4.0]) | st.floats(0.01, 6)


@every_net
@examples
@given(first=maps_of(N_FIRST), second=maps_of(N_SECOND), eta=etas)
def test_the_channels_that_stay_are_those_of_the_equation(
    net: str, first: Maps, second: Maps, eta: float
) -> None:
    assume(is_clear(first, eta) and is_clear(second, eta))
    assert kept(net, first, second, eta) == (by_hand(first, eta), by_hand(second, eta))


# Values, their deviation, and an eta whose threshold is one of them; all without rounding.
TIES = [
    ([1.0, 3.0, 5.0], 2.0, 1.5),
    ([2.0, 4.0, 6.0], 2.0, 1.0),
    ([2.0, 4.0, 6.0], 2.0, 2.0),
    ([2.0, 4.0, 6.0], 2.0, 3.0),
    ([0.25, 0.5, 0.75], 0.25, 2.0),
    ([-3.0, 1.0, 5.0], 4.0, 0.25),
    ([0.0, 24.0, 16.0, 8.0, 0.0], 8.0, 2.0),
]


@pytest.mark.parametrize("scale", [1.0, 2.0**-300, 2.0**300])
@pytest.mark.parametrize(("values", "spread", "eta"), TIES)
def test_a_channel_exactly_at_the_threshold_stays(
    values: Sequence[float], spread: float, eta: float, scale: float
) -> None:
    maps = [[value * scale] for value in values]
    maps += [[0.0]] * (N_FIRST - len(maps))
    assert utility_spread(as_utility(maps)) == spread * scale
    assert eta * spread * scale in utilities_of(maps)
    expected = [idx for idx, (u,) in enumerate(maps) if u >= eta * spread * scale]
    others = [[1.0]] * N_SECOND
    assert kept("dense", maps, others, eta) == (expected, list(range(N_SECOND)))
    assert expected == by_hand(maps, eta)
    after = torch.nextafter(torch.tensor(eta, dtype=torch.float64), torch.tensor(100.0, dtype=torch.float64))
    fewer = [idx for idx in expected if maps[idx][0] != eta * spread * scale]
    best = max(range(N_FIRST), key=lambda idx: (maps[idx][0], -idx))
    assert kept("dense", maps, others, float(after))[0] == (fewer or [best])


@every_net
@examples
@given(first=maps_of(N_FIRST), second=maps_of(N_SECOND), steps=st.lists(etas, min_size=3, max_size=3))
def test_what_a_larger_eta_keeps_a_smaller_one_keeps_too(
    net: str, first: Maps, second: Maps, steps: list[float]
) -> None:
    left = [kept(net, first, second, eta) for eta in sorted(steps)]
    for more, less in pairwise(left):
        assert set(more[0]) >= set(less[0])
        assert set(more[1]) >= set(less[1])


@examples
@given(first=maps_of(N_FIRST), second=maps_of(N_SECOND), eta=etas, power=st.integers(-200, 200))
def test_the_scale_of_a_layer_does_not_matter(first: Maps, second: Maps, eta: float, power: int) -> None:
    scaled = [[value * 2.0**power for value in row] for row in first]
    assume(max(map(abs, (v for row in scaled for v in row))) < 2.0**450)
    assume(all(abs(v) > 2.0**-450 for row in scaled + first for v in row if v != 0))
    assert kept("dense", scaled, second, eta) == kept("dense", first, second, eta)


@every_net
@examples
@given(first=maps_of(N_FIRST), second=maps_of(N_SECOND), eta=etas, round_to=st.sampled_from([1, 2, 4]))
def test_no_channel_that_stays_is_worth_less_than_one_that_goes(
    net: str, first: Maps, second: Maps, eta: float, round_to: int
) -> None:
    for maps, left in zip((first, second), kept(net, first, second, eta, round_to=round_to), strict=True):
        utilities = utilities_of(maps)
        gone = [u for idx, u in enumerate(utilities) if idx not in left]
        assert left
        assert not gone or min(utilities[idx] for idx in left) >= max(gone)


@every_net
@examples
@given(
    first=maps_of(N_FIRST),
    second=maps_of(N_SECOND),
    eta=etas,
    order=st.permutations(range(N_FIRST)),
)
def test_permuting_channels_permutes_what_stays(
    net: str, first: Maps, second: Maps, eta: float, order: list[int]
) -> None:
    assume(is_clear(first, eta))  # the sum behind a deviation is taken in another order
    left, right = kept(net, first, second, eta)
    permuted, untouched = kept(net, [first[idx] for idx in order], second, eta)
    assert untouched == right
    utilities = utilities_of(first)
    assert sorted(utilities[order[idx]] for idx in permuted) == sorted(utilities[idx] for idx in left)
    if len(left) > 1 or utilities.count(max(utilities)) == 1:
        assert sorted(order[idx] for idx in permuted) == left


@every_net
@examples
@given(first=maps_of(N_FIRST), second=maps_of(N_SECOND), eta=etas, round_to=st.integers(1, 10))
def test_rounding_adds_the_best_channels_up_to_the_next_multiple(
    net: str, first: Maps, second: Maps, eta: float, round_to: int
) -> None:
    exact = kept(net, first, second, eta)
    rounded = kept(net, first, second, eta, round_to=round_to)
    for maps, fewer, more in zip((first, second), exact, rounded, strict=True):
        n_wanted = -(-len(fewer) // round_to) * round_to
        assert len(more) == min(n_wanted, len(maps))
        assert set(more) >= set(fewer)
        utilities = utilities_of(maps)
        candidates = sorted((u for idx, u in enumerate(utilities) if idx not in fewer), reverse=True)
        added = sorted((utilities[idx] for idx in more if idx not in fewer), reverse=True)
        assert added == candidates[: len(added)]


class Summed(nn.Module):
    """Two layers whose outputs are added: one group."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, N_FIRST), nn.Linear(3, N_FIRST)
        self.decision = nn.Linear(N_FIRST, 2)
        self.left.bias.data = torch.arange(float(N_FIRST))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decision(torch.relu(self.left(x) + self.right(x)))
        return logits


@cache
def summed() -> nn.Module:
    torch.manual_seed(0)
    return Summed().eval()


def spreads_of(maps: Maps) -> list[float]:
    """Utilities in units of the layer's deviation; Python's own, not torch's."""
    values = [value for row in maps for value in row if value != 0]
    mean = sum(values) / len(values)
    spread: float = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return [u / spread for u in utilities_of(maps)]


@examples
@given(left=maps_of(N_FIRST), right=maps_of(N_FIRST), steps=st.lists(etas, min_size=2, max_size=2))
def test_added_layers_go_by_the_average_of_their_utilities_in_deviations(
    left: Maps, right: Maps, steps: list[float]
) -> None:
    for maps in (left, right):
        values = [value for row in maps for value in row if value != 0]
        assume(len(set(values)) > 1)
    means = [(a + b) / 2 for a, b in zip(spreads_of(left), spreads_of(right), strict=True)]
    before: set[int] = set(range(N_FIRST))
    for eta in sorted(steps):
        assume(all(abs(mean - eta) > 1e-9 * eta and abs(mean) > 1e-9 for mean in means))
        utilities = {"left": as_utility(left), "right": as_utility(right)}
        pruned, rows = prune_model(summed(), utilities, eta, torch.zeros(1, 3))
        assert isinstance(pruned, Summed)
        stays = [idx for idx, mean in enumerate(means) if mean >= eta] or None
        found = pruned.left.bias.int().tolist()
        if stays is None:
            assert len(found) == 1
            assert means[found[0]] >= max(means) - 1e-9 * abs(max(means))
        else:
            assert found == stays
        assert {row.n_after for row in rows} == {len(found)}
        assert {row.group for row in rows} == {"left"}
        assert set(found) <= before
        before = set(found)
