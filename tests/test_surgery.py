import copy
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.checkpoint import load_model, save_model
from pipeline.cost import measure_cost
from pipeline.deconv import Utility
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, blueprint_of, decision_layer, output_layer
from pipeline.models.inception import Inception
from pipeline.prune import prune_model
from pipeline.prune.groups import ChannelGroup, Member
from pipeline.prune.surgery import Cut, remove_channels

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

N_CLASSES = 10


@dataclass(frozen=True)
class Case:
    """A net, and the side of its images; `only` is a part of the names of layers that lose dead channels."""

    architecture: str
    size: int = 16
    only: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def etas(self) -> tuple[float, ...]:
        """Of the random cuts: a mild and a deep one; one in between for large nets, as both have the same links."""
        return (1.6,) if self.architecture.startswith("torchvision/") else (0.7, 2.5)


def inception(module: str, **options: Any) -> Case:
    tiny = {"stages": (1, 1, 1), "base": (1, 1, 1), "width": 0.125, "stem": "small"}
    return Case("inception", options=tiny | {"module": module} | options)


THIRD: dict[str, Any] = {"stages": (1, 2, 1), "base": (1, 2, 1), "width": 0.125, "stem": "small"}
VGG: dict[str, Any] = {"width": 0.0625, "hidden": (512, 384), "pool": 2, "stem": "small"}
CASES = {
    "fc": Case("fc", options={"in_features": 768, "hidden": (24, 20, 12)}),
    "vgg16": Case("vgg16", options=VGG),
    "vgg16 with batch norm": Case("vgg16", options=VGG | {"batch_norm": True}),
    "inception v1": inception("v1"),
    "inception v1_double3x3": inception("v1_double3x3", stages=(1, 2, 1), base=(1, 2, 1)),
    "inception v2": inception("v2"),
    "inception v3": inception("v3", width=0.0625),
    "inception v3 as published": Case(
        "inception",
        75,
        options={"module": "v3", "stem": "v3", "stages": (1, 2, 1), "base": (1, 2, 1), "width": 0.0625},
    ),
    "googlenet": Case("googlenet", options=THIRD),
    "bn_googlenet": Case("bn_googlenet", options=THIRD),
    "resnet of depth 2": Case("resnet", options={"config": "(c16, i16)-c32", "width": 0.5, "stem": "small"}),
    "resnet of depth 3": Case("resnet", options={"config": "(C8, I8)-C16", "width": 0.5, "stem": "small"}),
    "mobilenet": Case("mobilenet", options={"width": 0.125, "stem": "small"}),
    "mobilenet_v2": Case("mobilenet_v2", options={"width": 0.25, "stem": "small"}),
    "squeezenet": Case("squeezenet", options={"width": 0.125, "stem": "small"}),
    "torchvision/googlenet": Case("torchvision/googlenet", 32, options={"init_weights": False}),
    "torchvision/resnet50": Case("torchvision/resnet50", 32, options={"width_per_group": 16}),
    "torchvision/mobilenet_v2": Case("torchvision/mobilenet_v2", 32, options={"width_mult": 0.25}),
    "torchvision/mobilenet_v3_small": Case("torchvision/mobilenet_v3_small", 32),
    "torchvision's dense blocks": Case("python/own_nets:dense", 32, options={"options": {"classes": 10}}),
    "torchvision/efficientnet_b0": Case("torchvision/efficientnet_b0", 32),
    # Layer norm mixes all channels of the residual stream; the wide layer inside a block is on its own.
    "torchvision's ConvNeXt": Case(
        "python/own_nets:convnext", 32, only="block.3", options={"options": {"classes": 10}}
    ),
    # Behind the two that stand at a grouped convolution: the residual sum, and squeeze-and-excite's inside.
    "torchvision/regnet_y_400mf": Case("torchvision/regnet_y_400mf", 32, only="f.c.0"),
    "torchvision/mnasnet0_5": Case("torchvision/mnasnet0_5", 32),
    "torchvision/squeezenet1_1": Case("torchvision/squeezenet1_1", 32),
}
every_net = pytest.mark.parametrize("name", CASES)


