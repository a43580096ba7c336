import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from pipeline.lda import (
    PushTerms,
    active_neurons,
    describe_latent,
    discriminant_spectrum,
    discriminants,
    discriminants_decorrelated,
    distinct_columns,
    largest_eigenvalue,
    log_separation,
    push_loss,
    scatter_matrices,
    separation_matrix,
)
from pipeline.params.training import Lda

torch.set_num_threads(1)  # on matrices this small two threads spend their time waiting

# Two classes of two: means (1, 1) and (5, 3), grand mean (3, 2).
FEATURES = torch.tensor([[0.0, 0.0], [2.0, 2.0], [4.0, 2.0], [6.0, 4.0]], dtype=torch.float64)
LABELS = torch.tensor([7, 7, 3, 3])


def lda_weights(**changes: Any) -> Lda:
    fields: dict[str, Any] = {
        "separation": "trace",
        "gamma": 1.0,
        "lambda": 0.5,
        "beta": 0.25,
        "ridge": 1e-3,
        "active_variance": 1e-4,
        "align_max_dim": 64,
        "classes_per_batch": None,
        "samples_per_class": 8,
        "collapse_share": 0.8,
    }
    return Lda(**(fields | changes))


def random_batch(n_classes: int, per_class: int, d: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    centres = torch.rand(n_classes, d, generator=random, dtype=torch.float64)
    features = centres[labels] + 0.3 * torch.rand(len(labels), d, generator=random, dtype=torch.float64)
    return features, labels


def scatter_by_loops(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n, d = features.shape
    within, between = np.zeros((d, d)), np.zeros((d, d))
    grand = features.mean(0)
    for label in np.unique(labels):
        rows = features[labels == label]
        for row in rows:
            within += np.outer(row - rows.mean(0), row - rows.mean(0)) / n
        between += len(rows) * np.outer(rows.mean(0) - grand, rows.mean(0) - grand) / n
    return within, between


def test_scatter_matrices_equal_those_computed_by_hand() -> None:
    S_w, S_b, S_a = scatter_matrices(FEATURES, LABELS)
    # Within: every row is (1, 1) away from its class mean. Between: both means are (2, 1) from (3, 2).
    assert S_w.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert S_b.tolist() == [[4.0, 2.0], [2.0, 1.0]]
    assert S_a.tolist() == [[5.0, 3.0], [3.0, 2.0]]


def test_scatter_matrices_equal_plain_loops_for_classes_of_unequal_size() -> None:
    features, labels = random_batch(4, 9, 5)
    kept = torch.arange(36) % 5 != 2
    S_w, S_b, S_a = scatter_matrices(features[kept], labels[kept])
    within, between = scatter_by_loops(features[kept].numpy(), labels[kept].numpy())
    np.testing.assert_allclose(S_w.numpy(), within, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(S_b.numpy(), between, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(S_a.numpy(), np.cov(features[kept].numpy().T, bias=True), rtol=1e-10)


def test_total_scatter_is_the_sum_of_within_and_between() -> None:
    S_w, S_b, S_a = scatter_matrices(*random_batch(3, 8, 6))
    torch.testing.assert_close(S_w + S_b, S_a, rtol=0, atol=1e-15)


def test_scatter_matrices_are_float64_for_float32_features() -> None:
    features, labels = random_batch(3, 8, 4)
    for matrix in scatter_matrices(features.float(), labels):
        assert matrix.dtype == torch.float64


def test_scatter_does_not_depend_on_the_order_of_images_or_the_names_of_classes() -> None:
    features, labels = random_batch(3, 8, 4)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    renamed = torch.tensor([40, -3, 11])[labels]
    for one, other in zip(
        scatter_matrices(features, labels), scatter_matrices(features[order], renamed[order]), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


@pytest.mark.parametrize("separation", ["trace", "log_det"])
def test_duplicating_the_batch_changes_neither_scatter_nor_any_term_of_the_push_loss(
    separation: str,
) -> None:
    features, labels = random_batch(3, 8, 4)
    twice, labels_twice = features.repeat(2, 1), labels.repeat(2)
    for one, other in zip(
        scatter_matrices(features, labels), scatter_matrices(twice, labels_twice), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)
    one_loss = push_loss(features, labels, lda_weights(separation=separation))
    other_loss = push_loss(twice, labels_twice, lda_weights(separation=separation))
    for name in ("loss", "l_lda", "l_cov", "l_align"):
        torch.testing.assert_close(getattr(one_loss, name), getattr(other_loss, name), rtol=1e-11, atol=0)
    assert one_loss.n_active == other_loss.n_active


def test_discriminants_equal_those_computed_by_hand() -> None:
    # S_w + I = [[2, 1], [1, 2]], its inverse [[2, -1], [-1, 2]] / 3; times S_b: diagonal (6, 0) / 3.
    v = discriminants(FEATURES, LABELS, ridge=1.0)
    torch.testing.assert_close(v, torch.tensor([2.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("ridge", [1e-6, 1e-3, 0.7])
def test_discriminants_equal_the_diagonal_of_the_explicit_inverse_times_between_scatter(ridge: float) -> None:
    features, labels = random_batch(5, 10, 6)
    within, between = scatter_by_loops(features.numpy(), labels.numpy())
    multiple = ridge * np.diag(within).mean()
    expected = np.diag(scipy.linalg.inv(within + multiple * np.eye(6)) @ between)
    np.testing.assert_allclose(discriminants(features, labels, ridge=ridge).numpy(), expected, rtol=1e-8)


def test_decorrelated_discriminants_are_ratios_of_variances() -> None:
    assert discriminants_decorrelated(FEATURES, LABELS).tolist() == [4.0, 1.0]


def test_a_column_that_varies_between_classes_alone_has_infinite_decorrelated_power() -> None:
    """Told by the features: a mean of equal numbers need not be the number, nor their variance zero."""
    labels = torch.arange(3).repeat_interleave(7)
    between = torch.tensor([0.1, 0.7, 0.3], dtype=torch.float64)[labels]
    noise = torch.rand(21, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = torch.stack([between, noise, torch.full_like(noise, 0.1), between + noise], 1)
    v = discriminants_decorrelated(features, labels)
    assert v[0] == math.inf
    assert v[2] == 0
    assert bool((v[[1, 3]] > 0).all())
    assert bool(v[[1, 3]].isfinite().all())


def diagonal_case(v: Tensor, *, ridge: float, spread: float = 0.5) -> tuple[Tensor, Tensor]:
    """Four classes whose scatter matrices are diagonal, and whose two discriminants are `v` (2,).

    S_w is spread^2 I: so is the scale of the ridge.
    """
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    labels = torch.arange(4).repeat_interleave(4)
    # Within a class the four images stand on the corners of a square: S_w = spread^2 I, S_b = diag(mean^2).
    means = corners[labels] * (v * spread**2 * (1 + ridge)).sqrt()
    return means + spread * corners.repeat(4, 1) + 3, labels


def test_discriminants_of_diagonal_scatter_are_scipys_generalised_eigenvalues() -> None:
    v = torch.tensor([0.2, 1.7], dtype=torch.float64)
    features, labels = diagonal_case(v, ridge=0.1)
    S_w, S_b, _ = scatter_matrices(features, labels)
    assert float(S_w[0, 1].abs() + S_b[0, 1].abs()) < 1e-15
    expected = scipy.linalg.eigh(S_b.numpy(), 1.1 * S_w.numpy(), eigvals_only=True)
    np.testing.assert_allclose(expected, v.numpy(), rtol=1e-12)
    np.testing.assert_allclose(discriminants(features, labels, ridge=0.1).numpy(), v.numpy(), rtol=1e-12)
    # The after-the-fact form has no ridge.
    np.testing.assert_allclose(
        discriminants_decorrelated(features, labels).numpy(), 1.1 * v.numpy(), rtol=1e-12
    )


def test_decorrelated_discriminants_are_zero_for_columns_without_variance_and_repeats() -> None:
    features, labels = random_batch(3, 8, 7)
    features[:, 2] = 0.25  # does not vary
    features[:, 4] = features[:, 1]  # repeats column 1
    features[:, 6] = features[:, 1]  # and once more
    within, between = scatter_by_loops(features.numpy(), labels.numpy())
    within[2, 2] = 1
    expected = np.diag(between) / np.diag(within)
    expected[[2, 4, 6]] = 0
    v = discriminants_decorrelated(features, labels).numpy()
    np.testing.assert_allclose(v, expected, rtol=1e-10)
    assert v.nonzero()[0].tolist() == [0, 1, 3, 5]


def test_a_decorrelated_discriminant_is_scikit_learns_on_that_feature_alone() -> None:
    features, labels = random_batch(4, 25, 5, seed=8)
    v = discriminants_decorrelated(features, labels).numpy()
    for neuron, column in enumerate(features.numpy().T):
        alone = LinearDiscriminantAnalysis(solver="eigen").fit(column[:, None], labels.numpy())
        assert alone.explained_variance_ratio_.tolist() == [1.0]
        # Scaled so that the variance within classes is one, what is left of the variance is that between.
        projected = alone.transform(column[:, None])[:, 0]
        assert v[neuron] == pytest.approx(projected.var() - 1, rel=1e-9)


def test_shares_of_decorrelated_discriminants_are_scikit_learns_where_scatter_is_diagonal() -> None:
    features, labels = diagonal_case(torch.tensor([0.4, 2.5], dtype=torch.float64), ridge=0.0)
    reference = LinearDiscriminantAnalysis(solver="eigen").fit(features.numpy(), labels.numpy())
    v = discriminants_decorrelated(features, labels).numpy()
    np.testing.assert_allclose((v / v.sum())[::-1], reference.explained_variance_ratio_[:2], rtol=1e-9)


def distinct_by_loops(features: np.ndarray) -> list[bool]:
    kept: list[bool] = []
    for j, column in enumerate(features.T):
        repeats = any(np.array_equal(column, features[:, k]) for k in range(j))
        kept.append(bool((column != column[0]).any()) and not repeats)
    return kept


@pytest.mark.parametrize("seed", range(8))
def test_distinct_columns_are_those_of_plain_loops(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    # Columns of three bits: many repeats, and some that do not vary.
    features = torch.randint(0, 2, (3, 12), generator=random).float()
    found = distinct_columns(features)
    assert found.dtype == torch.bool
    assert found.tolist() == distinct_by_loops(features.numpy())
    assert 0 < int(found.sum()) < 12


def test_of_repeated_columns_the_first_is_kept_wherever_it_stands() -> None:
    a, b, constant = [1.0, 2.0, 3.0], [0.0, 5.0, 0.0], [4.0, 4.0, 4.0]
    features = torch.tensor([b, constant, a, b, a, constant, b]).T
    assert distinct_columns(features).tolist() == [True, False, True, False, False, False, False]


def test_columns_that_differ_in_the_last_bit_are_distinct() -> None:
    column = torch.rand(6, generator=torch.Generator().manual_seed(0))
    nearly = column.clone()
    nearly[3] = torch.nextafter(nearly[3], torch.tensor(2.0))
    assert distinct_columns(torch.stack([column, nearly, column], 1)).tolist() == [True, True, False]


def test_of_a_single_image_no_column_varies() -> None:
    assert distinct_columns(torch.rand(1, 4)).tolist() == [False] * 4


def test_a_single_column_is_distinct_where_it_varies() -> None:
    assert distinct_columns(torch.tensor([[1.0], [2.0]])).tolist() == [True]
    assert distinct_columns(torch.tensor([[2.0], [2.0]])).tolist() == [False]


def near_singular(kind: str) -> tuple[Tensor, Tensor]:
    features, labels = random_batch(4, 10, 6)
    if kind == "duplicated column":
        features[:, 3] = features[:, 0]
    elif kind == "zero variance":
        features[:, 2] = 0.5
    elif kind == "constant within classes":
        features[:, 1] = labels.double()
    elif kind == "fewer images than neurons":
        features, labels = random_batch(2, 2, 7)
    return features, labels


def ridged_eigenvalues(
    within: np.ndarray, between: np.ndarray, active: np.ndarray, ridge: float
) -> np.ndarray:
    """scipy's, ascending, of the active neurons alone, with the ridge as a share of their mean variance within."""
    within, between = within[np.ix_(active, active)], between[np.ix_(active, active)]
    multiple = ridge * np.diag(within).mean()
    values: np.ndarray = scipy.linalg.eigh(
        between, within + multiple * np.eye(active.sum()), eigvals_only=True
    )
    return values


@pytest.mark.parametrize(
    "kind",
    ["random", "duplicated column", "zero variance", "constant within classes", "fewer images than neurons"],
)
def test_spectrum_equals_scipys_generalised_eigenvalues(kind: str) -> None:
    features, labels = near_singular(kind)
    within, between = scatter_by_loops(features.numpy(), labels.numpy())
    active = np.ptp(features.numpy(), axis=0) > 0
    expected = np.zeros(features.shape[1])
    expected[: active.sum()] = ridged_eigenvalues(within, between, active, 1e-3)[::-1]
    spectrum = discriminant_spectrum(features, labels, ridge=1e-3).numpy()
    np.testing.assert_allclose(spectrum, expected, rtol=1e-8, atol=1e-9 * expected[0])


@pytest.mark.parametrize("kind", ["random", "duplicated column", "zero variance"])
def test_spectrum_and_discriminants_share_their_sum_the_trace(kind: str) -> None:
    features, labels = near_singular(kind)
    spectrum = discriminant_spectrum(features, labels, ridge=1e-3)
    v = discriminants(features, labels, ridge=1e-3)
    assert float(v.sum()) == pytest.approx(float(spectrum.sum()), rel=1e-9)


def test_spectrum_is_descending_with_one_eigenvalue_fewer_than_classes_above_zero() -> None:
    features, labels = random_batch(4, 20, 7)
    spectrum = discriminant_spectrum(features, labels, ridge=1e-6)
    assert torch.all(spectrum[:-1] >= spectrum[1:])
    assert torch.all(spectrum[:3] > 1e-3)
    assert torch.all(spectrum[3:].abs() < 1e-9 * spectrum[0])


def test_spectrum_shares_equal_scikit_learns_explained_variance_ratios() -> None:
    features, labels = random_batch(5, 30, 6, seed=3)
    reference = LinearDiscriminantAnalysis(solver="eigen").fit(features.numpy(), labels.numpy())
    spectrum = discriminant_spectrum(features, labels, ridge=1e-12)
    shares = (spectrum / spectrum.sum()).numpy()[:4]
    np.testing.assert_allclose(shares, reference.explained_variance_ratio_, rtol=1e-6)


def test_push_loss_terms_equal_those_computed_by_hand() -> None:
    weights = lda_weights(ridge=1.0, gamma=2.0, beta=10.0, **{"lambda": 0.1})
    terms = push_loss(FEATURES, LABELS, weights)
    # (S_w + I)^-1 S_b = [[2, -1], [-1, 2]] [[4, 2], [2, 1]] / 3 = [[6, 3], [0, 0]] / 3.
    assert float(terms.l_lda) == pytest.approx(2 / 2)
    assert float(terms.l_cov) == pytest.approx(3 + 3)
    assert float(terms.l_align) == pytest.approx(1)
    assert float(terms.loss) == pytest.approx(2.0 * 1 + 0.1 * 6 + 10.0 * 1)
    assert terms.n_active == 2
    assert terms.top_share == pytest.approx(1.0)


@pytest.mark.parametrize(
    "kind",
    ["random", "duplicated column", "zero variance", "constant within classes", "fewer images than neurons"],
)
@pytest.mark.parametrize("ridge", [1e-3, 0.5])
def test_log_separation_is_the_sum_of_logarithms_over_scipys_eigenvalues(kind: str, ridge: float) -> None:
    features, labels = near_singular(kind)
    within, between = scatter_by_loops(features.numpy(), labels.numpy())
    everything = np.ones(features.shape[1], dtype=bool)
    eigenvalues = ridged_eigenvalues(within, between, everything, ridge)
    found = log_separation(scatter_matrices(features, labels), ridge=ridge)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(float(np.log1p(np.maximum(eigenvalues, 0)).sum()), rel=1e-9)


def test_log_separation_of_two_discriminants_equals_that_computed_by_hand() -> None:
    features, labels = diagonal_case(torch.tensor([3.0, 1.0], dtype=torch.float64), ridge=0.2)
    found = log_separation(scatter_matrices(features, labels), ridge=0.2)
    assert float(found) == pytest.approx(math.log(4) + math.log(2), rel=1e-12)


def test_with_log_det_the_lda_term_is_neurons_over_the_log_separation_and_all_else_stays() -> None:
    features, labels = random_batch(3, 8, 4)
    trace = push_loss(features, labels, lda_weights(gamma=2.0))
    log_det = push_loss(features, labels, lda_weights(gamma=2.0, separation="log_det"))
    separation = float(log_separation(scatter_matrices(features, labels), ridge=1e-3))
    assert float(log_det.l_lda) == pytest.approx(4 / separation, rel=1e-12)
    for name in ("l_cov", "l_align", "n_active", "top_share"):
        assert getattr(log_det, name) == getattr(trace, name)
    difference = float(log_det.loss - trace.loss)
    assert difference == pytest.approx(2.0 * float(log_det.l_lda - trace.l_lda), rel=1e-10)


@pytest.mark.parametrize("separation", ["trace", "log_det"])
def test_trace_pulls_at_all_discriminants_alike_and_log_det_more_at_the_smaller(separation: str) -> None:
    v = torch.tensor([9.0, 0.25], dtype=torch.float64, requires_grad=True)
    features, labels = diagonal_case(v, ridge=1e-3)
    term = push_loss(features, labels, lda_weights(separation=separation)).l_lda
    large, small = torch.autograd.grad(term, v)[0].tolist()
    assert large < 0
    assert small < 0
    if separation == "trace":
        assert small == pytest.approx(large, rel=1e-9)
        assert large == pytest.approx(-2 / 9.25**2, rel=1e-9)
    else:
        assert small / large == pytest.approx((1 + 9) / (1 + 0.25), rel=1e-9)
        assert large == pytest.approx(-2 / (math.log(10) + math.log(1.25)) ** 2 / 10, rel=1e-9)


@pytest.mark.parametrize("separation", ["trace", "log_det"])
@pytest.mark.parametrize("kind", ["random", "duplicated column", "zero variance"])
def test_push_loss_passes_gradcheck(separation: str, kind: str) -> None:
    features, labels = near_singular(kind)
    features.requires_grad_(True)
    weights = lda_weights(gamma=0.7, beta=0.3, ridge=0.05, separation=separation)
    if kind != "random":  # 1-norms have a corner where a covariance is zero
        weights = lda_weights(beta=0.0, ridge=0.05, separation=separation, **{"lambda": 0.0})
    assert torch.autograd.gradcheck(lambda x: push_loss(x, labels, weights).loss, (features,))


def test_every_term_of_the_push_loss_has_a_gradient_of_its_own() -> None:
    features, labels = random_batch(3, 8, 4)
    features.requires_grad_(True)
    terms = push_loss(features, labels, lda_weights())
    for term in (terms.l_lda, terms.l_cov, terms.l_align):
        (gradient,) = torch.autograd.grad(term, features, retain_graph=True)
        assert bool(gradient.isfinite().all())
        assert float(gradient.abs().sum()) > 0


def test_alignment_is_left_out_above_its_dimension_and_only_there() -> None:
    features, labels = random_batch(3, 8, 4)
    at_limit = push_loss(features, labels, lda_weights(align_max_dim=4))
    above = push_loss(features, labels, lda_weights(align_max_dim=3))
    assert float(at_limit.l_align) > 0
    assert float(above.l_align) == 0
    assert float(above.l_cov) == float(at_limit.l_cov)
    expected = float(at_limit.loss) - 0.25 * float(at_limit.l_align)
    assert float(above.loss) == pytest.approx(expected, rel=1e-12)


def test_a_neuron_is_active_when_its_variance_exceeds_the_share_of_the_largest() -> None:
    S_a = torch.diag(torch.tensor([8.0, 0.8, 0.81, 0.0], dtype=torch.float64))
    assert active_neurons(S_a, active_variance=0.1).tolist() == [True, False, True, False]
    assert active_neurons(S_a, active_variance=0.0).tolist() == [True, True, True, False]


def test_active_neurons_do_not_depend_on_the_scale_of_the_features() -> None:
    features, labels = random_batch(3, 8, 5)
    features[:, 4] *= 1e-4
    counts = {push_loss(features * s, labels, lda_weights()).n_active for s in (1e-6, 1.0, 1e6)}
    assert counts == {4}


def test_dormant_neurons_lower_the_numerator_of_the_lda_term() -> None:
    features, labels = random_batch(3, 8, 4)
    padded = torch.cat([features, torch.zeros(len(features), 3, dtype=torch.float64)], 1)
    one, other = push_loss(features, labels, lda_weights()), push_loss(padded, labels, lda_weights())
    assert other.n_active == one.n_active == 4
    assert float(one.l_lda) == pytest.approx(float(other.l_lda), rel=1e-10)


@pytest.mark.parametrize("separation", ["trace", "log_det"])
def test_dormant_neurons_are_left_out_of_separation_and_alignment_and_not_of_the_covariance(
    separation: str,
) -> None:
    """A neuron of little variance that separates the classes well, as such neurons do, and leans on others."""
    features, labels = random_batch(3, 8, 5)
    features[:, 3] = 1e-3 * (labels.double() + 0.1 * features[:, 0])
    weights = lda_weights(separation=separation)
    everything = features.clone().requires_grad_()
    terms = push_loss(everything, labels, weights)
    active = [0, 1, 2, 4]
    alone = features[:, active].requires_grad_()
    expected = push_loss(alone, labels, weights)
    assert terms.n_active == expected.n_active == 4
    assert terms.top_share == pytest.approx(expected.top_share, rel=1e-12)
    for name in ("l_lda", "l_align"):
        found, wanted = getattr(terms, name), getattr(expected, name)
        assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-12)
        (gradient,) = torch.autograd.grad(found, everything, retain_graph=True)
        (of_active,) = torch.autograd.grad(wanted, alone, retain_graph=True)
        torch.testing.assert_close(gradient[:, active], of_active)
        assert float(gradient[:, 3].abs().max()) == 0
        assert float(of_active.abs().max()) > 0
    (gradient,) = torch.autograd.grad(terms.l_cov, everything)
    assert float(gradient[:, 3].abs().max()) > 0


def test_discriminants_and_spectrum_of_dormant_neurons_are_zero_and_the_others_those_of_the_active() -> None:
    features, labels = random_batch(3, 8, 5)
    features[:, 1] *= 1e-3
    rules = {"ridge": 0.1, "active_variance": 1e-4}
    v, spectrum = discriminants(features, labels, **rules), discriminant_spectrum(features, labels, **rules)
    active = features[:, [0, 2, 3, 4]]
    assert float(v[1]) == 0
    torch.testing.assert_close(v[[0, 2, 3, 4]], discriminants(active, labels, ridge=0.1))
    torch.testing.assert_close(spectrum[:4], discriminant_spectrum(active, labels, ridge=0.1))
    assert float(spectrum[4]) == 0
    nothing = torch.zeros_like(features)
    assert discriminants(nothing, labels, **rules).tolist() == [0.0] * 5
    assert discriminant_spectrum(nothing, labels, **rules).tolist() == [0.0] * 5


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_no_discriminant_depends_on_the_scale_of_the_features(scale: float) -> None:
    features, labels = random_batch(3, 8, 5)
    for find in (discriminants, discriminant_spectrum):
        one, other = find(features, labels, ridge=0.1), find(scale * features, labels, ridge=0.1)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    for separation in ("trace", "log_det"):
        weights = lda_weights(ridge=0.1, separation=separation)
        one_loss, other_loss = (
            push_loss(features, labels, weights),
            push_loss(scale * features, labels, weights),
        )
        for name in ("l_lda", "l_align", "top_share"):
            assert float(getattr(one_loss, name)) == pytest.approx(float(getattr(other_loss, name)), rel=1e-9)


def test_where_nothing_varies_within_classes_the_ridge_takes_the_scale_of_the_total_scatter() -> None:
    labels = torch.arange(3).repeat_interleave(8)
    corners = torch.tensor([[0.1, 0.2], [0.7, 0.2], [0.1, 0.9]], dtype=torch.float64)
    features = corners[labels].requires_grad_()
    _, between = scatter_by_loops(features.detach().numpy(), labels.numpy())
    expected = np.diag(between) / (0.5 * np.diag(between).mean())
    v = discriminants(features, labels, ridge=0.5)
    np.testing.assert_allclose(v.detach().numpy(), expected, rtol=1e-9)
    loss = push_loss(features, labels, lda_weights()).loss
    loss.backward()
    assert math.isfinite(float(loss.detach()))
    assert features.grad is not None
    assert bool(features.grad.isfinite().all())


def test_features_without_any_activity_give_zero_loss_and_zero_gradient() -> None:
    features = torch.zeros(16, 5, requires_grad=True)
    terms = push_loss(features, torch.arange(2).repeat_interleave(8), lda_weights())
    terms.loss.backward()
    assert [float(t.detach()) for t in terms[:4]] == [0.0, 0.0, 0.0, 0.0]
    assert (terms.n_active, terms.top_share) == (0, 0.0)
    assert features.grad is not None
    assert features.grad.abs().sum() == 0


@pytest.mark.parametrize("separation", ["trace", "log_det"])
def test_features_whose_class_means_coincide_give_a_finite_loss_and_gradient(separation: str) -> None:
    rows = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    features = torch.cat([rows, rows]).requires_grad_(True)
    weights = lda_weights(separation=separation)
    terms = push_loss(features, torch.arange(2).repeat_interleave(8), weights)
    terms.loss.backward()
    assert math.isfinite(float(terms.loss.detach()))
    assert features.grad is not None
    assert bool(features.grad.isfinite().all())


@pytest.mark.parametrize("seed", range(4))
def test_top_share_is_the_largest_eigenvalues_share_of_the_sum(seed: int) -> None:
    features, labels = random_batch(3, 8, 4, seed=seed)
    features[:, 1] += 3.0 * labels  # one direction stands out
    spectrum = discriminant_spectrum(features, labels, ridge=1e-3)
    share = push_loss(features, labels, lda_weights()).top_share
    assert share == pytest.approx(float(spectrum[0] / spectrum.sum()), rel=1e-9)


def test_top_share_sees_a_collapse_that_lies_across_several_neurons() -> None:
    labels = torch.arange(3).repeat_interleave(8)
    directions = torch.tensor([[1.0, 0.7, 1.2, 0.9]], dtype=torch.float64)
    noise = torch.rand(24, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    across = 10 * labels[:, None] * directions + noise
    v = discriminants(across, labels, ridge=1e-3)
    terms = push_loss(across, labels, lda_weights())
    assert float(v.max() / v.sum()) < 0.8  # no neuron holds so much
    assert terms.top_share > 0.99
    assert terms.collapsed(0.8)


def test_top_share_of_two_mirrored_neurons_is_one() -> None:
    """Two classes, each with a neuron of its own: one discriminant, along (1, -1)."""
    features = torch.tensor([[1.0, 0.0], [1.5, 0.5], [0.0, 1.0], [0.5, 1.5]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    spectrum = discriminant_spectrum(features, labels, ridge=1e-3)
    assert float(spectrum[0] / spectrum.sum()) == pytest.approx(1, abs=1e-9)
    assert push_loss(features, labels, lda_weights()).top_share == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_largest_eigenvalue_is_close_to_numpys_and_exact_where_one_dominates(seed: int) -> None:
    features, labels = random_batch(5, 10, 8, seed=seed)
    M = separation_matrix(scatter_matrices(features, labels), ridge=0.05)
    expected = float(np.linalg.eigvals(M.numpy()).real.max())
    assert float(largest_eigenvalue(M)) == pytest.approx(expected, rel=0.02)
    features[:, 0] += 5 * labels
    M = separation_matrix(scatter_matrices(features, labels), ridge=0.05)
    expected = float(np.linalg.eigvals(M.numpy()).real.max())
    assert float(largest_eigenvalue(M)) == pytest.approx(expected, rel=1e-9)


def test_the_largest_eigenvalue_of_nothing_is_zero() -> None:
    assert float(largest_eigenvalue(torch.zeros(3, 3, dtype=torch.float64))) == 0


@pytest.mark.parametrize(
    ("n_active", "top_share", "collapsed"),
    [(5, 0.79, False), (5, 0.8, False), (5, 0.81, True), (0, 0.0, True), (1, 1.0, True), (1, 0.1, False)],
)
def test_collapsed_means_a_share_above_the_limit_or_no_active_neuron(
    n_active: int, top_share: float, collapsed: bool
) -> None:
    zero = torch.zeros(())
    assert PushTerms(zero, zero, zero, zero, n_active, top_share, 3).collapsed(0.8) is collapsed


def test_the_single_discriminant_of_two_classes_is_no_collapse() -> None:
    features, labels = random_batch(2, 8, 4)
    terms = push_loss(features, labels, lda_weights())
    assert terms.top_share == pytest.approx(1)
    assert not terms.collapsed(0.8)
    assert push_loss(torch.zeros_like(features), labels, lda_weights()).collapsed(0.8)


@pytest.mark.parametrize(
    ("features_shape", "labels_shape"),
    [((6,), (6,)), ((6, 2, 2), (6,)), ((6, 2), (5,)), ((6, 2), (6, 1)), ((1, 2), (1,)), ((0, 2), (0,))],
)
def test_shapes_that_do_not_fit_are_refused_with_both_named(
    features_shape: tuple[int, ...], labels_shape: tuple[int, ...]
) -> None:
    features, labels = torch.zeros(features_shape), torch.zeros(labels_shape, dtype=torch.int64)
    with pytest.raises(ValueError, match="expected features") as caught:
        scatter_matrices(features, labels)
    assert str(features_shape) in str(caught.value)
    assert str(labels_shape) in str(caught.value)


def test_description_of_a_latent_space_holds_the_same_numbers_in_float32() -> None:
    features, labels = random_batch(3, 8, 4)
    described = describe_latent(features, labels, lda_weights(ridge=0.01))
    assert set(described) == {"S_a", "v", "spectrum", "active"}
    assert {tensor.dtype for tensor in described.values()} == {torch.float32}
    torch.testing.assert_close(described["v"], discriminants(features, labels, ridge=0.01).float())
    torch.testing.assert_close(
        described["spectrum"], discriminant_spectrum(features, labels, ridge=0.01).float()
    )
    torch.testing.assert_close(described["S_a"], scatter_matrices(features, labels).S_a.float())
    assert described["active"].tolist() == [1.0] * 4
