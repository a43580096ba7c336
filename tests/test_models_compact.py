from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from pipeline.cost import measure_cost
from pipeline.models import build_model

torch.set_num_threads(1)

IMAGENET = (3, 224, 224)


def spatial_sizes(net: nn.Module, size: int) -> list[int]:
    """Heights of the maps that the convolutions give, in order."""
    found: list[int] = []
    for each in net.modules():
        if isinstance(each, nn.Conv2d):
            each.register_forward_hook(lambda _m, _i, output: found.append(output.shape[-1]))
    net.eval()(torch.zeros(1, 3, size, size))
    return found


def strictly_smaller(sizes: Sequence[int]) -> list[int]:
    return [size for idx, size in enumerate(sizes) if idx == 0 or size != sizes[idx - 1]]


@pytest.mark.parametrize(
    ("name", "classes", "params"),
    [
        ("vgg16", 10, "134.3M"),  # CVIU section 5.2
        ("vgg16", 1000, "138.4M"),
        ("mobilenet", 1000, "4.2M"),  # Howard et al. 2017, Table 8
        ("mobilenet_v2", 1000, "3.5M"),
        ("squeezenet", 1000, "1.2M"),  # Iandola et al. 2016: 1,248,424
    ],
)
def test_compact_nets_have_the_published_parameters(name: str, classes: int, params: str) -> None:
    with torch.device("meta"):
        cost = measure_cost(build_model(name, classes), IMAGENET)
    assert f"{cost.params / 1e6:.1f}M" == params


def test_the_mnist_net_has_four_million_parameters() -> None:
    net = build_model("fc", 10)  # CVIU section 5.1: from 4.0M
    assert f"{measure_cost(net, (1, 28, 28)).params / 1e6:.1f}M" == "4.0M"


def test_mobilenets_have_the_published_multiply_accumulates() -> None:
    with torch.device("meta"):
        first = measure_cost(build_model("mobilenet", 1000), IMAGENET).flops / 2
        second = measure_cost(build_model("mobilenet_v2", 1000), IMAGENET).flops / 2
    assert f"{first / 1e6:.0f}M" == "569M"
    assert second == pytest.approx(314e6, rel=0.05)


@pytest.mark.parametrize(
    ("name", "counterpart", "classes"),
    [
        ("vgg16", "vgg16", 10),
        ("vgg16", "vgg16", 1000),
        ("mobilenet_v2", "mobilenet_v2", 1000),
        ("squeezenet", "squeezenet1_0", 1000),
    ],
)
def test_nets_that_torchvision_has_too_have_as_many_parameters(
    name: str, counterpart: str, classes: int
) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(counterpart, num_classes=classes)
        expected = measure_cost(theirs, IMAGENET)
        found = measure_cost(build_model(name, classes), IMAGENET)
    assert found.params == expected.params
    assert sorted(row.params for row in found.layers) == sorted(row.params for row in expected.layers)
    if (
        name != "squeezenet"
    ):  # whose first convolution is padded here, and whose classes are read after the pool
        assert found.flops == expected.flops


def test_vgg16_has_thirteen_convolutions_and_three_linear_layers() -> None:
    with torch.device("meta"):
        layers = measure_cost(build_model("vgg16", 10), IMAGENET).layers
    assert [row.out_channels for row in layers] == [
        *[64, 64, 128, 128, 256, 256, 256],
        *[512] * 6,
        *[4096, 4096, 10],
    ]
    assert [row.kind for row in layers] == ["3x3"] * 13 + ["linear"] * 3
    assert layers[13].in_channels == 512 * 7 * 7


def test_vgg16_with_batch_norm_has_no_biases_before_it() -> None:
    net = build_model("vgg16", 4, width=1 / 32, batch_norm=True)
    norms = [each for each in net.modules() if isinstance(each, nn.BatchNorm2d)]
    assert len(norms) == 13
    assert all(each.weight.requires_grad for each in norms)
    assert all(each.bias is None for each in net.modules() if isinstance(each, nn.Conv2d))
    plain = build_model("vgg16", 4, width=1 / 32)
    assert all(each.bias is not None for each in plain.modules() if isinstance(each, nn.Conv2d))


