"""The MobileNets that the papers compare with: v1 (Howard et al. 2017) and v2 (Sandler et al. 2018)."""

from torch import Tensor, nn

from pipeline.models.blocks import ConvBnRelu, LatentHead, Stem, check_stem
from pipeline.params.nets.widths import scaled_width

# Howard et al. 2017, Table 1: of each depthwise separable convolution the filters of its 1x1 and the stride of its 3x3.
_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
# Sandler et al. 2018, Table 2: expansion, channels, repeats, stride of the first.
_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNet(nn.Module):
    """MobileNet v1: a convolution and thirteen depthwise separable ones, pooled head.

    Arguments as for `build_model`; the stem `imagenet` has five stride-2 layers, of which `small` has the first two
    at stride 1. The paper calls `width` alpha.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        width: float = 1.0,
        stem: Stem = "imagenet",
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_stem(stem)
        strides = [stride for _, stride in _V1]
        if stem == "small":
            strides[strides.index(2)] = 1
        channels = scaled_width(32, width)
        self.stem = ConvBnRelu(in_channels, channels, 3, stride=1 if stem == "small" else 2, scale=True)
        self.blocks = nn.Sequential()
        for (filters, _), stride in zip(_V1, strides, strict=True):
            n_out = scaled_width(filters, width)
            self.blocks.append(
                nn.Sequential(
                    ConvBnRelu(channels, channels, 3, stride=stride, groups=channels, scale=True),
                    ConvBnRelu(channels, n_out, 1, scale=True),
                )
            )
            channels = n_out
        self.head = LatentHead(channels, num_classes, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, in_channels, h, w) to logits (n, num_classes)."""
        logits: Tensor = self.head(self.blocks(self.stem(x)))
        return logits


def mobilenet_v2(
    num_classes: int,
    *,
    width: float = 1.0,
    stem: Stem = "imagenet",
    in_channels: int = 3,
    dropout: float = 0.2,
) -> nn.Module:
    """MobileNetV2, torchvision's class: inverted residuals with ReLU6, pooled latent vector, decision layer.

    Arguments as for `build_model`, and stems as v1's. `width` is torchvision's `width_mult`: channels are rounded to
    multiples of 8, and the latent vector keeps its 1280 dimensions at widths under 1.
    """
    from torchvision.models import MobileNetV2  # 2 s to import: only where such a net is built

    check_stem(stem)
    scaled_width(1, width)  # refuses a width that is not positive
    settings = [list(row) for row in _V2]
    if stem == "small":
        settings[1][3] = 1
    net: nn.Module = MobileNetV2(
        num_classes=num_classes, width_mult=width, inverted_residual_setting=settings, dropout=dropout
    )
    if stem == "small" or in_channels != 3:
        first = net.get_submodule("features.0.0")
        assert isinstance(first, nn.Conv2d)
        stride = 1 if stem == "small" else 2
        fresh = nn.Conv2d(in_channels, first.out_channels, 3, stride, padding=1, bias=False)
        nn.init.kaiming_normal_(fresh.weight, mode="fan_out")  # as torchvision does
        net.set_submodule("features.0.0", fresh)
    return net
