"""Put every model on the same clean, noisy and attacked test images."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.checkpoint import load_classifier
from pipeline.errors import InputError
from pipeline.files import write_csv, write_json
from pipeline.images import Images, load_parts
from pipeline.robustness import (
    CLEAN,
    Predictions,
    compare_outcomes,
    gallery_rows,
    perturbation_norms,
    pick_examples,
    predict,
)
from pipeline.seeding import configure_torch, derive_seed
from pipeline.stage import StageRun, run_stage
from pipeline.tables import MODELS


def robustness(run: StageRun) -> str:
    """Writes `accuracy.csv`, `perturbations.csv`, predictions, galleries, and the drops that DVC shows."""
    runtime = run.params.runtime
    device = configure_torch(runtime)
    test = load_parts(run.artefact("prepare"), device).test
    labels = test.labels.cpu()
    models = {
        name: load_classifier(run.artefact(run.seed, folder) / file).to(device)
        for name, (folder, file) in (MODELS | {"source": ("source", "model")}).items()
    }
    predictions: dict[str, dict[str, Predictions]] = {name: {} for name in models}
    accuracy, perturbations = [], []
    stored: dict[str, Tensor] = {}
    for condition, kind, images in _conditions(run, test):
        stored[condition] = images.cpu()
        perturbations.append(
            {"seed": run.seed, "condition": condition, "kind": kind}
            | perturbation_norms(test.scaled(), images)
        )
        for name, model in models.items():
            found = predict(model, images, batch_size=runtime.eval_batch_size)
            predictions[name][condition] = found
            accuracy.append(
                {"seed": run.seed, "model": name, "condition": condition, "kind": kind}
                | {"n": len(labels), "n_correct": found.n_correct(labels)}
            )
    write_csv(run.out / "accuracy.csv", accuracy)
    write_csv(run.out / "perturbations.csv", perturbations)
    _save_predictions(run.out / "predictions.safetensors", predictions, labels)
    _save_galleries(run, predictions, labels, stored)
    drops = {
        name: {
            condition: round((found.n_correct(labels) - each[CLEAN].n_correct(labels)) / len(labels), 6)
            for condition, found in each.items()
            if condition != CLEAN
        }
        for name, each in predictions.items()
    }
    write_json(run.metrics(run.seed, "accuracy_drop.json"), drops)
    worst = min(drops["base"], key=lambda condition: drops["base"][condition])
    return (
        f"{worst}: base {drops['base'][worst]:+.2%}, parameter first {drops['parameter_first'][worst]:+.2%}"
    )


def _conditions(run: StageRun, test: Images) -> Iterator[tuple[str, str, Tensor]]:
    """Clean, then each noise and attack that the params name (never what else lies in the folders)."""
    yield CLEAN, "clean", test.scaled()
    files = [("noise", name, run.artefact("noise", name)) for name in run.params.noise]
    files += [("attack", name, run.artefact(run.seed, "craft", name)) for name in run.params.attacks]
    for kind, name, folder in files:
        held = load_file(folder / "images.safetensors", device=str(test.images.device))
        if not torch.equal(held["labels"], test.labels):
            raise InputError(f"{folder}: expected the labels of this test part, got others; run `dvc repro`")
        yield name, kind, held["images"].float()


def _save_predictions(path: Path, predictions: dict[str, dict[str, Predictions]], labels: Tensor) -> None:
    tensors = {"labels": labels}
    for name, each in predictions.items():
        for condition, found in each.items():
            tensors[f"{name}.{condition}.predicted"] = found.predicted
            tensors[f"{name}.{condition}.confidence"] = found.confidence
    save_file(tensors, path)


def _save_galleries(
    run: StageRun,
    predictions: dict[str, dict[str, Predictions]],
    labels: Tensor,
    stored: dict[str, Tensor],
) -> None:
    """For each attack: images that fooled the base and not the parameter-first model, and the reverse."""
    settings = run.params.robustness
    first, second = predictions["base"], predictions["parameter_first"]
    rows, counts, images = [], [], {}
    for attack in run.params.attacks:
        outcomes = compare_outcomes(labels, first, second, attack)
        counts.append({"seed": run.seed, "attack": attack} | outcomes.counts())
        for kind, mask in (("only_base", outcomes.only_first), ("only_pruned", outcomes.only_second)):
            random = derive_seed(settings.gallery_seed, run.seed, attack, kind)
            chosen = pick_examples(mask, settings.gallery_images, random)
            key = {"seed": run.seed, "attack": attack, "fooled": kind}
            rows += [key | row for row in gallery_rows(chosen, labels, first, second, attack)]
            images[f"{attack}.{kind}.clean"] = stored[CLEAN][chosen]
            images[f"{attack}.{kind}.attacked"] = stored[attack][chosen]
    fields = ["seed", "attack", "fooled", *gallery_rows([0], labels, first, second, CLEAN)[0]]
    write_csv(run.out / "gallery.csv", rows, fields=fields)
    write_csv(run.out / "outcomes.csv", counts)
    save_file(images, run.out / "gallery.safetensors")


if __name__ == "__main__":
    run_stage(robustness, out="runs/{name}/{seed}/robustness", keys=["seed"])
