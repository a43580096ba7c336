"""The auxiliary classifier of GoogLeNet, in training only (CVIU section 4; "Rethinking" sections 4 and 10)."""

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from pipeline.models.blocks import ConvBnRelu
from pipeline.params.nets.widths import scaled_width


class AuxiliaryHead(nn.Module):
    """Average pool 5x5 stride 3, 1x1 convolution to 128, linear to 1024 with ReLU, linear to classes.

    On maps smaller than 5x5 the pool covers the map.

    Args:
        in_channels: channels of the maps that it reads.
        num_classes, width: as for `build_model`.
        batch_norm: whether batch norm follows the convolution.
        batch_norm_hidden: whether it also follows the linear layer to 1024 ("BN-auxiliary").
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        width: float,
        *,
        batch_norm: bool = True,
        batch_norm_hidden: bool = False,
    ) -> None:
        super().__init__()
        n_hidden = scaled_width(1024, width)
        self.reduce = ConvBnRelu(in_channels, scaled_width(128, width), 1, batch_norm=batch_norm)
        self.hidden = nn.LazyLinear(n_hidden, bias=not batch_norm_hidden)
        self.norm = nn.BatchNorm1d(n_hidden) if batch_norm_hidden else nn.Identity()
        self.relu = nn.ReLU()
        self.decision = nn.Linear(n_hidden, num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        """Map feature maps (n, in_channels, h, w) to logits (n, num_classes)."""
        pooled = avg_pool2d(maps, kernel_size=min(5, maps.shape[-2], maps.shape[-1]), stride=3)
        hidden = self.relu(self.norm(self.hidden(self.reduce(pooled).flatten(1))))
        logits: Tensor = self.decision(hidden)
        return logits
