"""Inception-N: GoogLeNet with each 5x5 as two 3x3 and batch norm (CVIU section 4; thesis 4.2, appendix A)."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, cat, nn
from torch.nn.functional import avg_pool2d

from pipeline.models.blocks import ConvBnRelu, LatentHead, Stem, check_stem
from pipeline.widths import scaled_width


class Filters(NamedTuple):
    """Output channels of one module's convolutions, in GoogLeNet's order."""

    one: int
    three_reduce: int
    three: int
    double_reduce: int
    double: int
    pool: int

    @property
    def total(self) -> int:
        """Channels of the module's output, the concatenation of its four branches."""
        return self.one + self.three + self.double + self.pool


# GoogLeNet's filter table: modules 3a-3b, 4a-4e, 5a-5b.
FILTERS: tuple[tuple[Filters, ...], ...] = (
    (Filters(64, 96, 128, 16, 32, 32), Filters(128, 128, 192, 32, 96, 64)),
    (
        Filters(192, 96, 208, 16, 48, 64),
        Filters(160, 112, 224, 24, 64, 64),
        Filters(128, 128, 256, 24, 64, 64),
        Filters(112, 144, 288, 32, 64, 64),
        Filters(256, 160, 320, 32, 128, 128),
    ),
    (Filters(256, 160, 320, 32, 128, 128), Filters(384, 192, 384, 48, 128, 128)),
)


class InceptionModule(nn.Module):
    """Four branches side by side: 1x1; 1x1-3x3; 1x1-3x3-3x3; average pool-1x1. Concatenated in that order."""

    def __init__(self, in_channels: int, filters: Filters) -> None:
        super().__init__()
        f = filters
        self.branch1x1 = ConvBnRelu(in_channels, f.one, 1)
        self.branch3x3 = nn.Sequential(
            ConvBnRelu(in_channels, f.three_reduce, 1), ConvBnRelu(f.three_reduce, f.three, 3)
        )
        # The first 3x3 is as wide as the reduction before it (thesis, appendix A).
        self.branch_double3x3 = nn.Sequential(
            ConvBnRelu(in_channels, f.double_reduce, 1),
            ConvBnRelu(f.double_reduce, f.double_reduce, 3),
            ConvBnRelu(f.double_reduce, f.double, 3),
        )
        self.branch_pool = nn.Sequential(
            nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), ConvBnRelu(in_channels, f.pool, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, in_channels, h, w) to (n, filters.total, h, w)."""
        return cat(
            [self.branch1x1(x), self.branch3x3(x), self.branch_double3x3(x), self.branch_pool(x)], dim=1
        )


class Inception(nn.Module):
    """Inception-N, N = 4 + 3 x modules layers: stem, three stages of modules with max pools between, head.

    Args:
        num_classes: the number of classes.
        stages: modules in each of the three stages; `(2, 5, 2)` is InceptionV1, `(10, 8, 10)` Inception-88.
        base: rows of the filter table that each stage takes; modules beyond them are copies of the last
            row taken ("the same architecture as the module underneath", CVIU section 4).
        width: multiplier of every channel count.
        stem: `imagenet` (7x7 stride 2 and two max pools, for 224 pixels) or `small` (3x3, no reduction).
        in_channels: channels of an image.
        dropout: drop probability before the decision layer.

    Raises:
        ValueError: for stages, base, width or stem out of range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        stages: Sequence[int] = (2, 5, 2),
        base: Sequence[int] = (2, 5, 2),
        width: float = 1.0,
        stem: Stem = "imagenet",
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_stem(stem)
        self.num_classes, self.width = num_classes, width
        table = _module_table(stages, base, width)
        c64, c192 = scaled_width(64, width), scaled_width(192, width)
        reduction = nn.Sequential(ConvBnRelu(c64, c64, 1), ConvBnRelu(c64, c192, 3))
        self.stem = (
            nn.Sequential(ConvBnRelu(in_channels, c64, 7, stride=2), _pool(), *reduction, _pool())
            if stem == "imagenet"
            else nn.Sequential(ConvBnRelu(in_channels, c64, 3), *reduction)
        )
        channels = c192
        self.stages = nn.ModuleList()
        for rows in table:
            modules = []
            for filters in rows:
                modules.append(InceptionModule(channels, filters))
                channels = filters.total
            self.stages.append(nn.Sequential(*modules))
        self.pools = nn.ModuleList([_pool(), _pool()])
        self.head = LatentHead(channels, num_classes, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, in_channels, h, w) to logits (n, num_classes)."""
        x = self.stages[0](self.stem(x))
        x = self.stages[1](self.pools[0](x))
        x = self.stages[2](self.pools[1](x))
        logits: Tensor = self.head(x)
        return logits

    def auxiliary_heads(self) -> list[tuple[nn.Module, nn.Module]]:
        """Fresh auxiliary classifiers, each with the module whose output it reads.

        After the first module of stage 2 and before its last one (CVIU section 4); where the stage is so
        short that both are one place, one head.
        """
        modules = list(self.stages[1].children())
        taps = [modules[0], *([modules[-2]] if len(modules) > 2 else [])]
        return [(tap, AuxiliaryHead(_out_channels(tap), self.num_classes, self.width)) for tap in taps]


class AuxiliaryHead(nn.Module):
    """Average pool 5x5 stride 3, 1x1 convolution to 128, linear to 1024 with ReLU, linear to classes.

    On maps smaller than 5x5 the pool covers the map. Training only; widths follow the multiplier.
    """

    def __init__(self, in_channels: int, num_classes: int, width: float) -> None:
        super().__init__()
        self.reduce = ConvBnRelu(in_channels, scaled_width(128, width), 1)
        self.hidden = nn.LazyLinear(scaled_width(1024, width))
        self.relu = nn.ReLU()
        self.decision = nn.Linear(scaled_width(1024, width), num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        """Map feature maps (n, in_channels, h, w) to logits (n, num_classes)."""
        pooled = avg_pool2d(maps, kernel_size=min(5, maps.shape[-2], maps.shape[-1]), stride=3)
        logits: Tensor = self.decision(self.relu(self.hidden(self.reduce(pooled).flatten(1))))
        return logits


def _module_table(stages: Sequence[int], base: Sequence[int], width: float) -> list[list[Filters]]:
    limits = tuple(len(rows) for rows in FILTERS)
    if len(stages) != 3 or min(stages) < 1:
        raise ValueError(f"expected three stages of at least one module each, got {tuple(stages)}")
    if len(base) != 3 or not all(1 <= n <= limit for n, limit in zip(base, limits, strict=True)):
        raise ValueError(f"expected base between (1, 1, 1) and {limits}, got {tuple(base)}")
    return [
        [
            Filters(*(scaled_width(channels, width) for channels in rows[min(idx, n_base - 1)]))
            for idx in range(n_modules)
        ]
        for rows, n_modules, n_base in zip(FILTERS, stages, base, strict=True)
    ]


def _pool() -> nn.MaxPool2d:
    # ceil_mode pads below and right only, as Keras's "same" does at stride 2.
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _out_channels(module: nn.Module) -> int:
    branches = (module.branch1x1, module.branch3x3[-1], module.branch_double3x3[-1], module.branch_pool[-1])  # type: ignore[index]
    return sum(branch.conv.out_channels for branch in branches)  # type: ignore[union-attr, misc]
