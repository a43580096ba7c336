"""The memory layout of models: fast where it may be, and never the one in which training dies."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.models import build_model
from pipeline.models.classifier import Classifier, lay_out, memory_layout

_ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("name", "options", "layout"),
    [
        ("inception", {"stages": (1, 1, 1), "base": (1, 1, 1), "width": 0.125}, torch.channels_last),
        ("mobilenet_v2", {"width": 0.25}, torch.channels_last),
        ("resnet", {"config": "i64-c128", "width": 0.125}, torch.channels_last),
        ("torchvision/resnet18", {}, torch.contiguous_format),
    ],
)
def test_nets_with_strided_1x1_convolutions_keep_torchs_default_layout(
    name: str, options: dict[str, Any], layout: torch.memory_format
) -> None:
    model = build_model(name, 10, **options)
    assert memory_layout(model) == layout
    filters = [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=layout) for weight in filters)


def test_a_classifier_hands_its_net_images_in_the_nets_layout() -> None:
    net = lay_out(nn.Sequential(nn.Conv2d(2, 3, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model = Classifier(net, image_shape=(2, 4, 4), mean=(0, 0), std=(1, 1), classes=("a", "b", "c"))
    seen: list[bool] = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].is_contiguous()))
    model(torch.rand(2, 2, 4, 4).to(memory_format=torch.channels_last))
    assert seen == [True]


_TRAIN = """
import torch
from pipeline.models import build_model
from pipeline.models.classifier import Classifier
from pipeline.prune import n_channels
from pipeline.prune.surgery import Cut, remove_channels

torch.set_num_threads(1)
torch.manual_seed(0)
net = build_model("torchvision/resnet18", 3)
model = Classifier(net, image_shape=(3, 32, 32), mean=(0,) * 3, std=(1,) * 3, classes=("a", "b", "c"))
layers = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)}
keep_five = lambda group: Cut(-torch.arange(group.n_channels).double(), torch.arange(group.n_channels) >= 5)
pruned, _ = remove_channels(model, layers, keep_five, torch.rand(1, 3, 32, 32))
assert n_channels(pruned)["net.layer2.0.downsample.0"] == 5
pruned.train()
images = torch.rand(4, 32, 32, 3).permute(0, 3, 1, 2)  # as shifted images come
keep = []
for step in range(200):
    pruned(images).sum().backward()
    keep = [torch.rand(3 + step % 7) for _ in range(20)]
"""


@pytest.mark.processes
def test_a_residual_net_of_few_channels_trains_without_dying() -> None:
    """With the channels last this ends, more often than not, in a corrupted heap."""
    ended = subprocess.run(
        [sys.executable, "-c", _TRAIN], cwd=_ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
