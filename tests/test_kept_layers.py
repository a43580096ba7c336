"""`surgery.keep` and `surgery.min_channels`: layers that stay whole, and a least width of the others."""

from typing import Any

import pytest
import torch
from test_surgery import CASES, images_of, in_classifier, net_of, random_utilities

from pipeline.cost import count_params, measure_cost
from pipeline.errors import InputError
from pipeline.params.pruning import Widths
from pipeline.prune import n_channels, prune_model
from pipeline.prune.target_size import Target, prune_to_size, smallest_cost

NETS = {
    # Of each a pattern, and the layers that stay with it, those that are coupled to them included.
    "vgg16": ("features.0", {"features.0.conv"}),
    "torchvision/mobilenet_v2": (
        "features.2",
        {f"features.{layer}" for layer in ("2.conv.0.0", "2.conv.1.0", "2.conv.2", "3.conv.2")},
    ),
    "torchvision/resnet50": ("layer1.0.conv2", {"layer1.0.conv2"}),
}


@pytest.mark.parametrize("widths", ["layer", "global", "uniform"])
@pytest.mark.parametrize("name", NETS)
def test_kept_layers_stay_whole_and_no_other_falls_under_its_least_width(name: str, widths: Widths) -> None:
    model, (pattern, kept) = net_of(name), NETS[name]
    image, before = images_of(1, CASES[name].size), n_channels(net_of(name))
    eta = {"layer": 1.6, "global": 1.0, "uniform": 0.6}[widths]
    options: dict[str, Any] = {"widths": widths, "keep": [pattern], "min_channels": 5}
    pruned, rows = prune_model(model, random_utilities(model), eta, image, **options)
    after = n_channels(pruned)
    whole = {row.name: row.left_whole for row in rows if row.left_whole}
    assert set(whole) == kept
    assert whole[min(kept)] == f"kept by surgery.keep, {pattern}"
    assert all(after[layer] == before[layer] for layer in kept)
    assert all(after[layer] >= min(5, before[layer]) for layer in after)
    assert count_params(pruned) < 0.7 * count_params(model)


def test_a_size_is_reached_with_the_other_layers_or_refused_with_the_smallest_one() -> None:
    name, (pattern, _) = "vgg16", NETS["vgg16"]
    model, image = net_of(name), images_of(1, CASES[name].size)
    options: dict[str, Any] = {"keep": [pattern], "min_channels": 4}
    bound = smallest_cost(model, image, **options)
    smallest, _ = prune_model(model, random_utilities(model), 1e12, image, **options)
    cost = measure_cost(smallest, image.shape[1:])
    assert (cost.params, cost.flops) == (bound["params"], bound["flops"])
    assert bound["params"] > smallest_cost(model, image)["params"]
    target = Target("params", 1.5 * bound["params"])
    pruned, *_, reached = prune_to_size(model, random_utilities(model), target, image, **options)
    assert count_params(pruned) == reached == pytest.approx(target.value, rel=0.02)
    assert n_channels(pruned)["features.0.conv"] == n_channels(model)["features.0.conv"]
    too_small = Target("params", bound["params"] - 1)
    with pytest.raises(InputError, match=f"at least {bound['params']:,.0f} parameters"):
        prune_to_size(model, random_utilities(model), too_small, image, **options)


@pytest.mark.parametrize("keep", [["*.1"], ["stages.1.0.branch_double3x3.1"], ["stages.*"]])
def test_a_branch_with_a_kept_layer_does_not_go(keep: list[str]) -> None:
    model = in_classifier(net_of("inception v1_double3x3"))
    utilities = random_utilities(model)
    for utility in utilities.values():
        utility.map.zero_()
    without, _ = prune_model(model, utilities, 1.0, images_of(1), remove_branches=True)
    pruned, rows = prune_model(model, utilities, 1.0, images_of(1), remove_branches=True, keep=keep)
    kept = {row.name for row in rows if row.left_whole.startswith("kept")}
    assert kept
    assert kept <= set(n_channels(pruned))
    assert kept - set(n_channels(without))
    with torch.no_grad():
        assert pruned(images_of(2)).isfinite().all()


def test_rounding_and_a_least_width_both_hold() -> None:
    model, image = net_of("vgg16"), images_of(1, CASES["vgg16"].size)
    before = n_channels(model)
    options: dict[str, Any] = {"round_to": 4, "min_channels": 6}
    after = n_channels(prune_model(model, random_utilities(model), 1e12, image, **options)[0])
    hidden = [layer for layer in after if before[layer] != after[layer]]
    assert hidden
    assert {after[layer] for layer in hidden} == {8}
