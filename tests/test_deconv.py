import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pipeline.deconv import Utility, trace_utility
from pipeline.deconv.layer_outputs import LayerOutputs
from pipeline.models import build_model
from pipeline.prune import utility_threshold

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

# The explicit chain below is written from the papers alone: unpool by switches, rectify, transposed convolution.

RELATIVE = 1e-6


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights of both signs and batch norms whose statistics, scales and shifts all matter."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data = 0.4 * torch.randn(module.weight.shape, generator=random)
            if module.bias is not None:
                module.bias.data = 0.2 * torch.randn(module.bias.shape, generator=random)
        elif isinstance(module, nn.BatchNorm2d):
            module.running_mean = 0.3 * torch.randn(module.num_features, generator=random)
            module.running_var = 0.5 + torch.rand(module.num_features, generator=random)
            module.weight.data = torch.randn(module.num_features, generator=random)
            module.bias.data = 0.5 * torch.randn(module.num_features, generator=random)
    return model.eval()


def images_of(n: int = 5, size: int = 8, seed: int = 1) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def unbatch_norm(signal: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    assert bn.running_var is not None
    return signal * (bn.weight / (bn.running_var + bn.eps).sqrt()).view(1, -1, 1, 1)


def transposed(signal: Tensor, conv: nn.Conv2d, size: int) -> Tensor:
    """Transposed convolution back to maps of `size` pixels."""
    stride, padding, kernel = conv.stride[0], int(conv.padding[0]), conv.kernel_size[0]
    extra = size - ((signal.shape[-1] - 1) * stride - 2 * padding + kernel)
    return F.conv_transpose2d(
        signal, conv.weight, stride=stride, padding=padding, output_padding=extra, groups=conv.groups
    )


def unpooled_mean(signal: Tensor, size: int) -> Tensor:
    """Adjoint of global average pooling: (n, c) to (n, c, size, size)."""
    return signal[:, :, None, None].expand(-1, -1, size, size) / size**2


def unpooled_average3(signal: Tensor) -> Tensor:
    """Adjoint of 3x3 average pooling at stride 1, padding 1, padded zeros counted."""
    kernel = torch.full((signal.shape[1], 1, 3, 3), 1 / 9, dtype=signal.dtype)
    return F.conv_transpose2d(signal, kernel, padding=1, groups=signal.shape[1])


def rectified(signal: Tensor) -> Tensor:
    return torch.where(signal > 0, signal, torch.zeros_like(signal))


def average(signal: Tensor) -> Tensor:
    """Over the images, of what is positive in each."""
    mean = rectified(signal).sum(0) / len(signal)
    return mean if mean.ndim == 3 else mean[:, None, None]


def assert_utilities_equal(found: dict[str, Utility], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, maps in expected.items():
        assert found[name].map.shape == maps.shape, name
        assert found[name].map.dtype == torch.float64
        assert float(maps.abs().max()) > 0, f"{name}: nothing to compare"
        torch.testing.assert_close(
            found[name].map, maps, rtol=RELATIVE, atol=RELATIVE * float(maps.abs().max()) * 1e-3
        )
        peaks = torch.stack([channel.max() for channel in maps])
        torch.testing.assert_close(found[name].channels, peaks, rtol=RELATIVE, atol=1e-12)


class VggLike(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.hidden, self.drop, self.decision = nn.Linear(32, 10), nn.Dropout(0.5), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))
        x = self.pool(self.relu2(self.bn2(self.conv2(x))))
        logits: Tensor = self.decision(self.drop(self.relu3(self.hidden(x.flatten(1)))))
        return logits


@torch.no_grad()
def explicit_vgg(model: nn.Module, images: Tensor, kept: Tensor) -> dict[str, Tensor]:
    net = copy.deepcopy(model).double()
    assert isinstance(net, VggLike)
    pool, unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
    p1, _ = pool(F.relu(net.bn1(net.conv1(images.double()))))
    p2, switches2 = pool(F.relu(net.bn2(net.conv2(p1))))
    latent = F.relu(net.hidden(p2.flatten(1)))
    u_hidden = latent * kept
    u_2 = (rectified(u_hidden) @ net.hidden.weight).view_as(p2)
    u_1 = transposed(unbatch_norm(rectified(unpool(u_2, switches2)), net.bn2), net.conv2, 4)
    return {"conv1": average(u_1), "conv2": average(u_2), "hidden": average(u_hidden)}


class InceptionLike(nn.Module):
    """A stem that three branches and an average pool share, concatenated and read by one more layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.one, self.one_bn = nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4)
        self.reduce, self.reduce_bn = nn.Conv2d(5, 3, 1), nn.BatchNorm2d(3)
        self.three, self.three_bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.pool = nn.AvgPool2d(3, 1, padding=1)
        self.proj, self.proj_bn = nn.Conv2d(5, 2, 1), nn.BatchNorm2d(2)
        self.last, self.last_bn = nn.Conv2d(12, 7, 3, padding=1), nn.BatchNorm2d(7)
        self.decision = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem(x)))
        one = F.relu(self.one_bn(self.one(x)))
        three = F.relu(self.three_bn(self.three(F.relu(self.reduce_bn(self.reduce(x))))))
        proj = F.relu(self.proj_bn(self.proj(self.pool(x))))
        x = F.relu(self.last_bn(self.last(torch.cat([one, three, proj], 1))))
        logits: Tensor = self.decision(x.mean((2, 3)))
        return logits


@torch.no_grad()
def explicit_inception(model: nn.Module, images: Tensor, kept: Tensor) -> dict[str, Tensor]:
    net = copy.deepcopy(model).double()
    assert isinstance(net, InceptionLike)
    size = images.shape[-1]
    x = F.relu(net.stem_bn(net.stem(images.double())))
    one = F.relu(net.one_bn(net.one(x)))
    reduce = F.relu(net.reduce_bn(net.reduce(x)))
    three = F.relu(net.three_bn(net.three(reduce)))
    proj = F.relu(net.proj_bn(net.proj(net.pool(x))))
    last = F.relu(net.last_bn(net.last(torch.cat([one, three, proj], 1))))
    u_last = unpooled_mean(last.mean((2, 3)) * kept, size)
    into_last = transposed(unbatch_norm(rectified(u_last), net.last_bn), net.last, size)
    u_one, u_three, u_proj = into_last[:, :4], into_last[:, 4:10], into_last[:, 10:]
    u_reduce = transposed(unbatch_norm(rectified(u_three), net.three_bn), net.three, size)
    u_stem = (
        transposed(unbatch_norm(rectified(u_one), net.one_bn), net.one, size)
        + transposed(unbatch_norm(rectified(u_reduce), net.reduce_bn), net.reduce, size)
        + unpooled_average3(transposed(unbatch_norm(rectified(u_proj), net.proj_bn), net.proj, size))
    )
    signals = {"stem": u_stem, "one": u_one, "reduce": u_reduce, "three": u_three, "proj": u_proj}
    return {name: average(signal) for name, signal in (signals | {"last": u_last}).items()}


class ResidualLike(nn.Module):
    """A projected residual module at stride 2, then an identity one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.a1, self.a1_bn = nn.Conv2d(5, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)
        self.a2, self.a2_bn = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.shortcut, self.shortcut_bn = nn.Conv2d(5, 8, 1, stride=2), nn.BatchNorm2d(8)
        self.b1, self.b1_bn = nn.Conv2d(8, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.b2, self.b2_bn = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.decision = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem_bn(self.stem(x)))
        body = self.a2_bn(self.a2(F.relu(self.a1_bn(self.a1(x)))))
        x = F.relu(body + self.shortcut_bn(self.shortcut(x)))
        x = F.relu(x + self.b2_bn(self.b2(F.relu(self.b1_bn(self.b1(x))))))
        logits: Tensor = self.decision(x.mean((2, 3)))
        return logits


@torch.no_grad()
def explicit_residual(model: nn.Module, images: Tensor, kept: Tensor) -> dict[str, Tensor]:
    net = copy.deepcopy(model).double()
    assert isinstance(net, ResidualLike)
    x = F.relu(net.stem_bn(net.stem(images.double())))
    a1 = F.relu(net.a1_bn(net.a1(x)))
    summed = F.relu(net.a2_bn(net.a2(a1)) + net.shortcut_bn(net.shortcut(x)))
    b1 = F.relu(net.b1_bn(net.b1(summed)))
    final = F.relu(summed + net.b2_bn(net.b2(b1)))
    half, size = final.shape[-1], x.shape[-1]
    # The second sum's rectifier, then the sum copies the signal to both of its terms.
    into_b_sum = rectified(unpooled_mean(final.mean((2, 3)) * kept, half))
    u_b1 = transposed(unbatch_norm(into_b_sum, net.b2_bn), net.b2, half)
    back = transposed(unbatch_norm(rectified(u_b1), net.b1_bn), net.b1, half)
    into_a_sum = rectified(into_b_sum + back)
    u_a1 = transposed(unbatch_norm(into_a_sum, net.a2_bn), net.a2, half)
    u_stem = transposed(unbatch_norm(rectified(u_a1), net.a1_bn), net.a1, size)
    u_stem = u_stem + transposed(unbatch_norm(into_a_sum, net.shortcut_bn), net.shortcut, size)
    signals = {"stem": u_stem, "a1": u_a1, "a2": into_a_sum, "shortcut": into_a_sum, "b1": u_b1}
    return {name: average(signal) for name, signal in (signals | {"b2": into_b_sum}).items()}


class DepthwiseLike(nn.Module):
    def __init__(self, relu6: Callable[[Tensor], Tensor] = F.relu6) -> None:
        super().__init__()
        self.expand, self.expand_bn = nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.depthwise, self.depthwise_bn = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6)
        self.project, self.project_bn = nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5)
        self.relu6 = relu6
        self.decision = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu6(self.expand_bn(self.expand(x)))
        x = self.relu6(self.depthwise_bn(self.depthwise(x)))
        x = self.project_bn(self.project(x))  # linear, as in MobileNetV2
        logits: Tensor = self.decision(x.mean((2, 3)))
        return logits


