import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.cost import measure_cost
from pipeline.deconv import Utility, trace_utility
from pipeline.errors import InputError
from pipeline.models import build_model
from pipeline.models.blocks import BatchNormNoScale
from pipeline.models.classifier import blueprint_of, decision_layer
from pipeline.prune import n_channels, prune_like, prune_model, utility_threshold
from pipeline.prune.rounds import check_rounding
from pipeline.prune.widths import utility_spread

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

RESIDUAL = "(c16, i16)-c32"


def randomised_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms that have seen data, so that a dead channel is a constant and not zero."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=random))
            module.running_var = 0.5 + torch.rand(module.num_features, generator=random)  # type: ignore
            module.bias.data = 0.5 * torch.randn(module.num_features, generator=random)
    return model.eval()


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    options: dict[str, object] = {
        "inception": {"stages": (1, 2, 1), "base": (1, 2, 1), "width": 0.125, "stem": "small"},
        "resnet": {"config": RESIDUAL, "width": 0.5, "stem": "small"},
        "fc": {"in_features": 3 * 16 * 16, "hidden": (24, 20, 12)},
        "torchvision/mobilenet_v2": {"width_mult": 0.25},
    }[name]  # type: ignore[assignment]
    return randomised_norms(build_model(name, 5, **options))  # type: ignore[arg-type]


def images_of(n: int, size: int = 16) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def traced_layers(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    decision = decision_layer(model)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module is not decision
    }


def flat_utility(values: Sequence[float] | Tensor) -> Utility:
    return Utility(torch.as_tensor(values, dtype=torch.float64).view(-1, 1, 1))


def random_utilities(model: nn.Module, seed: int = 3) -> dict[str, Utility]:
    random = torch.Generator().manual_seed(seed)
    utilities = {}
    for name, layer in traced_layers(model).items():
        maps = torch.rand(layer.weight.shape[0], 3, 3, generator=random, dtype=torch.float64)
        utilities[name] = Utility(maps * torch.rand(len(maps), 1, 1, generator=random, dtype=torch.float64))
    return utilities


def sizes(model: nn.Module, size: int = 16) -> dict[str, int]:
    return {row.name: row.out_channels for row in measure_cost(model, (3, size, size)).layers}


def weight_of(model: nn.Module, name: str) -> Tensor:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return layer.weight


def batch_norm_of(model: nn.Module, name: str) -> nn.BatchNorm2d:
    found = model.get_submodule(name)
    assert isinstance(found, nn.BatchNorm2d)
    return found


def test_a_multiple_that_no_layer_has_more_channels_than_is_refused_in_one_line() -> None:
    """With it the surgery cuts nothing, and would say nothing."""
    model = small("fc")
    check_rounding(model, 23)
    for round_to in (24, 100_000):
        with pytest.raises(
            InputError, match=rf"^surgery.round_to: expected fewer than the 24 .* \(got {round_to}\)$"
        ):
            check_rounding(model, round_to)
    ranks = {name: flat_utility(range(len(layer.weight))) for name, layer in traced_layers(model).items()}
    pruned, _ = prune_model(model, ranks, 1.0, images_of(1), round_to=24)
    assert n_channels(pruned) == n_channels(model)


def test_threshold_is_eta_times_the_sample_deviation_over_non_zero_positions() -> None:
    # Non-zero: 1, 3, -2, 6; mean 2, squares 1 + 1 + 16 + 16 = 34, over 4 - 1.
    utility = Utility(torch.tensor([[[1.0, 0.0], [3.0, 0.0]], [[-2.0, 6.0], [0.0, 0.0]]]))
    assert utility_spread(utility) == pytest.approx(math.sqrt(34 / 3))
    assert utility_threshold(utility, 0.5) == pytest.approx(0.5 * math.sqrt(34 / 3))


def test_threshold_equals_numpys_deviation_and_is_linear_in_eta() -> None:
    maps = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps[maps < 0.4] = 0
    expected = np.std(maps.numpy()[maps.numpy() != 0], ddof=1)
    for eta in (0.1, 1.0, 7.0):
        assert utility_threshold(Utility(maps), eta) == pytest.approx(eta * expected, rel=1e-12)


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
def test_a_map_with_less_than_two_non_zero_positions_has_no_spread(values: list[float]) -> None:
    assert utility_spread(flat_utility(values)) == 0.0


