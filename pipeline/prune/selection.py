"""Which samples to carry on with: accuracy first and parameter first (thesis section 3.3.3, Table 3-1)."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.files import read_csv


@dataclass(frozen=True)
class Entry:
    """One pruned sample by its counts on validation."""

    round: str
    sample: str
    eta: float
    params: int
    flops: int
    n: int
    n_correct: int


@dataclass(frozen=True)
class Selection:
    """The two selected samples; `within_drop` says whether the parameter-first one meets its condition."""

    accuracy_first: Entry
    parameter_first: Entry
    within_drop: bool


def select_models(entries: list[Entry], *, original_n_correct: int, max_drop: float) -> Selection:
    """Accuracy first: the best on validation. Parameter first: the smallest within `max_drop` of the original.

    Ties go to the smaller and then to the more accurate one. Where no sample is within the drop, the
    accuracy-first one stands in and `within_drop` is false.

    Raises:
        ValueError: if there is no sample.
    """
    if not entries:
        raise ValueError("expected at least one pruned sample to select from, got none")
    accuracy_first = min(entries, key=lambda entry: (-entry.n_correct, entry.params))
    # In counts, with a hair for the product's rounding, so that exactly `max_drop` is within.
    good = [e for e in entries if original_n_correct - e.n_correct <= max_drop * e.n + 1e-9 * e.n]
    if not good:
        return Selection(accuracy_first, accuracy_first, False)
    return Selection(accuracy_first, min(good, key=lambda e: (e.params, -e.n_correct)), True)


def read_entries(pruned: Path) -> list[Entry]:
    """All samples of a pipeline's rounds in their order, `round1/samples.csv` and so on; none after the stop."""
    entries, number = list[Entry](), 1
    while (table := pruned / f"round{number}" / "samples.csv").exists():
        for row in read_csv(table):
            counts = {key: int(row[key]) for key in ("params", "flops", "n", "n_correct")}
            entries.append(Entry(f"round{number}", row["sample"], float(row["eta"]), **counts))
        number += 1
    return entries
