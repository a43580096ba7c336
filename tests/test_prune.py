import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.checkpoint import load_model, save_model
from pipeline.cost import measure_cost
from pipeline.deconv import Utility, trace_utility
from pipeline.models import build_model
from pipeline.models.blocks import BatchNormNoScale
from pipeline.models.classifier import decision_layer
from pipeline.prune import prune_model, utility_spread, utility_threshold

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


def utilities_with_dead(model: nn.Module, dead: dict[str, list[int]]) -> dict[str, Utility]:
    """Utilities between 1 and 100 everywhere, zero for the dead channels."""
    random = torch.Generator().manual_seed(2)
    utilities = {}
    for name, layer in traced_layers(model).items():
        values = 1 + 99 * torch.rand(layer.weight.shape[0], generator=random, dtype=torch.float64)
        values[dead.get(name, [])] = 0
        utilities[name] = flat_utility(values)
    return utilities


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
    utilities = utilities_with_dead(model, {})
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
    utilities = utilities_with_dead(model, {})
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


@pytest.mark.parametrize("name", ["inception", "resnet", "fc", "torchvision/mobilenet_v2"])
def test_reported_channel_counts_are_those_of_the_pruned_model(name: str) -> None:
    model = small(name)
    before = sizes(model)
    pruned, rows = prune_model(model, random_utilities(model), 1.5, images_of(1))
    after = sizes(pruned)
    assert {row.name for row in rows} == set(traced_layers(model))
    assert {row.name: row.n_before for row in rows} == {row.name: before[row.name] for row in rows}
    assert {row.name: row.n_after for row in rows} == {row.name: after[row.name] for row in rows}
    assert sum(row.n_after for row in rows) < sum(row.n_before for row in rows)


@pytest.mark.parametrize("name", ["inception", "resnet", "torchvision/mobilenet_v2"])
def test_the_original_model_is_left_as_it_was(name: str) -> None:
    model = small(name).train()
    next(model.parameters()).requires_grad_(False)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    prune_model(model, random_utilities(model), 1.5, images_of(2))
    assert model.training
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert all(parameter.grad is None for parameter in model.parameters())


@torch.no_grad()
def assert_same_logits_without(
    model: nn.Module, dead: dict[str, list[int]], *, size: int = 16, n: int = 4
) -> None:
    """Cut the dead channels, whose readers' weights are zero already: nothing changes but the size."""
    images = images_of(n, size)
    before = model(images)
    pruned, rows = prune_model(model, utilities_with_dead(model, dead), 1e-6, images[:1])
    after = pruned(images)
    cut = {row.name: row.n_before - row.n_after for row in rows if row.n_before != row.n_after}
    assert cut == {name: len(channels) for name, channels in dead.items()}
    assert float(before.std()) > 1e-3
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))


def silence(model: nn.Module, reader: str, inputs: list[int]) -> None:
    with torch.no_grad():
        weight_of(model, reader)[:, inputs] = 0


def test_cutting_dead_channels_of_an_inception_net_leaves_the_logits() -> None:
    model = small("inception")
    one, three, double, pool = 24, 26, 6, 8  # widths of module 4a's branches at an eighth
    module, following = "stages.1.0", "stages.1.1"
    assert [
        weight_of(model, f"{module}.{branch}.conv").shape[0]
        for branch in ("branch1x1", "branch3x3.1", "branch_double3x3.2", "branch_pool.1")
    ] == [one, three, double, pool]
    dead = {
        "stem.0.conv": [0, 3],
        f"{module}.branch3x3.0.conv": [1, 5],
        f"{module}.branch3x3.1.conv": [2],
        f"{module}.branch_double3x3.2.conv": [0, 4],
        f"{module}.branch_pool.1.conv": [7],
        "stages.2.0.branch1x1.conv": [0, 1, 30],
    }
    silence(model, "stem.1.conv", [0, 3])
    silence(model, f"{module}.branch3x3.1.conv", [1, 5])
    joined = [one + 2, one + three + 0, one + three + 4, one + three + double + 7]
    for branch in ("branch1x1", "branch3x3.0", "branch_double3x3.0", "branch_pool.1"):
        silence(model, f"{following}.{branch}.conv", joined)
    silence(model, "head.decision", [0, 1, 30])
    assert_same_logits_without(model, dead)


def test_cutting_dead_channels_across_a_max_pool_and_a_stage_border_leaves_the_logits() -> None:
    model = small("inception")
    silence_at = [weight_of(model, "stages.0.0.branch1x1.conv").shape[0] + 3]
    for branch in ("branch1x1", "branch3x3.0", "branch_double3x3.0", "branch_pool.1"):
        silence(model, f"stages.1.0.{branch}.conv", silence_at)
    assert_same_logits_without(model, {"stages.0.0.branch3x3.1.conv": [3]})