def test_channels_under_the_threshold_go_and_those_at_it_stay() -> None:
    model = small("fc")
    utilities = random_utilities(model)
    values = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10] * 2, dtype=torch.float64)
    spread = float(values.std())
    utilities["hidden2"] = flat_utility(values)
    for level in (3.0, 7.0):
        at = level / spread
        for eta, n_kept in ((at * (1 - 1e-9), 2 * (11 - level)), (at * (1 + 1e-9), 2 * (10 - level))):
            pruned, _ = prune_model(model, utilities, eta, images_of(1))
            assert weight_of(pruned, "hidden2").shape == (n_kept, weight_of(pruned, "hidden1").shape[0])


def test_kept_channels_are_those_of_the_highest_utility() -> None:
    model = small("fc")
    with torch.no_grad():  # each row carries its own number
        weight_of(model, "hidden2").copy_(torch.arange(20.0)[:, None].expand(20, 24))
    utilities = random_utilities(model)
    for eta in (0.5, 1.5, 2.5, 3.5):
        pruned, rows = prune_model(model, utilities, eta, images_of(1))
        kept = weight_of(pruned, "hidden2")[:, 0].int().tolist()
        gone = sorted(set(range(20)) - set(kept))
        channels = utilities["hidden2"].channels
        (row,) = [row for row in rows if row.name == "hidden2"]
        assert (row.n_before, row.n_after) == (20, len(kept))
        assert all(float(channels[c]) >= row.threshold for c in kept) or len(kept) == 1
        assert all(float(channels[c]) < row.threshold for c in gone)
        assert not gone or channels[kept].min() >= channels[gone].max()


@pytest.mark.parametrize("name", ["inception", "resnet", "fc", "torchvision/mobilenet_v2"])
def test_at_least_one_channel_of_every_layer_survives_a_huge_eta(name: str) -> None:
    model = small(name)
    pruned, rows = prune_model(model, random_utilities(model), 1e9, images_of(1))
    assert {row.n_after for row in rows} == {1}
    assert len(rows) == len(traced_layers(model))
    assert {layer.weight.shape[0] for layer in traced_layers(pruned).values()} == {1}
    n_latent = 4 if name == "inception" else 1  # the last module's branches side by side
    assert decision_layer(pruned).weight.shape == (5, n_latent)
    assert pruned(images_of(2)).shape == (2, 5)


def test_the_survivor_of_a_huge_eta_is_the_best_channel() -> None:
    model = small("fc")
    with torch.no_grad():
        weight_of(model, "hidden1").copy_(torch.arange(24.0)[:, None].expand(24, 768))
    utilities = random_utilities(model)
    pruned, _ = prune_model(model, utilities, 1e9, images_of(1))
    assert weight_of(pruned, "hidden1")[:, 0].tolist() == [float(utilities["hidden1"].channels.argmax())]


def test_channels_of_equal_utility_have_no_spread_and_all_stay() -> None:
    model = small("fc")
    utilities = random_utilities(model)
    utilities["hidden1"] = flat_utility([2.5] * 24)
    pruned, _ = prune_model(model, utilities, 50.0, images_of(1))
    assert weight_of(pruned, "hidden1").shape[0] == 24


def test_the_scale_of_a_layers_utilities_does_not_matter() -> None:
    model = small("inception")
    utilities = random_utilities(model)
    scaled = {name: Utility(u.map * 10.0 ** (-idx)) for idx, (name, u) in enumerate(utilities.items())}
    _, rows = prune_model(model, utilities, 1.5, images_of(1))
    _, scaled_rows = prune_model(model, scaled, 1.5, images_of(1))
    assert [(row.name, row.n_after) for row in rows] == [(row.name, row.n_after) for row in scaled_rows]


def test_the_models_size_falls_with_eta() -> None:
    model = small("inception")
    utilities = random_utilities(model)
    params = [
        measure_cost(prune_model(model, utilities, eta, images_of(1))[0], (3, 16, 16)).params
        for eta in (0.3, 1.0, 2.0, 3.0)
    ]
    assert params == sorted(params, reverse=True)
    assert len(set(params)) == 4


SUMMED = ["stages.0.0.body.1.conv", "stages.0.0.shortcut.conv", "stages.0.1.body.1.conv"]


def marked_resnet() -> nn.Module:
    """Channel c of each layer's batch norm has running mean c, so that survivors can be told apart."""
    model = small("resnet")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.copy_(torch.arange(float(module.num_features)))
    return model


def survivors(model: nn.Module, layer: str) -> list[float]:
    found: list[float] = batch_norm_of(model, layer.removesuffix("conv") + "bn").running_mean.tolist()  # type: ignore
    return found