@torch.no_grad()
def explicit_depthwise(model: nn.Module, images: Tensor, kept: Tensor) -> dict[str, Tensor]:
    net = copy.deepcopy(model).double()
    assert isinstance(net, DepthwiseLike)
    size = images.shape[-1]
    x = F.relu6(net.expand_bn(net.expand(images.double())))
    x = F.relu6(net.depthwise_bn(net.depthwise(x)))
    latent = net.project_bn(net.project(x)).mean((2, 3))
    u_project = unpooled_mean(latent * kept, size)
    u_depthwise = transposed(unbatch_norm(u_project, net.project_bn), net.project, size)
    u_expand = transposed(unbatch_norm(rectified(u_depthwise), net.depthwise_bn), net.depthwise, size)
    return {
        "expand": average(u_expand),
        "depthwise": average(u_depthwise),
        "project": average(u_project),
    }


class Mixed(nn.Module):
    """Pools before and behind a module of two branches, then a residual sum that a pool stands behind."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.one, self.one_bn = nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4)
        self.proj, self.proj_bn = nn.Conv2d(5, 2, 1), nn.BatchNorm2d(2)
        self.body, self.body_bn = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.last, self.decision = nn.Conv2d(6, 7, 1), nn.Linear(7, 3)
        self.pool, self.around = nn.MaxPool2d(2), nn.AvgPool2d(3, 1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.stem_bn(self.stem(x))))
        branches = [self.proj_bn(self.proj(self.around(x))), self.one_bn(self.one(x))]
        x = self.pool(torch.cat([F.relu(branch) for branch in branches], 1))
        x = self.pool(F.relu(x + self.body_bn(self.body(x))))
        logits: Tensor = self.decision(F.relu(self.last(x)).mean((2, 3)))
        return logits


@torch.no_grad()
def explicit_mixed(model: nn.Module, images: Tensor, kept: Tensor) -> dict[str, Tensor]:
    net = copy.deepcopy(model).double()
    assert isinstance(net, Mixed)
    size = images.shape[-1]
    pool, unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
    x, _ = pool(F.relu(net.stem_bn(net.stem(images.double()))))
    one, proj = F.relu(net.one_bn(net.one(x))), F.relu(net.proj_bn(net.proj(net.around(x))))
    y, module_switches = pool(torch.cat([proj, one], 1))
    z, sum_switches = pool(F.relu(y + net.body_bn(net.body(y))))
    last = F.relu(net.last(z))
    u_last = unpooled_mean(last.mean((2, 3)) * kept, size // 8)
    # Behind the sum's pool a position is read; at the sum itself it is where the switch points.
    into_sum = rectified(unpool(transposed(rectified(u_last), net.last, size // 8), sum_switches))
    u_y = into_sum + transposed(unbatch_norm(into_sum, net.body_bn), net.body, size // 4)
    into_branches = rectified(unpool(u_y, module_switches))
    u_stem = transposed(unbatch_norm(into_branches[:, 2:], net.one_bn), net.one, size // 2)
    u_stem = u_stem + unpooled_average3(
        transposed(unbatch_norm(into_branches[:, :2], net.proj_bn), net.proj, size // 2)
    )
    signals = {"stem": u_stem, "proj": u_y[:, :2], "one": u_y[:, 2:], "body": into_sum, "last": u_last}
    return {name: average(signal) for name, signal in signals.items()}


Explicit = Callable[[nn.Module, Tensor, Tensor], dict[str, Tensor]]
CHAINS: list[tuple[Callable[[], nn.Module], Explicit, int]] = [
    (VggLike, explicit_vgg, 10),
    (InceptionLike, explicit_inception, 7),
    (ResidualLike, explicit_residual, 8),
    (DepthwiseLike, explicit_depthwise, 5),
    (Mixed, explicit_mixed, 7),
]


def some_kept(d: int) -> Tensor:
    kept = torch.ones(d, dtype=torch.bool)
    kept[::3] = False
    return kept


@pytest.mark.parametrize(("build", "explicit", "d"), CHAINS, ids=lambda c: getattr(c, "__name__", None))
@pytest.mark.parametrize("seed", [0, 1])
def test_utilities_equal_an_explicit_unpool_rectify_transposed_convolution_chain(
    build: Callable[[], nn.Module], explicit: Explicit, d: int, seed: int
) -> None:
    model, images, kept = (
        randomised(build(), seed).double(),
        8 * images_of().double(),
        some_kept(d),
    )  # over six
    assert_utilities_equal(trace_utility(model, images, kept), explicit(model, images, kept))


@pytest.mark.parametrize("relu6", [nn.ReLU6(), nn.ReLU6(inplace=True)], ids=["ReLU6", "ReLU6 in place"])
def test_relu6_modules_as_mobilenets_have_them_follow_the_rule_too(relu6: nn.Module) -> None:
    model, images, kept = randomised(DepthwiseLike(relu6)).double(), images_of().double(), some_kept(5)
    assert_utilities_equal(trace_utility(model, images, kept), explicit_depthwise(model, images, kept))


def test_utility_of_a_channel_is_the_spatial_maximum_of_the_map_averaged_over_images() -> None:
    maps = torch.tensor([[[1.0, -2.0], [0.5, 3.0]], [[-1.0, -4.0], [-0.5, -3.0]]])
    assert Utility(maps).channels.tolist() == [3.0, -0.5]


def test_utilities_come_in_the_order_of_the_forward_pass_without_the_decision_layer() -> None:
    found = trace_utility(randomised(VggLike()), images_of(), some_kept(10))
    assert list(found) == ["conv1", "conv2", "hidden"]


class TwoArms(nn.Module):
    """Latent dimensions 0-3 read only `left`, 4-7 only `right`."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.decision = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        arms = torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)
        logits: Tensor = self.decision(arms.mean((2, 3)))
        return logits


