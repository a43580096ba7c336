"""Building blocks that several architectures share."""

from typing import Literal

from torch import Tensor, nn

Stem = Literal["imagenet", "small"]


class BatchNormNoScale(nn.BatchNorm2d):
    """Batch normalisation with a shift and no scale (Keras `scale=False`; thesis, appendix A).

    The scale stays in the layer as a constant one, so that folding, surgery and export see an ordinary
    batch norm. Keras's momentum 0.9 is torch's 0.1.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, eps=1e-5, momentum=0.1)
        self.weight.requires_grad_(False)


class ConvBnRelu(nn.Sequential):
    """Convolution, batch norm, ReLU; the output keeps height and width at stride 1 (odd kernels).

    Args:
        in_channels: channels of the input.
        out_channels: filters.
        kernel: (height, width) of a filter, or both in one.
        stride: at 2 a map of n pixels becomes one of n / 2, rounded up.
        padded: False leaves the zeros around the map out: an edge of k pixels loses k - 1 of them, then the stride's.
        groups: as in `nn.Conv2d`; as many as channels is a depthwise convolution.
        scale: whether batch norm has a scale.
        batch_norm: False leaves batch norm out and gives the convolution a bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padded: bool = True,
        groups: int = 1,
        scale: bool = False,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        if (height, width) == (1, 1) and stride > 1:
            # The same convolution in two steps. oneDNN writes past its buffer in the weight gradient of a strided
            # 1x1 over 2 to 7 channels laid out last (uxlfoundation/oneDNN#6035), which pruned ResNets have.
            self.subsample = nn.MaxPool2d(1, stride)
            stride = 1
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            (height, width),
            stride,
            padding=(height // 2, width // 2) if padded else 0,
            groups=groups,
            bias=not batch_norm,
        )
        if batch_norm:
            self.bn = nn.BatchNorm2d(out_channels) if scale else BatchNormNoScale(out_channels)
        self.relu = nn.ReLU(inplace=True)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)


class LatentHead(nn.Module):
    """Global average pooling to the latent vector, dropout, and the decision layer on top of it."""

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.dropout = nn.Dropout(dropout)
        self.decision = nn.Linear(in_channels, num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        """Map feature maps (n, channels, height, width) to logits (n, classes)."""
        logits: Tensor = self.decision(self.dropout(self.flatten(self.pool(maps))))
        return logits


def check_stem(stem: str, *others: str) -> None:
    """Refuse a stem that is not `imagenet` (for 224 pixels), `small` (for up to 64) or one of a family's `others`."""
    known = ("imagenet", "small", *others)
    if stem not in known:
        raise ValueError(f"expected a stem among {', '.join(known)}; got {stem!r}")
