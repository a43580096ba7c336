"""The fully connected net of the MNIST experiment (CVIU section 5.1, thesis 4.3.1)."""

from collections.abc import Sequence

from torch import nn


class FullyConnected(nn.Sequential):
    """Flatten, hidden layers with ReLU, and the decision layer.

    Args:
        num_classes: the number of classes.
        in_features: pixels times channels of an image.
        hidden: the widths of the hidden layers; the last one is the latent space.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_features: int = 784,
        hidden: Sequence[int] = (1024, 1024, 1024, 1024, 32),
    ) -> None:
        if not hidden or min(hidden) < 1:
            raise ValueError(f"expected at least one hidden layer of positive width, got {tuple(hidden)}")
        super().__init__()
        self.flatten = nn.Flatten(1)
        widths = [in_features, *hidden]
        for idx, (n_in, n_out) in enumerate(zip(widths, hidden, strict=False), start=1):
            self.add_module(f"hidden{idx}", nn.Linear(n_in, n_out))
            self.add_module(f"relu{idx}", nn.ReLU())
        self.decision = nn.Linear(hidden[-1], num_classes)