def test_channels_that_feed_only_dropped_latent_dimensions_have_zero_utility() -> None:
    kept = torch.tensor([True, False, True, True, False, False, False, False])
    found = trace_utility(randomised(TwoArms()), images_of(), kept)
    assert torch.equal(found["right"].map, torch.zeros(4, 8, 8, dtype=torch.float64))
    assert (found["left"].channels > 0).tolist() == [True, False, True, True]


def test_a_layer_without_a_path_to_the_latent_space_has_a_map_of_zeros() -> None:
    class Aside(TwoArms):
        def __init__(self) -> None:
            super().__init__()
            self.aside = nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.aside(x)
            return super().forward(x)

    found = trace_utility(randomised(Aside()), images_of(), torch.ones(8, dtype=torch.bool))
    assert torch.equal(found["aside"].map, torch.zeros(2, 6, 6, dtype=torch.float64))


def test_utilities_are_linear_in_the_kept_dimensions_of_a_net_without_rectifiers_behind() -> None:
    model, images = randomised(TwoArms()), images_of()
    everything = trace_utility(model, images, torch.ones(8, dtype=torch.bool))
    for dimension in range(8):
        kept = torch.zeros(8, dtype=torch.bool)
        kept[dimension] = True
        arm, channel = ("left", dimension) if dimension < 4 else ("right", dimension - 4)
        alone = trace_utility(model, images, kept)[arm].map[channel]
        torch.testing.assert_close(alone, everything[arm].map[channel], rtol=1e-12, atol=0)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_does_not_change_utilities(batch_size: int) -> None:
    model, images, kept = randomised(InceptionLike()), images_of(5), some_kept(7)
    at_once = trace_utility(model, images, kept, batch_size=5)
    for name, utility in trace_utility(model, images, kept, batch_size=batch_size).items():
        torch.testing.assert_close(utility.map, at_once[name].map, rtol=1e-5, atol=1e-9)


