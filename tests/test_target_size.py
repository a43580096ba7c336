import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.cost import count_params, measure_cost
from pipeline.deconv import Utility
from pipeline.errors import InputError
from pipeline.models import build_model
from pipeline.models.classifier import blueprint_of, output_layer
from pipeline.prune import prune_model
from pipeline.prune.target_size import prune_to_size

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

INCEPTION = {"stages": (1, 1, 1), "base": (1, 1, 1), "width": 0.125, "stem": "small"}
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "fc": ("fc", {"in_features": 192, "hidden": (24, 20, 12)}),
    "inception": ("inception", INCEPTION),
    "resnet": ("resnet", {"config": "(c16, i16)-c32", "width": 0.5, "stem": "small"}),
}
TARGETS = [("fc", share) for share in (0.9, 0.5, 0.2, 0.05)]
TARGETS += [("inception", 0.5), ("inception", 0.05), ("resnet", 0.2)]


@cache
def net_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    architecture, options = NETS[name]
    return build_model(architecture, 5, **options).eval()


def image() -> Tensor:
    return torch.zeros(1, 3, 8, 8)


@cache
def utilities_of(name: str) -> dict[str, Utility]:
    model, random = net_of(name), torch.Generator().manual_seed(3)
    last = output_layer(model)
    utilities = {}
    for key, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer is not last:
            maps = torch.rand(len(layer.weight), 2, 2, generator=random, dtype=torch.float64)
            utilities[key] = Utility(
                maps * torch.rand(len(maps), 1, 1, generator=random, dtype=torch.float64)
            )
    return utilities


def size_at(name: str, eta: float, **options: Any) -> int:
    return count_params(prune_model(net_of(name), utilities_of(name), eta, image(), **options)[0])


def target_of(name: str, fraction: float) -> int:
    return int(fraction * count_params(net_of(name)))


@cache
def shrunk(name: str, fraction: float) -> tuple[nn.Module, float]:
    pruned, _, eta = prune_to_size(net_of(name), utilities_of(name), target_of(name, fraction), image())
    return pruned, eta


@pytest.mark.parametrize(("name", "fraction"), TARGETS)
def test_the_model_ends_under_the_target_and_near_it_or_at_a_step(name: str, fraction: float) -> None:
    target = target_of(name, fraction)
    pruned, eta = shrunk(name, fraction)
    found = count_params(pruned)
    assert found == measure_cost(pruned, (3, 8, 8)).params
    assert found <= target
    if found < 0.99 * target:  # a step: whatever is a little smaller an eta gives too much
        assert size_at(name, eta * (1 - 2e-6)) > target
    n_steps = 60 if name == "fc" else 12
    scan = [size_at(name, eta * (k + 1) / n_steps) for k in range(n_steps)]
    assert scan == sorted(scan, reverse=True)
    assert scan[-1] == found
    assert found >= 0.99 * target or all(size > target or size == found for size in scan)


def test_some_target_is_met_at_a_step_and_some_within_the_tolerance() -> None:
    gaps = [
        1 - count_params(shrunk(name, fraction)[0]) / target_of(name, fraction) for name, fraction in TARGETS
    ]
    assert min(gaps) <= 0.01 < max(gaps)


@pytest.mark.parametrize(("round_to", "remove_branches"), [(4, False), (1, True)])
def test_the_result_is_what_pruning_at_the_returned_eta_gives(round_to: int, remove_branches: bool) -> None:
    model, utilities = net_of("inception"), dict(utilities_of("inception"))
    branch = "stages.1.0.branch3x3.1.conv"
    maps = 0.3 + 0.01 * torch.rand(utilities[branch].map.shape, dtype=torch.float64)
    maps[:, 0, 0] = -1.0  # goes early, and whole
    utilities[branch] = Utility(maps)
    target = int(0.3 * count_params(model))
    options = {"round_to": round_to, "remove_branches": remove_branches}
    pruned, rows, eta = prune_to_size(model, utilities, target, image(), **options)
    expected, expected_rows = prune_model(model, utilities, eta, image(), **options)
    assert rows == expected_rows
    assert list(pruned.state_dict()) == list(expected.state_dict())
    assert all(torch.equal(tensor, expected.state_dict()[key]) for key, tensor in pruned.state_dict().items())
    assert blueprint_of(pruned) == blueprint_of(expected)
    assert (0 in {row.n_after for row in rows}) == remove_branches
    assert all(row.n_after % round_to == 0 or row.n_after == row.n_before for row in rows)
    assert count_params(pruned) <= target