def test_layers_of_a_residual_sum_are_cut_in_the_same_channels() -> None:
    model = marked_resnet()
    pruned, rows = prune_model(model, random_utilities(model), 2.5, images_of(1))
    kept = {layer: survivors(pruned, layer) for layer in SUMMED}
    assert kept[SUMMED[0]] == kept[SUMMED[1]] == kept[SUMMED[2]]
    assert 1 < len(kept[SUMMED[0]]) < 8
    grouped = [row for row in rows if row.name in SUMMED]
    assert len({row.group for row in grouped}) == 1
    assert {row.n_after for row in grouped} == {len(kept[SUMMED[0]])}
    assert {row.name for row in rows if row.group == grouped[0].group} == set(SUMMED)


def test_a_group_is_cut_by_the_average_of_its_utilities_in_units_of_each_layers_deviation() -> None:
    model = marked_resnet()
    utilities = random_utilities(model)
    random = torch.Generator().manual_seed(9)
    own = [torch.rand(8, generator=random, dtype=torch.float64) * 10.0**power for power in (0, -8, 5)]
    utilities |= {layer: flat_utility(values) for layer, values in zip(SUMMED, own, strict=True)}
    mean = torch.stack([values / values.std() for values in own]).mean(0)
    eta = float(mean.sort().values[3:5].mean())  # between the fourth and the fifth
    pruned, rows = prune_model(model, utilities, eta, images_of(1))
    expected = (mean >= eta).nonzero().flatten().tolist()
    assert survivors(pruned, SUMMED[0]) == [float(c) for c in expected]
    assert len(expected) == 4
    thresholds = {row.name: row.threshold for row in rows}
    for layer, values in zip(SUMMED, own, strict=True):
        assert thresholds[layer] == pytest.approx(eta * float(values.std()), rel=1e-12)


def test_a_depthwise_convolution_goes_with_the_layer_that_it_reads() -> None:
    model = small("torchvision/mobilenet_v2")
    pruned, rows = prune_model(model, random_utilities(model), 1.8, images_of(1))
    by_name = {row.name: row for row in rows}
    expand, depthwise = by_name["features.4.conv.0.0"], by_name["features.4.conv.1.0"]
    assert expand.group == depthwise.group
    assert expand.n_after == depthwise.n_after < expand.n_before
    layer = pruned.get_submodule("features.4.conv.1.0")
    assert isinstance(layer, nn.Conv2d)
    assert layer.groups == layer.in_channels == layer.out_channels == depthwise.n_after
    assert layer.weight.shape == (depthwise.n_after, 1, 3, 3)