def hook_count(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = randomised(VggLike()).train(training)
    model.bn2.eval()
    model.conv1.weight.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    random_state = torch.get_rng_state()
    trace_utility(model, images_of(), some_kept(10))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert all(parameter.grad is None for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert hook_count(model) == 0
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_model_in_training_mode_is_traced_as_in_evaluation_mode() -> None:
    model, images, kept = randomised(VggLike()), images_of(), some_kept(10)
    expected = trace_utility(model, images, kept)
    for name, utility in trace_utility(model.train(), images, kept).items():
        assert torch.equal(utility.map, expected[name].map)


def test_tracing_works_where_gradients_are_switched_off_and_the_rule_ends_with_it() -> None:
    model, images, kept = randomised(VggLike()), images_of(), some_kept(10)
    expected = trace_utility(model, images, kept)
    with torch.no_grad():
        found = trace_utility(model, images, kept)
    assert all(torch.equal(found[name].map, expected[name].map) for name in expected)
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    torch.relu(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0]


class Activated(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.activation, self.decision = nn.Conv2d(3, 4, 3), activation, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decision(self.activation(self.conv(x)).mean((2, 3)))
        return logits


def attention(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2)[..., None]


class AttentionModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed: Tensor = self.attention(tokens, tokens, tokens)[0]
        return mixed.transpose(1, 2)[..., None]


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.SiLU(), "SiLU"),
        (nn.SiLU(inplace=True), "SiLU"),
        (F.silu, "SiLU"),
        (nn.Sigmoid(), "sigmoid"),
        (torch.sigmoid, "sigmoid"),
        (F.sigmoid, "sigmoid"),
        (Tensor.sigmoid_, "sigmoid"),
        (torch.special.expit, "sigmoid"),
        (nn.GELU(), "GELU"),
        (nn.Hardswish(), "Hardswish"),
        (nn.LeakyReLU(), "leaky ReLU"),
        (nn.ELU(), "ELU"),
        (nn.Tanh(), "tanh"),
        (F.softplus, "Softplus"),
        (lambda x: x.softmax(1), "softmax"),
        (attention, "attention"),
        (AttentionModule(), "attention"),
    ],
    ids=[
        "nn.SiLU",
        "nn.SiLU in place",
        "F.silu",
        "nn.Sigmoid",
        "torch.sigmoid",
        "F.sigmoid",
        "Tensor.sigmoid_",
        "torch.special.expit",
        "nn.GELU",
        "nn.Hardswish",
        "nn.LeakyReLU",
        "nn.ELU",
        "nn.Tanh",
        "F.softplus",
        "softmax",
        "scaled dot product",
        "nn.MultiheadAttention",
    ],
)
def test_what_deconvolution_cannot_trace_is_refused_by_name(
    activation: Callable[[Tensor], Tensor], name: str
) -> None:
    model = Activated(activation).eval()
    with pytest.raises(ValueError, match=name):
        trace_utility(model, images_of(), torch.ones(4, dtype=torch.bool))
    assert hook_count(model) == 0


