"""Train third models, on the same split, that attacks are crafted on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics
    from pipeline.params.robustness import Source

TRAINS = True


def jobs(runs: Path, *, seeds: list[int], numerics: Numerics, sources: Mapping[str, Source]) -> Iterator[Job]:
    """One for each seed and source."""
    for name, settings in sources.items():
        for seed in seeds:
            yield Job(
                {"seed": seed, "source": name},
                {"seed": seed, "name": name, "numerics": numerics, "settings": settings},
                {"prepared": runs / "prepare"},
            )


def work(
    place: Workplace, *, seed: int, name: str, numerics: Numerics, settings: Source, prepared: Path
) -> str:
    """From the prepared images to `model` and `history.csv`; a source that learnt too little is refused."""
    from pipeline.checkpoint import save_model
    from pipeline.errors import InputError
    from pipeline.files import write_csv
    from pipeline.images.parts import load_parts
    from pipeline.machine.device import configure_torch
    from pipeline.machine.seeding import derive_seed, seed_torch
    from pipeline.training.classifiers import build_classifier
    from pipeline.training.fresh import train_plainly
    from pipeline.training.resume import ResumePoint

    parts = load_parts(prepared, configure_torch(numerics), workers=place.workers)
    seed_torch(seed, f"source/{name}")
    model = build_classifier(settings.model, parts.image_set, wanted_for=f"sources.{name}.model")
    outcome = train_plainly(
        model,
        settings.training,
        parts,
        auxiliary=None,
        seed=derive_seed(seed, f"source/{name}"),
        resume=ResumePoint(place.resume / "fit"),
        numerics=numerics,
    )
    accuracy = outcome.validation.accuracy
    if accuracy < settings.min_validation_accuracy:
        raise InputError(
            f"params.yaml: sources.{name}.min_validation_accuracy: expected a source model of at least "
            f"{settings.min_validation_accuracy:.2%} on validation (got {accuracy:.2%})"
        )
    about = {"stage": "source", "seed": seed, "validation": outcome.validation.as_dict()}
    save_model(model, place.out / "model", about=about)
    write_csv(place.out / "history.csv", outcome.history)
    return f"validation accuracy {accuracy:.2%}"


if __name__ == "__main__":
    run_stage("stages.source")