def test_cutting_dead_channels_of_a_residual_net_leaves_the_logits() -> None:
    model = small("resnet")
    summed = ["stages.0.0.body.1.conv", "stages.0.0.shortcut.conv", "stages.0.1.body.1.conv"]
    dead = {layer: [1, 6] for layer in summed} | {"stages.1.0.body.0.conv": [0], "stem.conv": [9]}
    for reader in ("stages.0.1.body.0.conv", "stages.1.0.body.0.conv", "stages.1.0.shortcut.conv"):
        silence(model, reader, [1, 6])
    silence(model, "stages.1.0.body.1.conv", [0])
    silence(model, "stages.0.0.body.0.conv", [9])
    silence(model, "stages.0.0.shortcut.conv", [9])
    assert_same_logits_without(model, dead)


def test_cutting_dead_neurons_of_a_fully_connected_net_leaves_the_logits() -> None:
    model = small("fc")
    silence(model, "hidden2", [0, 23])
    silence(model, "hidden3", [5, 6, 7])
    silence(model, "decision", [11])
    assert_same_logits_without(model, {"hidden1": [0, 23], "hidden2": [5, 6, 7], "hidden3": [11]})


def vgg11_bn_with_narrow_hidden_layers() -> nn.Module:
    with torch.device("meta"):
        model = build_model("torchvision/vgg11_bn", 5, init_weights=False, dropout=0.0)
        hidden = [
            nn.Linear(512 * 49, 32),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(32, 24),
            nn.ReLU(),
            nn.Dropout(),
        ]
        model.classifier = nn.Sequential(*hidden, nn.Linear(24, 5))
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.reset_parameters()
    return randomised_norms(model)


def test_cutting_dead_channels_of_torchvisions_vgg11_bn_leaves_the_logits() -> None:
    model = vgg11_bn_with_narrow_hidden_layers()
    silence(model, "features.4", [2, 40])
    # The last convolution's channel c becomes the columns 49 c to 49 c + 48 of the first linear layer.
    silence(model, "classifier.0", [49 * c + position for c in (0, 300) for position in range(49)])
    silence(model, "classifier.3", [17])
    dead = {"features.0": [2, 40], "features.25": [0, 300], "classifier.0": [17]}
    assert_same_logits_without(model, dead, size=64, n=2)


def test_cutting_dead_channels_of_torchvisions_mobilenet_v2_leaves_the_logits() -> None:
    model = small("torchvision/mobilenet_v2")
    block = "features.4.conv"
    silence(model, f"{block}.2", [0, 13])  # reads the depthwise convolution, which reads the expansion
    silence(model, "classifier.1", [5, 900])
    dead = {f"{block}.0.0": [0, 13], f"{block}.1.0": [0, 13], "features.18.0": [5, 900]}
    assert_same_logits_without(model, dead, size=64, n=2)


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
    utilities = utilities_with_dead(model, {})
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


@pytest.mark.parametrize("name", ["inception", "resnet", "fc", "torchvision/mobilenet_v2"])
def test_a_pruned_model_runs_trains_and_learns(name: str) -> None:
    model = small(name)
    pruned, _ = prune_model(model, random_utilities(model), 1.5, images_of(1))
    assert not pruned.training
    optimizer = torch.optim.SGD([p for p in pruned.parameters() if p.requires_grad], lr=0.01)
    images, labels = images_of(6), torch.arange(6) % 5
    pruned.train()
    before = {key: parameter.detach().clone() for key, parameter in pruned.named_parameters()}
    nn.functional.cross_entropy(pruned(images), labels).backward()
    for key, parameter in pruned.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
        assert parameter.grad is None or parameter.grad.shape == parameter.shape
    optimizer.step()
    assert any(not torch.equal(parameter, before[key]) for key, parameter in pruned.named_parameters())
    assert pruned.eval()(images).isfinite().all()


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


@pytest.mark.parametrize("name", ["inception", "resnet", "fc", "torchvision/mobilenet_v2"])
def test_a_pruned_model_survives_its_checkpoint(name: str, tmp_path: Path) -> None:
    model = small(name)
    pruned, _ = prune_model(model, random_utilities(model), 1.5, images_of(1))
    save_model(pruned, tmp_path / "pruned")
    loaded = load_model(tmp_path / "pruned")
    assert sizes(loaded) == sizes(pruned)
    with torch.no_grad():
        assert torch.equal(loaded(images_of(3)), pruned(images_of(3)))


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


@pytest.mark.parametrize("eta", [0.0, -1.0])
def test_an_eta_that_is_not_positive_is_refused(eta: float) -> None:
    model = small("fc")
    with pytest.raises(ValueError, match="positive eta"):
        prune_model(model, random_utilities(model), eta, images_of(1))


def test_an_architecture_that_cannot_be_traced_is_refused_by_name() -> None:
    class Unreadable(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no way through")

    model = Unreadable(nn.Linear(3, 3), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"Unreadable.*no way through"):
        prune_model(model, {"0": flat_utility([1.0, 2.0, 3.0])}, 1.0, torch.zeros(1, 3))
