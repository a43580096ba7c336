"""A user's module: functions that make small nets, and some that do not."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Viewed(nn.Module):
    """Reshapes its maps with `view` before the classifier; for images of 8x8."""

    def __init__(self, classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.hidden = nn.Linear(2 * width * 16, 10)
        self.head = nn.Linear(10, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, 8, 8) to (n, classes)."""
        maps = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        logits: Tensor = self.head(torch.relu(self.hidden(maps.view(maps.shape[0], -1))))
        return logits


class HeadFirst(nn.Module):
    """Its decision layer is the first linear layer that is found, `embed` the last one; images of any extent."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(6, classes)
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.embed = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, h, w) to (n, classes)."""
        latent = self.relu(self.embed(self.pool(self.relu(self.conv(x))).flatten(1)))
        logits: Tensor = self.head(latent)
        return logits


class Mixed(HeadFirst):
    """What decides is mixed once more after the linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, h, w) to (n, classes)."""
        logits = super().forward(x)
        return logits + 0.5 * logits.roll(1, dims=1) * torch.arange(1, logits.shape[1] + 1)


class Tied(nn.Module):
    """Two convolutions that share their weights; images of any extent."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3, padding=1)
        self.second = nn.Conv2d(1, 1, 3, padding=1)
        self.second.weight = self.first.weight
        self.head = nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, h, w) to (n, 3)."""
        logits: Tensor = self.head(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))
        return logits


def tied() -> nn.Module:
    return Tied()


class Placed(HeadFirst):
    """Adds a map that its constructor draws by itself."""

    def __init__(self) -> None:
        super().__init__(3)
        self.places = nn.Parameter(torch.randn(1, 1, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, 8, 8) to (n, 3)."""
        return super().forward(x + self.places)


def placed() -> nn.Module:
    return Placed()


def viewed(classes: int = 3, channels: int = 1, width: int = 4) -> nn.Module:
    return Viewed(classes, channels, width)


def head_first(classes: int = 3) -> nn.Module:
    return HeadFirst(classes)


def mixed() -> nn.Module:
    return Mixed(3)


def dense(classes: int = 3) -> nn.Module:
    """Two blocks of torchvision's, in which every layer reads what all before it wrote."""
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=8, block_config=(3, 3), num_init_features=8, bn_size=2, num_classes=classes)


def convnext(classes: int = 3) -> nn.Module:
    """torchvision's ConvNeXt, small."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)], num_classes=classes)


def transformer(classes: int = 3) -> nn.Module:
    """torchvision's vision transformer, small; for images of 32x32."""
    from torchvision.models import VisionTransformer

    extents = {"image_size": 32, "patch_size": 8, "hidden_dim": 24, "mlp_dim": 32}
    return VisionTransformer(num_layers=2, num_heads=2, num_classes=classes, **extents)


def raising() -> nn.Module:
    raise KeyError("no such net\nin two lines")


def no_module() -> Any:
    return [nn.Linear(2, 2)]


def all_convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())


class Unregistered(HeadFirst):
    """Keeps a convolution in a plain list, where no `state_dict` finds it."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes)
        self.more = [nn.Conv2d(8, 8, 3, padding=1)]
        self.pool = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, h, w) to (n, classes)."""
        maps = self.more[0](self.relu(self.conv(x)))
        logits: Tensor = self.head(self.relu(self.embed(self.pool(maps).flatten(1))))
        return logits


def unregistered(classes: int = 3) -> nn.Module:
    return Unregistered(classes)


def weight_normed(classes: int = 3) -> nn.Module:
    """Its convolution's weight is computed from two others."""
    net = HeadFirst(classes)
    net.pool = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    nn.utils.parametrizations.weight_norm(net.conv)
    return net


class Checkpointed(HeadFirst):
    """Computes a part anew in the backward pass, by the older of torch's two ways."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, h, w) to (n, classes)."""
        maps = self.conv(x)
        maps = checkpoint(self.relu, maps, use_reentrant=True) if maps.requires_grad else self.relu(maps)
        logits: Tensor = self.head(self.relu(self.embed(self.pool(maps).flatten(1))))
        return logits


def checkpointed(classes: int = 3) -> nn.Module:
    return Checkpointed(classes)


def lazy(classes: int = 3) -> nn.Module:
    net = HeadFirst(classes)
    net.conv = nn.LazyConv2d(8, 3, padding=1)
    return net


class Kinds(HeadFirst):
    """One net for each kind of thing that a stage stumbles over, or does not.

    `remembers` a map of its forward pass, `draws` in evaluation, gives a `pair` in training, asks what the images show
    (`branches`), reads the whole `batch`, or `counts` channels behind a masked class; others are plain.
    """

    def __init__(self, classes: int, kind: str) -> None:
        super().__init__(classes)
        self.kind = kind
        if kind == "shared":
            self.relu = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())] * 2)
        elif kind == "normed":
            self.relu = nn.Sequential(nn.InstanceNorm2d(8, affine=True), nn.ReLU())
        elif kind == "transposed":
            self.relu = nn.Sequential(nn.ConvTranspose2d(8, 8, 2, 2, groups=8), nn.ReLU())
        elif kind == "frozen":
            self.requires_grad_(False)

    def forward(self, x: Tensor) -> Any:
        """(n, 1, h, w) to (n, classes)."""
        if self.kind == "branches" and x.mean() > 0.8:
            x = 1 - x
        maps = self.conv(x)
        if self.kind == "remembers":
            self.maps = maps
        if self.kind == "draws":
            maps = nn.functional.dropout(maps, 0.2, training=True)
        if self.kind == "batch":
            maps = maps - maps.mean(0, keepdim=True)
        if self.kind == "counts":
            maps = maps * (8 / maps.shape[1]) ** 2
        for layer in self.relu if self.kind == "shared" else [self.relu]:
            maps = layer(maps)
        logits = self.head(torch.relu(self.embed(self.pool(maps).flatten(1))))
        if self.kind == "counts":
            logits = logits.masked_fill(torch.arange(logits.shape[1]) == 1, -1e9)
        return (logits, maps) if self.kind == "pair" and self.training else logits


def kinds(classes: int = 3, kind: str = "") -> nn.Module:
    return Kinds(classes, kind)


_cached = HeadFirst(10)


def cached(classes: int = 3) -> nn.Module:
    return _cached


def not_finite(classes: int = 3) -> nn.Module:
    net = HeadFirst(classes)
    nn.init.constant_(net.embed.weight, torch.nan)
    return net


def exits(classes: int = 3) -> nn.Module:
    raise SystemExit(classes)


NOT_A_FUNCTION = 3
