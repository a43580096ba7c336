from collections import Counter

import pytest
import torch
from torch import Tensor

from pipeline.training.batches import Batching, balanced_batches, shuffled_batches


def dealt(batching: Batching, labels: Tensor, seed: int = 0) -> list[Tensor]:
    return list(batching(labels, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 12, 13, 16, 17])
def test_shuffled_batches_hold_every_image_once(n: int) -> None:
    batches = dealt(shuffled_batches(4), torch.zeros(n))
    assert sorted(torch.cat(batches).tolist()) == list(range(n))


@pytest.mark.parametrize(
    ("n", "sizes"), [(8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2]), (5, [5]), (3, [3]), (1, [1])]
)
def test_a_last_batch_of_one_image_joins_the_one_before(n: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in dealt(shuffled_batches(4), torch.zeros(n))] == sizes


@pytest.mark.parametrize("batching", [shuffled_batches(16), balanced_batches(4, 3)])
def test_batches_depend_on_the_generator_alone(batching: Batching) -> None:
    labels = torch.arange(5).repeat(20)
    torch.manual_seed(0)
    first = torch.cat(dealt(batching, labels))
    torch.manual_seed(1)
    assert torch.equal(first, torch.cat(dealt(batching, labels)))
    assert not torch.equal(first, torch.cat(dealt(batching, labels, seed=1)))


def test_shuffled_batches_are_in_no_order() -> None:
    order = torch.cat(dealt(shuffled_batches(16), torch.zeros(200)))
    assert not torch.equal(order, order.sort().values)


def uneven_labels() -> Tensor:
    """Classes 2, 5, 7 and 9 with 30, 20, 11 and 3 images, mixed."""
    labels = torch.tensor([2] * 30 + [5] * 20 + [7] * 11 + [9] * 3)
    return labels[torch.randperm(64, generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(("classes_per_batch", "expected"), [(None, 4), (4, 4), (99, 4), (3, 3), (2, 2)])
def test_balanced_batches_hold_the_same_number_of_each_of_their_classes(
    classes_per_batch: int | None, expected: int
) -> None:
    labels = uneven_labels()
    batches = dealt(balanced_batches(8, classes_per_batch), labels)
    for batch in batches:
        counts = Counter(labels[batch].tolist())
        assert len(counts) == expected
        assert set(counts.values()) == {8}
    assert len(batches) == round(64 / (8 * expected))


def test_subsets_of_classes_are_random_and_leave_none_out() -> None:
    labels = torch.arange(6).repeat_interleave(60)
    subsets = [tuple(sorted(set(labels[batch].tolist()))) for batch in dealt(balanced_batches(8, 2), labels)]
    assert len(set(subsets)) > 5
    assert set().union(*subsets) == set(range(6))


def test_within_a_class_no_image_repeats_before_all_have_been_seen() -> None:
    labels = uneven_labels()
    drawn: dict[int, list[int]] = {2: [], 5: [], 7: [], 9: []}
    for batch in dealt(balanced_batches(3, None), labels):
        for idx in batch.tolist():
            drawn[int(labels[idx])].append(idx)
    for label, n in {2: 30, 5: 20, 7: 11, 9: 3}.items():
        assert len(drawn[label]) == 15  # five batches of three
        rounds = [drawn[label][start : start + n] for start in range(0, 15, n)]
        assert all(len(set(dealt_round)) == len(dealt_round) for dealt_round in rounds)
        assert {int(labels[idx]) for idx in drawn[label]} == {label}


def test_a_class_smaller_than_its_share_is_dealt_as_evenly_as_possible() -> None:
    labels = torch.tensor([0] * 40 + [1] * 3)
    (batch, *_) = dealt(balanced_batches(8, None), labels)
    counts = Counter(idx for idx in batch.tolist() if idx >= 40)
    assert sorted(counts.values()) == [2, 3, 3]


def test_a_set_smaller_than_a_batch_still_gives_one() -> None:
    assert len(dealt(balanced_batches(50, None), torch.tensor([0, 1, 0, 1]))) == 1
