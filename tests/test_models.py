from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from pipeline.models import build_model
from pipeline.models.blocks import BatchNormNoScale
from pipeline.models.classifier import Blueprint, Classifier, blueprint_of
from pipeline.models.inception import FILTERS, Inception, InceptionModule
from pipeline.resnet_config import ModuleSpec, parse_config
from pipeline.widths import scaled_width

RESNET18 = "(i64, i64)-(c128, i128)-(c256, i256)-(c512, i512)"
RESNET50 = "(C64, I64, I64)-(C128, I128, I128, I128)-(C256, I256, I256, I256, I256, I256)-(C512, I512, I512)"


def inception(**options: Any) -> Inception:
    net = build_model("inception", 4, **({"width": 1 / 16, "stem": "small"} | options))
    assert isinstance(net, Inception)
    return net


def n_convolutions(module: nn.Module) -> int:
    return sum(isinstance(each, nn.Conv2d) for each in module.modules())


def depth(net: Inception) -> int:
    """Layers of the longest way through: convolutions and the decision layer."""
    stem = n_convolutions(net.stem)
    modules = [module for stage in net.stages for module in stage]  # type: ignore[attr-defined]
    longest = [max(n_convolutions(branch) for branch in module.children()) for module in modules]
    return stem + sum(longest) + sum(isinstance(each, nn.Linear) for each in net.modules())


@pytest.mark.parametrize(
    ("stages", "layers"), [((2, 5, 2), 31), ((3, 5, 2), 34), ((10, 8, 10), 88), ((10, 8, 11), 91)]
)
@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_inception_n_has_four_layers_and_three_a_module(
    stages: tuple[int, int, int], layers: int, stem: str
) -> None:
    with torch.device("meta"):
        net = inception(stages=stages, stem=stem)
    assert depth(net) == layers == 4 + 3 * sum(stages)
    assert [len(stage) for stage in net.stages] == list(stages)  # type: ignore[arg-type]


def output_channels(module: nn.Module) -> tuple[int, ...]:
    return tuple(each.out_channels for each in module.modules() if isinstance(each, nn.Conv2d))


def test_added_modules_are_copies_of_the_last_one_of_their_stage() -> None:
    with torch.device("meta"):
        net = inception(stages=(3, 6, 4), width=1.0)
    first, second, third = ([output_channels(m) for m in stage] for stage in net.stages)  # type: ignore
    assert first[2] == first[1] != first[0]
    assert second[5] == second[4] != second[3]
    assert third[3] == third[2] == third[1] != third[0]


def test_a_shorter_base_copies_the_last_row_that_it_takes() -> None:
    with torch.device("meta"):
        net = inception(stages=(2, 3, 2), base=(1, 2, 1), width=1.0)
    first, second, third = ([output_channels(m) for m in stage] for stage in net.stages)  # type: ignore
    assert first[0] == first[1]
    assert second[0] != second[1] == second[2]
    assert third[0] == third[1]


def test_module_3a_has_googlenets_filters_with_two_3x3_in_place_of_the_5x5() -> None:
    module = InceptionModule(192, FILTERS[0][0])
    kernels = [
        (each.in_channels, each.out_channels, each.kernel_size[0])
        for each in module.modules()
        if isinstance(each, nn.Conv2d)
    ]
    branches = [(192, 64, 1)], [(192, 96, 1), (96, 128, 3)], [(192, 16, 1), (16, 16, 3), (16, 32, 3)]
    assert kernels == [*branches[0], *branches[1], *branches[2], (192, 32, 1)]
    assert module(torch.zeros(2, 192, 5, 5)).shape == (2, 256, 5, 5)
    assert any(isinstance(each, nn.AvgPool2d) for each in module.modules())
    assert not any(isinstance(each, nn.MaxPool2d) for each in module.modules())


def test_the_average_pool_before_the_projection_leaves_padding_out() -> None:
    pool = next(iter(InceptionModule(4, FILTERS[0][0]).branch_pool.children()))
    assert torch.equal(pool(torch.full((1, 4, 3, 5), 2.0)), torch.full((1, 4, 3, 5), 2.0))


