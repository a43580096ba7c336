import re
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from pipeline.cost import Cost, LayerCost, count_params, measure_cost
from pipeline.models import build_model


class Row(NamedTuple):
    name: str
    n_modules: int
    stages: tuple[int, int, int]
    params: str
    flops: str


# CVIU Table 1, without its accuracies.
TABLE_1 = [
    Row("InceptionV1", 9, (2, 5, 2), "6.7M", "3.0B"),
    Row("Inception-34", 10, (3, 5, 2), "7.1M", "3.7B"),
    Row("Inception-37", 11, (3, 5, 3), "8.6M", "3.8B"),
    Row("Inception-40", 12, (4, 5, 3), "9.0M", "4.5B"),
    Row("Inception-43", 13, (4, 6, 3), "10.0M", "4.9B"),
    Row("Inception-46", 14, (4, 7, 3), "11.0M", "5.3B"),
    Row("Inception-49", 15, (4, 7, 4), "12.5M", "5.4B"),
    Row("Inception-52", 16, (4, 7, 5), "14.0M", "5.6B"),
    Row("Inception-55", 17, (4, 8, 5), "15.0M", "6.0B"),
    Row("Inception-58", 18, (5, 8, 5), "15.5M", "6.6B"),
    Row("Inception-61", 19, (6, 8, 5), "15.9M", "7.3B"),
    Row("Inception-64", 20, (7, 8, 5), "16.3M", "8.0B"),
    Row("Inception-67", 21, (7, 8, 6), "17.8M", "8.1B"),
    Row("Inception-70", 22, (7, 8, 7), "19.3M", "8.3B"),
    Row("Inception-73", 23, (8, 8, 7), "19.8M", "8.9B"),
    Row("Inception-76", 24, (8, 8, 8), "21.3M", "9.1B"),
    Row("Inception-79", 25, (8, 8, 9), "22.8M", "9.2B"),
    Row("Inception-82", 26, (9, 8, 9), "23.2M", "9.9B"),
    Row("Inception-85", 27, (9, 8, 10), "24.7M", "10.1B"),
    Row("Inception-88", 28, (10, 8, 10), "25.1M", "10.7B"),
    Row("Inception-91", 29, (10, 8, 11), "26.6M", "10.9B"),
]


def test_the_table_below_is_whole() -> None:
    assert len(TABLE_1) == 21
    for row in TABLE_1:
        assert sum(row.stages) == row.n_modules
        assert row.name == "InceptionV1" or row.name == f"Inception-{4 + 3 * row.n_modules}"


def table_1_cost(stages: tuple[int, int, int]) -> Cost:
    with torch.device("meta"):  # shapes without numbers
        return measure_cost(build_model("inception", 1000, stages=stages), (3, 224, 224))


@pytest.fixture(scope="module")
def deepest() -> Cost:
    """Inception-91's; the nets above it in the table lack the last modules of its stages."""
    return table_1_cost(TABLE_1[-1].stages)


def is_within(layer: LayerCost, stages: tuple[int, int, int]) -> bool:
    place = re.match(r"stages\.(\d+)\.(\d+)\.", layer.name)
    return place is None or int(place[2]) < stages[int(place[1])]


@pytest.mark.parametrize("row", TABLE_1, ids=lambda row: row.name)
def test_cviu_table_1_comes_out_to_the_printed_digit(row: Row, deepest: Cost) -> None:
    layers = [layer for layer in deepest.layers if is_within(layer, row.stages)]
    params, flops = sum(layer.params for layer in layers), sum(layer.flops for layer in layers)
    assert f"{params / 1e6:.1f}M" == row.params
    assert f"{flops / 1e9:.1f}B" == row.flops
    if row.name in ("InceptionV1", "Inception-61", "Inception-88"):
        built = table_1_cost(row.stages)
        assert (built.params, built.flops) == (params, flops)


