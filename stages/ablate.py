"""Take apart what pays: cross starts, scores, widths and retraining at equal size and equal total training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.jobs.job import Input, Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics
    from pipeline.params.perturbations import Noise
    from pipeline.params.pruning import Ablate, Score, Sizes, Surgery, Widths
    from pipeline.params.training import BalancedSchedule, Lda, Train

TRAINS = True

# The net that is cut, by the push that it comes from.
STARTS = {"pushed": "main", "control": "control"}


def jobs(
    runs: Path,
    *,
    seeds: list[int],
    numerics: Numerics,
    train: Train,
    lda: Lda,
    surgery: Surgery,
    noise: Mapping[str, Noise],
    ablate: Ablate | None,
) -> Iterator[Job]:
    """One for each seed, start, score and widths."""
    if ablate is None:
        return
    shared: dict[str, Any] = {"numerics": numerics, "training": train, "lda": lda, "surgery": surgery}
    shared |= {"sizes": ablate.sizes, "retraining": ablate.retraining}
    shared |= {"noise": noise[ablate.noise] if ablate.noise else None}
    for seed, start, score, widths in product(seeds, STARTS, ablate.every_score, ablate.widths):
        inputs: dict[str, Input] = {
            "prepared": runs / "prepare",
            "original": runs / "grow" / str(seed) / "model",
            "start": runs / "push" / str(seed) / STARTS[start] / "model",
        }
        if ablate.noise:
            inputs["noisy"] = runs / "noise" / ablate.noise
        # Uniform widths are the same for every score: so is that net from scratch. Noisy tracing asks about noise.
        scratch = score in ablate.scores and (widths != "uniform" or score == ablate.scores[0])
        yield Job(
            {"seed": seed, "start": start, "score": score, "widths": widths},
            shared | {"seed": seed, "score": score, "widths": widths, "scratch": scratch},
            inputs,
        )


def work(
    place: Workplace,
    *,
    seed: int,
    score: Score,
    widths: Widths,
    scratch: bool,
    numerics: Numerics,
    training: Train,
    lda: Lda,
    surgery: Surgery,
    sizes: Sizes,
    retraining: BalancedSchedule,
    noise: Noise | None,
    prepared: Path,
    original: Path,
    start: Path,
    noisy: Path | None = None,
) -> str:
    """Writes `ablation.csv`, a row for each size and training."""
    from pipeline.checkpoint import load_classifier, read_about
    from pipeline.compare.ablation import Way, rows
    from pipeline.files import write_csv
    from pipeline.images.parts import load_parts
    from pipeline.machine.device import configure_torch
    from pipeline.prune.target_size import Target, measure_size
    from pipeline.robustness.outcomes import load_images
    from pipeline.training.resume import ResumePoint

    device = configure_torch(numerics)
    parts = load_parts(prepared, device, workers=place.workers)
    way = Way(
        score=score,
        widths=widths,
        parts=parts,
        retraining=retraining,
        training=training,
        lda=lda,
        surgery=surgery,
        epochs_before=read_about(start)["epochs"],
        scratch=scratch,
        noise=noise,
        seed=seed,
        resume=ResumePoint(place.resume),
        numerics=numerics,
    )
    ((unit, fractions),) = sizes.items()
    whole = measure_size(load_classifier(original).to(device), unit, parts.image_set.image_shape)
    targets = [Target(unit, fraction * whole) for fraction in fractions]
    test = None if noisy is None else load_images(noisy, parts.perturbed.labels.cpu()).to(device)
    found = [*rows(way, load_classifier(start).to(device), targets, test)]
    write_csv(place.out / "ablation.csv", found)
    return (
        ", ".join(f"{row['training']} {row['test_n_correct']}" for row in found) + f" of {found[0]['test_n']}"
    )


if __name__ == "__main__":
    run_stage("stages.ablate")