@functools.cache
def net_of(name: str) -> nn.Module:
    """Built once, with batch norms that have seen data; not to be changed."""
    torch.manual_seed(0)
    case = CASES[name]
    model = build_model(case.architecture, N_CLASSES, **case.options)
    for key, parameter in model.named_parameters():
        if key.endswith("layer_scale"):
            nn.init.ones_(parameter)  # ConvNeXt's start at a millionth
    return randomised_norms(model)


def randomised_norms(model: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=random))
            module.running_var = 0.5 + torch.rand(module.num_features, generator=random)
            module.bias.data = 0.5 * torch.randn(module.num_features, generator=random)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data = 0.1 * torch.rand(
                len(module.bias), generator=random
            )  # no narrow net is all zero
    return model.eval()


def images_of(n: int, size: int = 16) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def layers_of(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    last = output_layer(model)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module is not last
    }


def random_utilities(model: nn.Module, seed: int = 3) -> dict[str, Utility]:
    random = torch.Generator().manual_seed(seed)
    utilities = {}
    for name, layer in layers_of(model).items():
        maps = torch.rand(len(layer.weight), 3, 3, generator=random, dtype=torch.float64)
        utilities[name] = Utility(maps * torch.rand(len(maps), 1, 1, generator=random, dtype=torch.float64))
    return utilities


def flat_utility(values: Tensor) -> Utility:
    return Utility(values.double().view(-1, 1, 1))


def channels_of(model: nn.Module, size: int) -> dict[str, int]:
    return {row.name: row.out_channels for row in measure_cost(model, (3, size, size)).layers}


Channels = dict[str, set[int]]


class Wiring:
    """Which channels are read by which inputs, measured on the running net and not read off any graph.

    Every layer's output is replaced by noise that does not depend on its input: what still arrives at another
    layer's input came from the noise alone.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self._model, self._images = model, images
        self._layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
        self._channel_dim = {n: 1 if isinstance(m, nn.Conv2d) else -1 for n, m in self._layers.items()}

    def coupled(self, units: Channels) -> tuple[Channels, Channels]:
        """All output channels that have to go with some, and all the inputs at which they are read."""
        while True:
            slots = self._readers(units)
            for name in [name for name in units if self._is_depthwise(name)]:
                slots[name] = slots.get(name, set()) | units[name]
            grown = self._sources(slots)
            for name in [name for name in slots if self._is_depthwise(name)]:
                grown[name] = grown.get(name, set()) | slots[name]
            grown = {name: grown.get(name, set()) | units.get(name, set()) for name in grown | units}
            if grown == units:
                return units, {name: at for name, at in slots.items() if not self._is_depthwise(name)}
            units = grown

    def _is_depthwise(self, name: str) -> bool:
        layer = self._layers[name]
        return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1

    def _run(self, poisoned: Channels) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Each layer's noise and each layer's input."""
        random = torch.Generator().manual_seed(4)
        noise: dict[str, Tensor] = {}
        inputs: dict[str, Tensor] = {}

        def replace(name: str, x: Tensor, output: Tensor) -> Tensor:
            inputs[name] = x.clone()
            drawn = 1 + torch.randn(output.shape, generator=random, dtype=output.dtype)
            drawn.movedim(self._channel_dim[name], 0)[sorted(poisoned.get(name, ()))] = torch.nan
            noise[name] = drawn.requires_grad_()
            return noise[name].clone()

        handles = [
            layer.register_forward_hook(lambda _, args, output, name=name: replace(name, args[0], output))
            for name, layer in self._layers.items()
        ]
        try:
            self._model(self._images)
        finally:
            for handle in handles:
                handle.remove()
        return noise, inputs

    def _readers(self, units: Channels) -> Channels:
        """Inputs at which "not a number" arrives when these channels send it."""
        _, inputs = self._run(units)
        found = {name: self._channels_with(name, x.isnan()) for name, x in inputs.items()}
        return {name: channels for name, channels in found.items() if channels}

    def _channels_with(self, name: str, mask: Tensor) -> set[int]:
        by_channel = mask.movedim(self._channel_dim[name], 0).flatten(1).any(1)
        return set(by_channel.nonzero().flatten().tolist())

    def _sources(self, slots: Channels) -> Channels:
        """Channels whose noise has a gradient at these inputs."""
        noise, inputs = self._run({})
        wanted = [inputs[name].movedim(self._channel_dim[name], 0)[sorted(at)] for name, at in slots.items()]
        random = torch.Generator().manual_seed(5)
        total = sum((x * torch.randn(x.shape, generator=random)).sum() for x in wanted)
        assert isinstance(total, Tensor)
        signals = torch.autograd.grad(total, list(noise.values()), allow_unused=True)
        return {
            name: self._channels_with(name, signal != 0)
            for name, signal in zip(noise, signals, strict=True)
            if signal is not None and bool(signal.any())
        }


