"""The gallery: the right images of the right kind, drawn by seed, with the counts of all four outcomes."""

import csv
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.params.robustness import Robustness
from pipeline.robustness.gallery import Gallery
from pipeline.robustness.outcomes import Predictions

N = 12
LABELS = torch.zeros(N, dtype=torch.int64)
CLEAN = torch.arange(N).float().view(N, 1, 1, 1) / 100
SETTINGS = Robustness(bootstrap_resamples=100, calibration_bins=2, gallery_images=2, gallery_seed=0)


def said(wrong: list[int]) -> Predictions:
    """Class 0 with a confidence of 0.9, but class 1 with 0.8 for some images."""
    probabilities = torch.tensor([[0.9, 0.1]]).repeat(N, 1)
    probabilities[wrong] = torch.tensor([0.2, 0.8])
    return Predictions(probabilities)


def saved(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, str]], dict[str, Tensor]]:
    # Image 0 is wrong when clean, and in no outcome; 1-4 fool the base alone, 5 the pruned alone, 6 both.
    gallery = Gallery(7, SETTINGS, LABELS)
    base = {"clean": said([0]), "fgsm": said([0, 1, 2, 3, 4, 6])}
    pruned = {"clean": said([]), "fgsm": said([5, 6])}
    gallery.add("fgsm", base, pruned, CLEAN, CLEAN + 0.5)
    gallery.add("none", base | {"none": said([])}, pruned | {"none": said([])}, CLEAN, CLEAN)
    folder.mkdir()
    gallery.save(folder)
    tables = []
    for name in ("gallery", "outcomes"):
        with (folder / f"{name}.csv").open(encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    return tables[0], tables[1], load_file(folder / "gallery.safetensors")


def test_counts_are_of_all_four_outcomes(tmp_path: Path) -> None:
    _, outcomes, _ = saved(tmp_path / "out")
    fgsm, none = outcomes
    assert [fgsm[key] for key in ("only_first", "only_second", "both", "neither")] == ["4", "1", "1", "5"]
    assert [none[key] for key in ("only_first", "only_second", "both", "neither")] == ["0", "0", "0", "11"]


def test_pictures_are_of_the_images_in_the_rows(tmp_path: Path) -> None:
    rows, _, images = saved(tmp_path / "out")
    of_base = [int(row["image"]) for row in rows if row["fooled"] == "only_base"]
    of_pruned = [int(row["image"]) for row in rows if row["fooled"] == "only_pruned"]
    assert len(of_base) == 2
    assert set(of_base) < {1, 2, 3, 4}
    assert of_pruned == [5]
    assert torch.equal(images["fgsm.only_base.clean"], CLEAN[of_base])
    assert torch.equal(images["fgsm.only_base.attacked"], CLEAN[of_base] + 0.5)
    assert torch.equal(images["fgsm.only_pruned.clean"], CLEAN[[5]])
    assert images["none.only_base.clean"].shape == (0, 1, 1, 1)
    (row,) = (row for row in rows if row["fooled"] == "only_pruned")
    assert (row["first_attacked_class"], row["second_attacked_class"]) == ("0", "1")
    assert (row["first_attacked_confidence"], row["second_attacked_confidence"]) == ("0.9", "0.8")


def test_the_same_seed_draws_the_same_images(tmp_path: Path) -> None:
    assert saved(tmp_path / "first")[0] == saved(tmp_path / "second")[0]
