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
    """From the prepared images to `model` and `history.csv`."""
    from pipeline.checkpoint import save_model
    from pipeline.files import write_csv
    from pipeline.images.parts import load_parts
    from pipeline.machine.device import configure_torch
    from pipeline.training.fresh import train_from_scratch
    from pipeline.training.resume import ResumePoint

    parts = load_parts(prepared, configure_torch(numerics), workers=place.workers)
    model, outcome = train_from_scratch(
        architecture,
        settings.training,
        parts,
        auxiliary=settings.auxiliary,
        seed=seed,
        purpose="train",
        wanted_for="model",
        resume=ResumePoint(place.resume / "fit"),
        numerics=numerics,
    )
    about = {
        "stage": "train",
        "seed": seed,
        "epochs": settings.training.epochs,
        "validation": outcome.validation.as_dict(),
    }
    save_model(model, place.out / "model", about=about)
    write_csv(place.out / "history.csv", outcome.history)
    return f"validation accuracy {outcome.validation.accuracy:.2%}"


if __name__ == "__main__":
    run_stage("stages.train")
