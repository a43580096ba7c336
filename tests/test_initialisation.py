"""Fresh weights of a pruned net come from the distributions that its builder draws from."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.deconv import Utility
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, blueprint_of
from pipeline.models.initialisation import draw_weights
from pipeline.prune import prune_model
from pipeline.training.fresh import fresh_copy

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

SMALL: dict[str, Any] = {"stem": "small", "dropout": 0.0}
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "fc": ("fc", {"in_features": 3 * 64, "hidden": [200, 100]}),
    "vgg16": ("vgg16", {**SMALL, "width": 0.25, "hidden": [300, 200], "pool": 1}),
    "vgg16 with batch norm": (
        "vgg16",
        {**SMALL, "width": 0.25, "hidden": [300, 200], "pool": 1, "batch_norm": True},
    ),
    "inception": ("inception", {**SMALL, "width": 0.5, "stages": [1, 1, 1], "base": [1, 1, 1]}),
    "googlenet": ("googlenet", {**SMALL, "width": 0.5, "stages": [1, 1, 1], "base": [1, 1, 1]}),
    "resnet": ("resnet", {**SMALL, "width": 0.5, "config": "ResNet6"}),
    "mobilenet": ("mobilenet", {**SMALL, "width": 0.5}),
    "mobilenet_v2": ("mobilenet_v2", {**SMALL, "width": 0.5}),
    "squeezenet": ("squeezenet", {**SMALL, "width": 0.5}),
    **{
        name: (f"torchvision/{name}", {})
        for name in ("resnet18", "mnasnet0_5", "densenet121", "convnext_tiny", "googlenet")
    },
}


def net_of(name: str, *, seed: int = 0) -> nn.Module:
    architecture, options = NETS[name]
    torch.manual_seed(seed)
    return build_model(architecture, 10, **options)


def spoilt(net: nn.Module) -> nn.Module:
    """The net with weights and statistics that no builder draws."""
    net = copy.deepcopy(net)
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data.fill_(7)
    return net


def assert_alike(found: Tensor, expected: Tensor, name: str) -> None:
    """Equal where constant; else mean and deviation within five standard errors."""
    if bool((expected == expected.flatten()[0]).all()):
        assert torch.equal(found, expected), name
        return
    n, std = expected.numel(), float(expected.std())
    assert float((found.mean() - expected.mean()).abs()) < 5 * std * math.sqrt(2 / n), name
    assert float(found.std()) == pytest.approx(std, rel=5 / math.sqrt(n)), name
    assert not torch.equal(found, expected), name


@pytest.mark.parametrize("name", NETS)
def test_drawn_weights_are_distributed_as_the_builders(name: str) -> None:
    built = net_of(name)
    drawn = spoilt(built)
    torch.manual_seed(1)
    draw_weights(drawn)
    expected = {**dict(built.named_parameters()), **dict(built.named_buffers())}
    for key, found in (*drawn.named_parameters(), *drawn.named_buffers()):
        assert_alike(found.detach().float(), expected[key].detach().float(), key)


@pytest.mark.parametrize("name", ["vgg16", "mobilenet_v2", "squeezenet", "inception", "resnet18"])
def test_a_pruned_net_gets_the_deviations_of_its_own_fans(name: str) -> None:
    net = net_of(name).eval()
    image = torch.rand(1, 3, 64, 64)
    random = torch.Generator().manual_seed(0)
    utilities = {
        key: Utility(torch.rand(layer.weight.shape[0], 4, 4, generator=random).double())
        for key, layer in net.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.shape[0] != 10
    }
    pruned, _ = prune_model(net, utilities, 3.25, image)
    assert sum(p.numel() for p in pruned.parameters()) < 0.8 * sum(p.numel() for p in net.parameters())
    drawn = spoilt(pruned)
    draw_weights(drawn)
    with torch.no_grad():
        assert drawn.eval()(image).isfinite().all()
    for key, layer in drawn.named_modules():
        if not isinstance(layer, nn.Conv2d) or layer.weight.numel() < 300:
            continue
        fan_in = layer.weight[0].numel()
        # torchvision's builders take the fan out, each for its own groups; ours the fan in.
        fan = layer.weight[:, 0].numel() if name in ("mobilenet_v2", "resnet18") else fan_in
        std = float(layer.weight.detach().std())
        assert std == pytest.approx(math.sqrt(2 / fan), rel=5 / math.sqrt(layer.weight.numel())), key


def test_a_fresh_copy_depends_on_its_seed_alone_and_leaves_the_model() -> None:
    model = Classifier(
        net_of("squeezenet"), image_shape=(3, 8, 8), mean=[0.5] * 3, std=[0.2] * 3, classes=list("abcdefghij")
    )
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    first = fresh_copy(model, seed=3)
    torch.rand(5)
    again, other = fresh_copy(model, seed=3), fresh_copy(model, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not any(
        torch.equal(a, b)
        for a, b in zip(first.parameters(), other.parameters(), strict=True)
        if len(a.unique()) > 1
    )
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())
    assert torch.equal(first.mean, model.mean)
    assert blueprint_of(first) == blueprint_of(model)


def test_torchs_functions_are_their_own_again_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    net, before = net_of("fc"), dict(vars(nn.init))
    monkeypatch.setattr("pipeline.models.initialisation.build_model", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw_weights(net)
    assert dict(vars(nn.init)) == before


def test_what_a_users_constructor_draws_by_itself_is_drawn_anew() -> None:
    torch.manual_seed(0)
    net = build_model("python/own_nets:placed", 3, options={})
    first = net.get_parameter("places").detach().clone()
    torch.manual_seed(1)
    draw_weights(net)
    again = net.get_parameter("places").detach()
    assert not torch.equal(again, first)
    assert 0.7 < float(again.std()) < 1.3