def some_channels(model: nn.Module, only: str) -> Channels:
    """Two channels in each of five layers from the first to the last."""
    names = [name for name, layer in layers_of(model).items() if only in name and len(layer.weight) > 3]
    spread = sorted({round(k * (len(names) - 1) / 4) for k in range(5)})
    return {names[at]: {1, len(layers_of(model)[names[at]].weight) - 2} for at in spread}


def utilities_with_dead(model: nn.Module, dead: Mapping[str, Collection[int]]) -> dict[str, Utility]:
    """Between 1 and 100 everywhere, zero for the dead channels."""
    random = torch.Generator().manual_seed(2)
    utilities = {}
    for name, layer in layers_of(model).items():
        values = 1 + 99 * torch.rand(len(layer.weight), generator=random, dtype=torch.float64)
        values[sorted(dead.get(name, ()))] = 0
        utilities[name] = flat_utility(values)
    return utilities


@every_net
def test_every_net_is_cut_where_channels_belong_together_and_then_runs_trains_and_comes_back(
    name: str, tmp_path: Path
) -> None:
    check_dead_channels(name)
    for eta in CASES[name].etas:
        check_random_cut(name, eta, tmp_path)


def check_dead_channels(name: str) -> None:
    """Cutting channels that nothing listens to leaves the logits."""
    case, images = CASES[name], images_of(8, CASES[name].size)
    dead, read_at = Wiring(net_of(name), images).coupled(some_channels(net_of(name), case.only))
    model, images = copy.deepcopy(net_of(name)).double(), images.double()
    with torch.no_grad():
        heard = model(images)
        for reader, at in read_at.items():
            weight = model.get_submodule(reader).weight
            assert isinstance(weight, Tensor)
            weight[:, sorted(at)] = 0
        expected = model(images)
    assert float((heard - expected).abs().max()) > 1e-4 * float(heard.abs().max())  # they were listened to
    pruned, rows = prune_model(model, utilities_with_dead(model, dead), 1e-6, images[:1])
    cut = {row.name: row.n_before - row.n_after for row in rows if row.n_before != row.n_after}
    assert cut == {layer: len(channels) for layer, channels in dead.items()}
    with torch.no_grad():
        found = pruned(images)
    assert float(expected.std()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def check_random_cut(name: str, eta: float, folder: Path) -> None:
    """The net is smaller by what the rows say, has its gradients, and comes back from disk; the old one is whole."""
    model, size = net_of(name), CASES[name].size
    images, before = images_of(4, size), channels_of(model, size)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    pruned, rows = prune_model(model, random_utilities(model), eta, images[:1])

    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert list(model.state_dict()) == list(state)
    after = channels_of(pruned, size)
    assert {row.name: row.n_before for row in rows} == {layer: before[layer] for layer in layers_of(model)}
    assert {row.name: row.n_after for row in rows} == {layer: after[layer] for layer in layers_of(model)}
    assert 0 < sum(row.n_after for row in rows) < sum(row.n_before for row in rows)
    assert with_gradient(pruned, images) == with_gradient(model, images)
    with torch.no_grad():
        logits = pruned(images)
        save_model(pruned, folder / "pruned")
        loaded = load_model(folder / "pruned")
        assert logits.shape == (4, N_CLASSES)
        assert logits.isfinite().all()
        assert torch.equal(loaded(images), logits)
        assert pruned.train()(images).isfinite().all()


def with_gradient(model: nn.Module, images: Tensor) -> set[str]:
    """Parameters that the logits have a gradient for; none is left behind."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(model(images).square().sum(), list(trainable.values()), allow_unused=True)
    for (name, parameter), gradient in zip(trainable.items(), gradients, strict=True):
        assert gradient is None or gradient.shape == parameter.shape, name
        assert gradient is None or bool(gradient.isfinite().all()), name
    return {name for name, gradient in zip(trainable, gradients, strict=True) if gradient is not None}


def in_classifier(net: nn.Module, size: int = 16) -> Classifier:
    names = [f"class {idx}" for idx in range(N_CLASSES)]
    return Classifier(net, image_shape=(3, size, size), mean=[0.5] * 3, std=[0.25] * 3, classes=names).eval()


@pytest.mark.parametrize(
    ("architecture", "options", "whole", "cut"),
    [
        ("torchvision/shufflenet_v2_x0_5", {}, "stage2.1.branch2.5", "stage2.1.branch2.0"),
        (
            "python/own_nets:transformer",
            {"options": {"classes": 10}},
            "encoder.layers.encoder_layer_1.mlp.3",
            "encoder.layers.encoder_layer_1.mlp.0",
        ),
    ],
)
def test_what_mixes_channels_is_left_whole_by_name_and_the_rest_is_cut(
    architecture: str, options: dict[str, Any], whole: str, cut: str, tmp_path: Path
) -> None:
    model = in_classifier(build_model(architecture, N_CLASSES, **options), 32)
    pruned, rows = prune_model(model, random_utilities(model), 1.5, images_of(1, 32))
    found = {row.name: row for row in rows}
    assert found[f"net.{whole}"].left_whole
    assert found[f"net.{whole}"].n_after == found[f"net.{whole}"].n_before
    assert not found[f"net.{cut}"].left_whole
    assert found[f"net.{cut}"].n_after < found[f"net.{cut}"].n_before
    images = images_of(2, 32)
    save_model(pruned, tmp_path / "pruned")
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "pruned")(images), pruned(images))


def test_torchvisions_auxiliary_heads_are_dropped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"aux_logits": True, "init_weights": False}
    model = randomised_norms(build_model("torchvision/googlenet", N_CLASSES, **options)).train()
    images = images_of(2, 32)
    assert any("aux" in key.lower() for key in model.state_dict())
    pruned, rows = prune_model(model, random_utilities(model), 1.5, images[:1])
    assert model.aux_logits
    assert any("aux" in key.lower() for key in model.state_dict())
    assert not any("aux" in key.lower() for key in pruned.state_dict())
    assert not any("aux" in row.name.lower() for row in rows)
    assert blueprint_of(model).options == options
    assert blueprint_of(pruned).options == options | {"aux_logits": False}
    logits = pruned.train()(images)
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, N_CLASSES)
    save_model(pruned, tmp_path / "pruned")
    loaded = load_model(tmp_path / "pruned")
    with torch.no_grad():
        assert torch.equal(loaded(images), pruned.eval()(images))
        assert loaded.train()(images).shape == (2, N_CLASSES)


def test_a_classifier_keeps_its_normalisation_and_classes_through_surgery(tmp_path: Path) -> None:
    net = net_of("inception v2")
    model, images = in_classifier(net), images_of(3)
    pruned, rows = prune_model(model, random_utilities(model), 1.5, images[:1])
    bare = {f"net.{name}": utility for name, utility in random_utilities(net).items()}
    assert {row.name for row in rows} == set(bare)
    assert isinstance(pruned, Classifier)
    assert pruned.classes == model.classes
    assert pruned.image_shape == model.image_shape
    smaller_net, _ = prune_model(net, random_utilities(net), 1.5, (images[:1] - 0.5) / 0.25)
    save_model(pruned, tmp_path / "pruned")
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), smaller_net((images - 0.5) / 0.25))
        assert torch.equal(load_model(tmp_path / "pruned")(images), pruned(images))


def three_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def test_layers_that_are_not_named_lose_inputs_only() -> None:
    model = three_layers()

    def first_half(group: ChannelGroup) -> Cut:
        removed = torch.arange(group.n_channels) < group.n_channels // 2
        return Cut(torch.arange(group.n_channels).double(), removed)

    smaller, group_of = remove_channels(model, ["0"], first_half, torch.zeros(2, 4))
    assert group_of == {"0": "0"}
    assert [tuple(smaller[at].weight.shape) for at in (0, 2, 4)] == [(4, 4), (6, 4), (3, 6)]
    assert torch.equal(smaller[0].weight, model[0].weight[4:])
    assert torch.equal(smaller[0].bias, model[0].bias[4:])
    assert torch.equal(smaller[2].weight, model[2].weight[:, 4:])


def test_the_best_channel_stays_when_everything_is_to_go() -> None:
    model = three_layers()

    def everything(group: ChannelGroup) -> Cut:
        score = -(torch.arange(group.n_channels) - 2.0).abs().double()
        return Cut(score, torch.ones(group.n_channels, dtype=torch.bool))

    smaller, _ = remove_channels(model, ["0", "2"], everything, torch.zeros(2, 4))
    assert torch.equal(smaller[0].weight, model[0].weight[2:3])
    assert torch.equal(smaller[2].weight, model[2].weight[2:3, 2:3])


def test_groups_average_their_members_at_the_members_own_places() -> None:
    both = Member("both", own_idx=[3, 2, 1, 0], root_idx=[0, 1, 2, 3])
    part = Member("part", own_idx=[0, 1], root_idx=[2, 3])
    group = ChannelGroup(root=nn.Linear(1, 4), prune_fn=None, n_channels=4, members=(both, part))
    scores = {"both": torch.tensor([1.0, 2.0, 3.0, 4.0]), "part": torch.tensor([10.0, 20.0])}
    assert group.average(scores).tolist() == [4.0, 3.0, (2.0 + 10.0) / 2, (1.0 + 20.0) / 2]
    assert [(at.tolist(), members) for at, members in group.segments] == [
        ([0, 1], (both,)),
        ([2, 3], (both, part)),
    ]


ROUNDED = ["inception v1_double3x3", "resnet of depth 2", "mobilenet_v2", "torchvision/mobilenet_v3_small"]


@pytest.mark.parametrize("name", ROUNDED)
def test_rounding_restores_as_few_channels_as_make_a_multiple(name: str) -> None:
    model, images = net_of(name), images_of(1, CASES[name].size)
    utilities = random_utilities(model)
    for eta in (1.5, 1e9):
        _, exact = prune_model(model, utilities, eta, images)
        for round_to in (4, 8):
            rounded_net, rounded = prune_model(model, utilities, eta, images, round_to=round_to)
            assert [row.name for row in rounded] == [row.name for row in exact]
            for row, fine in zip(rounded, exact, strict=True):
                multiple = -(-fine.n_after // round_to) * round_to
                assert row.n_after == min(multiple, row.n_before), row.name
            assert channels_of(rounded_net, CASES[name].size).items() >= {
                (row.name, row.n_after) for row in rounded
            }
            assert any(row.n_after > fine.n_after for row, fine in zip(rounded, exact, strict=True))


class GroupedNet(nn.Sequential):
    """A convolution, one in three parts of four channels each, and a reader."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 12, 1),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, groups=3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, 5),
        )