class DepthwiseOverBranches(nn.Module):
    """Two branches side by side, and a depthwise convolution that reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.depthwise = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.decision = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x).relu(), self.right(x).relu()], 1)
        logits: Tensor = self.decision(self.depthwise(x).relu().mean((2, 3)))
        return logits


def branches_with_utilities() -> tuple[nn.Module, dict[str, Utility]]:
    torch.manual_seed(0)
    model = DepthwiseOverBranches()
    with torch.no_grad():
        model.depthwise.bias.copy_(torch.arange(10.0))  # type: ignore[union-attr]
    return model, {
        "left": flat_utility([1.0, 5.0, 1.0, 5.0]),
        "right": flat_utility([5.0, 5.0, 1.0, 1.0, 5.0, 1.0]),
        "depthwise": flat_utility([1.0, 5.0, 1.0, 5.0, 5.0, 5.0, 1.0, 1.0, 5.0, 1.0]),
    }


def test_a_depthwise_convolution_over_two_branches_is_cut_with_each_at_its_own_place() -> None:
    model, utilities = branches_with_utilities()
    pruned, _ = prune_model(model, utilities, 1.8, images_of(1))
    assert isinstance(pruned, DepthwiseOverBranches)
    assert pruned.depthwise.bias is not None
    assert pruned.depthwise.bias.tolist() == [1.0, 3.0, 4.0, 5.0, 8.0]
    assert (pruned.left.out_channels, pruned.right.out_channels) == (2, 3)
    assert pruned(images_of(2)).shape == (2, 2)


def test_a_layer_of_two_groups_is_reported_once_with_all_of_its_channels() -> None:
    model, utilities = branches_with_utilities()
    _, rows = prune_model(model, utilities, 1.8, images_of(1))
    assert [row.name for row in rows] == ["left", "right", "depthwise"]
    assert [(row.n_before, row.n_after) for row in rows] == [(4, 2), (6, 3), (10, 5)]


def test_batch_norms_without_scale_stay_so_and_frozen_weights_stay_frozen() -> None:
    model = small("inception")
    weight_of(model, "stem.1.conv").requires_grad_(False)
    pruned, _ = prune_model(model, random_utilities(model), 1.5, images_of(1))
    norms = [module for module in pruned.modules() if isinstance(module, BatchNormNoScale)]
    assert len(norms) == 3 + 4 * 7
    for norm in norms:
        assert not norm.weight.requires_grad
        assert norm.bias.requires_grad
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name for name, parameter in pruned.named_parameters() if not parameter.requires_grad} == frozen
    assert "stem.1.conv.weight" in frozen


def test_a_pruned_model_can_be_traced_and_pruned_again() -> None:
    model = small("inception")
    images = images_of(4)
    once, _ = prune_model(model, random_utilities(model), 1.5, images[:1])
    kept = torch.ones(decision_layer(once).in_features, dtype=torch.bool)
    twice, rows = prune_model(once, trace_utility(once, images, kept), 1.0, images[:1])
    assert {row.name: row.n_before for row in rows} == {
        name: n for name, n in sizes(once).items() if name != "head.decision"
    }
    assert measure_cost(twice, (3, 16, 16)).params < measure_cost(once, (3, 16, 16)).params


def test_pruning_works_where_gradients_are_switched_off() -> None:
    model = small("resnet")
    _, expected = prune_model(model, random_utilities(model), 1.5, images_of(1))
    with torch.no_grad():
        _, rows = prune_model(model, random_utilities(model), 1.5, images_of(1))
    assert rows == expected


def test_a_frozen_model_is_pruned_as_any_other_and_stays_frozen() -> None:
    model = small("inception")
    expected, _ = prune_model(model, random_utilities(model), 1.5, images_of(1))
    pruned, _ = prune_model(model.requires_grad_(False), random_utilities(model), 1.5, images_of(1))
    assert not any(parameter.requires_grad for parameter in [*pruned.parameters(), *model.parameters()])
    with torch.no_grad():
        assert torch.equal(pruned(images_of(3)), expected(images_of(3)))


@pytest.mark.parametrize("eta", [0.0, -1.0])
def test_an_eta_that_is_not_positive_is_refused(eta: float) -> None:
    model = small("fc")
    with pytest.raises(ValueError, match="positive eta"):
        prune_model(model, random_utilities(model), eta, images_of(1))


def test_a_model_in_training_mode_with_frozen_weights_is_left_as_it_was() -> None:
    model = small("resnet").train()
    next(model.parameters()).requires_grad_(False)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    pruned, _ = prune_model(model, random_utilities(model), 1.5, images_of(2))
    assert not pruned.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert [parameter.requires_grad for parameter in pruned.parameters()] == trainable
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_architecture_that_cannot_be_traced_is_refused_by_name() -> None:
    class Unreadable(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no way through")

    model = Unreadable(nn.Linear(3, 3), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"Unreadable.*no way through"):
        prune_model(model, {"0": flat_utility([1.0, 2.0, 3.0])}, 1.0, torch.zeros(1, 3))


LIKE = ["fc", "inception", "resnet", "torchvision/mobilenet_v2"]


def random_scores(model: nn.Module, seed: int = 5) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(len(layer.weight), generator=random) * 10.0 ** (idx % 5)
        for idx, (name, layer) in enumerate(traced_layers(model).items())
    }


@pytest.mark.parametrize("eta", [1.0, 2.5, 1e9])
@pytest.mark.parametrize("name", LIKE)
def test_pruning_like_a_reference_gives_its_channel_counts_in_every_layer(name: str, eta: float) -> None:
    model = small(name)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    reference, _ = prune_model(model, random_utilities(model), eta, images_of(1))
    alike = prune_like(model, random_scores(model), reference, images_of(1))
    assert sizes(alike) == sizes(reference) != sizes(model)
    assert [tuple(p.shape) for p in alike.parameters()] == [tuple(p.shape) for p in reference.parameters()]
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert not alike.training
    assert alike(images_of(2)).isfinite().all()


def test_pruning_like_the_model_itself_changes_nothing() -> None:
    model = small("inception")
    alike = prune_like(model, random_scores(model), model, images_of(1))
    with torch.no_grad():
        assert torch.equal(alike(images_of(3)), model(images_of(3)))


def test_pruning_like_a_reference_keeps_the_channels_of_the_highest_score() -> None:
    model = small("fc")
    with torch.no_grad():  # each row carries its own number
        weight_of(model, "hidden2").copy_(torch.arange(20.0)[:, None].expand(20, 24))
    reference, _ = prune_model(model, random_utilities(model), 2.0, images_of(1))
    scores = random_scores(model)
    scores["hidden2"][4] = -7.0
    alike = prune_like(model, scores, reference, images_of(1))
    n_kept = n_channels(reference)["hidden2"]
    assert 1 < n_kept < 20
    best = scores["hidden2"].argsort(descending=True)[:n_kept]
    assert weight_of(alike, "hidden2")[:, 0].int().tolist() == sorted(best.tolist())


def test_of_equal_scores_the_first_channels_stay() -> None:
    model = small("fc")
    with torch.no_grad():
        weight_of(model, "hidden2").copy_(torch.arange(20.0)[:, None].expand(20, 24))
    reference, _ = prune_model(model, random_utilities(model), 2.0, images_of(1))
    scores = random_scores(model) | {"hidden2": torch.full((20,), 0.1)}
    alike = prune_like(model, scores, reference, images_of(1))
    n_kept = n_channels(reference)["hidden2"]
    assert weight_of(alike, "hidden2")[:, 0].int().tolist() == list(range(n_kept))


def test_coupled_layers_go_by_the_average_of_their_scores_in_units_of_each_layers_deviation() -> None:
    model = marked_resnet()
    reference, _ = prune_model(model, random_utilities(model), 2.4, images_of(1))
    n_kept = n_channels(reference)[SUMMED[0]]
    assert 1 < n_kept < 8
    random = torch.Generator().manual_seed(11)
    scores = random_scores(model)
    own = [torch.rand(8, generator=random) * scale for scale in (1e-6, 1.0, 1e6)]
    scores |= dict(zip(SUMMED, own, strict=True))
    alike = prune_like(model, scores, reference, images_of(1))
    mean = torch.stack([each.double() / each.double().std() for each in own]).mean(0)
    expected = sorted(mean.argsort(descending=True)[:n_kept].tolist())
    assert expected != sorted(own[2].argsort(descending=True)[:n_kept].tolist())
    for layer in SUMMED:
        assert survivors(alike, layer) == [float(c) for c in expected]


def test_a_depthwise_convolution_over_two_branches_is_cut_like_its_reference() -> None:
    model, utilities = branches_with_utilities()
    reference, _ = prune_model(model, utilities, 1.8, images_of(1))
    scores = {"left": torch.tensor([4.0, 1, 3, 2]), "right": torch.arange(6.0), "depthwise": torch.ones(10)}
    alike = prune_like(model, scores, reference, images_of(1))
    assert isinstance(alike, DepthwiseOverBranches)
    assert alike.depthwise.bias is not None
    assert alike.depthwise.bias.tolist() == [0.0, 2.0, 7.0, 8.0, 9.0]


def test_branches_that_the_reference_lost_are_removed() -> None:
    model = small("inception")
    branch = "stages.1.0.branch3x3"
    utilities = {name: flat_utility([1.0] * len(u.map)) for name, u in random_utilities(model).items()}
    utilities[f"{branch}.1.conv"] = flat_utility([-1.0] * len(utilities[f"{branch}.1.conv"].map))
    whole, _ = prune_model(model, utilities, 1.0, images_of(1), remove_branches=True)
    reference, _ = prune_model(whole, random_utilities(whole), 1.5, images_of(1), remove_branches=True)
    assert branch not in dict(reference.named_modules())
    alike = prune_like(model, random_scores(model), reference, images_of(1))
    assert sizes(alike) == sizes(reference)
    assert blueprint_of(alike).options["without"] == [branch]
    assert alike(images_of(2)).isfinite().all()


def fully_connected(*hidden: int) -> nn.Module:
    return build_model("fc", 5, in_features=3 * 16 * 16, hidden=hidden).eval()


@pytest.mark.parametrize(
    "reference",
    [
        fully_connected(24, 21, 12),
        fully_connected(24, 20, 12, 4),
        fully_connected(24, 20),
        build_model("resnet", 5, config=RESIDUAL, width=0.5, stem="small"),
    ],
    ids=["more channels", "one more layer", "one layer less", "another architecture"],
)
def test_a_reference_that_is_no_smaller_model_of_the_architecture_is_refused_in_one_line(
    reference: nn.Module,
) -> None:
    model = small("fc")
    with pytest.raises(ValueError, match="expected a reference") as refused:
        prune_like(model, random_scores(model), reference, images_of(1))
    assert "\n" not in str(refused.value)
