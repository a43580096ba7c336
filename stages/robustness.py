"""Put every model on the same clean, noisy and attacked test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compared import ORIGINAL, attacked_models, pairs_of
from pipeline.jobs.job import Input, Job, Workplace
from pipeline.jobs.stage import run_stage
from pipeline.robustness.conditions import CLEAN, Condition, list_conditions

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics
    from pipeline.params.perturbations import Attack, Noise
    from pipeline.params.pruning import AfterTheFact, Compare
    from pipeline.params.robustness import Lineup, Robustness, Source

METRICS = "accuracy_drop.json"


def jobs(
    runs: Path,
    *,
    seeds: list[int],
    numerics: Numerics,
    after_the_fact: AfterTheFact | None,
    compare: Compare | None,
    lineup: Lineup | None,
    sources: Mapping[str, Source],
    noise: Mapping[str, Noise],
    attacks: Mapping[str, Attack],
    robustness: Robustness,
) -> Iterator[Job]:
    """One for each seed and condition, clean images first: the others are held against them."""
    for seed in seeds:
        settings = {
            "seed": seed,
            "numerics": numerics,
            "settings": robustness,
            "pairs": pairs_of(after_the_fact, lineup),
        }
        shared: dict[str, Input] = {
            "prepared": runs / "prepare",
            "models": attacked_models(runs, seed, after_the_fact, lineup, compare, [*sources]),
        }
        clean: Job | None = None
        for condition in list_conditions(noise, attacks, sources):
            inputs = (
                shared
                if clean is None
                else shared | {"clean": clean, "images": _folder(runs, seed, condition)}
            )
            name = {"condition": condition.name, "kind": condition.kind}
            job = Job({"seed": seed, "condition": condition.name}, settings | name, inputs)
            clean = clean or job
            yield job


def _folder(runs: Path, seed: int, condition: Condition) -> Path:
    if condition.kind == "noise":
        return runs / "noise" / condition.key
    return runs / "craft" / str(seed) / condition.source / condition.key


def work(
    place: Workplace,
    *,
    seed: int,
    condition: str,
    kind: str,
    numerics: Numerics,
    settings: Robustness,
    pairs: list[tuple[str, str]],
    prepared: Path,
    models: Mapping[str, Path],
    clean: Path | None = None,
    images: Path | None = None,
) -> str:
    """Writes `accuracy.csv` (`collapsed`: no better than chance), `reliability.csv`, `predictions.safetensors` and,
    unless the images are the clean ones, `perturbations.csv`, `pairs.csv` and, of an attack, who was fooled, with
    pictures."""
    from pipeline.checkpoint import load_classifier
    from pipeline.files import write_csv
    from pipeline.images.parts import load_parts
    from pipeline.machine.device import configure_torch
    from pipeline.machine.seeding import derive_seed
    from pipeline.robustness.calibration import confidence_summary, reliability_rows
    from pipeline.robustness.gallery import save_gallery
    from pipeline.robustness.outcomes import (
        load_images,
        load_predictions,
        perturbation_norms,
        predict,
        save_predictions,
    )
    from pipeline.robustness.paired import compare_pairs
    from pipeline.training.predict import at_chance
    from pipeline.uncertainty import counts_of

    device = configure_torch(numerics)
    test = load_parts(prepared, device, workers=place.workers).perturbed
    labels, unperturbed = test.labels.cpu(), test.scaled()
    perturbed = unperturbed if images is None else load_images(images, labels).to(device)
    found = {
        name: predict(load_classifier(path).to(device), perturbed, batch_size=numerics.eval_batch_size)
        for name, path in models.items()
    }
    accuracy = [
        {"model": name, "collapsed": int(at_chance(each.n_correct(labels), labels.bincount()))}
        | counts_of(each.hits(labels).numpy())
        | confidence_summary(each, labels, n_bins=settings.calibration_bins)
        for name, each in found.items()
    ]
    write_csv(place.out / "accuracy.csv", accuracy)
    reliability = [
        {"model": name} | row
        for name, each in found.items()
        for row in reliability_rows(each, labels, n_bins=settings.calibration_bins)
    ]
    write_csv(place.out / "reliability.csv", reliability)
    save_predictions(place.out / "predictions.safetensors", found)
    hits = ", ".join(f"{row['model']} {row['n_correct']}" for row in accuracy[:2])
    if clean is None:
        return f"{hits} of {len(labels)} correct"
    write_csv(place.out / "perturbations.csv", [perturbation_norms(unperturbed, perturbed)])
    before = load_predictions(clean / "predictions.safetensors")
    write_csv(place.out / "pairs.csv", compare_pairs(pairs, before, found, labels))
    if kind == "attack":
        save_gallery(
            place.out,
            labels,
            {name: (before[name], found[name]) for name in (ORIGINAL, "parameter_first")},
            unperturbed,
            perturbed,
            n_images=settings.gallery_images,
            seed_of=lambda fooled: derive_seed(settings.gallery_seed, seed, condition, fooled),
        )
    return f"{hits} of {len(labels)} correct"


def metrics(folder: Path) -> dict[str, Any]:
    """By seed, model and condition: accuracy less that on clean images."""
    from pipeline.files import read_csv

    rows = read_csv(folder / "accuracy.csv")
    clean = {(row["seed"], row["model"]): int(row["n_correct"]) for row in rows if row["condition"] == CLEAN}
    found: dict[str, Any] = {}
    for row in rows:
        if row["condition"] != CLEAN:
            lost = int(row["n_correct"]) - clean[row["seed"], row["model"]]
            of_model = found.setdefault(row["seed"], {}).setdefault(row["model"], {})
            of_model[row["condition"]] = round(lost / int(row["n"]), 6)
    return found


if __name__ == "__main__":
    run_stage("stages.robustness")