def test_costs_do_not_depend_on_where_a_model_lies() -> None:
    options = {"stages": (1, 2, 1), "width": 0.125}
    with torch.device("meta"):
        expected = measure_cost(build_model("inception", 10, **options), (3, 64, 64))  # type: ignore[arg-type]
    assert measure_cost(build_model("inception", 10, **options), (3, 64, 64)) == expected  # type: ignore


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.decision = nn.Linear(96, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decision(self.norm(self.conv(x)).flatten(1))
        return logits


def test_a_strided_grouped_convolution_and_a_linear_layer_are_counted_as_by_hand() -> None:
    cost = measure_cost(Tiny(), (4, 8, 8))
    # 6 filters of 2 x 3 x 3 and 6 biases; 4 x 4 positions; batch norm left out; biases are no FLOPs.
    conv = LayerCost("conv", "3x3", 4, 6, 6 * 18 + 6, 2 * 6 * 18 * 16)
    decision = LayerCost("decision", "linear", 96, 5, 480, 960)
    assert cost.layers == (conv, decision)
    assert (cost.params, cost.flops) == (114 + 480, 3456 + 960)


def test_memory_is_that_of_float32_weights_and_of_one_images_outputs() -> None:
    cost = measure_cost(Tiny(), (4, 8, 8))
    # 6 x 4 x 4 outputs of the convolution, 5 of the decision layer; batch norm and images are left out.
    assert cost.memory_bytes == 4 * (114 + 480 + 96 + 5)


def test_memory_counts_a_layers_outputs_each_time_that_it_runs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.conv(self.conv(x)))

    assert measure_cost(Twice(), (3, 2, 5)).memory_bytes == 4 * (12 + 2 * 30)


def test_memory_of_a_larger_image_grows_by_its_outputs_alone() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 4, 3, stride=2, padding=1))
    small, large = measure_cost(net, (1, 4, 4)), measure_cost(net, (1, 8, 8))
    assert small.params == large.params == 20 + 76
    assert small.memory_bytes == 4 * (96 + 2 * 16 + 4 * 4)
    assert large.memory_bytes == 4 * (96 + 2 * 64 + 4 * 16)


_SMALL: dict[str, Any] = {"width": 0.125, "stem": "small", "in_channels": 1}
_ROWS = {"stages": (1, 2, 1), "base": (1, 1, 1)}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fc", {"in_features": 64, "hidden": (12, 8)}),
        ("vgg16", _SMALL | {"hidden": (16,), "pool": 1}),
        ("inception", _SMALL | _ROWS),
        ("inception", _SMALL | _ROWS | {"module": "v3"}),
        ("googlenet", _SMALL | _ROWS),
        ("bn_googlenet", _SMALL | _ROWS),
        ("ResNet10", _SMALL),
        ("mobilenet", _SMALL),
        ("mobilenet_v2", _SMALL),
        ("squeezenet", _SMALL),
    ],
)
def test_counting_parameters_without_a_forward_pass_gives_the_measured_count(
    name: str, options: dict[str, Any]
) -> None:
    net = build_model(name, 10, **options)
    assert count_params(net) == measure_cost(net, (1, 8, 8)).params > 0


def test_counting_parameters_counts_a_shared_layer_once() -> None:
    layer = nn.Linear(4, 4)
    assert count_params(nn.Sequential(layer, nn.ReLU(), layer)) == 20


def test_a_convolution_that_is_not_square_is_counted_by_its_kernel() -> None:
    (row,) = measure_cost(nn.Sequential(nn.Conv2d(2, 3, (1, 5), bias=False)), (2, 4, 9)).layers
    assert row == LayerCost("0", "1x5", 2, 3, 30, 2 * 30 * 4 * 5)


def test_a_layer_that_runs_twice_counts_its_flops_twice_and_its_parameters_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.conv(self.conv(x)))

    (row,) = measure_cost(Twice(), (3, 2, 2)).layers
    assert (row.params, row.flops) == (12, 2 * (2 * 9 * 4))


def test_layers_come_in_the_order_in_which_they_run() -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(4, 2), nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.last(self.first(x).flatten(1)))

    assert [row.name for row in measure_cost(Reversed(), (1, 2, 2)).layers] == ["first", "last"]


def hook_count(model: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_mode_state_and_hooks_as_they_were(training: bool) -> None:
    model = Tiny().train(training)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure_cost(model, (4, 8, 8))
    assert {module.training for module in model.modules()} == {training}
    assert hook_count(model) == 0
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_measuring_leaves_a_part_in_evaluation_mode_where_it_was_so() -> None:
    model = Tiny().train()
    model.norm.eval()
    measure_cost(model, (4, 8, 8))
    assert model.training
    assert not model.norm.training


def test_hooks_and_mode_are_put_right_even_when_the_model_raises() -> None:
    model = Tiny().train()
    with pytest.raises(RuntimeError):
        measure_cost(model, (3, 8, 8))
    assert model.training
    assert hook_count(model) == 0


def test_a_model_in_another_precision_can_be_measured() -> None:
    assert measure_cost(Tiny().double(), (4, 8, 8)) == measure_cost(Tiny(), (4, 8, 8))
