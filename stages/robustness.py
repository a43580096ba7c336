"""Put every model on the same clean, noisy and attacked test images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.checkpoint import load_classifier
from pipeline.data.images import Images, load_parts
from pipeline.errors import InputError
from pipeline.machine.seeding import configure_torch, derive_seed
from pipeline.robustness.calibration import confidence_summary, reliability_rows
from pipeline.robustness.conditions import CLEAN, Condition, list_conditions, list_models, list_pairs
from pipeline.robustness.gallery import Gallery
from pipeline.robustness.outcomes import Predictions, perturbation_norms, predict
from pipeline.robustness.paired import compare_pair
from pipeline.workflow.files import write_csv, write_json
from pipeline.workflow.stage import StageRun, run_stage
from pipeline.workflow.tables import CONFIDENCE_LEVEL

# By model, then by condition.
AllPredictions = dict[str, dict[str, Predictions]]


def robustness(run: StageRun) -> str:
    """Writes accuracies, confidences, paired comparisons, galleries, and the drops that DVC shows."""
    runtime, lineup = run.params.runtime, run.params.lineup
    device = configure_torch(runtime)
    test = load_parts(run.artefact("prepare"), device, workers=runtime.workers).perturbed
    labels = test.labels.cpu()
    models = {
        name: load_classifier(run.artefact(run.seed, folder) / file).to(device)
        for name, (folder, file) in list_models(lineup.size, lineup.competitors, run.params.sources).items()
    }
    predictions: AllPredictions = {name: {} for name in models}
    clean = test.scaled()
    gallery = Gallery(run.seed, run.params.robustness, labels)
    perturbations = []
    # One condition's images at a time: large ones do not fit in memory all at once.
    for condition, images in _perturbed(run, test, clean):
        perturbations.append(
            {"seed": run.seed, "condition": condition.name} | perturbation_norms(clean, images)
        )
        for name, model in models.items():
            predictions[name][condition.name] = predict(model, images, batch_size=runtime.eval_batch_size)
        if condition.kind == "attack":
            gallery.add(condition.name, predictions["base"], predictions["parameter_first"], clean, images)
    write_csv(run.out / "perturbations.csv", perturbations)
    write_csv(run.out / "accuracy.csv", _accuracy(run, predictions, labels))
    write_csv(run.out / "reliability.csv", _reliability(run, predictions, labels))
    write_csv(run.out / "pairs.csv", _pairs(run, predictions, labels))
    _save_predictions(run.out / "predictions.safetensors", predictions, labels)
    gallery.save(run.out)
    drops = {name: _drops(each, labels) for name, each in predictions.items()}
    write_json(run.metrics(run.seed, "accuracy_drop.json"), drops)
    worst = min(drops["base"], key=lambda condition: drops["base"][condition])
    return (
        f"{worst}: base {drops['base'][worst]:+.2%}, parameter first {drops['parameter_first'][worst]:+.2%}"
    )


def _perturbed(run: StageRun, test: Images, clean: Tensor) -> Iterator[tuple[Condition, Tensor]]:
    """Every condition that the params name (never what else lies in the folders), and its images."""
    for each in list_conditions(run.params.noise, run.params.attacks, run.params.sources):
        if each.kind == CLEAN:
            yield each, clean
            continue
        folder = (
            run.artefact("noise", each.key)
            if each.kind == "noise"
            else run.artefact(run.seed, "craft", each.source, each.key)
        )
        held = load_file(folder / "images.safetensors")
        if not torch.equal(held["labels"], test.labels.cpu()):
            raise InputError(f"{folder}: expected the labels of this test part, got others; run `dvc repro`")
        yield each, held["images"].to(test.device).float()


def _accuracy(run: StageRun, predictions: AllPredictions, labels: Tensor) -> list[dict[str, Any]]:
    n_bins = run.params.robustness.calibration_bins
    return [
        {"seed": run.seed, "model": name, "condition": condition}
        | confidence_summary(found.probabilities, labels, n_bins=n_bins)
        for name, each in predictions.items()
        for condition, found in each.items()
    ]


def _reliability(run: StageRun, predictions: AllPredictions, labels: Tensor) -> list[dict[str, Any]]:
    n_bins = run.params.robustness.calibration_bins
    return [
        {"seed": run.seed, "model": name, "condition": condition} | row
        for name, each in predictions.items()
        for condition, found in each.items()
        for row in reliability_rows(found.probabilities, labels, n_bins=n_bins)
    ]


def _pairs(run: StageRun, predictions: AllPredictions, labels: Tensor) -> list[dict[str, Any]]:
    """Each pair of models under each condition, paired by image."""
    settings = run.params.robustness
    hits = {
        name: {condition: found.hits(labels).numpy() for condition, found in each.items()}
        for name, each in predictions.items()
    }
    rows = []
    for first, second in list_pairs(run.params.lineup.competitors):
        for condition in hits[first]:
            if condition == CLEAN:
                continue
            compared = compare_pair(
                (hits[first][CLEAN], hits[first][condition]),
                (hits[second][CLEAN], hits[second][condition]),
                confidence=CONFIDENCE_LEVEL,
                n_resamples=settings.bootstrap_resamples,
                seed=derive_seed(run.seed, "bootstrap", first, second, condition),
            )
            rows.append(
                {"seed": run.seed, "first": first, "second": second, "condition": condition}
                | {"n": compared.n, "change": compared.change, "low": compared.low, "high": compared.high}
                | {"only_first": compared.only_first, "only_second": compared.only_second}
                | {"p_value": compared.p_value}
            )
    return rows


def _drops(each: dict[str, Predictions], labels: Tensor) -> dict[str, float]:
    clean = each[CLEAN].n_correct(labels)
    return {
        condition: round((found.n_correct(labels) - clean) / len(labels), 6)
        for condition, found in each.items()
        if condition != CLEAN
    }


def _save_predictions(path: Path, predictions: AllPredictions, labels: Tensor) -> None:
    tensors = {"labels": labels}
    for name, each in predictions.items():
        for condition, found in each.items():
            tensors[f"{name}.{condition}.predicted"] = found.predicted
            tensors[f"{name}.{condition}.confidence"] = found.confidence
    save_file(tensors, path)


if __name__ == "__main__":
    run_stage(robustness, out="runs/{name}/{seed}/robustness", keys=["seed"])