def test_convolutions_have_no_bias_and_batch_norms_no_scale() -> None:
    net = inception()
    convolutions = [each for each in net.modules() if isinstance(each, nn.Conv2d)]
    norms = [each for each in net.modules() if isinstance(each, nn.BatchNorm2d)]
    assert len(convolutions) == len(norms) == 3 + 7 * 9
    assert all(each.bias is None for each in convolutions)
    for norm in norms:
        assert isinstance(norm, BatchNormNoScale)
        assert (norm.eps, norm.momentum) == (1e-5, 0.1)
        assert not norm.weight.requires_grad
        assert norm.bias.requires_grad


@pytest.mark.parametrize(
    ("stem", "size", "maps"),
    [("small", 8, (8, 4, 2)), ("imagenet", 224, (28, 14, 7)), ("small", 9, (9, 4, 2))],
)
def test_max_pools_stand_between_the_stages_and_the_stem_fits_its_images(
    stem: str, size: int, maps: tuple[int, int, int]
) -> None:
    net = inception(stem=stem, stages=(1, 1, 1), base=(1, 1, 1))
    found: list[int] = []
    for stage in net.stages:
        stage.register_forward_hook(lambda _m, _i, output: found.append(output.shape[-1]))
    assert net.eval()(torch.zeros(2, 3, size, size)).shape == (2, 4)
    assert tuple(found) == maps


def test_width_multiplies_every_channel_count_and_leaves_at_least_one() -> None:
    assert [scaled_width(64, w) for w in (1.0, 0.5, 0.25, 0.001)] == [64, 32, 16, 1]
    with torch.device("meta"):
        full, half = inception(width=1.0), inception(width=0.5)
    assert output_channels(half) == tuple(n // 2 for n in output_channels(full))


@pytest.mark.parametrize(("n_modules", "places"), [(1, [0]), (2, [0]), (3, [0, 1]), (5, [0, 3]), (8, [0, 6])])
def test_auxiliary_heads_sit_after_the_first_module_of_stage_two_and_before_its_last(
    n_modules: int, places: list[int]
) -> None:
    net = inception(stages=(1, n_modules, 1))
    taps = [tap for tap, _ in net.auxiliary_heads()]
    stage = list(net.stages[1])  # type: ignore[call-overload]
    assert [stage.index(tap) for tap in taps] == places


def test_auxiliary_heads_pool_five_by_five_and_have_the_papers_widths() -> None:
    net = inception(width=1.0, stages=(1, 3, 1))
    (_, first), (_, second) = net.auxiliary_heads()
    assert first(torch.rand(2, 512, 14, 14)).shape == (2, 4)
    assert second(torch.rand(2, 512, 14, 14)).shape == (2, 4)
    convolutions = [each for each in first.modules() if isinstance(each, nn.Conv2d)]
    linears = [each for each in first.modules() if isinstance(each, nn.Linear)]
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in convolutions] == [(512, 128, (1, 1))]
    # 14 pixels under a 5x5 pool at stride 3 are 4.
    assert [(each.in_features, each.out_features) for each in linears] == [(128 * 16, 1024), (1024, 4)]


