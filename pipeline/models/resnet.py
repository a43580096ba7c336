"""Residual nets by the papers' configuration strings (CVIU Tables 3 and 4)."""

from torch import Tensor, nn

from pipeline.models.blocks import ConvBnRelu, LatentHead, Stem, check_stem
from pipeline.params.nets.resnet_config import ModuleSpec, plan_modules
from pipeline.params.nets.widths import scaled_width


class ResidualModule(nn.Module):
    """He et al.'s residual module: convolutions, plus the input (projected where `spec.projected`), ReLU."""

    def __init__(self, in_channels: int, spec: ModuleSpec, *, stride: int) -> None:
        super().__init__()
        out = spec.out_channels
        kernels = [1, 3, 1] if spec.depth == 3 else [3] * spec.depth
        widths = [spec.filters] * (spec.depth - 1) + [out]
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
        config: the papers' notation, see `parse_config`, or a name of theirs: `ResNet6` to `ResNet50`.
        num_classes, width, stem, in_channels, dropout: as for `build_model`.

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
        channels = scaled_width(64, width)
        self.stem = (
            nn.Sequential(
                ConvBnRelu(in_channels, channels, 7, stride=2, scale=True), nn.MaxPool2d(3, 2, padding=1)
            )
            if stem == "imagenet"
            else ConvBnRelu(in_channels, channels, 3, scale=True)
        )
        self.stages = nn.Sequential()
        for stage in plan_modules(config, width):
            self.stages.append(
                nn.Sequential(
                    *(ResidualModule(each.in_channels, each.spec, stride=each.stride) for each in stage)
                )
            )
            channels = stage[-1].spec.out_channels
        self.head = LatentHead(channels, num_classes, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, in_channels, h, w) to logits (n, num_classes)."""
        logits: Tensor = self.head(self.stages(self.stem(x)))
        return logits