def test_a_grouped_convolution_loses_the_same_places_in_every_part() -> None:
    torch.manual_seed(0)
    model, images = GroupedNet().eval(), images_of(4)
    first, grouped, last = model[0], model[2], model[6]
    grouped.bias.data = torch.arange(12.0) / 10
    with torch.no_grad():  # nobody reads place 1 of any part
        grouped.weight[:, 1] = 0
        last.weight[:, [1, 5, 9]] = 0
        expected = model(images)
    values = 5 + torch.arange(12.0)
    values[[1, 5, 9, 3]] = 0  # place 3 is worthless in the first part alone
    utilities = {"0": flat_utility(values), "2": flat_utility(values)}
    pruned, rows = prune_model(model, utilities, 1e-3, images[:1])
    assert [(row.name, row.n_before, row.n_after) for row in rows] == [("0", 12, 9), ("2", 12, 9)]
    cut = pruned[2]
    assert (cut.groups, cut.in_channels, cut.out_channels) == (3, 9, 9)
    assert cut.weight.shape == (9, 3, 3, 3)
    left = [0, 2, 3, 4, 6, 7, 8, 10, 11]
    assert torch.equal(cut.bias, grouped.bias[left])
    assert torch.equal(pruned[0].weight, first.weight[left])
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), expected)