def test_auxiliary_heads_take_maps_smaller_than_their_pool() -> None:
    net = inception(stages=(1, 1, 1))
    ((tap, head),) = net.auxiliary_heads()
    channels = InceptionModule.__call__(tap, torch.zeros(2, FILTERS[0][0].total // 16, 4, 4)).shape[1]
    assert head(torch.rand(2, channels, 4, 4)).shape == (2, 4)


def test_auxiliary_heads_are_no_part_of_the_net() -> None:
    net = inception()
    before = set(net.state_dict())
    net.auxiliary_heads()
    assert set(net.state_dict()) == before


@pytest.mark.parametrize("options", [{"stages": (1, 1)}, {"stages": (0, 1, 1)}, {"stages": (1, 1, 1, 1)}])
def test_inception_refuses_stages_that_are_not_three_positive_counts(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="three stages"):
        inception(**options)


@pytest.mark.parametrize("base", [(3, 5, 2), (2, 6, 2), (0, 5, 2), (2, 5)])
def test_inception_refuses_a_base_outside_the_filter_table(base: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"between \(1, 1, 1\) and \(2, 5, 2\)"):
        inception(base=base)


@pytest.mark.parametrize(("name", "options"), [("inception", {}), ("resnet", {"config": "c16"})])
@pytest.mark.parametrize("wrong", [{"width": 0.0}, {"width": -1.0}, {"stem": "large"}])
def test_a_wrong_width_or_stem_is_refused(name: str, options: dict[str, Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"expected a .*got .?{next(iter(wrong.values()))}"):
        build_model(name, 4, **(options | wrong))


def test_residual_configurations_are_read_by_the_papers_notation() -> None:
    assert parse_config("(c64, i64)-c128-1c256") == [
        [ModuleSpec(2, True, 64), ModuleSpec(2, False, 64)],
        [ModuleSpec(2, True, 128)],
        [ModuleSpec(1, True, 256)],
    ]
    assert parse_config("C64") == [[ModuleSpec(3, True, 64)]]
    assert parse_config("(I8,3i8,2I8,1c8)")[0] == [
        ModuleSpec(3, False, 8),
        ModuleSpec(3, False, 8),
        ModuleSpec(2, False, 8),
        ModuleSpec(1, True, 8),
    ]


def test_a_module_of_depth_three_is_a_bottleneck_with_four_times_its_filters() -> None:
    assert [spec.out_channels for spec in parse_config("(C64, c64, 1c64)")[0]] == [256, 64, 64]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("x64", "'x64'"),
        ("c", "'c'"),
        ("64", "'64'"),
        ("c64,-c128", "''"),
        ("c64--c128", "''"),
        ("", "''"),
        ("4c64", "'4c64'"),
        ("0c64", "'0c64'"),
        ("c64i64", "'c64i64'"),
        ("c-64", "'c'"),
        ("c64)(", r"c64\)\("),
    ],
)
def test_what_does_not_follow_the_notation_is_named(config: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        parse_config(config)


@pytest.mark.parametrize("config", ["(c64, i64", "c64)", "(c64)-(i64", "((c64))"])
def test_parentheses_that_do_not_pair_are_refused(config: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_config(config)


def test_modules_of_no_filters_are_refused() -> None:
    with pytest.raises(ValueError, match="c0"):
        parse_config("c0")


@pytest.mark.parametrize("config", ["i32", "c64-i64", "c64-i128", "(c64, i32)"])
def test_an_identity_module_that_would_change_its_input_is_refused(config: str) -> None:
    with pytest.raises(ValueError, match="identity module"):
        build_model("resnet", 4, config=config)


def conv_and_linear_params(model: nn.Module) -> int:
    layers = [each for each in model.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    return sum(parameter.numel() for each in layers for parameter in each.parameters())


@pytest.mark.parametrize(
    ("config", "name", "millions"), [(RESNET18, "resnet18", 11.68), (RESNET50, "resnet50", 25.5)]
)
def test_residual_nets_have_he_et_als_parameter_counts(config: str, name: str, millions: float) -> None:
    with torch.device("meta"):
        net = build_model("resnet", 1000, config=config)
        reference = getattr(torchvision.models, name)()
    assert round(conv_and_linear_params(net) / 1e6, 2) == millions
    assert conv_and_linear_params(net) == conv_and_linear_params(reference)


@pytest.mark.parametrize(("stem", "size", "maps"), [("small", 8, [8, 4, 2]), ("imagenet", 64, [16, 8, 4])])
def test_every_stage_of_a_residual_net_after_the_first_halves_the_maps(
    stem: str, size: int, maps: list[int]
) -> None:
    net = build_model("resnet", 4, config="(c16, i16)-c32-C8", width=0.5, stem=stem)
    found: list[int] = []
    for stage in net.get_submodule("stages").children():
        stage.register_forward_hook(lambda _m, _i, output: found.append(output.shape[-1]))
    assert net.eval()(torch.zeros(1, 3, size, size)).shape == (1, 4)
    assert found == maps


def test_a_residual_module_adds_its_input_before_the_last_rectifier() -> None:
    net = build_model("resnet", 2, config="i64", width=1 / 8, stem="small").eval()
    with torch.no_grad():
        module = net.get_submodule("stages.0.0")
        for parameter in module.parameters():
            parameter.zero_()
        x = torch.rand(1, 8, 4, 4)
        assert torch.equal(module(x), x)
        assert not module(-x).any()


def test_the_fully_connected_net_has_the_papers_layers() -> None:
    net = build_model("fc", 10)
    linears = [(each.in_features, each.out_features) for each in net.modules() if isinstance(each, nn.Linear)]
    assert linears == [(784, 1024), (1024, 1024), (1024, 1024), (1024, 1024), (1024, 32), (32, 10)]
    assert net(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    assert sum(isinstance(each, nn.ReLU) for each in net.modules()) == 5


@pytest.mark.parametrize("hidden", [(), (4, 0)])
def test_the_fully_connected_net_refuses_layers_of_no_width(hidden: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="hidden layer"):
        build_model("fc", 10, hidden=hidden)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("inception", {"stages": (1, 1, 1), "base": (1, 1, 1), "width": 0.0625, "stem": "small"}),
        ("resnet", {"config": "c16-c32", "width": 0.25, "stem": "small"}),
    ],
)
def test_nets_take_images_of_one_channel_where_told(name: str, options: dict[str, Any]) -> None:
    net = build_model(name, 4, in_channels=1, **options)
    assert net.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize("name", ["inceptio", "", "Inception", "vgg11_bn", "torchvision"])
def test_an_unknown_model_is_refused_with_the_names_that_are_known(name: str) -> None:
    with pytest.raises(ValueError, match=r"fc, inception, resnet, torchvision/<name>") as caught:
        build_model(name, 4)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "resnet19",
        "get_model",
        "segmentation.fcn_resnet50",
        "fcn_resnet50",
        "raft_large",
        "",
        "quantized_resnet18",
    ],
)
def test_what_is_no_classifier_of_torchvision_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="classifier of torchvision"):
        build_model(f"torchvision/{name}", 4)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("inception", {"stage": (1, 1, 1)}, "stage"),
        ("fc", {"widths": (3,)}, "widths"),
        ("resnet", {}, "config"),
        ("torchvision/resnet18", {"colour": 1}, "colour"),
    ],
)
def test_an_unknown_or_missing_option_is_named_with_its_model(
    name: str, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=f"model '{name}'.*{named}"):
        build_model(name, 4, **options)