@pytest.mark.parametrize(
    "kept",
    [
        torch.ones(9, dtype=torch.bool),
        torch.ones(11, dtype=torch.bool),
        torch.ones(1, 10, dtype=torch.bool),
        torch.zeros(10, dtype=torch.bool),
        torch.ones(10),
        torch.ones(10, dtype=torch.int64),
    ],
    ids=["short", "long", "two-dimensional", "nothing kept", "float", "integers"],
)
def test_a_wrong_mask_of_kept_dimensions_is_refused(kept: Tensor) -> None:
    with pytest.raises(ValueError, match=r"boolean mask \(10,\)"):
        trace_utility(randomised(VggLike()), images_of(), kept)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        trace_utility(randomised(VggLike()), images_of()[:0], some_kept(10))


class RectifiedBy(nn.Module):
    """The same net whose rectifiers are written in different ways."""

    def __init__(self, rectify: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.decision = nn.Conv2d(6, 5, 3, padding=1), nn.Linear(5, 3)
        self.rectify = rectify

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.rectify(self.bn1(self.conv1(x))), 2)
        logits: Tensor = self.decision(self.rectify(self.conv2(x)).mean((2, 3)))
        return logits


def in_place_statement(x: Tensor) -> Tensor:
    x.relu_()
    return x


def in_place_module_statement(x: Tensor) -> Tensor:
    nn.ReLU(inplace=True)(x)
    return x


@pytest.mark.parametrize(
    "rectify",
    [
        F.relu,
        torch.relu,
        nn.ReLU(inplace=True),
        lambda x: F.relu(x, inplace=True),
        lambda x: F.relu(input=x),
        torch.relu_,
        Tensor.relu,
        Tensor.relu_,
        lambda x: F.threshold(x, 0.0, 0.0),
        lambda x: x.clamp_min(0),
        lambda x: x.clamp(min=0),
        in_place_statement,
        in_place_module_statement,
    ],
    ids=[
        "F.relu",
        "torch.relu",
        "nn.ReLU in place",
        "F.relu in place",
        "F.relu by keyword",
        "torch.relu_",
        "Tensor.relu",
        "Tensor.relu_",
        "threshold",
        "clamp_min",
        "clamp",
        "in-place statement",
        "in-place module as a statement",
    ],
)
def test_every_way_of_writing_a_rectifier_gives_the_same_utilities_or_is_refused(
    rectify: Callable[[Tensor], Tensor],
) -> None:
    images, kept = images_of(), torch.ones(5, dtype=torch.bool)
    expected = trace_utility(randomised(RectifiedBy(nn.ReLU())), images, kept)
    try:
        found = trace_utility(randomised(RectifiedBy(rectify)), images, kept)
    except ValueError:
        return
    for name, utility in expected.items():
        torch.testing.assert_close(found[name].map, utility.map, rtol=1e-12, atol=0)


def test_the_common_ways_of_writing_a_rectifier_are_not_refused() -> None:
    for rectify in (nn.ReLU(), nn.ReLU(inplace=True), F.relu, torch.relu, Tensor.relu_, F.relu6):
        trace_utility(randomised(RectifiedBy(rectify)), images_of(), torch.ones(5, dtype=torch.bool))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_unmodified_torchvision_models_are_traced_to_their_first_layer(name: str) -> None:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=4).eval()
    d = 512 if name == "resnet18" else 1280
    found = trace_utility(model, images_of(2, 32), torch.ones(d, dtype=torch.bool))
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert set(found) == set(layers)
    first = found["conv1" if name == "resnet18" else "features.0.0"]
    assert all(bool(utility.map.isfinite().all()) for utility in found.values())
    assert bool((first.channels > 0).any())


