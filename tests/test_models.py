from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.checkpoint import load_model, save_model
from pipeline.deconv import trace_utility
from pipeline.models import build_model
from pipeline.models.classifier import Blueprint, Classifier, blueprint_of, decision_layer

torch.set_num_threads(1)

# Every family, narrow, with what keeps it small.
ONE_EACH = {"stages": (1, 1, 1), "base": (1, 1, 1)}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "vgg16": ("vgg16", {"width": 1 / 8, "hidden": (64, 64), "pool": 1}),
    "vgg16-bn": ("vgg16", {"width": 1 / 8, "hidden": (64,), "pool": 2, "batch_norm": True}),
    "inception": ("inception", {"width": 1 / 16, **ONE_EACH}),
    "inception-v1": ("inception", {"width": 1 / 16, "module": "v1", **ONE_EACH}),
    "inception-v2": ("inception", {"width": 1 / 16, "module": "v2", **ONE_EACH}),
    "inception-v3": ("inception", {"width": 1 / 16, "module": "v3", "factorized_kernel": 5, **ONE_EACH}),
    "googlenet": ("googlenet", {"width": 1 / 16, **ONE_EACH}),
    "bn_googlenet": ("bn_googlenet", {"width": 1 / 16, "stages": (1, 1, 2), "base": (1, 1, 2)}),
    "resnet": ("resnet", {"width": 1 / 8, "config": "(c16, i16)-C32"}),
    "ResNet10": ("ResNet10", {"width": 1 / 16}),
    "mobilenet": ("mobilenet", {"width": 1 / 16}),
    "mobilenet_v2": ("mobilenet_v2", {"width": 1 / 8}),
    "squeezenet": ("squeezenet", {"width": 1 / 8}),
}


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
        ("vgg16", {}),
        ("inception", {}),
        ("googlenet", {}),
        ("bn_googlenet", {}),
        ("resnet", {"config": "c16"}),
        ("mobilenet", {}),
        ("mobilenet_v2", {}),
        ("squeezenet", {}),
    ],
)
@pytest.mark.parametrize("wrong", [{"width": 0.0}, {"width": -1.0}, {"stem": "large"}])
def test_a_wrong_width_or_stem_is_refused(name: str, options: dict[str, Any], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"expected a .*got .?{next(iter(wrong.values()))}"):
        build_model(name, 4, **(options | wrong))


@pytest.mark.parametrize("name", ["inceptio", "", "Inception", "vgg11_bn", "ResNet19", "torchvision"])
def test_an_unknown_model_is_refused_with_the_names_that_are_known(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"fc, vgg16, inception, .*, ResNet6, .*, torchvision/<name>"
    ) as caught:
        build_model(name, 4)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("inception", {"stage": (1, 1, 1)}, "stage"),
        ("fc", {"widths": (3,)}, "widths"),
        ("resnet", {}, "config"),
        ("vgg16", {"heads": 1}, "heads"),
        ("googlenet", {"module": "v2"}, "module"),
        ("bn_googlenet", {"batch_norm": False}, "batch_norm"),
        ("mobilenet_v2", {"width_mult": 0.5}, "width_mult"),
        ("squeezenet", {"version": "1_1"}, "version"),
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


def test_a_classifier_normalises_by_channel_before_its_net() -> None:
    net = build_model("fc", 2, in_features=2, hidden=(2,))
    wrapped = Classifier(net, image_shape=(2, 1, 1), mean=[0.5, 0.25], std=[0.5, 0.125], classes=("a", "b"))
    images = torch.tensor([[[[1.0]], [[0.5]]]])
    assert torch.equal(wrapped(images), net(torch.tensor([[[[1.0]], [[2.0]]]])))


def test_a_classifiers_constant_channel_does_not_become_infinite() -> None:
    net = build_model("fc", 2, in_features=1, hidden=(2,))
    wrapped = Classifier(net, image_shape=(1, 1, 1), mean=[0.5], std=[0.0], classes=("a", "b"))
    assert wrapped(torch.tensor([[[[0.5]]]])).isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_maps_grey_images_of_its_stem_to_logits(family: str) -> None:
    name, options = FAMILIES[family]
    for stem, sizes in (("small", (8, 28)), ("imagenet", (64,))):
        net = build_model(name, 4, stem=stem, in_channels=1, **options).eval()
        for size in sizes:
            assert net(torch.rand(2, 1, size, size)).shape == (2, 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_seeded_decides_on_a_latent_vector_is_traced_and_comes_back_from_disk(
    family: str, tmp_path: Path
) -> None:
    name, options = FAMILIES[family]
    nets = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        nets.append(build_model(name, 4, stem="small", dropout=0.5, **options).eval())
    net, again, other = nets
    states = [each.state_dict() for each in (net, again)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(decision_layer(net).weight, decision_layer(other).weight)
    check_latent_vector(net)
    check_trace(net)
    save_model(net, tmp_path / "model")
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(load_model(tmp_path / "model")(images), net(images))


def check_latent_vector(net: nn.Module) -> None:
    """The last linear layer decides on a rectified vector, behind dropout."""
    decision = decision_layer(net)
    latent: list[torch.Tensor] = []
    handle = decision.register_forward_pre_hook(lambda _, inputs: latent.append(inputs[0]))
    logits = net(torch.rand(3, 3, 16, 16))
    handle.remove()
    assert latent[0].shape == (3, decision.in_features)
    assert latent[0].min() >= 0
    assert torch.equal(logits, decision(latent[0]))
    order = [each for each in net.modules() if isinstance(each, nn.Conv2d | nn.Linear | nn.Dropout)]
    assert order[-1] is decision
    assert isinstance(order[-2], nn.Dropout)
    assert order[-2].p == 0.5


def check_trace(net: nn.Module) -> None:
    """Utility can be traced down to the first layer."""
    decision = decision_layer(net)
    kept = torch.ones(decision.in_features, dtype=torch.bool)
    found = trace_utility(net, torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), kept)
    layers = [n for n, each in net.named_modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert set(found) == {n for n in layers if net.get_submodule(n) is not decision}
    assert all(utility.map.isfinite().all() for utility in found.values())
    assert found[layers[0]].channels.max() > 0
