"""Saliency against finite differences of scaled channels, and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from pipeline.deconv import Utility
from pipeline.images.parts import Images
from pipeline.saliency import Worth, trace_saliency

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

N_PER_CLASS, N_CLASSES = 12, 3


def labelled() -> tuple[Tensor, Tensor]:
    """Noise around a pattern for each class, float64."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(N_PER_CLASS * N_CLASSES) % N_CLASSES
    patterns = torch.rand(N_CLASSES, 3, 8, 8, generator=random, dtype=torch.float64)
    noise = torch.randn(len(labels), 3, 8, 8, generator=random, dtype=torch.float64)
    return patterns[labels] + 0.5 * noise, labels


def saliency(
    model: nn.Module, images: Tensor, labels: Tensor, kept: Tensor, **changes: Any
) -> dict[str, Utility]:
    """Over one batch of all images, unless changed; the ridge is too small to matter."""
    options: dict[str, Any] = {"ridge": 1e-14, "samples_per_class": N_PER_CLASS, "seed": 0}
    return trace_saliency(model, images, labels, kept, **(options | changes))


class Gated(nn.Module):
    """A pool, squeeze and excite, a residual sum, a channels-last block: all that deconvolution cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.bn, self.silu = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU()
        self.squeeze, self.relu = nn.Conv2d(4, 2, 1), nn.ReLU(inplace=True)
        self.excite, self.sigmoid = nn.Conv2d(2, 4, 1), nn.Sigmoid()
        self.norm, self.wide, self.gelu = nn.LayerNorm(4), nn.Linear(4, 6), nn.GELU()
        self.narrow, self.body, self.swish = nn.Linear(6, 4), nn.Conv2d(4, 5, 1), nn.Hardswish()
        self.decision = nn.Linear(5, N_CLASSES)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.silu(self.bn(self.stem(x)))
        gate = self.sigmoid(self.excite(self.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = nn.functional.max_pool2d(x * gate, 2)
        block = self.narrow(self.gelu(self.wide(self.norm(x.permute(0, 2, 3, 1)))))
        summed = block.permute(0, 3, 1, 2)
        summed += x  # in place in what the last layer gave
        logits: Tensor = self.decision(self.swish(self.body(summed)).mean((2, 3)))
        return logits


# Each layer's name, the module whose output its readers get, and that output's axis of channels.
READ_BEHIND = {
    "stem": ("silu", 1),
    "squeeze": ("relu", 1),
    "excite": ("sigmoid", 1),
    "wide": ("gelu", 3),
    "narrow": ("narrow", 3),
    "body": ("swish", 1),
}


@torch.no_grad()
def worth_with(
    model: nn.Module,
    at: str,
    axis: int,
    channel: int,
    image: int,
    factor: float,
    data: Any,
    kept: Tensor,
    of: Worth,
) -> float:
    """R in numpy, with one channel of a module's output scaled in one image."""
    images, labels = data
    latent: list[Tensor] = []

    def scale(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        scaled = output.clone()
        scaled[image].select(axis - 1, channel).mul_(factor)
        return scaled

    hooks = [
        model.get_submodule(at).register_forward_hook(scale),
        model.get_submodule("decision").register_forward_pre_hook(lambda _, inputs: latent.append(inputs[0])),
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    Z = latent[0][:, kept].numpy()
    if of == "response":
        return float((Z**2).sum() / 2 / len(Z))
    S_a = np.cov(Z.T, bias=True)
    classes = [Z[labels.numpy() == label] for label in range(N_CLASSES)]
    S_w = np.sum([len(each) / len(Z) * np.cov(each.T, bias=True) for each in classes], axis=0)
    return float(np.linalg.slogdet(S_a)[1] - np.linalg.slogdet(S_w)[1])


@pytest.mark.parametrize("of", ["separation", "response"])
def test_saliency_sums_the_first_order_changes_of_a_channel_scaled_in_each_image(of: Worth) -> None:
    model, kept, step = Gated(), torch.tensor([True, False, True, True, False]), 1e-5
    data = tuple(tensor[:12] for tensor in labelled())
    found = saliency(model, *data, kept, of=of, samples_per_class=4)
    assert list(found) == list(READ_BEHIND)
    for name, (at, axis) in READ_BEHIND.items():
        n_channels = len(model.get_submodule(name).weight)
        expected = [
            sum(
                abs(
                    worth_with(model, at, axis, channel, image, 1 + step, data, kept, of)
                    - worth_with(model, at, axis, channel, image, 1 - step, data, kept, of)
                )
                / (2 * step)
                for image in range(12)
            )
            for channel in range(n_channels)
        ]
        assert found[name].map.shape == (n_channels, 1, 1)
        assert max(expected) > 0
        torch.testing.assert_close(
            found[name].channels, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-7
        )


class Inhibited(nn.Module):
    """Latent neurons relu(1 - a), 3 a and a repeat of a that will be dropped, where a = relu(x), b reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.decision = nn.Linear(1, 2), nn.Linear(2, 3), nn.Linear(3, 2)
        self.first.weight.data, self.first.bias.data = torch.tensor([[1.0], [1.0]]), torch.zeros(2)
        self.second.weight.data = torch.tensor([[-1.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
        self.second.bias.data = torch.tensor([1.0, 0.0, 0.0])

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decision(self.second(self.first(x).relu()).relu())
        return logits


def test_of_the_response_by_hand() -> None:
    images, labels = torch.tensor([[0.25], [0.5]]), torch.tensor([0, 1])
    found = saliency(
        Inhibited(), images, labels, torch.tensor([True, False, False]), samples_per_class=1, of="response"
    )
    # z = 1 - a: a dR/da = -a z, negative in both images; the score is its size.
    assert found["first"].channels.tolist() == [(0.25 * 0.75 + 0.5 * 0.5) / 2, 0]
    assert found["second"].channels.tolist() == [(0.75**2 + 0.5**2) / 2, 0, 0]
    found = saliency(
        Inhibited(), images, labels, torch.tensor([False, True, False]), samples_per_class=1, of="response"
    )
    assert found["first"].channels.tolist() == [9 * (0.25**2 + 0.5**2) / 2, 0]


def test_the_separation_of_one_neuron_by_hand() -> None:
    # Latent values 3a of 1, 3 and 5, 9: S_w = (1 + 4) / 2, S_b = 6.25, so S = log(8.75 / 2.5) = log 3.5.
    images = torch.tensor([[1.0], [3.0], [5.0], [9.0]], dtype=torch.float64) / 3
    found = saliency(
        Inhibited().double(), images, torch.tensor([0, 0, 1, 1]), torch.tensor([False, True, False]),
        samples_per_class=2, ridge=1e-12,
    )  # fmt: skip
    # dS = dS_t / S_t - dS_w / S_w of each image, whose sum is zero, as S is the same at any scale.
    total = [
        2 * z * (z - 4.5) / 4 / 8.75 - 2 * z * (z - mean) / 4 / 2.5
        for z, mean in ((1, 2), (3, 2), (5, 7), (9, 7))
    ]
    assert sum(total) == pytest.approx(0)
    assert found["first"].channels.tolist() == pytest.approx([sum(map(abs, total)), 0], abs=1e-6)


def test_scores_of_batches_are_averaged() -> None:
    images = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    kept, labels = torch.tensor([False, True, False]), torch.zeros(4, dtype=torch.long)
    found = saliency(Inhibited(), images, labels, kept, samples_per_class=1, of="response")
    scores = [9 * x**2 for x in (1, 2, 3, 4)]  # each image a batch
    assert float(found["second"].channels[1]) == pytest.approx(sum(scores) / 4, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_class_balanced_batch_may_be_larger_than_what_fits(batch_size: int) -> None:
    model, (images, labels), kept = Gated(), labelled(), torch.ones(5, dtype=torch.bool)
    at_once = saliency(model, images, labels, kept, samples_per_class=4, ridge=1e-3)
    for name, utility in saliency(
        model, images, labels, kept, samples_per_class=4, ridge=1e-3, batch_size=batch_size
    ).items():
        torch.testing.assert_close(utility.map, at_once[name].map, rtol=1e-8, atol=1e-12)


def test_the_seed_draws_the_batches_and_a_part_of_a_set_is_read_as_it_goes() -> None:
    model, (noisy, labels), kept = Gated().float(), labelled(), torch.ones(5, dtype=torch.bool)
    pixels = (noisy.clamp(0, 1) * 255).round().to(torch.uint8)
    part, scaled = Images(pixels, labels), pixels.float() / 255
    options = {"samples_per_class": 4, "ridge": 1e-3}
    one, again, other = (saliency(model, part, labels, kept, **options, seed=seed) for seed in (3, 3, 4))
    of_tensor = saliency(model, scaled, labels, kept, **options, seed=3)
    assert all(torch.equal(one[name].map, again[name].map) for name in one)
    assert all(torch.equal(one[name].map, of_tensor[name].map) for name in one)
    assert not torch.equal(one["stem"].map, other["stem"].map)


def test_the_model_is_left_as_it_was() -> None:
    model, (images, labels) = Gated().train(), labelled()
    model.bn.eval()
    model.stem.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    saliency(model, images, labels, torch.ones(5, dtype=torch.bool))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [name for name, module in model.named_modules() if not module.training] == ["bn"]
    assert [name for name, each in model.named_parameters() if not each.requires_grad] == ["stem.weight"]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf", "convnext_tiny"])
def test_nets_that_deconvolution_cannot_trace_are_traced_in_every_layer(name: str) -> None:
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=2).eval()
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    decision = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    found = saliency(
        model, images, torch.arange(8) % 2, torch.ones(decision.in_features, dtype=torch.bool),
        samples_per_class=4, ridge=1e-6,
    )  # fmt: skip
    layers = {
        name: len(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module is not decision
    }
    assert {name: len(utility.map) for name, utility in found.items()} == layers
    for layer, utility in found.items():
        assert bool(utility.map.isfinite().all()), layer
        assert float(utility.channels.min()) >= 0, layer
        assert float(utility.channels.max()) > 0, layer


def test_a_wrong_mask_and_no_images_are_refused() -> None:
    images, labels = labelled()
    with pytest.raises(ValueError, match=r"boolean mask \(5,\)"):
        saliency(Gated(), images, labels, torch.ones(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one image"):
        saliency(Gated(), images[:0], labels[:0], torch.ones(5, dtype=torch.bool))
