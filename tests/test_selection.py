from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipeline.files import write_csv
from pipeline.prune.selection import Entry, Selection, read_entries, select_models


def entry(n_correct: int, params: int, *, n: int = 1000, name: str = "round1") -> Entry:
    return Entry(
        round=name,
        sample=f"eta{params}",
        eta=1.0,
        params=params,
        flops=10 * params,
        n=n,
        n_correct=n_correct,
    )


def test_accuracy_first_is_the_best_and_parameter_first_the_smallest_within_the_drop() -> None:
    best, small, too_small = entry(990, 900), entry(981, 300), entry(979, 100)
    selection = select_models([small, too_small, best], original_n_correct=990, max_drop=0.01)
    assert selection == Selection(best, small, within_drop=True)


@pytest.mark.parametrize(("n", "max_drop"), [(1000, 0.01), (100, 0.07), (100, 0.29), (360, 0.05)])
def test_exactly_the_allowed_drop_is_within_and_one_image_more_is_not(n: int, max_drop: float) -> None:
    base = n - 3
    allowed = round(max_drop * n)
    best, at_limit, over = entry(base, 900, n=n), entry(base - allowed, 300, n=n), None
    assert (
        select_models([best, at_limit], original_n_correct=base, max_drop=max_drop).parameter_first
        == at_limit
    )
    over = entry(base - allowed - 1, 300, n=n)
    assert select_models([best, over], original_n_correct=base, max_drop=max_drop).parameter_first == best


def test_the_drop_is_measured_from_the_original_and_not_from_the_best_sample() -> None:
    best, small = entry(999, 900), entry(980, 300)
    selection = select_models([best, small], original_n_correct=985, max_drop=0.005)
    assert selection.parameter_first == small


def test_equally_accurate_samples_give_the_smaller_as_accuracy_first() -> None:
    large, small = entry(990, 900), entry(990, 800)
    for entries in ([large, small], [small, large]):
        assert select_models(entries, original_n_correct=1000, max_drop=0.001).accuracy_first == small


def test_equally_small_samples_give_the_more_accurate_as_parameter_first() -> None:
    best, worse, better = entry(995, 900), entry(985, 300), entry(986, 300)
    for entries in ([best, worse, better], [better, worse, best]):
        assert select_models(entries, original_n_correct=990, max_drop=0.01).parameter_first == better


def test_without_a_sample_within_the_drop_the_accuracy_first_one_stands_in_and_says_so() -> None:
    best, small = entry(900, 900), entry(890, 300)
    selection = select_models([small, best], original_n_correct=990, max_drop=0.01)
    assert selection == Selection(best, best, within_drop=False)


def test_samples_of_all_rounds_compete() -> None:
    first, second = entry(985, 500, name="round1"), entry(985, 400, name="round2")
    assert select_models([first, second], original_n_correct=990, max_drop=0.01).parameter_first == second


def test_a_sample_by_size_competes_with_one_by_eta_and_is_known_by_its_name() -> None:
    by_eta, by_size = entry(985, 500), entry(985, 400)
    by_size = replace(by_size, sample="size0.25")
    selection = select_models([by_eta, by_size], original_n_correct=990, max_drop=0.01)
    assert selection.parameter_first.sample == "size0.25"


def test_nothing_to_select_from_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        select_models([], original_n_correct=10, max_drop=0.01)


def test_the_samples_of_all_rounds_are_read_in_their_order(tmp_path: Path) -> None:
    rounds = {"round1": [entry(985, 500), entry(984, 450)], "round2": [entry(983, 400, name="round2")]}
    for name, entries in rounds.items():
        rows = [{key: value for key, value in asdict(each).items() if key != "round"} for each in entries]
        write_csv(tmp_path / name / "samples.csv", [row | {"latent_kept": 3, "chosen": 0} for row in rows])
    assert read_entries(tmp_path) == [*rounds["round1"], *rounds["round2"]]
    assert read_entries(tmp_path / "elsewhere") == []
