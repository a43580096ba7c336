"""Grow the base net (Algorithm 2): every stage tried, the best on validation kept and trained in full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics
    from pipeline.params.training import Grow

TRAINS = True


def jobs(runs: Path, *, seeds: list[int], numerics: Numerics, grow: Grow | None) -> Iterator[Job]:
    """One for each seed."""
    for seed in seeds:
        settings = {"seed": seed, "numerics": numerics, "settings": grow}
        yield Job(
            {"seed": seed},
            settings,
            {
                "prepared": runs / "prepare",
                "base": runs / "train" / str(seed) / "model",
                "heads": runs / "train" / str(seed) / "heads.safetensors",
            },
        )


def work(
    place: Workplace,
    *,
    seed: int,
    numerics: Numerics,
    settings: Grow | None,
    prepared: Path,
    base: Path,
    heads: Path,
) -> str:
    """From the base to `model`, `heads.safetensors` (auxiliary) and `growth.csv`; without settings nothing changes."""
    from shutil import copyfile

    from safetensors.torch import load_file

    from pipeline.checkpoint import load_classifier, read_about, save_model
    from pipeline.files import write_csv
    from pipeline.grow import Growing
    from pipeline.images.parts import load_parts
    from pipeline.machine.device import configure_torch
    from pipeline.tensors import save_tensors
    from pipeline.training.objectives import heads_of, set_heads
    from pipeline.training.resume import ResumePoint

    device, model, epochs = configure_torch(numerics), load_classifier(base), read_about(base)["epochs"]
    if settings is None:
        save_model(model, place.out / "model", about={"stage": "grow", "seed": seed, "epochs": epochs})
        copyfile(heads, place.out / "heads.safetensors")
        return "nothing is grown"
    parts = load_parts(prepared, device, workers=place.workers)
    set_heads(model, load_file(heads))
    growing = Growing(settings, parts, seed=seed, resume=ResumePoint(place.resume), numerics=numerics)
    grown, history, reason = growing.grow(model.to(device))
    epochs = growing.epochs_behind(grown, before=epochs)
    about = {"stage": "grow", "seed": seed, "epochs": epochs, "stopped": reason}
    save_model(grown.model, place.out / "model", about=about)
    save_tensors(heads_of(grown.model), place.out / "heads.safetensors")
    write_csv(place.out / "growth.csv", history)
    n_tried = sum(row["training"] == "quick" for row in history)
    correct = f"{grown.score.n_correct} of {grown.score.n} correct on validation, the base {history[0]['n_correct']}"
    return f"{grown.name} kept of {n_tried} candidates; {correct}; {reason}"


if __name__ == "__main__":
    run_stage("stages.grow")