@pytest.mark.parametrize("num_classes", [1, 0, -2])
def test_fewer_than_two_classes_are_refused(num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"at least 2 classes, got {num_classes}"):
        build_model("fc", num_classes)


def test_a_model_remembers_how_it_was_built_and_any_other_is_refused() -> None:
    net = build_model("fc", 3, in_features=4, hidden=(5,))
    blueprint = Blueprint("fc", 3, {"in_features": 4, "hidden": (5,)})
    assert blueprint_of(net) == blueprint
    wrapped = Classifier(net, image_shape=(1, 2, 2), mean=[0.5], std=[0.2], classes=("a", "b", "c"))
    assert blueprint_of(wrapped) == blueprint
    with pytest.raises(ValueError, match="from build_model, got Linear"):
        blueprint_of(nn.Linear(2, 2))


def test_the_same_seed_gives_the_same_initial_weights() -> None:
    nets = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        nets.append(inception(stages=(1, 1, 1), base=(1, 1, 1)).state_dict())
    assert all(torch.equal(nets[0][key], nets[1][key]) for key in nets[0])
    assert not torch.equal(nets[0]["head.decision.weight"], nets[2]["head.decision.weight"])


def test_a_classifier_normalises_by_channel_before_its_net() -> None:
    net = build_model("fc", 2, in_features=2, hidden=(2,))
    wrapped = Classifier(net, image_shape=(2, 1, 1), mean=[0.5, 0.25], std=[0.5, 0.125], classes=("a", "b"))
    images = torch.tensor([[[[1.0]], [[0.5]]]])
    assert torch.equal(wrapped(images), net(torch.tensor([[[[1.0]], [[2.0]]]])))


def test_a_classifiers_constant_channel_does_not_become_infinite() -> None:
    net = build_model("fc", 2, in_features=1, hidden=(2,))
    wrapped = Classifier(net, image_shape=(1, 1, 1), mean=[0.5], std=[0.0], classes=("a", "b"))
    assert wrapped(torch.tensor([[[[0.5]]]])).isfinite().all()
