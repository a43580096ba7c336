"""Train the base model, with auxiliary heads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics
    from pipeline.params.nets.sections import Architecture
    from pipeline.params.training import Train

TRAINS = True


def jobs(
    runs: Path, *, seeds: list[int], numerics: Numerics, model: Architecture, train: Train
) -> Iterator[Job]:
    """One for each seed."""
    for seed in seeds:
        settings = {"seed": seed, "numerics": numerics, "architecture": model, "settings": train}
        yield Job({"seed": seed}, settings, {"prepared": runs / "prepare"})


def work(
    place: Workplace,
    *,
    seed: int,
    numerics: Numerics,
    architecture: Architecture,
    settings: Train,
    prepared: Path,
) -> str:
    """From the prepared images to `model`, `heads.safetensors` (auxiliary, maybe none) and `history.csv`.

    `brought.csv` says what the user's weights score as they came, where any came, and what is suspicious about it.
    """
    from pipeline.checkpoint import save_model
    from pipeline.files import write_csv
    from pipeline.images.parts import load_parts
    from pipeline.machine.device import configure_torch
    from pipeline.machine.seeding import derive_seed, seed_torch
    from pipeline.params.nets.sections import is_looked_at
    from pipeline.tensors import save_tensors
    from pipeline.training.brought import look_at
    from pipeline.training.classifiers import build_classifier
    from pipeline.training.fresh import train_plainly
    from pipeline.training.objectives import heads_of
    from pipeline.training.resume import ResumePoint

    parts = load_parts(prepared, configure_torch(numerics), workers=place.workers)
    seed_torch(seed, "train")
    model = build_classifier(architecture, parts.image_set, wanted_for="model")
    epochs, line = settings.training.epochs, ""
    if is_looked_at(architecture, epochs):
        model.to(parts.train.device)
        score, doubt = look_at(model, parts.validation, batch_size=numerics.eval_batch_size)
        brought = {"n": score.n, "n_correct": score.n_correct, "suspicion": doubt}
        write_csv(place.out / "brought.csv", [brought])
        line = f"; as it came: {doubt or f'{score.accuracy:.2%}'}"
    if epochs:
        outcome = train_plainly(
            model,
            settings.training,
            parts,
            auxiliary=settings.auxiliary,
            seed=derive_seed(seed, "train"),
            resume=ResumePoint(place.resume / "fit"),
            numerics=numerics,
        )
        score = outcome.validation
        write_csv(place.out / "history.csv", outcome.history)
    about = {"stage": "train", "seed": seed, "epochs": epochs, "validation": score.as_dict()}
    save_model(model, place.out / "model", about=about)
    save_tensors(heads_of(model), place.out / "heads.safetensors")
    return f"validation accuracy {score.accuracy:.2%}{line}"


if __name__ == "__main__":
    run_stage("stages.train")
