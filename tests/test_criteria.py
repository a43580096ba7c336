"""What others rank filters by, against plain loops over filters, activations and single images."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from pipeline.compare.criteria import Criterion, Scores, score_filters
from pipeline.models import build_model
from pipeline.models.blocks import ConvBnRelu
from pipeline.models.classifier import Classifier

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
OF_IMAGES: tuple[Criterion, ...] = ("activation_mean", "activation_variance", "apoz", "taylor")


def scores(
    model: nn.Module, criterion: Criterion, images: Tensor, labels: Tensor, *, batch_size: int = 256
) -> Scores:
    random = torch.Generator().manual_seed(5)
    return score_filters(model, criterion, images, labels, random=random, batch_size=batch_size)


def batch(n: int = 11, channels: int = 2) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.rand(n, channels, 6, 6, generator=random, dtype=torch.float64), torch.arange(n) % 3


class Known(nn.Module):
    """A net that can say what the layers behind each layer read."""

    def activations(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and by layer its output after batch norm and rectifier; every step out of place."""
        raise NotImplementedError

    def prepared(self) -> Known:
        """In float64, with batch statistics as after some training."""
        self.double()
        random = torch.Generator().manual_seed(2)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low in ((module.running_mean, -0.5), (module.running_var, 0.5)):
                    assert tensor is not None
                    tensor.copy_(low + torch.rand(tensor.shape, generator=random, dtype=torch.float64))
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=random)
                nn.init.uniform_(module.bias, -0.2, 0.8, generator=random)
        return self