def test_a_deep_net_does_not_underflow() -> None:
    torch.manual_seed(0)
    net = build_model("resnet", 4, config=",".join(["(c64", *["i64"] * 20]) + ")", width=0.125, stem="small")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.02 if parameter.ndim == 4 else 1.0)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.mul_(1e-2)
    found = trace_utility(net, images_of(2, 8), torch.ones(8, dtype=torch.bool))
    for name, utility in found.items():
        assert bool((utility.channels != 0).any()), name


def test_utilities_reach_every_layer_of_inception_88() -> None:
    torch.manual_seed(0)
    net = build_model("inception", 10, stages=(10, 8, 10))
    found = trace_utility(net, images_of(1, 224), torch.ones(1024, dtype=torch.bool))
    assert len(found) == 3 + 28 * 7
    for name, utility in found.items():
        assert bool(utility.map.isfinite().all()), name
        assert bool((utility.channels > 0).any()), name
        assert int((utility.map != 0).sum()) > 1, name


class Gate(nn.Module):
    """Squeeze and excite without a sigmoid: the product is all that cannot be traced."""

    def __init__(self, multiply: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.squeeze, self.excite, self.multiply = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), multiply

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.multiply(x, gate)


class Gated(nn.Module):
    def __init__(self, multiply: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.block = nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), Gate(multiply))
        self.decision = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decision(self.block(self.conv(x)).mean((2, 3)))
        return logits


def times_in_place(x: Tensor, gate: Tensor) -> Tensor:
    x *= gate
    return x


def attending(bmm: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def attend(x: Tensor, _: Tensor) -> Tensor:
        tokens = x.flatten(2)
        return bmm(bmm(tokens, tokens.transpose(1, 2)), tokens)[..., None]

    return attend


PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "x * y": lambda x, y: x * y,
    "x *= y": times_in_place,
    "torch.mul": torch.mul,
    "torch.mul by keyword": lambda x, y: torch.mul(x, other=y),
    "torch.multiply": torch.multiply,
    "Tensor.multiply": lambda x, y: x.multiply(y),
    "x / y": lambda x, y: x / (y + 1),
    "torch.div by keyword": lambda x, y: torch.div(x, other=y + 1),
    "Tensor.divide": lambda x, y: x.divide(y + 1),
    "torch.bmm": attending(torch.bmm),
    "Tensor.bmm": attending(Tensor.bmm),
    "torch.matmul": attending(torch.matmul),
    "x @ y": attending(lambda x, y: x @ y),
    "einsum": lambda x, y: torch.einsum("nchw,ncij->nchw", x, y),
    "einsum of a list": lambda x, y: torch.einsum("nchw,ncij->nchw", [x, y]),
}


@pytest.mark.parametrize("multiply", PRODUCTS.values(), ids=PRODUCTS)
def test_a_product_of_two_activations_is_refused_and_its_module_is_named(
    multiply: Callable[[Tensor, Tensor], Tensor],
) -> None:
    model = randomised(Gated(multiply))
    with pytest.raises(ValueError, match=r"product of two activations.* in block\.1$") as refused:
        trace_utility(model, images_of(), torch.ones(4, dtype=torch.bool))
    assert "\n" not in str(refused.value)
    assert hook_count(model) == 0


def test_torchvisions_squeeze_and_excite_is_refused_and_its_module_is_named() -> None:
    block = torchvision.ops.SqueezeExcitation(4, 2, scale_activation=nn.ReLU)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), block, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"product of two activations \(\w+\) in 2$"):
        trace_utility(randomised(model), images_of(), torch.ones(4, dtype=torch.bool))


def test_local_response_norm_is_refused_and_its_module_is_named() -> None:
    model = Activated(nn.LocalResponseNorm(3)).eval()
    with pytest.raises(ValueError, match=r"local response norm in activation$"):
        trace_utility(model, images_of(), torch.ones(4, dtype=torch.bool))


