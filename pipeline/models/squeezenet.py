"""SqueezeNet 1.0 (Iandola et al. 2016), with a latent space."""

from torch import Tensor, nn

from pipeline.models.blocks import ConvBnRelu, LatentHead, Stem, check_stem
from pipeline.params.nets.widths import scaled_width

# Filters of each fire module's squeeze, a quarter of those of its 1x1 and its 3x3 expand; None: a max pool (Iandola et
# al., Table 1).
_FIRES = (16, 16, 32, None, 32, 48, 48, 64, None, 64)


class SqueezeNet(nn.Module):
    """A convolution, eight fire modules (torchvision's) with max pools between, pooled head.

    Published, the classes are a 1x1 convolution's channels (conv10), rectified and then pooled. Here pooling
    comes first and a linear layer of the same weights reads the pooled vector, for else there would be no
    latent space. The first convolution is padded, so that small images work too. Arguments as for `build_model`.
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
        for filters in _FIRES:
            if filters is None:
                self.fires.append(_pool())
                continue
            expand = scaled_width(4 * filters, width)
            fire = Fire(channels, scaled_width(filters, width), expand, expand)
            for module in fire.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                    nn.init.constant_(module.bias, 0)  # type: ignore[arg-type]
            self.fires.append(fire)
            channels = 2 * expand
        self.head = LatentHead(channels, num_classes, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, in_channels, h, w) to logits (n, num_classes)."""
        logits: Tensor = self.head(self.fires(self.stem(x)))
        return logits


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)