@pytest.mark.parametrize("tolerance", [0.0, 0.001, 0.2])
def test_a_wider_tolerance_ends_the_search_earlier_but_never_over_the_target(tolerance: float) -> None:
    target = target_of("fc", 0.4)
    pruned, _, eta = prune_to_size(net_of("fc"), utilities_of("fc"), target, image(), tolerance=tolerance)
    closest, _, finest = prune_to_size(net_of("fc"), utilities_of("fc"), target, image(), tolerance=0.0)
    assert (1 - tolerance) * target <= count_params(pruned) <= target or eta == finest
    assert count_params(pruned) <= count_params(closest) <= target
    assert size_at("fc", finest * (1 - 2e-6)) > target or count_params(closest) == target


@pytest.mark.parametrize("name", NETS)
def test_a_size_that_some_eta_gives_is_met_exactly(name: str) -> None:
    target = size_at(name, 1.7)
    assert size_at(name, 1e12) < target < count_params(net_of(name))
    pruned, _, _ = prune_to_size(net_of(name), utilities_of(name), target, image(), tolerance=0.0)
    assert count_params(pruned) == target


@pytest.mark.parametrize("name", NETS)
def test_the_smallest_size_can_be_reached_and_nothing_under_it(name: str) -> None:
    model, utilities = net_of(name), utilities_of(name)
    smallest = size_at(name, 1e12)
    pruned, _, _ = prune_to_size(model, utilities, smallest, image())
    assert count_params(pruned) == smallest
    with pytest.raises(InputError, match=rf"\b{smallest:,}\b.*\b{smallest - 1:,}\b") as refused:
        prune_to_size(model, utilities, smallest - 1, image())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("round_to", [4, 64])
def test_the_smallest_size_named_is_that_of_the_rounding(round_to: int) -> None:
    smallest = size_at("fc", 1e12, round_to=round_to)
    assert smallest > size_at("fc", 1e12)
    with pytest.raises(InputError, match=rf"\b{smallest:,}\b"):
        prune_to_size(net_of("fc"), utilities_of("fc"), smallest - 1, image(), round_to=round_to)


def test_layers_without_spread_bound_the_smallest_size() -> None:
    utilities = utilities_of("fc") | {"hidden2": Utility(torch.ones(20, 1, 1, dtype=torch.float64))}
    smallest = count_params(prune_model(net_of("fc"), utilities, 1e12, image())[0])
    with pytest.raises(InputError, match=rf"\b{smallest:,}\b"):
        prune_to_size(net_of("fc"), utilities, smallest - 1, image())


@pytest.mark.parametrize("n_extra", [0, 1, 100_000])
def test_a_target_that_the_whole_model_meets_leaves_the_model_whole(n_extra: int) -> None:
    model = net_of("fc")
    size = count_params(model)
    pruned, rows, eta = prune_to_size(model, utilities_of("fc"), size + n_extra, image())
    assert eta > 0
    assert size * 0.99 <= count_params(pruned) <= size
    assert {row.name for row in rows} == set(utilities_of("fc"))


def test_a_target_over_what_is_left_without_dead_channels_is_met_by_those_alone() -> None:
    model, utilities = net_of("fc"), dict(utilities_of("fc"))
    maps = utilities["hidden1"].map.clone()
    maps[:12] = 0  # half of the largest layer goes at any eta
    utilities["hidden1"] = Utility(maps)
    alive = count_params(prune_model(model, utilities, 1e-9, image())[0])
    target = int(0.9 * count_params(model))
    assert alive < 0.99 * target
    pruned, _, eta = prune_to_size(model, utilities, target, image())
    assert eta > 0
    assert count_params(pruned) == alive


@pytest.mark.parametrize("name", NETS)
def test_the_model_is_left_as_it_was(name: str) -> None:
    model = copy.deepcopy(net_of(name)).train()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    pruned, _, _ = prune_to_size(model, utilities_of(name), target_of(name, 0.3), image())
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not pruned.training
    assert count_params(model) == count_params(net_of(name)) > count_params(pruned)