@pytest.mark.parametrize("eta", [1.5, 1e9])
def test_rounding_holds_where_convolutions_are_grouped(eta: float) -> None:
    model, images = net_of("torchvision/regnet_y_400mf"), images_of(1, 32)
    utilities = random_utilities(model)
    _, exact = prune_model(model, utilities, eta, images)
    for round_to in (4, 8):
        _, rounded = prune_model(model, utilities, eta, images, round_to=round_to)
        for row, fine in zip(rounded, exact, strict=True):
            assert fine.n_after <= row.n_after <= row.n_before
            assert row.n_after % round_to == 0 or row.n_after == row.n_before, row.name


SUMMED = ["stages.0.0.body.1.conv", "stages.0.0.shortcut.conv", "stages.0.1.body.1.conv"]


@pytest.mark.parametrize("round_to", [1, 2, 4])
def test_the_channels_that_rounding_restores_are_the_best_of_those_cut(round_to: int) -> None:
    model = copy.deepcopy(net_of("resnet of depth 2"))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.copy_(torch.arange(float(module.num_features)))  # tells survivors apart
    utilities = random_utilities(model)
    alone = utilities["stages.0.0.body.0.conv"]
    own = [utilities[layer] for layer in SUMMED]
    means = {
        "stages.0.0.body.0.bn": alone.channels / alone.map.std(),
        "stages.0.0.shortcut.bn": torch.stack([each.channels / each.map.std() for each in own]).mean(0),
    }
    pruned, _ = prune_model(model, utilities, 2.4, images_of(1), round_to=round_to)
    for norm, mean in means.items():
        n_above = int((mean >= 2.4).sum())
        assert 0 < n_above < 8
        n_kept = min(-(-n_above // round_to) * round_to, 8)
        kept = pruned.get_submodule(norm).running_mean
        assert isinstance(kept, Tensor)
        assert kept.int().tolist() == sorted(mean.argsort(descending=True)[:n_kept].tolist())


@dataclass(frozen=True)
class Branch:
    """A branch of an Inception module and the convolutions that it ends in."""

    name: str
    ends: tuple[str, ...]


def branch(name: str, *ends: str) -> Branch:
    return Branch(name, tuple(f"{name}.{end}" for end in ends))


# Two branches for each type of module, taken out one after the other.
BRANCHES = {
    "inception v1": (
        branch("stages.1.0.branch5x5", "1.conv"),
        branch("stages.1.0.branch_pool", "1.conv"),
    ),
    "inception v1_double3x3": (
        branch("stages.1.0.branch_double3x3", "2.conv"),
        branch("stages.2.0.branch1x1", "conv"),
    ),
    "inception v2": (
        branch("pools.0.branch3x3", "1.conv"),
        branch("stages.1.0.branch3x3", "1.conv"),
    ),
    "inception v3": (
        branch("stages.2.0.branch3x3", "1.paths.0.conv", "1.paths.1.conv"),
        branch("stages.2.0.branch_double3x3", "2.paths.0.conv", "2.paths.1.conv"),
    ),
}
every_module = pytest.mark.parametrize("name", BRANCHES)


def utilities_without(model: nn.Module, ends: Collection[str]) -> dict[str, Utility]:
    """At eta 1 these layers' channels are positive and under their threshold, and all others stay."""
    utilities = {}
    for name, layer in layers_of(model).items():
        maps = torch.ones(len(layer.weight), 2, 2, dtype=torch.float64)
        if name in ends:
            maps *= torch.arange(1, len(maps) + 1)[:, None, None]  # the last one is the best
            maps[:, 0, 0] = -100.0 * len(maps)
        utilities[name] = Utility(maps)
    return utilities


@torch.no_grad()
def logits_with_silent(model: nn.Module, branches: Collection[str], images: Tensor) -> Tensor:
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, output: torch.zeros_like(output))
        for name in branches
    ]
    logits: Tensor = model(images)
    for handle in handles:
        handle.remove()
    return logits


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@every_module
def test_a_branch_under_the_threshold_is_removed_whole(name: str, tmp_path: Path) -> None:
    model, images = net_of(name), images_of(4)
    gone, _ = BRANCHES[name]
    expected = logits_with_silent(model, [gone.name], images)
    with torch.no_grad():
        assert float((expected - model(images)).abs().max()) > 1e-3 * float(expected.abs().max())

    pruned, rows = prune_model(
        model, utilities_without(model, gone.ends), 1.0, images[:1], remove_branches=True
    )

    assert isinstance(pruned, Inception)
    assert gone.name not in {key for key, _ in pruned.named_modules()}
    assert blueprint_of(pruned).options["without"] == [gone.name]
    assert "without" not in blueprint_of(model).options
    inside = {row.name: row.n_after for row in rows if row.name.startswith(f"{gone.name}.")}
    assert set(inside) >= set(gone.ends)
    assert set(inside.values()) == {0}
    assert all(row.n_after == row.n_before for row in rows if row.name not in inside)
    after = channels_of(pruned, 16)
    assert all(after.get(row.name, 0) == row.n_after for row in rows)
    with torch.no_grad():
        assert_close(pruned(images), expected)
        save_model(pruned, tmp_path / "pruned")
        assert torch.equal(load_model(tmp_path / "pruned")(images), pruned(images))
    assert with_gradient(pruned, images) == {
        key for key in with_gradient(model, images) if not key.startswith(f"{gone.name}.")
    }
    assert pruned.train()(images).isfinite().all()


