"""Which images come in which batch; pure functions of labels and a generator."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# From labels and a generator to the batches of an epoch, each a tensor of indices.
Batching = Callable[[Tensor, torch.Generator], Iterator[Tensor]]


def shuffled_batches(batch_size: int) -> Batching:
    """Every image once an epoch, in random order; a last batch of one image joins the one before."""

    def batches(labels: Tensor, random: torch.Generator) -> Iterator[Tensor]:
        order = torch.randperm(len(labels), generator=random)
        starts = list(range(0, len(order), batch_size))
        if len(starts) > 1 and len(order) - starts[-1] == 1:  # batch norm needs two
            starts.pop()
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            yield order[start:end]

    return batches


def balanced_batches(samples_per_class: int, classes_per_batch: int | None) -> Batching:
    """Batches with the same number of images of each of a random subset of the classes (CVIU section 3.1).

    An epoch has as many batches as cover the set once on average. Within a class, images are drawn without
    repeats until all have been seen.

    Args:
        samples_per_class: images of each class in a batch; the paper asks for at least 8.
        classes_per_batch: size of the random subset, or None for all classes.
    """

    def batches(labels: Tensor, random: torch.Generator) -> Iterator[Tensor]:
        classes = torch.unique(labels)
        n_classes = min(classes_per_batch or len(classes), len(classes))
        decks = {int(c): _Deck((labels == c).nonzero().flatten(), random) for c in classes}
        n_batches = max(1, round(len(labels) / (n_classes * samples_per_class)))
        for _ in range(n_batches):
            chosen = classes[torch.randperm(len(classes), generator=random)[:n_classes]]
            yield torch.cat([decks[int(c)].draw(samples_per_class) for c in chosen])

    return batches


class _Deck:
    """Indices dealt without repeats, shuffled anew when they run out."""

    def __init__(self, indices: Tensor, random: torch.Generator) -> None:
        self._indices, self._random = indices, random
        self._left = indices[:0]

    def draw(self, n: int) -> Tensor:
        while len(self._left) < n:
            fresh = self._indices[torch.randperm(len(self._indices), generator=self._random)]
            self._left = torch.cat([self._left, fresh])
        drawn, self._left = self._left[:n], self._left[n:]
        return drawn
