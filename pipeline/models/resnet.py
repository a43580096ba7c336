"""Residual nets by the papers' configuration strings (CVIU Tables 3 and 4)."""

import re
from typing import NamedTuple

from torch import Tensor, nn

from pipeline.models.blocks import ConvBnRelu, LatentHead, Stem, check_stem, scaled_width

_BOTTLENECK_EXPANSION = 4
_MODULE = re.compile(r"(?P<depth>\d*)(?P<kind>[icIC])(?P<filters>\d+)")


class ModuleSpec(NamedTuple):
    """One residual module: how many convolutions, whether the shortcut is a 1x1 convolution, its filters."""

    depth: int
    projected: bool
    filters: int

    @property
    def out_channels(self) -> int:
        """Channels of the module's output; a depth-3 module is He et al.'s bottleneck."""
        return self.filters * (_BOTTLENECK_EXPANSION if self.depth == 3 else 1)


def parse_config(config: str) -> list[list[ModuleSpec]]:
    """Read a configuration such as `(c64, i64)-c128-1c256` into stages of modules.

    `i`/`c`: depth-2 identity / convolutional module, `I`/`C`: depth 3, the number after it: filters of each
    convolution, a number before it: another depth; dashes part stages, parentheses group a stage's modules.

    Raises:
        ValueError: naming the part that does not follow the notation.
    """
    stages = []
    for part in config.replace(" ", "").split("-"):
        stage = []
        for word in part.removeprefix("(").removesuffix(")").split(","):
            match = _MODULE.fullmatch(word)
            if match is None:
                raise ValueError(f"expected modules such as i64 or C128 in a ResNet config, got {word!r}")
            kind = match["kind"]
            depth = int(match["depth"]) if match["depth"] else (3 if kind.isupper() else 2)
            if not 1 <= depth <= 3:
                raise ValueError(f"expected a module depth between 1 and 3, got {word!r}")
            stage.append(ModuleSpec(depth, kind.lower() == "c", int(match["filters"])))
        stages.append(stage)
    return stages


class ResidualModule(nn.Module):
    """He et al.'s residual module: convolutions, plus the input (projected where `spec.projected`), ReLU."""

    def __init__(self, in_channels: int, spec: ModuleSpec, *, stride: int) -> None:
        super().__init__()
        out = spec.out_channels
        if not spec.projected and (stride != 1 or in_channels != out):
            raise ValueError(
                f"expected an identity module to keep {in_channels} channels at stride 1, "
                f"got {out} channels at stride {stride}; use a convolutional one (c, C)"
            )
        kernels, widths = (
            ([1, 3, 1], [spec.filters, spec.filters, out])
            if spec.depth == 3
            else (
                [3] * spec.depth,
                [spec.filters] * spec.depth,
            )
        )
        layers: list[nn.Module] = []
        channels = in_channels
        for idx, (kernel, width) in enumerate(zip(kernels, widths, strict=True)):
            layers.append(ConvBnRelu(channels, width, kernel, stride=stride if idx == 0 else 1, scale=True))
            channels = width
        layers[-1].relu = nn.Identity()  # the last rectifier comes after the sum
        self.body = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if spec.projected:
            projection = ConvBnRelu(in_channels, out, 1, stride=stride, scale=True)
            projection.relu = nn.Identity()  # type: ignore[assignment]
            self.shortcut = projection
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, spec.out_channels, h / stride, w / stride)."""
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """A residual net from its configuration string; every stage after the first begins with stride 2.

    Args:
        num_classes: the number of classes.
        config: the papers' notation, see `parse_config`.
        width: multiplier of every channel count.
        stem: `imagenet` (7x7 stride 2 and a max pool) or `small` (3x3, no reduction).
        in_channels: channels of an image.
        dropout: drop probability before the decision layer.

    Raises:
        ValueError: for a configuration, width or stem that cannot be built.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        config: str,
        width: float = 1.0,
        stem: Stem = "imagenet",
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_stem(stem)
        stages = [
            [spec._replace(filters=scaled_width(spec.filters, width)) for spec in stage]
            for stage in parse_config(config)
        ]
        channels = scaled_width(64, width)
        self.stem = (
            nn.Sequential(
                ConvBnRelu(in_channels, channels, 7, stride=2, scale=True), nn.MaxPool2d(3, 2, padding=1)
            )
            if stem == "imagenet"
            else ConvBnRelu(in_channels, channels, 3, scale=True)
        )
        self.stages = nn.Sequential()
        for idx, stage in enumerate(stages):
            modules: list[nn.Module] = []
            for position, spec in enumerate(stage):
                stride = 2 if idx > 0 and position == 0 else 1
                modules.append(ResidualModule(channels, spec, stride=stride))
                channels = spec.out_channels
            self.stages.append(nn.Sequential(*modules))
        self.head = LatentHead(channels, num_classes, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, in_channels, h, w) to logits (n, num_classes)."""
        logits: Tensor = self.head(self.stages(self.stem(x)))
        return logits