@every_module
def test_a_net_without_a_branch_can_lose_another_one(name: str, tmp_path: Path) -> None:
    model, images = net_of(name), images_of(4)
    first, second = BRANCHES[name]
    once, _ = prune_model(model, utilities_without(model, first.ends), 1.0, images[:1], remove_branches=True)
    for start in (once, reloaded(once, tmp_path)):
        utilities = utilities_without(start, second.ends)
        twice, rows = prune_model(start, utilities, 1.0, images[:1], remove_branches=True)
        assert {row.name for row in rows} == set(layers_of(once))
        assert blueprint_of(twice).options["without"] == [first.name, second.name]
        assert blueprint_of(start).options["without"] == [first.name]
        with torch.no_grad():
            assert_close(twice(images), logits_with_silent(model, [first.name, second.name], images))
            assert torch.equal(reloaded(twice, tmp_path)(images), twice(images))
        cut, cut_rows = prune_model(start, random_utilities(start), 1.5, images[:1], remove_branches=True)
        assert {row.name: row.n_after for row in cut_rows}.items() <= channels_of(cut, 16).items()
        with torch.no_grad():
            assert torch.equal(reloaded(cut, tmp_path)(images), cut(images))


def reloaded(model: nn.Module, folder: Path) -> nn.Module:
    save_model(model, folder / "model")
    return load_model(folder / "model")


