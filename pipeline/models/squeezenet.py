"""SqueezeNet 1.0 (Iandola et al. 2016), with a latent space."""

from torch import Tensor, nn

from pipeline.models.blocks import ConvBnRelu, LatentHead, Stem, check_stem
from pipeline.params.nets.widths import scaled_width

# Filters of each fire module's squeeze, 1x1 expand and 3x3 expand; None: a max pool (Iandola et al., Table 1).
_FIRES: tuple[tuple[int, int, int] | None, ...] = (
    (16, 64, 64),
    (16, 64, 64),
    (32, 128, 128),
    None,
    (32, 128, 128),
    (48, 192, 192),
    (48, 192, 192),
    (64, 256, 256),
    None,
    (64, 256, 256),
)


class SqueezeNet(nn.Module):
    """A convolution, eight fire modules (torchvision's) with max pools between, pooled head.

    Published, the classes are a 1x1 convolution's channels (conv10), rectified and then pooled. Here pooling
    comes first and a linear layer of the same weights reads the pooled vector, for else there would be no
    latent space. The first convolution is padded, so that small images work too.

    Args:
        num_classes: the number of classes.
        width: multiplier of every channel count.
        stem: `imagenet` (7x7 stride 2 and a max pool) or `small` (3x3, no reduction).
        in_channels: channels of an image.
        dropout: drop probability before the decision layer.

    Raises:
        ValueError: for a width or stem out of range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        width: float = 1.0,
        stem: Stem = "imagenet",
        in_channels: int = 3,
        dropout: float = 0.5,
    ) -> None:
        from torchvision.models.squeezenet import Fire  # 2 s to import: only where such a net is built

        super().__init__()
        check_stem(stem)
        channels = scaled_width(96, width)
        self.stem = (
            nn.Sequential(ConvBnRelu(in_channels, channels, 7, stride=2, batch_norm=False), _pool())
            if stem == "imagenet"
            else ConvBnRelu(in_channels, channels, 3, batch_norm=False)
        )
        self.fires = nn.Sequential()
        for row in _FIRES:
            if row is None:
                self.fires.append(_pool())
                continue
            squeeze, one, three = (scaled_width(filters, width) for filters in row)
            fire = Fire(channels, squeeze, one, three)
            for module in fire.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                    nn.init.constant_(module.bias, 0)  # type: ignore[arg-type]
            self.fires.append(fire)
            channels = one + three
        self.head = LatentHead(channels, num_classes, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, in_channels, h, w) to logits (n, num_classes)."""
        logits: Tensor = self.head(self.fires(self.stem(x)))
        return logits


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)