class Branched(Known):
    """Rectifiers of every writing; the last convolutions feed a concatenation, one of them unrectified."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.second, self.norm2 = nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)
        self.left, self.left_norm = nn.Conv2d(5, 3, 1), nn.BatchNorm2d(3)
        self.right = nn.Conv2d(5, 2, 3, padding=1)
        self.decision = nn.Linear(5, 3)
        self.prepared()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(x)))
        x = functional.relu(self.norm2(self.second(x)))
        x = torch.cat([torch.relu(self.left_norm(self.left(x))), self.right(x)], 1)
        return torch.as_tensor(self.decision(x.mean((2, 3))))

    def activations(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        first = self.norm(self.first(images)).clamp_min(0)
        second = self.norm2(self.second(first)).clamp_min(0)
        left, right = self.left_norm(self.left(second)).clamp_min(0), self.right(second)
        logits = self.decision(torch.cat([left, right], 1).mean((2, 3)))
        return logits, {"first": first, "second": second, "left": left, "right": right}


class Dense(Known):
    """Convolution, pool, and two hidden linear layers, one without rectifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3, stride=2)
        self.hidden, self.bare = nn.Linear(4, 6), nn.Linear(6, 5)
        self.drop = nn.Dropout(0.5)
        self.decision = nn.Linear(5, 3)
        self.prepared()

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.conv(x).relu(), 2).flatten(1)
        return torch.as_tensor(self.decision(self.bare(self.drop(functional.relu_(self.hidden(x))))))

    def activations(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        conv = self.conv(images).clamp_min(0)
        hidden = self.hidden(functional.max_pool2d(conv, 2).flatten(1)).clamp_min(0)
        bare = self.bare(hidden)
        return self.decision(bare), {"conv": conv, "hidden": hidden, "bare": bare}


class Residual(Known):
    """A block whose sum is written in place, as torchvision's are, or out of place."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.in_place = in_place
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=in_place)
        self.decision = nn.Linear(4, 3)
        self.prepared()

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        out = self.norm(self.conv(x))
        if self.in_place:
            out += x
        else:
            out = out + x
        return torch.as_tensor(self.decision(self.relu(out).mean((2, 3))))

    def activations(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        stem = self.stem(images).clamp_min(0)
        conv = self.norm(self.conv(stem))
        return self.decision((conv + stem).clamp_min(0).mean((2, 3))), {"stem": stem, "conv": conv}


def by_channel(activation: Tensor, channel: int) -> list[float]:
    values: list[float] = activation[:, channel].detach().flatten().tolist()
    return values


def mean_by_loops(activation: Tensor) -> list[float]:
    return [
        math.fsum(values) / len(values)
        for values in (by_channel(activation, c) for c in range(activation.shape[1]))
    ]


def variance_by_loops(activation: Tensor) -> list[float]:
    found = []
    for channel, mean in enumerate(mean_by_loops(activation)):
        values = by_channel(activation, channel)
        found.append(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return found


def positive_by_loops(activation: Tensor) -> list[float]:
    found = []
    for channel in range(activation.shape[1]):
        values = by_channel(activation, channel)
        found.append(sum(value > 0 for value in values) / len(values))
    return found


@pytest.mark.parametrize(
    ("criterion", "by_loops"),
    [
        ("activation_mean", mean_by_loops),
        ("activation_variance", variance_by_loops),
        ("apoz", positive_by_loops),
    ],
)
@pytest.mark.parametrize("build", [Branched, Dense, lambda: Residual(False)])
def test_activation_scores_are_those_of_loops_over_images_and_positions(
    criterion: Criterion, by_loops: Callable[[Tensor], list[float]], build: Callable[[], Known]
) -> None:
    model, (images, labels) = build(), batch()
    model.eval()
    _, activations = model.activations(images)
    found = scores(model, criterion, images, labels)
    assert list(found) == list(activations)
    for name, activation in activations.items():
        assert found[name].dtype == torch.float64
        torch.testing.assert_close(
            found[name], torch.tensor(by_loops(activation), dtype=torch.float64), rtol=1e-9, atol=1e-12
        )
    everything = torch.cat(list(found.values()))
    assert len(everything.unique()) > 4  # scores that could not tell filters apart say nothing


@pytest.mark.parametrize("build", [Branched, Dense, lambda: Residual(False)])
def test_taylor_scores_are_those_of_a_backward_pass_for_every_image_alone(build: Callable[[], Known]) -> None:
    model, (images, labels) = build(), batch()
    model.eval()
    sums: dict[str, list[float]] = {}
    for image, label in zip(images, labels, strict=True):
        logits, activations = model.activations(image[None])
        gradients = torch.autograd.grad(cross_entropy(logits, label[None]), list(activations.values()))
        for (name, activation), gradient in zip(activations.items(), gradients, strict=True):
            product = (gradient * activation).detach()[0].flatten(1 if activation.ndim > 2 else 0)
            values = [float(each.mean()) for each in product]  # over the positions of each channel
            so_far = sums.setdefault(name, [0.0] * len(values))
            sums[name] = [total + abs(value) for total, value in zip(so_far, values, strict=True)]
    found = scores(model, "taylor", images, labels)
    assert list(found) == list(sums)
    for name, totals in sums.items():
        expected = torch.tensor(totals, dtype=torch.float64) / len(images)
        assert float(expected.max()) > 1e-6
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("criterion", OF_IMAGES)
def test_a_residual_sum_in_place_gives_the_scores_of_one_out_of_place(criterion: Criterion) -> None:
    images, labels = batch()
    in_place = scores(Residual(True), criterion, images, labels)
    out_of_place = scores(Residual(False), criterion, images, labels)
    for name, expected in out_of_place.items():
        torch.testing.assert_close(in_place[name], expected, rtol=1e-9, atol=1e-12, msg=name)


_NETS: list[tuple[str, dict[str, Any]]] = [
    ("inception", {"stages": (1, 1, 1), "base": (1, 1, 1), "width": 1 / 32}),
    ("googlenet", {"stages": (1, 1, 1), "base": (1, 1, 1), "width": 1 / 32}),
    ("resnet", {"config": "i64-c128", "width": 1 / 16}),
    ("mobilenet", {"width": 1 / 32}),
]


@pytest.mark.parametrize(("name", "options"), _NETS)
def test_activations_of_built_nets_are_what_hooks_on_their_blocks_see(
    name: str, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    net = build_model(name, 3, stem="small", in_channels=2, **options).double().eval()
    model = Classifier(
        net, image_shape=(2, 6, 6), mean=[0.5, 0.4], std=[0.3, 0.2], classes=("a", "b", "c")
    ).double()
    images, labels = batch()
    seen: dict[str, Tensor] = {}

    def watch(layer: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            seen[layer] = output.detach().clone()

        return keep

    handles = [
        module.register_forward_hook(watch(f"{place}.conv"))
        for place, module in model.named_modules()
        if isinstance(module, ConvBnRelu)
    ]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    assert len(seen) > 3
    for criterion, expected in (
        ("activation_mean", lambda x: x.mean((0, 2, 3))),
        ("activation_variance", lambda x: x.var((0, 2, 3), correction=0)),
        ("apoz", lambda x: (x > 0).double().mean((0, 2, 3))),
    ):
        found = scores(model, criterion, images, labels, batch_size=4)  # type: ignore[arg-type]
        assert set(found) == set(seen)
        for layer, activation in seen.items():
            torch.testing.assert_close(found[layer], expected(activation), rtol=1e-7, atol=1e-12)


def test_l1_of_fixed_weights_is_the_sum_of_absolute_weights() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, (1, 2)), nn.Flatten(), nn.Linear(2, 3), nn.Linear(3, 2))
    model[0].weight.data = torch.tensor([[[[1.0, -2.0]]], [[[0.5, 0.25]]]])
    model[2].weight.data = torch.tensor([[3.0, -4.0], [0.0, 0.0], [-1.0, 0.5]])
    found = scores(model, "l1", torch.rand(1, 1, 1, 2), torch.tensor([0]))
    assert {name: each.tolist() for name, each in found.items()} == {"0": [3.0, 0.75], "2": [7.0, 0.0, 1.5]}


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 7, 3, padding=1),
        nn.BatchNorm2d(7),
        nn.ReLU(),
        nn.Conv2d(7, 9, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(9, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


def test_l1_is_torch_prunings_magnitude_of_a_groups_first_layer() -> None:
    model = plain()
    found = scores(model, "l1", *batch())
    importance = torch_pruning.importance.GroupMagnitudeImportance(
        p=1, normalizer=None, group_reduction="first"
    )
    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=torch.rand(1, 2, 6, 6))
    for name, prune_fn in (
        ("0", torch_pruning.prune_conv_out_channels),
        ("3", torch_pruning.prune_conv_out_channels),
        ("7", torch_pruning.prune_linear_out_channels),
    ):
        layer = model.get_submodule(name)
        n_channels = int(found[name].numel())
        group = graph.get_pruning_group(layer, prune_fn, idxs=list(range(n_channels)))
        torch.testing.assert_close(found[name].float(), importance(group).detach(), rtol=1e-6, atol=0)
    assert set(found) == {"0", "3", "7"}


@pytest.mark.parametrize("n_filters", [1, 2, 7, 40])
def test_fpgm_is_the_sum_of_distances_to_the_layers_other_filters(n_filters: int) -> None:
    torch.manual_seed(0)
    conv, linear = nn.Conv2d(3, n_filters, (2, 3)).double(), nn.Linear(n_filters, 4).double()
    if n_filters > 2:
        conv.weight.data[2] = conv.weight.data[0]  # equal filters are no distance apart
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear, nn.Linear(4, 2).double())
    found = scores(model, "fpgm", torch.rand(1, 3, 4, 4, dtype=torch.float64), torch.tensor([0]))
    for name, layer in (("0", conv), ("3", linear)):
        filters = [each.flatten().tolist() for each in layer.weight.detach()]
        expected = [math.fsum(math.dist(one, other) for other in filters) for one in filters]
        # The distance of equal filters comes out as the square root of rounding errors.
        torch.testing.assert_close(
            found[name], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-6
        )


def test_random_scores_are_those_of_their_generator_and_nothing_else() -> None:
    model, (images, labels) = plain(), batch()

    def drawn(seed: int, criterion: Criterion = "random") -> Scores:
        random = torch.Generator().manual_seed(seed)
        return score_filters(model, criterion, images, labels, random=random)

    torch.manual_seed(1)
    one = drawn(7)
    torch.manual_seed(2)
    assert all(torch.equal(tensor, drawn(7)[name]) for name, tensor in one.items())
    assert not any(torch.equal(tensor, drawn(8)[name]) for name, tensor in one.items())
    assert {name: len(tensor) for name, tensor in one.items()} == {"0": 7, "3": 9, "7": 5}
    everything = torch.cat(list(one.values()))
    assert len(everything.unique()) == len(everything)
    assert bool(((everything >= 0) & (everything < 1)).all())


def test_only_random_scores_draw_from_the_generator() -> None:
    model, (images, labels) = Branched(), batch()
    for criterion in CRITERIA:
        random = torch.Generator().manual_seed(3)
        before = random.get_state()
        score_filters(model, criterion, images, labels, random=random)
        assert torch.equal(random.get_state(), before) == (criterion != "random")


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("build", [Branched, Dense])
def test_every_layer_but_the_last_has_a_score_for_each_channel(
    criterion: Criterion, build: Callable[[], Known]
) -> None:
    model, (images, labels) = build(), batch()
    found = scores(model, criterion, images, labels)
    layers = {
        name: len(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    del layers["decision"]
    assert {name: tuple(each.shape) for name, each in found.items()} == {
        name: (n,) for name, n in layers.items()
    }
    for each in found.values():
        assert each.dtype == torch.float64
        assert each.device.type == "cpu"
        assert not each.requires_grad
        assert bool(each.isfinite().all())


@pytest.mark.parametrize("criterion", OF_IMAGES)
@pytest.mark.parametrize("build", [Branched, Dense])
def test_scores_do_not_depend_on_how_images_are_batched_or_ordered(
    criterion: Criterion, build: Callable[[], Known]
) -> None:
    model, (images, labels) = build(), batch(11)
    expected = scores(model, criterion, images, labels, batch_size=11)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(4))
    for batch_size in (1, 4, 100):
        for found in (
            scores(model, criterion, images, labels, batch_size=batch_size),
            scores(model, criterion, images[order], labels[order], batch_size=batch_size),
        ):
            for name, each in expected.items():
                torch.testing.assert_close(found[name], each, rtol=1e-10, atol=1e-14)


def test_only_taylor_looks_at_labels() -> None:
    model, (images, labels) = Branched(), batch()
    for criterion in CRITERIA:
        one, other = (scores(model, criterion, images, each) for each in (labels, labels.flip(0)))
        same = all(torch.equal(tensor, other[name]) for name, tensor in one.items())
        assert same == (criterion != "taylor")


@pytest.mark.parametrize("criterion", CRITERIA)
def test_scoring_leaves_modes_weights_gradients_and_hooks_as_they_were(criterion: Criterion) -> None:
    model, (images, labels) = Branched(), batch()
    model.train()
    model.norm2.eval()
    model.first.weight.requires_grad_(False)
    for parameter in model.second.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    modes = {name: module.training for name, module in model.named_modules()}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    given = images.clone()
    scores(model, criterion, images, labels, batch_size=4)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name != "first.weight")
        if name.startswith("second."):
            assert parameter.grad is not None
            assert bool((parameter.grad == 0.5).all())
        else:
            assert parameter.grad is None
    assert sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules()) == 0
    assert torch.equal(images, given)
    assert not images.requires_grad


@pytest.mark.parametrize("frozen", [True, False])
def test_taylor_needs_neither_a_gradient_context_nor_trainable_weights(frozen: bool) -> None:
    model, (images, labels) = Branched(), batch()
    expected = scores(model, "taylor", images, labels)
    model.requires_grad_(not frozen)
    with torch.no_grad():
        found = scores(model, "taylor", images, labels)
    for name, each in expected.items():
        torch.testing.assert_close(found[name], each, rtol=1e-12, atol=0)


def test_dropout_and_batch_statistics_are_those_of_evaluation() -> None:
    model, (images, labels) = Dense(), batch()
    for criterion in OF_IMAGES:
        one, other = (scores(model.train(mode), criterion, images, labels) for mode in (True, False))
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_channel_that_is_always_off_scores_nothing_by_activation() -> None:
    model, (images, labels) = Branched(), batch()
    model.norm.bias.data[2], model.norm.weight.data[2] = -10.0, 0.0
    for criterion in OF_IMAGES:
        found = scores(model, criterion, images, labels)["first"]
        assert float(found[2]) == 0
        assert bool((found[[0, 1, 3]] > 0).all())


def test_a_constant_channel_has_no_variance_and_not_less_than_none() -> None:
    model, (images, labels) = Branched(), batch()
    model.norm.bias.data[1], model.norm.weight.data[1] = 0.1, 0.0
    found = scores(model, "activation_variance", images, labels)["first"]
    assert 0 <= float(found[1]) < 1e-15


@pytest.mark.parametrize("name", ["l2", "", "lda_after_the_fact", "L1"])
def test_an_unknown_criterion_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="expected a criterion") as caught:
        scores(plain(), name, *batch())  # type: ignore[arg-type]
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_no_images_are_refused_where_images_are_needed(criterion: Criterion) -> None:
    images, labels = batch()
    if criterion in OF_IMAGES:
        with pytest.raises(ValueError, match=f"at least one image to score by {criterion}"):
            scores(Branched(), criterion, images[:0], labels[:0])
    else:
        assert scores(Branched(), criterion, images[:0], labels[:0])
