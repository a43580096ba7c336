import copy
import functools
import subprocess
import sys
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
from pipeline.models.classifier import Classifier, blueprint_of, output_layer
from pipeline.prune import prune_model
from pipeline.surgery import ChannelGroup, Cut, Member, remove_channels

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

ROOT = Path(__file__).resolve().parents[1]
N_CLASSES = 10


@dataclass(frozen=True)
class Case:
    """A net; `only` narrows the layers whose channels are cut as dead ones (a part of their names)."""

    architecture: str
    size: int = 16
    only: str = ""
    options: dict[str, Any] = field(default_factory=dict)


def inception(module: str, **options: Any) -> Case:
    tiny = {"stages": (1, 1, 1), "base": (1, 1, 1), "width": 0.125, "stem": "small"}
    return Case("inception", options=tiny | {"module": module} | options)


THIRD: dict[str, Any] = {"stages": (1, 2, 1), "base": (1, 2, 1), "width": 0.125, "stem": "small"}
VGG: dict[str, Any] = {"width": 0.0625, "hidden": (64, 48), "pool": 2, "stem": "small"}
CASES = {
    "fc": Case("fc", options={"in_features": 768, "hidden": (24, 20, 12)}),
    "vgg16": Case("vgg16", options=VGG),
    "vgg16 with batch norm": Case("vgg16", options=VGG | {"batch_norm": True}),
    "inception v1": inception("v1"),
    "inception v1_double3x3": inception("v1_double3x3", stages=(1, 2, 1), base=(1, 2, 1)),
    "inception v2": inception("v2"),
    "inception v3": inception("v3", width=0.0625),
    "googlenet": Case("googlenet", options=THIRD),
    "bn_googlenet": Case("bn_googlenet", options=THIRD),
    "resnet of depth 2": Case(
        "resnet", options={"config": "(c16, i16)-c32", "width": 0.5, "stem": "small"}
    ),
    "resnet of depth 3": Case("resnet", options={"config": "(C8, I8)-C16", "width": 0.5, "stem": "small"}),
    "mobilenet": Case("mobilenet", options={"width": 0.125, "stem": "small"}),
    "mobilenet_v2": Case("mobilenet_v2", options={"width": 0.25, "stem": "small"}),
    "squeezenet": Case("squeezenet", options={"width": 0.125, "stem": "small"}),
    "torchvision/vgg11_bn": Case("torchvision/vgg11_bn", 32, options={"init_weights": False}),
    "torchvision/googlenet": Case("torchvision/googlenet", 32, options={"init_weights": False}),
    "torchvision/inception_v3": Case("torchvision/inception_v3", 75, options={"init_weights": False}),
    "torchvision/resnet50": Case("torchvision/resnet50", 32, options={"width_per_group": 16}),
    "torchvision/mobilenet_v2": Case("torchvision/mobilenet_v2", 32, options={"width_mult": 0.25}),
    "torchvision/mobilenet_v3_small": Case("torchvision/mobilenet_v3_small", 32),
    "torchvision/densenet121": Case("torchvision/densenet121", 32, options={"growth_rate": 8}),
    "torchvision/efficientnet_b0": Case("torchvision/efficientnet_b0", 32),
    # Layer norm mixes all channels of the residual stream; the wide layer inside a block is on its own.
    "torchvision/convnext_tiny": Case("torchvision/convnext_tiny", 32, only="block.3"),
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
    if name == "torchvision/vgg11_bn":  # 120 million weights less; the checkpoint finds their shapes
        narrow_vgg(model)
    return randomised_norms(model)


def narrow_vgg(model: nn.Module) -> None:
    for index, (n_in, n_out) in {"0": (512 * 49, 32), "3": (32, 24), "6": (24, N_CLASSES)}.items():
        model.set_submodule(f"classifier.{index}", nn.Linear(n_in, n_out))


def randomised_norms(model: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=random))
            module.running_var = 0.5 + torch.rand(module.num_features, generator=random)
            module.bias.data = 0.5 * torch.randn(module.num_features, generator=random)
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
            drawn[:, sorted(poisoned.get(name, ()))] = torch.nan
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
        hit = {name: x.isnan().transpose(0, 1).flatten(1).any(1) for name, x in inputs.items()}
        return {name: set(mask.nonzero().flatten().tolist()) for name, mask in hit.items() if mask.any()}

    def _sources(self, slots: Channels) -> Channels:
        """Channels whose noise has a gradient at these inputs."""
        noise, inputs = self._run({})
        wanted = [inputs[name][:, sorted(at)] for name, at in slots.items()]
        random = torch.Generator().manual_seed(5)
        total = sum((x * torch.randn(x.shape, generator=random)).sum() for x in wanted)
        assert isinstance(total, Tensor)
        signals = torch.autograd.grad(total, list(noise.values()), allow_unused=True)
        found = {}
        for name, signal in zip(noise, signals, strict=True):
            if signal is not None and bool(signal.any()):
                mask = (signal != 0).transpose(0, 1).flatten(1).any(1)
                found[name] = set(mask.nonzero().flatten().tolist())
        return found


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
def test_cutting_channels_that_nothing_listens_to_leaves_the_logits(name: str) -> None:
    case = CASES[name]
    model, images = copy.deepcopy(net_of(name)).double(), images_of(8, case.size).double()
    dead, read_at = Wiring(model, images).coupled(some_channels(model, case.only))
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


