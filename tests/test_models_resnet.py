import pytest
import torch
import torchvision
from torch import nn

from pipeline.models import build_model
from pipeline.models.blocks import ConvBnRelu
from pipeline.models.classifier import Blueprint, blueprint_of
from pipeline.models.resnet import ResNet
from pipeline.params.nets.resnet_config import PUBLISHED, ModuleSpec, parse_config

torch.set_num_threads(1)

RESNET18 = "(i64, i64)-(c128, i128)-(c256, i256)-(c512, i512)"
RESNET50 = "(C64, I64, I64)-(C128, I128, I128, I128)-(C256, I256, I256, I256, I256, I256)-(C512, I512, I512)"


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


def test_no_convolution_of_one_pixel_has_a_stride_of_its_own() -> None:
    """Its weight gradient corrupts memory where it reads few channels, as it may after pruning."""
    net = build_model("resnet", 4, config="C4-(C8, I8)-c16-1c16", width=1.0, stem="small")
    strided = [n for n, e in net.named_modules() if isinstance(e, nn.Conv2d) and e.stride != (1, 1)]
    assert [n for n in strided if net.get_submodule(n).kernel_size == (1, 1)] == []
    assert strided == [f"stages.{stage}.0.body.0.conv" for stage in (2, 3)]


def test_a_strided_convolution_of_one_pixel_is_computed_in_two_steps() -> None:
    layer = ConvBnRelu(4, 7, 1, stride=2)
    assert next(iter(layer.state_dict())) == "conv.weight"
    x = torch.rand(2, 4, 5, 6)
    expected = nn.functional.conv2d(x, layer.conv.weight, stride=2)
    found = layer.conv(layer.subsample(x))
    assert found.shape == (2, 7, 3, 3)
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_published_names_are_the_papers() -> None:
    depths = [6, 7, 8, 9, 10, 12, *range(18, 35, 2), 38, 41, 44, 47, 50]
    assert list(PUBLISHED) == [f"ResNet{n}" for n in depths]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_nets_layers_are_as_many_as_its_name_says(name: str) -> None:
    """Stem, the convolutions of all modules without those on shortcuts, and the decision layer."""
    with torch.device("meta"):
        net = build_model(name, 10)
    assert isinstance(net, ResNet)
    convolutions = [
        n for n, each in net.named_modules() if isinstance(each, nn.Conv2d) and "shortcut" not in n
    ]
    assert len(convolutions) + 1 == int(name.removeprefix("ResNet"))


def stage_lengths(name: str) -> list[int]:
    return [len(stage) for stage in parse_config(name)]


@pytest.mark.parametrize(
    ("names", "start"),
    [([50, 47, 44, 41, 38], [3, 4, 6, 3]), ([34, 32, 30, 28, 26, 24, 22, 20, 18], [3, 4, 6, 3])],
)
def test_table_4_follows_the_rule_that_appendix_c_prints(names: list[int], start: list[int]) -> None:
    """The longest stage loses a module; of equally long ones the bottom one."""
    expected = list(start)
    for name in names:
        assert stage_lengths(f"ResNet{name}") == expected
        expected[expected.index(max(expected))] -= 1


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ResNet12", "(c64, i64)-c128-c256-c512"),
        ("ResNet18", "(c64, i64)-(c128, i128)-(c256, i256)-(c512, i512)"),
        ("ResNet22", "(c64, i64)-(c128, i128)-(c256, i256, i256)-(c512, i512, i512)"),
        ("ResNet38", "(C64, I64, I64)-(C128, I128, I128)-(C256, I256, I256)-(C512, I512, I512)"),
    ],
)
def test_names_stand_for_the_rows_of_table_4(name: str, config: str) -> None:
    assert parse_config(name) == parse_config(config)
    with torch.device("meta"):
        named, written = build_model("resnet", 10, config=name), build_model("resnet", 10, config=config)
    assert conv_and_linear_params(named) == conv_and_linear_params(written)


def test_a_published_name_is_a_residual_net_with_that_configuration() -> None:
    net = build_model("ResNet6", 4, width=1 / 16, stem="small", in_channels=1)
    options = {"config": "ResNet6", "width": 1 / 16, "stem": "small", "in_channels": 1}
    assert blueprint_of(net) == Blueprint("resnet", 4, options)
    again = build_model("resnet", 4, **options)
    assert {n: t.shape for n, t in again.state_dict().items()} == {
        n: t.shape for n, t in net.state_dict().items()
    }
    assert net.eval()(torch.rand(2, 1, 8, 8)).shape == (2, 4)


def test_a_published_name_and_a_configuration_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"model 'ResNet6'.*config"):
        build_model("ResNet6", 4, config="c64")


def test_an_unpublished_name_is_no_configuration() -> None:
    with pytest.raises(ValueError, match="'ResNet19'"):
        build_model("resnet", 4, config="ResNet19")