class Scale(nn.Module):
    """Each channel times a weight of its own, as layer scale; 1, 2, 3, 4."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.arange(1.0, 5.0).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) * self.scale


@pytest.mark.parametrize(
    ("scaled", "factors"),
    [
        (lambda x: 3.0 * F.relu(x), [3.0] * 4),
        (lambda x: F.relu(x) * 3, [3.0] * 4),
        (lambda x: torch.mul(F.relu(x), torch.full((1, 4, 1, 1), 3.0, dtype=x.dtype)), [3.0] * 4),
        (lambda x: F.relu(x) / 0.5, [2.0] * 4),
        (lambda x: F.relu(x) / torch.full((4, 1, 1), 0.5, dtype=x.dtype), [2.0] * 4),
        (Scale(), [1.0, 2.0, 3.0, 4.0]),
    ],
    ids=[
        "float * x",
        "x * int",
        "torch.mul by a constant",
        "x / float",
        "x / constant",
        "weight of a module",
    ],
)
def test_multiplying_by_what_is_no_activation_is_traced(
    scaled: Callable[[Tensor], Tensor], factors: list[float]
) -> None:
    kept = torch.ones(4, dtype=torch.bool)
    plain = trace_utility(randomised(Activated(nn.ReLU())), images_of(), kept)["conv"].map
    found = trace_utility(randomised(Activated(scaled)), images_of(), kept)["conv"].map
    # Once in the latent response that the signal starts from, and once on its way back.
    expected = plain * torch.tensor(factors, dtype=torch.float64).square()[:, None, None]
    assert float(plain.abs().max()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


class ConvNormRelu(nn.Sequential):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(nn.Conv2d(n_in, n_out, 3), nn.BatchNorm2d(n_out), nn.ReLU())


class OfModules(nn.Sequential):
    """Convolution, batch norm and rectifier as modules, in and out of place; then without a batch norm."""

    def __init__(self) -> None:
        super().__init__(
            ConvNormRelu(3, 5),
            nn.Sequential(nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4), nn.ReLU6()),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Dropout(0.5)),
            nn.Linear(7, 3),
        )


# Each layer's name, and that of the module whose output the layers behind read.
LAST_FOLLOWERS = {"0.0": "0.2", "1.0": "1.2", "3": "3", "6.0": "6.2", "7": "7"}


def hooked(model: nn.Module, images: Tensor, names: dict[str, str]) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(at).register_forward_hook(
            lambda _, __, y, layer=layer: outputs.__setitem__(layer, y.clone())
        )
        for layer, at in names.items()
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return outputs


def observed(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    with LayerOutputs(model) as outputs:
        model(images)
    return {name: output.values for name, output in outputs.found().items()}


@torch.no_grad()
def test_outputs_are_those_of_the_last_module_that_follows_each_layer() -> None:
    model, images = randomised(OfModules()), images_of()
    expected, found = hooked(model, images, LAST_FOLLOWERS), observed(model, images)
    assert list(found) == list(expected)
    for name, output in expected.items():
        assert torch.equal(found[name], output), name
    assert not torch.equal(found["0.0"], hooked(model, images, {"0.0": "0.1"})["0.0"])


@torch.no_grad()
@pytest.mark.parametrize("rectify", [F.relu, torch.relu_, Tensor.relu_, lambda x: F.relu(x, inplace=True)])
def test_outputs_are_found_where_rectifiers_are_functions(rectify: Callable[[Tensor], Tensor]) -> None:
    model, images = randomised(RectifiedBy(rectify)), images_of()
    assert isinstance(model, RectifiedBy)
    found = observed(model, images)
    assert list(found) == ["conv1", "conv2", "decision"]
    first = model.bn1(model.conv1(images)).clamp_min(0)
    second = model.conv2(F.max_pool2d(first, 2)).clamp_min(0)
    assert torch.equal(found["conv1"], first)
    assert torch.equal(found["conv2"], second)
    assert torch.equal(found["decision"], model.decision(second.mean((2, 3))))


@torch.no_grad()
def test_outputs_of_a_residual_net_end_before_the_sum() -> None:
    model, images = randomised(ResidualLike()), images_of()
    names = {"stem": "stem_bn", "a1": "a1_bn", "a2": "a2_bn", "shortcut": "shortcut_bn"}
    expected, found = hooked(model, images, names), observed(model, images)
    assert torch.equal(found["stem"], expected["stem"].relu())
    assert torch.equal(found["a1"], expected["a1"].relu())
    assert torch.equal(found["a2"], expected["a2"])
    assert torch.equal(found["shortcut"], expected["shortcut"])


@torch.no_grad()
def test_observing_changes_nothing_and_ends_with_its_block() -> None:
    model, images = randomised(VggLike()), images_of()
    with LayerOutputs(model) as outputs:
        inside = model(images)
    seen = {name: output.values for name, output in outputs.found().items()}
    assert torch.equal(inside, model(images))
    assert torch.equal(seen["decision"], inside)
    assert all(torch.equal(output.values, seen[name]) for name, output in outputs.found().items())


def test_behind_the_pool_utility_reads_another_way_than_before_it() -> None:
    # One channel reads every position alike, the other only where the pool's windows have their maxima.
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 2, bias=False)
            self.decision = nn.Linear(1, 2)
            self.first.weight.data = torch.tensor([1.0, 1.0]).view(2, 1, 1, 1)
            self.second.weight.data = torch.tensor([[3.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]]).view(
                1, 2, 2, 2
            )

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.relu(self.first(x)), 2)
            logits: Tensor = self.decision(F.relu(self.second(x)).flatten(1))
            return logits

    images = torch.zeros(2, 1, 4, 4)
    images[0, 0, ::2, ::2] = 1.0  # the maxima lie at other positions in each image
    images[1, 0, 1::2, 1::2] = 1.0
    found = trace_utility(Pooled(), images, torch.tensor([True]))
    latent = 3.0 + 8.0
    assert found["first"].map.tolist() == [
        [[3 * latent, 0], [0, 0]],
        [[2 * latent, 2 * latent], [2 * latent, 2 * latent]],
    ]
    # Before the pool, where the images' maxima do not meet, half of it would be left.
    assert found["first"].channels.tolist() == [3 * latent, 2 * latent]


def test_asking_for_a_shape_reads_nothing() -> None:
    class Shaped(RectifiedBy):
        def forward(self, x: Tensor) -> Tensor:
            x = self.rectify(self.bn1(self.conv1(x)))
            pooled = F.max_pool2d(x, 2 if x.shape[2] == x.size()[3] else 1)
            logits: Tensor = self.decision(self.rectify(self.conv2(pooled)).mean((2, 3)))
            return logits

    kept = torch.ones(5, dtype=torch.bool)
    expected = trace_utility(randomised(RectifiedBy(nn.ReLU())), images_of(), kept)
    found = trace_utility(randomised(Shaped(nn.ReLU())), images_of(), kept)
    assert all(torch.equal(found[name].map, expected[name].map) for name in expected)
    assert found["conv1"].map.shape == (6, 4, 4)


def test_what_speaks_against_in_one_image_takes_nothing_from_another() -> None:
    class Signed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 1, bias=False), nn.Linear(1, 2, bias=False)
            self.decision = nn.Linear(2, 2)
            self.first.weight.data = torch.tensor([[1.0, -1.0]])
            self.second.weight.data = torch.tensor([[1.0], [-1.0]])

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.decision(self.second(self.first(x).flatten(1)) + 1)
            return logits

    # Latent (1 + a, 1 - a), so that U = (1 + a) - (1 - a) = 2 a: 4 in one image, -6 in the other.
    found = trace_utility(Signed(), torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([True, True]))
    assert found["first"].channels.tolist() == [2.0]


DEEP = {"resnet101": 32, "mobilenet_v2": 32, "googlenet": 64}


@pytest.mark.parametrize("name", DEEP)
def test_in_float32_utilities_of_deep_nets_have_the_order_of_a_float64_trace(name: str) -> None:
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(num_classes=4, **options).eval()
    images, dtypes = images_of(1, DEEP[name]), set()
    d = [module for module in model.modules() if isinstance(module, nn.Linear)][-1].in_features
    kept = torch.ones(d, dtype=torch.bool)
    handle = next(model.children()).register_forward_hook(lambda _, __, output: dtypes.add(output.dtype))
    found = trace_utility(model, images, kept)
    handle.remove()
    assert dtypes == {torch.float32}
    for layer, exact in trace_utility(model.double(), images.double(), kept).items():
        largest = float(exact.channels.max())
        assert largest > 0, layer
        in_order = found[layer].channels[exact.channels.argsort()]
        fallen = in_order.cummax(0).values - in_order
        assert float(fallen.max()) <= 1e-5 * largest, layer  # ties aside
        assert bool((found[layer].channels[exact.channels > 1e-4 * largest] > 0).all()), layer


@pytest.mark.parametrize("factor", [1e-3, 1e3], ids=["shrinks", "grows"])
def test_a_signal_that_leaves_float32s_range_is_traced_from_a_start_that_keeps_it_in(factor: float) -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(15))
            self.decision = nn.Linear(3, 2)
            for layer in self.layers:
                assert isinstance(layer, nn.Linear)
                layer.weight.data = torch.diag(torch.tensor([1.0, 2.0, 0.5])) * factor

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = Back.apply(
                    layer(x) / factor, factor
                )  # so that only the signal's way back changes its size
            logits: Tensor = self.decision(x)
            return logits

    class Back(torch.autograd.Function):
        """Nothing forwards; backwards a factor."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
            ctx.factor = factor
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *signals: Tensor) -> tuple[Tensor, None]:
            return signals[0] * ctx.factor, None

    found = trace_utility(Deep(), torch.ones(1, 3), torch.ones(3, dtype=torch.bool))
    expected = torch.tensor([1.0, 2.0**29, 0.5**29], dtype=torch.float64) * factor**14
    # Stages take subnormals for zero, which the last channel, so far below the others, then comes from.
    atol = 1e-15 * float(expected.max())
    torch.testing.assert_close(found["layers.0"].channels, expected, rtol=1e-4, atol=atol)


class Stacked(nn.Sequential):
    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise([1, 16, 24, 32, 48]):
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
            layers.append(nn.MaxPool2d(2) if n_out < 48 else nn.AdaptiveAvgPool2d(1))
        super().__init__(*layers, nn.Flatten(), nn.Linear(48, 10))


def test_of_a_trained_net_first_layers_are_hardly_pruned_and_the_last_ones_most() -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = F.interpolate(torch.from_numpy(digits.images[:800]).float().unsqueeze(1) / 16, scale_factor=2)
    labels, model, random = torch.from_numpy(digits.target[:800]), Stacked(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for batch in torch.cat([torch.randperm(800, generator=random) for _ in range(6)]).split(50):
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    found = trace_utility(model, images[:300], torch.arange(48) % 2 == 0)
    shares = [
        float((utility.channels >= utility_threshold(utility, 2.0)).double().mean())
        for utility in found.values()
    ]
    assert min(shares[:2]) >= 0.8
    assert shares[:2] > shares[2:]
    assert shares[2] > shares[3]
