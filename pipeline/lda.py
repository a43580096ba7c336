"""Deep linear discriminant analysis: scatter matrices, discriminants, and the push loss (CVIU section 3.1).

Notation, as in the paper and in the code:

| symbol              | meaning                                                        | shape  | here           |
|---------------------|----------------------------------------------------------------|--------|----------------|
| X                   | latent features: post-ReLU, pooled, the decision layer's input | (n, d) | `features`     |
| Sigma_w             | within-class scatter                                           | (d, d) | `S_w`          |
| Sigma_a             | total scatter                                                  | (d, d) | `S_a`          |
| Sigma_b             | between-class scatter, Sigma_a - Sigma_w                       | (d, d) | `S_b`          |
| v_j                 | discriminating power along neuron j, or of eigenvector j       | (d,)   | `v`            |
| N                   | neurons whose variance is not negligible                       | scalar | `n_active`     |
| gamma, lambda, beta | weights of the push loss                                       | scalar | `Lda`'s fields |

Two departures, both stated by the sources as permitted or needed: scatter matrices are divided by n, so that
the three weights mean the same at every batch size; and a multiple of the identity is added to S_w before it is
solved with (Friedman 1989; CVIU section 3.1, thesis 4.1.1). That multiple is `ridge` times the mean of S_w's diagonal,
so that no v_j depends on the scale of the features; where S_w vanishes, the mean of S_a's stands in. Eq. 3.8 has none.

"Dormant dimensions are not considered" (CVIU section 3.1): Eq. 6, 7, 9, 10 and 12, and the ridge, are about the active
neurons alone, and v is 0 elsewhere. Eq. 8 is about all of them, as it is what forces dimensions to zero.

Everything here runs in float64, on the CPU where the device has none.

One addition, ours and named so: `separation: log_det` puts log(1 + v_j) in the place of v_j in Eq. 7. The sum
of v_j grows most where one discriminant is large already, and a push that is too strong ends with a single
one; the sum of logarithms grows most where a discriminant is small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pipeline.machine.float64 import float64

if TYPE_CHECKING:
    from pipeline.params.training import Lda

# Class means that coincide leave nothing to separate: l_lda is then large, and not infinite; no v has a unit.
_SMALLEST_TRACE = 1e-9
_POWER_ITERATIONS = 20


class Scatter(NamedTuple):
    """Eq. 2-4: within-class, between-class and total scatter, each (d, d) float64, divided by n."""

    S_w: Tensor
    S_b: Tensor
    S_a: Tensor

    def among(self, kept: Tensor) -> Scatter:
        """The scatter of some neurons alone, by a mask (d,); their gradient flows, that of the others is zero."""
        return Scatter(*(S[kept][:, kept] for S in self))


class PushTerms(NamedTuple):
    """The push loss, its three unweighted terms, and what to watch while pushing; all scalars."""

    loss: Tensor
    l_lda: Tensor
    l_cov: Tensor
    l_align: Tensor
    n_active: int
    top_share: float
    n_classes: int

    def collapsed(self, share: float) -> bool:
        """Whether one discriminant holds more than `share` of the sum, or no neuron is active.

        Two classes have a single discriminant, whose share says nothing.
        """
        return self.n_active == 0 or (self.n_classes > 2 and self.top_share > share)


def scatter_matrices(features: Tensor, labels: Tensor) -> Scatter:
    """Eq. 2-5: S_w = sum_i X~_i' X~_i / n, S_a = X~' X~ / n, S_b = S_a - S_w.

    Args:
        features: (n, d), any floating type.
        labels: (n,) integers; any values, classes are those that occur.

    Raises:
        ValueError: if the shapes do not fit or there is nothing to compare.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(labels) < 2:
        raise ValueError(
            f"expected features (n, d) and labels (n,) with n >= 2, "
            f"got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    X, n = float64(features), len(labels)
    _, class_of = torch.unique(labels.to(X.device), return_inverse=True)
    n_classes = int(class_of.max()) + 1
    members = torch.nn.functional.one_hot(class_of, n_classes).to(X.dtype)
    means = (members.T @ X) / members.sum(0)[:, None]
    within = X - members @ means
    total = X - X.mean(0)
    S_w, S_a = within.T @ within / n, total.T @ total / n
    return Scatter(S_w, S_a - S_w, S_a)


def separation_matrix(scatter: Scatter, *, ridge: float) -> Tensor:
    """(S_w + r I)^-1 S_b of Eq. 9, (d, d); r is `ridge` times the mean of S_w's diagonal.

    Args:
        scatter: of the active neurons: others would take part in the ridge's mean.
        ridge: relative to the scatter's scale.
    """
    solution: Tensor = torch.linalg.solve(_ridged(scatter.S_w, _multiple(scatter, ridge)), scatter.S_b)
    return solution


def discriminants(features: Tensor, labels: Tensor, *, ridge: float, active_variance: float = 0.0) -> Tensor:
    """Eq. 12: v_j = diag((S_w + r I)^-1 S_b)_j, one for each latent neuron, (d,); 0 for dormant ones.

    Args:
        features: (n, d).
        labels: (n,).
        ridge: as for `separation_matrix`.
        active_variance: as for `active_neurons`; with 0 every neuron that varies is active.
    """
    scatter = scatter_matrices(features, labels)
    active = active_neurons(scatter.S_a, active_variance=active_variance)
    return _padded(separation_matrix(scatter.among(active), ridge=ridge).diagonal(), active)


def discriminants_decorrelated(features: Tensor, labels: Tensor) -> Tensor:
    """Eq. 3.8 of the thesis: v_j = sigma_b^2(j) / sigma_w^2(j), the after-the-fact form, (d,), without a ridge.

    Columns without variance and repeats of an earlier column are removed first: their v is 0. A column that varies
    between classes and not within any separates them without error: its v is infinite. Both are told by comparing the
    features themselves, as a variance is rarely an exact zero.
    """
    scatter = scatter_matrices(features, labels)
    v = scatter.S_b.diagonal() / scatter.S_w.diagonal()
    varies_within = torch.zeros_like(features[0], dtype=torch.bool)
    for label in torch.unique(labels):
        rows = features[labels == label]
        varies_within |= (rows != rows[:1]).any(0)
    v = torch.where(varies_within.to(v.device), v, torch.inf)
    return torch.where(distinct_columns(features).to(v.device), v, 0.0)


def distinct_columns(features: Tensor) -> Tensor:
    """Mask (d,) of columns that vary and that do not repeat an earlier one (thesis 3.2.1)."""
    varies = (features != features[:1]).any(0)
    _, column_of = torch.unique(features, dim=1, return_inverse=True)
    d = features.shape[1]
    first = torch.full((d,), d, device=features.device).scatter_reduce(
        0, column_of, torch.arange(d, device=features.device), "amin"
    )
    return varies & (first[column_of] == torch.arange(d, device=features.device))


def log_separation(scatter: Scatter, *, ridge: float) -> Tensor:
    """Ours: sum_j log(1 + v_j) over the eigenvalues of Eq. 6, a scalar.

    As 1 + v_j are the eigenvalues of (S_w + r I)^-1 (S_a + r I), the sum is a difference of two log determinants, and
    no eigenvector is needed. Arguments as for `separation_matrix`.
    """
    multiple = _multiple(scatter, ridge)
    total, within = (torch.logdet(_ridged(S, multiple)) for S in (scatter.S_a, scatter.S_w))
    return total - within


def discriminant_spectrum(
    features: Tensor, labels: Tensor, *, ridge: float, active_variance: float = 0.0
) -> Tensor:
    """Eq. 6: the generalised eigenvalues of (S_b, S_w + r I), descending, (d,); 0 past the active neurons.

    Arguments as for `discriminants`.
    """
    scatter = scatter_matrices(features, labels)
    active = active_neurons(scatter.S_a, active_variance=active_variance)
    scatter = scatter.among(active)
    # With S_w + r I = L L', the pencil's eigenvalues are those of the symmetric L^-1 S_b L^-T.
    L = torch.linalg.cholesky(_ridged(scatter.S_w, _multiple(scatter, ridge)))
    half = torch.linalg.solve_triangular(L, scatter.S_b, upper=False)
    whitened = torch.linalg.solve_triangular(L, half.T, upper=False)
    spectrum = torch.linalg.eigvalsh((whitened + whitened.T) / 2).flip(0)
    return torch.nn.functional.pad(spectrum, (0, len(active) - len(spectrum)))


def largest_eigenvalue(M: Tensor) -> Tensor:
    """The largest eigenvalue of Eq. 9's matrix (d, d) by power iteration, a scalar.

    A few products with M: where one discriminant dominates they are exact to many digits, and where none does
    they are a little under the largest.
    """
    # Uneven, so that it is not at right angles to a direction between two mirrored neurons.
    x = torch.linspace(1, 2, len(M), dtype=M.dtype, device=M.device)
    value = torch.zeros((), dtype=M.dtype, device=M.device)
    for _ in range(_POWER_ITERATIONS):
        x = x / x.norm().clamp_min(torch.finfo(M.dtype).tiny)
        product = M @ x
        value, x = x @ product, product
    return value.clamp_min(0)


def active_neurons(S_a: Tensor, *, active_variance: float) -> Tensor:
    """Mask (d,) of neurons whose variance exceeds `active_variance` times the largest one's (Eq. 7's N)."""
    variance = S_a.diagonal()
    return variance > active_variance * variance.max().clamp_min(torch.finfo(variance.dtype).tiny)


def push_loss(features: Tensor, labels: Tensor, weights: Lda) -> PushTerms:
    """Eq. 11: gamma l_lda + lambda l_cov + beta l_align, over one class-balanced batch.

    l_lda = N / sum_j v_j over the N active neurons (Eq. 7), where the sum is the trace of (S_w + r I)^-1 S_b, or with
    `separation: log_det` our `log_separation` in its place; l_cov (Eq. 8) is the entrywise 1-norm of the off-diagonal
    part of S_a, over all neurons, and l_align (Eq. 10) that of the same matrix as the trace's, over the active ones.
    l_align is left out above `align_max_dim` neurons, and every term is zero where no neuron is active.

    Args:
        features: (n, d) latent features, with gradient.
        labels: (n,) integers, about as many of each class.
        weights: section `lda` of the params.
    """
    everything = scatter_matrices(features, labels)
    active = active_neurons(everything.S_a.detach(), active_variance=weights.active_variance)
    n_active, n_classes, d = int(active.sum()), len(torch.unique(labels)), features.shape[1]
    zero = everything.S_a.sum() * 0
    if n_active == 0:
        return PushTerms(zero, zero, zero, zero, 0, 0.0, n_classes)
    scatter = everything.among(active)
    M = separation_matrix(scatter, ridge=weights.ridge)
    v = M.diagonal()
    total = v.sum() if weights.separation == "trace" else log_separation(scatter, ridge=weights.ridge)
    l_lda = n_active / total.clamp_min(_SMALLEST_TRACE)
    l_cov = _off_diagonal_norm(everything.S_a)
    l_align = _off_diagonal_norm(M) if d <= weights.align_max_dim else zero
    loss = weights.gamma * l_lda + weights.lambda_ * l_cov + weights.beta * l_align
    # Of the eigenvalues and not of the v_j: a collapsed direction may lie across several neurons.
    top_share = largest_eigenvalue(M.detach()) / v.detach().sum().clamp_min(_SMALLEST_TRACE)
    return PushTerms(loss, l_lda, l_cov, l_align, n_active, float(top_share), n_classes)


def describe_latent(features: Tensor, labels: Tensor, weights: Lda) -> dict[str, Tensor]:
    """A latent space in numbers, for reports (CVIU Figures 3 and 4), float32 on the CPU.

    `S_a` (d, d) the total scatter, `v` (d,) of Eq. 12 per neuron, `spectrum` (d,) the eigenvalues of Eq. 6,
    `active` (d,) the mask behind Eq. 7's N.
    """
    S_a = scatter_matrices(features, labels).S_a
    rules = {"ridge": weights.ridge, "active_variance": weights.active_variance}
    described = {
        "S_a": S_a,
        "v": discriminants(features, labels, **rules),
        "spectrum": discriminant_spectrum(features, labels, **rules),
        "active": active_neurons(S_a, active_variance=weights.active_variance),
    }
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in described.items()}


def _multiple(scatter: Scatter, ridge: float) -> Tensor:
    """What is added to the diagonal of S_w, a scalar: `ridge` times the mean variance within, or else in total."""
    within, total = scatter.S_w.diagonal().mean(), scatter.S_a.diagonal().mean()
    # A scatter that is zero but for rounding would make the multiple so.
    return ridge * torch.where(within > torch.finfo(within.dtype).eps * total, within, total)


def _ridged(S: Tensor, multiple: Tensor) -> Tensor:
    return S + multiple * torch.eye(len(S), dtype=S.dtype, device=S.device)


def _padded(values: Tensor, places: Tensor) -> Tensor:
    """Values at the places of a mask (d,), and zeros elsewhere."""
    return torch.zeros(len(places), dtype=values.dtype, device=values.device).masked_scatter(places, values)


def _off_diagonal_norm(matrix: Tensor) -> Tensor:
    """|A - diag(A)|_1, entrywise."""
    return matrix.abs().sum() - matrix.diagonal().abs().sum()
