"""VGG-16 (Simonyan & Zisserman 2015, configuration D), the base of the papers' CIFAR-10 experiments."""

from collections.abc import Sequence

from torch import Tensor, nn

from pipeline.models.blocks import ConvBnRelu, Stem, check_stem
from pipeline.params.nets.widths import scaled_width

# Filters of the 3x3 convolutions, block by block.
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_SMALL_POOLS = 3


class Vgg16(nn.Module):
    """Thirteen 3x3 convolutions in five blocks, hidden linear layers with ReLU, and the decision layer.

    Args:
        batch_norm: whether batch norm follows each convolution; without it they have biases.
        hidden: the widths of the hidden linear layers; the last one is the latent space. Empty: the pooled maps.
        pool: the maps are averaged to `pool` x `pool` before the first linear layer. It is 7 for 224 pixels;
            maps smaller than that would only be copied, so take less for small images.
        stem: `imagenet` (a max pool after each of the five blocks) or `small` (after the first three only, for
            8 to 64 pixels: 8 become 1, 32 become 4).
        num_classes, width, in_channels, dropout: as for `build_model`; width and dropout are the hidden layers' too.

    Raises:
        ValueError: for a width, hidden layer, pool or stem out of range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        batch_norm: bool = False,
        width: float = 1.0,
        hidden: Sequence[int] = (4096, 4096),
        pool: int = 7,
        stem: Stem = "imagenet",
        in_channels: int = 3,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_stem(stem)
        if any(n < 1 for n in hidden):
            raise ValueError(f"expected hidden layers of positive width, got {tuple(hidden)}")
        if pool < 1:
            raise ValueError(f"expected a pool of at least 1, got {pool}")
        n_pools = len(_BLOCKS) if stem == "imagenet" else _SMALL_POOLS
        channels = in_channels
        self.features = nn.Sequential()
        for idx, block in enumerate(_BLOCKS):
            for filters in block:
                n_out = scaled_width(filters, width)
                self.features.append(ConvBnRelu(channels, n_out, 3, scale=True, batch_norm=batch_norm))
                channels = n_out
            if idx < n_pools:
                self.features.append(nn.MaxPool2d(2))
        self.pool = nn.AdaptiveAvgPool2d(pool)
        self.flatten = nn.Flatten(1)
        n_in = channels * pool * pool
        self.hidden = nn.Sequential()
        for n in hidden:
            linear = nn.Linear(n_in, scaled_width(n, width))
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
            self.hidden.extend([linear, nn.ReLU(inplace=True), nn.Dropout(dropout)])
            n_in = linear.out_features
        self.decision = nn.Linear(n_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, in_channels, h, w) to logits (n, num_classes)."""
        logits: Tensor = self.decision(self.hidden(self.flatten(self.pool(self.features(x)))))
        return logits
