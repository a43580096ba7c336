"""Which latent neurons to keep: M' by sensitivity on validation or by Otsu's threshold (thesis 3.2.1, 3.3.5)."""

from dataclasses import dataclass

import numpy as np
import torch
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from pipeline.machine.float64 import float64
from pipeline.models.classifier import decision_layer
from pipeline.params.pruning import LatentChoiceRule, SensitivityChoice


@dataclass(frozen=True)
class LatentChoice:
    """The kept neurons and how the choice came about.

    `kept` (d,) boolean; `order` (d,) neurons by descending discriminating power; `n_correct` (d,) validation
    hits with the first 1, 2, ... of that order; `n_correct_pca` (d,) the same with neurons in the order of
    their variance; `n` validation images.
    """

    kept: Tensor
    order: Tensor
    n_correct: Tensor
    n_correct_pca: Tensor
    n: int

    def rows(self) -> list[dict[str, int]]:
        """The hits by rank, and whether the neuron of that rank is kept."""
        hits = zip(self.order, self.n_correct, self.n_correct_pca, strict=True)
        return [
            {"rank": rank, "n": self.n, "n_correct": int(by_lda), "n_correct_pca": int(by_pca)}
            | {"kept": int(self.kept[neuron])}
            for rank, (neuron, by_lda, by_pca) in enumerate(hits, start=1)
        ]


@torch.no_grad()
def choose_latent(
    model: nn.Module, v: Tensor, variance: Tensor, features: Tensor, labels: Tensor, rule: LatentChoiceRule
) -> LatentChoice:
    """Keep the neurons of the most discriminating power, as many as the rule says.

    `sensitivity`: the fewest top neurons whose validation accuracy stays within `max_drop` of all neurons',
    features and decision layer frozen. `otsu`: those whose v is above Otsu's threshold.

    Label-blind PCA is measured beside it (thesis Figure 3-19): a neuron's score is the variance that the
    principal components explain of it, sum_k lambda_k w_kj^2, which over all components is its own variance.

    Args:
        model: gives the decision layer.
        v: (d,) discriminating power of each neuron, from training features.
        variance: (d,) variance of each neuron, from training features.
        features: (n, d) validation features.
        labels: (n,) their labels.
        rule: section `surgery.latent` of the params.
    """
    order = torch.argsort(v, descending=True, stable=True)
    n_correct = hits_by_rank(model, order, features, labels)
    by_variance = torch.argsort(variance, descending=True, stable=True)
    if isinstance(rule, SensitivityChoice):
        needed = n_correct[-1] - rule.max_drop * len(labels)
        # Compared as counts; the tolerance forgives the float product only.
        n_kept = int((n_correct >= needed - 1e-9 * len(labels)).nonzero()[0]) + 1
    else:
        n_kept = n_above_otsu(v)
    kept = torch.zeros_like(v, dtype=torch.bool)
    kept[order[:n_kept]] = True
    return LatentChoice(
        kept, order, n_correct, hits_by_rank(model, by_variance, features, labels), len(labels)
    )


def n_above_otsu(v: Tensor) -> int:
    """How many values are above Otsu's threshold of them; all, where they are all equal."""
    values = float64(v).cpu().numpy()
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) == 1:
        return len(values)
    # The values themselves are the histogram: bins of equal width would lump the many small ones together.
    return int((values > threshold_otsu(hist=(counts, distinct))).sum())


@torch.no_grad()
def hits_by_rank(model: nn.Module, order: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Hits (d,) of the decision layer with only the first 1, 2, ... neurons of an order (d,).

    Dropping a neuron sets its column to zero. Neurons are added one at a time: memory stays at one (n, classes)
    matrix whatever d is.
    """
    decision = decision_layer(model)
    bias = 0 if decision.bias is None else decision.bias
    logits = torch.zeros(len(features), decision.out_features, dtype=features.dtype, device=features.device)
    hits = []
    for neuron in order:
        logits += features[:, neuron, None] * decision.weight[:, neuron]
        hits.append(((logits + bias).argmax(1) == labels).sum())
    return torch.stack(hits)
