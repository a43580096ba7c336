import math

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from pipeline.lda import (
    active_neurons,
    describe_latent,
    discriminant_spectrum,
    discriminants,
    discriminants_decorrelated,
    push_loss,
    scatter_matrices,
)
from pipeline.params import Lda

# Two classes of two: means (1, 1) and (5, 3), grand mean (3, 2).
FEATURES = torch.tensor([[0.0, 0.0], [2.0, 2.0], [4.0, 2.0], [6.0, 4.0]], dtype=torch.float64)
LABELS = torch.tensor([7, 7, 3, 3])


def lda_weights(**changes: float | int | None) -> Lda:
    fields: dict[str, float | int | None] = {
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
    return Lda(**(fields | changes))  # type: ignore[arg-type]


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


def test_duplicating_the_batch_changes_neither_scatter_nor_any_term_of_the_push_loss() -> None:
    features, labels = random_batch(3, 8, 4)
    twice, labels_twice = features.repeat(2, 1), labels.repeat(2)
    for one, other in zip(
        scatter_matrices(features, labels), scatter_matrices(twice, labels_twice), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)
    one_loss = push_loss(features, labels, lda_weights())
    other_loss = push_loss(twice, labels_twice, lda_weights())
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
    expected = np.diag(scipy.linalg.inv(within + ridge * np.eye(6)) @ between)
    np.testing.assert_allclose(discriminants(features, labels, ridge=ridge).numpy(), expected, rtol=1e-8)


def test_decorrelated_discriminants_are_ratios_of_variances() -> None:
    v = discriminants_decorrelated(FEATURES, LABELS, ridge=0.25)
    assert v.tolist() == [4.0 / 1.25, 1.0 / 1.25]


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


@pytest.mark.parametrize(
    "kind",
    ["random", "duplicated column", "zero variance", "constant within classes", "fewer images than neurons"],
)
def test_spectrum_equals_scipys_generalised_eigenvalues(kind: str) -> None:
    features, labels = near_singular(kind)
    ridge, d = 1e-3, features.shape[1]
    within, between = scatter_by_loops(features.numpy(), labels.numpy())
    expected = scipy.linalg.eigh(between, within + ridge * np.eye(d), eigvals_only=True)[::-1]
    spectrum = discriminant_spectrum(features, labels, ridge=ridge).numpy()
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


def test_push_loss_passes_gradcheck() -> None:
    features, labels = random_batch(3, 8, 4)
    features.requires_grad_(True)
    weights = lda_weights(gamma=0.7, beta=0.3)
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


def test_features_without_any_activity_give_zero_loss_and_zero_gradient() -> None:
    features = torch.zeros(16, 5, requires_grad=True)
    terms = push_loss(features, torch.arange(2).repeat_interleave(8), lda_weights())
    terms.loss.backward()
    assert [float(t.detach()) for t in terms[:4]] == [0.0, 0.0, 0.0, 0.0]
    assert (terms.n_active, terms.top_share) == (0, 0.0)
    assert features.grad is not None
    assert features.grad.abs().sum() == 0


def test_features_whose_class_means_coincide_give_a_finite_loss_and_gradient() -> None:
    rows = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    features = torch.cat([rows, rows]).requires_grad_(True)
    terms = push_loss(features, torch.arange(2).repeat_interleave(8), lda_weights())
    terms.loss.backward()
    assert math.isfinite(float(terms.loss.detach()))
    assert features.grad is not None
    assert bool(features.grad.isfinite().all())


def test_top_share_is_the_largest_discriminants_share_of_the_sum() -> None:
    features, labels = random_batch(3, 8, 4)
    v = discriminants(features, labels, ridge=1e-3)
    assert push_loss(features, labels, lda_weights()).top_share == pytest.approx(float(v.max() / v.sum()))


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