@pytest.mark.parametrize(
    ("name", "options", "stem", "size", "maps"),
    [
        ("vgg16", {"hidden": (4,)}, "imagenet", 224, [224, 112, 56, 28, 14]),
        ("vgg16", {"hidden": (4,)}, "small", 8, [8, 4, 2, 1]),
        ("vgg16", {"hidden": (4,)}, "small", 32, [32, 16, 8, 4]),
        ("mobilenet", {}, "imagenet", 224, [112, 56, 28, 14, 7]),
        ("mobilenet", {}, "small", 32, [32, 16, 8, 4]),
        ("mobilenet_v2", {}, "imagenet", 224, [112, 56, 28, 14, 7]),
        ("mobilenet_v2", {}, "small", 32, [32, 16, 8, 4]),
        ("squeezenet", {}, "imagenet", 224, [112, 56, 28, 14]),
        ("squeezenet", {}, "small", 32, [32, 16, 8]),
    ],
)
def test_stems_fit_their_images(
    name: str, options: dict[str, Any], stem: str, size: int, maps: list[int]
) -> None:
    net = build_model(name, 4, width=1 / 32, stem=stem, **options)
    assert strictly_smaller(spatial_sizes(net, size)) == maps


def test_vgg16s_hidden_layers_and_pool_can_be_chosen() -> None:
    net = build_model("vgg16", 4, width=1 / 8, hidden=(80, 16), pool=2, stem="small")
    linears = [(each.in_features, each.out_features) for each in net.modules() if isinstance(each, nn.Linear)]
    assert linears == [(64 * 4, 10), (10, 2), (2, 4)]
    net = build_model("vgg16", 4, width=1 / 8, hidden=(), pool=1, stem="small")
    assert [each.in_features for each in net.modules() if isinstance(each, nn.Linear)] == [64]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": (4, 0)}, r"hidden layers of positive width, got \(4, 0\)"),
        ({"pool": 0}, "pool of at least 1, got 0"),
    ],
)
def test_vgg16_refuses_what_it_cannot_build(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model("vgg16", 4, **options)


def test_mobilenets_3x3_convolutions_are_depthwise_and_rectified_on_their_own() -> None:
    net = build_model("mobilenet", 4, width=1 / 8)
    depthwise = [each for each in net.modules() if isinstance(each, nn.Conv2d) and each.groups > 1]
    assert len(depthwise) == 13
    assert all(each.groups == each.in_channels == each.out_channels for each in depthwise)
    assert sum(isinstance(each, nn.ReLU) for each in net.modules()) == 27


def test_mobilenet_v2_is_torchvisions_where_nothing_else_is_asked() -> None:
    torch.manual_seed(0)
    ours = build_model("mobilenet_v2", 4, width=0.25).eval()
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2(num_classes=4, width_mult=0.25).eval()
    images = torch.rand(1, 3, 64, 64)
    assert torch.allclose(ours(images), theirs(images), atol=1e-6)


def test_squeezenets_linear_layer_after_pooling_is_its_last_convolution_before_it() -> None:
    """The two commute, but for the rectifier of the published net."""
    net = build_model("squeezenet", 5, width=1 / 8, stem="small").eval()
    maps: list[torch.Tensor] = []
    net.get_submodule("fires").register_forward_hook(lambda _m, _i, output: maps.append(output))
    logits = net(torch.rand(2, 3, 16, 16))
    decision = net.get_submodule("head.decision")
    assert isinstance(decision, nn.Linear)
    scores = nn.functional.conv2d(maps[0], decision.weight[:, :, None, None], decision.bias)
    assert torch.allclose(scores.mean((2, 3)), logits, atol=1e-6)