@every_module
def test_two_branches_can_go_at_once(name: str) -> None:
    model, images = net_of(name), images_of(4)
    both = BRANCHES[name]
    ends = [end for each in both for end in each.ends]
    pruned, _ = prune_model(model, utilities_without(model, ends), 1.0, images[:1], remove_branches=True)
    assert sorted(blueprint_of(pruned).options["without"]) == sorted(each.name for each in both)
    with torch.no_grad():
        assert_close(pruned(images), logits_with_silent(model, [each.name for each in both], images))


@every_module
def test_unless_branches_may_go_the_best_channel_of_each_stays(name: str) -> None:
    model, images = net_of(name), images_of(4)
    gone, _ = BRANCHES[name]
    pruned, rows = prune_model(model, utilities_without(model, gone.ends), 1.0, images[:1])
    assert {row.name: row.n_after for row in rows if row.name in gone.ends} == dict.fromkeys(gone.ends, 1)
    assert all(row.n_after == row.n_before for row in rows if row.name not in gone.ends)
    assert "without" not in blueprint_of(pruned).options
    for end in gone.ends:
        kept, weight = pruned.get_submodule(end).weight, model.get_submodule(end).weight
        assert isinstance(kept, Tensor)
        assert isinstance(weight, Tensor)
        assert torch.equal(kept, weight[-1:])


