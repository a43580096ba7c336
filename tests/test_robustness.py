"""Predictions, who is fooled where the other is not, examples drawn by seed, and what is stored of them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.robustness.gallery import BeforeAndAfter, compare_outcomes, gallery_rows, pick_examples
from pipeline.robustness.outcomes import (
    Predictions,
    load_images,
    load_predictions,
    perturbation_norms,
    predict,
    save_predictions,
)

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting


def said(classes: list[int], confidence: float = 0.75) -> Predictions:
    """Predictions of these classes, all with this confidence."""
    return Predictions(torch.tensor(classes), torch.full((len(classes),), confidence, dtype=torch.float64))


# Image 0 fools neither, 1 only the first, 2 only the second, 3 both; 4 to 7 do the same in the order only
# second, only first, both, neither, but somebody got them wrong when clean.
LABELS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7])
FIRST: BeforeAndAfter = said([0, 1, 2, 3, 9, 5, 9, 7]), said([0, 9, 2, 9, 4, 9, 9, 7])
SECOND: BeforeAndAfter = said([0, 1, 2, 3, 4, 9, 9, 9]), said([0, 1, 9, 9, 9, 5, 9, 7])


def masks() -> list[Tensor]:
    found = compare_outcomes(LABELS, FIRST, SECOND)
    return [found[kind] for kind in ("only_first", "only_second", "both", "neither")]


def test_outcomes_name_the_model_that_was_fooled() -> None:
    only_first, only_second, both, neither = (mask.nonzero().flatten().tolist() for mask in masks())
    assert (only_first, only_second, both, neither) == ([1], [2], [3], [0])


def test_outcomes_part_the_images_that_both_models_got_right_when_clean() -> None:
    eligible = torch.tensor([True] * 4 + [False] * 4)
    assert torch.equal(sum(mask.int() for mask in masks()), eligible.int())  # type: ignore[arg-type]


def test_outcome_counts_are_the_sizes_of_the_masks() -> None:
    labels = torch.zeros(8, dtype=torch.int64)
    first = said([0] * 8), said([1, 1, 1, 1, 1, 1, 0, 0])
    second = said([0] * 8), said([1, 1, 1, 0, 0, 0, 1, 0])
    masks = compare_outcomes(labels, first, second)
    assert {kind: int(mask.sum()) for kind, mask in masks.items()} == {
        "only_first": 3,
        "only_second": 1,
        "both": 3,
        "neither": 1,
    }


def test_perturbation_norms_are_means_and_the_largest_of_each_images_norm() -> None:
    clean = torch.full((2, 1, 2, 2), 0.5)
    perturbed = clean.clone()
    perturbed[0, 0, 0] += torch.tensor([0.3, -0.4])
    perturbed[1, 0, 1, 1] -= 0.1
    norms = perturbation_norms(clean, perturbed)
    assert norms["l2"] == pytest.approx((0.5 + 0.1) / 2, rel=1e-6)
    assert norms["linf"] == pytest.approx((0.4 + 0.1) / 2, rel=1e-6)
    assert (norms["l2_max"], norms["linf_max"]) == (
        pytest.approx(0.5, rel=1e-6),
        pytest.approx(0.4, rel=1e-6),
    )


def test_predictions_hold_the_class_and_its_softmax_probability() -> None:
    net = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    images = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, -1.0]])
    found = predict(net, images, batch_size=2)
    assert found.predicted.tolist() == [0, 1, 2]
    e = torch.e
    expected = [e**2 / (e**2 + 2), e**3 / (e**3 + 2), 1 / (1 + 2 / e)]
    assert found.confidence.tolist() == pytest.approx(expected, rel=1e-6)
    assert found.n_correct(torch.tensor([0, 1, 1])) == 2
    assert found.hits(torch.tensor([0, 1, 1])).tolist() == [True, True, False]
    assert found.confidence.dtype == torch.float64


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_predictions_are_the_same_for_every_batch_size(batch_size: int) -> None:
    net = nn.Linear(4, 3)
    images = torch.rand(7, 4, generator=torch.Generator().manual_seed(0))
    found = predict(net, images, batch_size=batch_size)
    confidence, predicted = net(images).detach().softmax(1).max(1)
    torch.testing.assert_close(found.confidence, confidence.double())
    assert torch.equal(found.predicted, predicted)
    assert not found.confidence.requires_grad


def test_predictions_come_from_the_model_in_evaluation_mode() -> None:
    net = nn.Sequential(nn.Dropout(0.9), nn.Linear(4, 3)).train()
    images = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    expected = net[1](images).detach().softmax(1).max(1).values
    torch.testing.assert_close(predict(net, images, batch_size=50).confidence, expected.double())


def test_stored_predictions_come_back_bit_for_bit(tmp_path: Path) -> None:
    images = torch.rand(9, 4, generator=torch.Generator().manual_seed(0))
    found = {name: predict(nn.Linear(4, 3), images, batch_size=4) for name in ("base", "l1_at_size")}
    save_predictions(tmp_path / "predictions.safetensors", found)
    again = load_predictions(tmp_path / "predictions.safetensors")
    assert set(again) == set(found)
    for name, each in found.items():
        assert torch.equal(again[name].predicted, each.predicted)
        assert torch.equal(again[name].confidence, each.confidence)
        assert again[name].confidence.dtype == torch.float64


def test_stored_images_of_other_labels_are_refused(tmp_path: Path) -> None:
    images = torch.rand(3, 1, 2, 2).half()
    save_file({"images": images, "labels": torch.tensor([0, 1, 2])}, tmp_path / "images.safetensors")
    assert torch.equal(load_images(tmp_path, torch.tensor([0, 1, 2])), images.float())
    with pytest.raises(InputError, match="labels of this test part"):
        load_images(tmp_path, torch.tensor([0, 2, 1]))


def test_examples_come_from_the_mask_ascending_and_the_same_for_the_same_seed() -> None:
    mask = torch.rand(200, generator=torch.Generator().manual_seed(0)) < 0.4
    picked = pick_examples(mask, 6, 3)
    assert picked == pick_examples(mask.clone(), 6, 3)
    assert picked == sorted(set(picked))
    assert len(picked) == 6
    assert all(bool(mask[idx]) for idx in picked)
    assert {type(idx) for idx in picked} == {int}


def test_another_seed_picks_other_examples_and_the_first_are_not_always_picked() -> None:
    mask = torch.ones(100, dtype=torch.bool)
    picks = {tuple(pick_examples(mask, 5, seed)) for seed in range(10)}
    assert len(picks) == 10
    assert max(max(pick) for pick in picks) > 50


def test_fewer_candidates_than_asked_for_are_all_picked() -> None:
    mask = torch.tensor([False, True, False, True])
    assert pick_examples(mask, 6, 0) == [1, 3]
    assert pick_examples(torch.zeros(4, dtype=torch.bool), 6, 0) == []


def test_gallery_rows_say_what_each_model_said_clean_and_attacked() -> None:
    first = said([4, 5], 0.91234567), said([6, 7], 0.5)
    second = said([1, 2], 0.25), said([3, 8], 0.125)
    (row,) = gallery_rows([1], torch.tensor([0, 5]), first, second)
    assert row == {
        "image": 1,
        "label": 5,
        "first_clean_class": 5,
        "first_clean_confidence": 0.9123,
        "first_attacked_class": 7,
        "first_attacked_confidence": 0.5,
        "second_clean_class": 2,
        "second_clean_confidence": 0.25,
        "second_attacked_class": 8,
        "second_attacked_confidence": 0.125,
    }
