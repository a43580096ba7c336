"""The gallery: the right images of the right kind, drawn by seed, with the counts of all four outcomes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.files import read_csv
from pipeline.robustness.gallery import save_gallery
from pipeline.robustness.outcomes import Predictions

N = 12
LABELS = torch.zeros(N, dtype=torch.int64)
CLEAN = torch.arange(N).float().view(N, 1, 1, 1) / 100
COUNTS = ("only_first", "only_second", "both", "neither")


def said(wrong: list[int]) -> Predictions:
    """Class 0 with a confidence of 0.9, but class 1 with 0.8 for some images."""
    is_wrong = torch.zeros(N, dtype=torch.bool)
    is_wrong[wrong] = True
    return Predictions(is_wrong.long(), torch.where(is_wrong, 0.8, 0.9).double())


def saved(
    folder: Path,
    *,
    base: list[int],
    pruned: list[int],
    seed_of: Callable[[str], int] = lambda _: 7,
) -> tuple[dict[str, int], list[dict[str, str]], dict[str, Tensor]]:
    """Counts, rows and images of an attack that fools the models on these images; image 0 fools the base when clean."""
    folder.mkdir(exist_ok=True)
    models = {"original": (said([0]), said(base)), "parameter_first": (said([]), said(pruned))}
    save_gallery(folder, LABELS, models, CLEAN, CLEAN + 0.5, n_images=2, seed_of=seed_of)
    (counts,) = read_csv(folder / "outcomes.csv")
    rows, images = read_csv(folder / "gallery.csv"), load_file(folder / "gallery.safetensors")
    return {name: int(value) for name, value in counts.items()}, rows, images


def of_kind(rows: list[dict[str, str]], fooled: str) -> list[int]:
    return [int(row["image"]) for row in rows if row["fooled"] == fooled]


@pytest.mark.parametrize(
    ("base", "pruned", "counts"),
    [([0, 1, 2, 3, 4, 6], [5, 6], (4, 1, 1, 5)), ([0], [], (0, 0, 0, 11))],
)
def test_counts_are_of_all_four_outcomes(
    tmp_path: Path, base: list[int], pruned: list[int], counts: tuple[int, ...]
) -> None:
    # Image 0 is wrong when clean, and in no outcome.
    found, _, _ = saved(tmp_path, base=base, pruned=pruned)
    assert tuple(found[name] for name in COUNTS) == counts


def test_pictures_are_of_the_images_in_the_rows(tmp_path: Path) -> None:
    _, rows, images = saved(tmp_path, base=[0, 1, 2, 3, 4, 6], pruned=[5, 6])
    of_base = of_kind(rows, "only_original")
    assert len(of_base) == 2
    assert set(of_base) < {1, 2, 3, 4}
    assert of_kind(rows, "only_pruned") == [5]
    assert torch.equal(images["only_original.clean"], CLEAN[of_base])
    assert torch.equal(images["only_original.attacked"], CLEAN[of_base] + 0.5)
    assert torch.equal(images["only_pruned.clean"], CLEAN[[5]])
    assert torch.equal(images["only_pruned.attacked"], CLEAN[[5]] + 0.5)
    (row,) = (row for row in rows if row["fooled"] == "only_pruned")
    assert (row["first_attacked_class"], row["second_attacked_class"]) == ("0", "1")
    assert (row["first_attacked_confidence"], row["second_attacked_confidence"]) == ("0.9", "0.8")


def test_where_nobody_was_fooled_there_are_no_rows_and_no_images(tmp_path: Path) -> None:
    _, rows, images = saved(tmp_path, base=[0], pruned=[])
    assert rows == []
    assert (tmp_path / "gallery.csv").read_text(encoding="utf-8").startswith("fooled,image,label,")
    assert {images[name].shape for name in images} == {(0, 1, 1, 1)}


def test_the_seed_of_each_kind_draws_its_images(tmp_path: Path) -> None:
    everyone = [*range(1, 6)], [*range(6, 12)]

    def drawn(name: str, seed_of: Callable[[str], int]) -> tuple[list[int], list[int]]:
        _, rows, _ = saved(tmp_path / name, base=everyone[0], pruned=everyone[1], seed_of=seed_of)
        return of_kind(rows, "only_original"), of_kind(rows, "only_pruned")

    first = drawn("first", lambda _: 7)
    assert drawn("again", lambda _: 7) == first
    others = [
        drawn(str(seed), lambda fooled, seed=seed: seed if fooled == "only_original" else 7)
        for seed in range(8)
    ]
    assert {pruned == first[1] for _, pruned in others} == {True}
    assert len({tuple(base) for base, _ in others}) > 1