def with_gradient(model: nn.Module, images: Tensor) -> set[str]:
    """Parameters that the logits have a gradient for; none is left behind."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # oneDNN's weight gradient of narrow 1x1 convolutions at stride 2 is the business of the test below.
    with torch.backends.mkldnn.flags(enabled=False):
        gradients = torch.autograd.grad(
            model(images).square().sum(), list(trainable.values()), allow_unused=True
        )
    for (name, parameter), gradient in zip(trainable.items(), gradients, strict=True):
        assert gradient is None or gradient.shape == parameter.shape, name
        assert gradient is None or bool(gradient.isfinite().all()), name
    return {name for name, gradient in zip(trainable, gradients, strict=True) if gradient is not None}


@pytest.mark.parametrize("eta", [0.7, 2.5])
@every_net
def test_a_net_after_random_cuts_runs_trains_and_keeps_its_checkpoint(
    name: str, eta: float, tmp_path: Path
) -> None:
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
        save_model(pruned, tmp_path / "pruned")
        loaded = load_model(tmp_path / "pruned")
        assert logits.shape == (4, N_CLASSES)
        assert logits.isfinite().all()
        assert torch.equal(loaded(images), logits)
        assert pruned.train()(images).isfinite().all()


def test_narrow_shortcuts_can_be_trained_after_surgery() -> None:
    # oneDNN's weight gradient of a 1x1 convolution at stride 2 writes out of bounds when its input is channels
    # last and narrower than a vector (uxlfoundation/oneDNN#6035): the process dies, or the gradient is wrong.
    script = """
import copy, random, torch
from torch import nn
from pipeline.deconv import Utility
from pipeline.models import build_model
from pipeline.prune import prune_model
torch.set_num_threads(1)
torch.manual_seed(0)
model = build_model("resnet", 3, config="c16-c32", width=0.5, stem="small").eval()
layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
values = {n: torch.arange(1.0, len(m.weight) + 1).double() for n, m in layers.items()}
utilities = {n: Utility(v.view(-1, 1, 1)) for n, v in values.items()}
pruned, _ = prune_model(model, utilities, 2.5, torch.rand(1, 3, 16, 16))
shortcut = pruned.get_submodule("stages.1.0.shortcut.conv")
assert 1 < shortcut.in_channels < 8
images = torch.rand(8, 3, 16, 16)
def gradient():
    pruned.zero_grad()
    pruned(images).square().sum().backward()
    return shortcut.weight.grad.clone()
with torch.backends.mkldnn.flags(enabled=False):
    expected = gradient()
for _ in range(50):
    found = gradient()
    kept = [torch.rand(random.randint(1, 3000)) for _ in range(5)]
torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


def in_classifier(net: nn.Module, size: int = 16) -> Classifier:
    names = [f"class {idx}" for idx in range(N_CLASSES)]
    return Classifier(net, image_shape=(3, size, size), mean=[0.5] * 3, std=[0.25] * 3, classes=names).eval()


@pytest.mark.parametrize(
    ("architecture", "options", "title"),
    [
        ("torchvision/shufflenet_v2_x0_5", {}, "shufflenet_v2_x0_5|ShuffleNetV2"),
        ("torchvision/vit_b_16", {"image_size": 32}, "vit_b_16|VisionTransformer"),
    ],
)
def test_an_architecture_that_surgery_cannot_cut_is_refused_by_name_in_one_line(
    architecture: str, options: dict[str, Any], title: str
) -> None:
    net = build_model(architecture, N_CLASSES, **options)
    for model in (net, in_classifier(net, 32)):
        for eta in (0.5, 2.0):
            with pytest.raises(ValueError, match=title) as refused:
                prune_model(model, random_utilities(model), eta, images_of(1, 32))
            assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "size"), [("googlenet", 32), ("inception_v3", 75)])
def test_torchvisions_auxiliary_heads_are_dropped(name: str, size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"aux_logits": True, "init_weights": False}
    model = randomised_norms(build_model(f"torchvision/{name}", N_CLASSES, **options)).train()
    images = images_of(2, size)
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
    group = ChannelGroup(nn.Linear(1, 4), None, 4, (both, part))
    scores = {"both": torch.tensor([1.0, 2.0, 3.0, 4.0]), "part": torch.tensor([10.0, 20.0])}
    assert group.average(scores).tolist() == [4.0, 3.0, (2.0 + 10.0) / 2, (1.0 + 20.0) / 2]
    assert list(group.segments()) == [([0, 1], (both,)), ([2, 3], (both, part))]


ROUNDED = ["inception v1_double3x3", "resnet of depth 2", "mobilenet_v2", "torchvision/mobilenet_v3_small"]


@pytest.mark.parametrize("round_to", [4, 8])
@pytest.mark.parametrize("name", ROUNDED)
def test_rounding_restores_as_few_channels_as_make_a_multiple(name: str, round_to: int) -> None:
    model, images = net_of(name), images_of(1, CASES[name].size)
    utilities = random_utilities(model)
    for eta in (1.5, 1e9):
        _, exact = prune_model(model, utilities, eta, images)
        rounded_net, rounded = prune_model(model, utilities, eta, images, round_to=round_to)
        assert [row.name for row in rounded] == [row.name for row in exact]
        for row, fine in zip(rounded, exact, strict=True):
            multiple = -(-fine.n_after // round_to) * round_to
            assert row.n_after == min(multiple, row.n_before), row.name
        assert channels_of(rounded_net, CASES[name].size).items() >= {
            (row.name, row.n_after) for row in rounded
        }
        assert any(row.n_after > fine.n_after for row, fine in zip(rounded, exact, strict=True))


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
