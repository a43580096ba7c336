"""Score every model of the main flow on validation and, once, on the test part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compared import ORIGINAL, int8_models, int8_name, main_models
from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.images.parts import Parts
    from pipeline.models.classifier import Classifier
    from pipeline.params.machine import Numerics
    from pipeline.params.pruning import AfterTheFact, LatentChoiceRule, Select, Surgery
    from pipeline.params.training import Lda
    from pipeline.uncertainty import Hits

METRICS = "accuracy.json"


def jobs(
    runs: Path,
    *,
    seeds: list[int],
    numerics: Numerics,
    lda: Lda,
    surgery: Surgery,
    after_the_fact: AfterTheFact | None,
    select: Select,
) -> Iterator[Job]:
    """One for each seed."""
    for seed in seeds:
        yield Job(
            {"seed": seed},
            {"numerics": numerics, "lda": lda, "rule": surgery.latent},
            {
                "prepared": runs / "prepare",
                "models": main_models(runs, seed, after_the_fact),
                "quantised": int8_models(runs, seed, after_the_fact, select),
            },
        )


def work(
    place: Workplace,
    *,
    numerics: Numerics,
    lda: Lda,
    rule: LatentChoiceRule,
    prepared: Path,
    models: Mapping[str, Path],
    quantised: Mapping[str, Path],
) -> str:
    """Writes `scores.csv`, `layers.csv`, `sensitivity.csv` (of the original) and `environment.json`."""
    from functools import partial

    from pipeline.checkpoint import load_classifier
    from pipeline.cost import measure_cost
    from pipeline.files import write_csv, write_json
    from pipeline.images.parts import load_parts
    from pipeline.machine.device import configure_torch
    from pipeline.machine.environment import describe_environment
    from pipeline.training.predict import hits_on
    from pipeline.uncertainty import counts_of

    if quantised:
        from pipeline.int8 import hits_of_onnx
    device = configure_torch(numerics)
    parts = load_parts(prepared, device, workers=place.workers)
    scores, layers, summary = [], [], []
    for name, path in models.items():
        model = load_classifier(path).to(device)
        if name == ORIGINAL:
            write_csv(place.out / "sensitivity.csv", _sensitivity(model, parts, lda, rule, numerics))
        cost = measure_cost(model, parts.image_set.image_shape)
        scorers: dict[str, Callable[..., Hits]] = {name: partial(hits_on, model)}
        if (eight := int8_name(name)) in quantised:
            scorers[eight] = partial(hits_of_onnx, quantised[eight].read_bytes())
        for scored, hits_of in scorers.items():
            for split, images in (("validation", parts.validation), ("test", parts.test)):
                hits = hits_of(images, batch_size=numerics.eval_batch_size)
                size = {"params": cost.params, "flops": cost.flops}
                scores.append({"model": scored, "split": split} | size | counts_of(hits))
            summary.append(f"{scored} {hits.mean():.2%}")
        layers += [
            {"model": name, "layer": layer.name, "kind": layer.kind}
            | {"in": layer.in_channels, "out": layer.out_channels}
            | {"params": layer.params, "flops": layer.flops}
            for layer in cost.layers
        ]
    write_csv(place.out / "scores.csv", scores)
    write_csv(place.out / "layers.csv", layers)
    # Here and not in `prepare`: nothing that is computed from the images depends on it.
    write_json(place.out / "environment.json", describe_environment(device))
    return f"{', '.join(summary)} on test"


def _sensitivity(
    model: Classifier, parts: Parts, lda: Lda, rule: LatentChoiceRule, numerics: Numerics
) -> list[dict[str, int]]:
    """Validation hits with the top latent neurons alone, a row for each number of them (thesis Figure 3-19)."""
    from pipeline.machine.float64 import float64
    from pipeline.prune.latent import choose_latent
    from pipeline.prune.task_utility import discriminants_by
    from pipeline.training.predict import latent_features

    seen, held_out = (
        latent_features(model, part, batch_size=numerics.eval_batch_size)
        for part in (parts.train, parts.validation)
    )
    v = discriminants_by(lda, after_the_fact=False)(seen, parts.train.labels)
    variance, labels = float64(seen).var(0), parts.validation.labels
    return choose_latent(model, v, variance, held_out, labels, rule).rows()


def metrics(folder: Path) -> dict[str, Any]:
    """By seed and model: parameters, FLOPs and accuracies."""
    from pipeline.files import read_csv

    found: dict[str, Any] = {}
    for row in read_csv(folder / "scores.csv"):
        of_model = found.setdefault(row["seed"], {}).setdefault(row["model"], {})
        of_model |= {"params": int(row["params"]), "flops": int(row["flops"])}
        of_model[f"{row['split']}_accuracy"] = round(int(row["n_correct"]) / int(row["n"]), 6)
    return found


if __name__ == "__main__":
    run_stage("stages.evaluate")