@pytest.mark.parametrize("name", ["inception v1", "inception v1_double3x3", "inception v2", "inception v3"])
def test_a_module_without_a_channel_to_keep_keeps_its_best_branch(name: str) -> None:
    model, images = net_of(name), images_of(4)
    assert isinstance(model, Inception)
    place = "stages.2.0"
    module = dict(model.named_modules())[place]
    names = {layer: name for name, layer in model.named_modules()}
    ends = {
        key: [names[end] for end in each.branch_ends(key.rpartition(".")[2])]
        for key, each in model.removable_branches().items()
        if each is module
    }
    assert len(ends) == 4
    utilities = utilities_without(model, [end for each in ends.values() for end in each])
    best = f"{place}.branch3x3"
    for end in ends[best]:
        boosted = utilities[end].map.clone()
        boosted[0, 1, 1] = 90.0 * len(boosted)  # above all others' in standard deviations, and still under
        utilities[end] = Utility(boosted)
        assert float(utilities[end].channels.max()) < 3 * float(boosted.std())
    pruned, rows = prune_model(model, utilities, 3.0, images[:1], remove_branches=True)
    assert sorted(blueprint_of(pruned).options["without"]) == sorted(set(ends) - {best})
    after = {row.name: row.n_after for row in rows}
    assert [after[end] for end in ends[best]] == [1] * len(ends[best])
    assert all(after[end] == 0 for key, each in ends.items() if key != best for end in each)
    assert decision_layer(pruned).in_features == len(ends[best])
    with torch.no_grad():
        assert pruned(images).isfinite().all()


def test_branches_are_listed_once_to_choose_them_and_once_to_remove_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed: list[int] = []
    found = Inception.removable_branches

    def counting(net: Inception) -> Mapping[str, Any]:
        listed.append(1)
        return found(net)

    model, images = net_of("inception v3"), images_of(2)
    monkeypatch.setattr(Inception, "removable_branches", counting)
    utilities = utilities_without(model, BRANCHES["inception v3"][0].ends)
    prune_model(model, utilities, 1.0, images[:1], remove_branches=True)
    assert len(listed) == 2


def test_a_branch_of_two_ends_stays_while_one_of_them_is_above_the_threshold() -> None:
    model, images = net_of("inception v3"), images_of(2)
    gone, _ = BRANCHES["inception v3"]
    utilities = utilities_without(model, gone.ends[:1])
    pruned, rows = prune_model(model, utilities, 1.0, images[:1], remove_branches=True)
    assert {row.name: row.n_after for row in rows if row.name == gone.ends[0]} == {gone.ends[0]: 1}
    assert not blueprint_of(pruned).options.get("without")


def test_a_reduction_module_keeps_a_branch_of_convolutions_beside_its_pool(tmp_path: Path) -> None:
    model, images = net_of("inception v2"), images_of(4)
    names = ["pools.0.branch3x3", "pools.0.branch_double3x3"]
    utilities = utilities_without(model, [f"{names[0]}.1.conv", f"{names[1]}.2.conv"])
    pruned, _ = prune_model(model, utilities, 1.0, images[:1], remove_branches=True)
    assert isinstance(pruned, Inception)
    (gone,) = blueprint_of(pruned).options["without"]
    assert gone in names
    narrower, _ = prune_model(pruned, random_utilities(pruned), 1.5, images[:1], remove_branches=True)
    assert isinstance(narrower, Inception)
    again = reloaded(narrower, tmp_path)
    assert isinstance(again, Inception)
    for net in (narrower, again):
        sizes: list[int] = []
        net.get_submodule("pools.0").register_forward_hook(
            lambda _, __, y, sizes=sizes: sizes.append(y.shape[1])
        )
        with torch.no_grad():
            net(images)
        pool = net.get_submodule("pools.0")
        assert [pool.out_channels] == sizes


def test_branches_of_a_classifiers_net_are_removed_too() -> None:
    net, images = net_of("inception v1"), images_of(3)
    gone, _ = BRANCHES["inception v1"]
    model = in_classifier(net)
    utilities = {f"net.{key}": value for key, value in utilities_without(net, gone.ends).items()}
    pruned, _ = prune_model(model, utilities, 1.0, images[:1], remove_branches=True)
    assert blueprint_of(pruned).options["without"] == [gone.name]
    assert "without" not in blueprint_of(model).options
    with torch.no_grad():
        assert_close(pruned(images), logits_with_silent(net, [gone.name], (images - 0.5) / 0.25))
