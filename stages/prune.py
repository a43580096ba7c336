"""Prune in rounds (Algorithm 1): trace, threshold, cut, retrain with the push, for each eta."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.jobs.job import Input, Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics
    from pipeline.params.pruning import Prune, Surgery
    from pipeline.params.training import Lda, Schedule

TRAINS = True


def jobs(
    runs: Path, *, seeds: list[int], numerics: Numerics, lda: Lda, surgery: Surgery, prune: Prune
) -> Iterator[Job]:
    """One for each seed and round; a round starts from what the one before has left."""
    previous: dict[int, Input] = {seed: runs / "push" / str(seed) / "main" for seed in seeds}
    for number in range(1, prune.rounds + 1):
        for seed in seeds:
            name = f"round{number}"
            settings = {"seed": seed, "name": name, "numerics": numerics, "lda": lda, "surgery": surgery}
            settings |= {"etas": prune.etas, "sizes": prune.sizes, "max_drop": prune.max_drop}
            job = Job(
                {"seed": seed, "round": name},
                settings | {"retraining": prune.retraining},
                {
                    "prepared": runs / "prepare",
                    "base": runs / "train" / str(seed) / "model",
                    "previous": previous[seed],
                },
            )
            previous[seed] = job
            yield job


def work(
    place: Workplace,
    *,
    seed: int,
    name: str,
    numerics: Numerics,
    lda: Lda,
    surgery: Surgery,
    etas: list[float],
    sizes: list[float],
    max_drop: float,
    retraining: Schedule,
    prepared: Path,
    base: Path,
    previous: Path,
) -> str:
    """From the round before to a model for the next one, and this round's samples.

    Writes `model` (the smallest acceptable sample), `round.json` (whether the rounds go on), `samples.csv`,
    `layers.csv`, `latent.csv`, and each sample's weights under `samples/`. After the stop there is `round.json` alone.
    """
    from functools import partial
    from shutil import copyfile

    from torch import nn

    from pipeline.checkpoint import load_classifier, save_model
    from pipeline.cost import Cost, measure_cost
    from pipeline.files import read_json, write_csv, write_json
    from pipeline.images.parts import load_parts
    from pipeline.lda import discriminants
    from pipeline.machine.device import configure_torch
    from pipeline.machine.seeding import derive_seed
    from pipeline.prune.rounds import latent_rows, layer_rows, prune_round, sample_rows, smallest_acceptable
    from pipeline.prune.task_utility import unravel_utility
    from pipeline.training.predict import Score, evaluate
    from pipeline.training.push_objective import train_with_push
    from pipeline.training.resume import ResumePoint

    before = previous / "round.json"
    if before.exists() and read_json(before)["stopped"]:
        copyfile(before, place.out / "round.json")
        return "the rounds had stopped before"
    device, batch_size = configure_torch(numerics), numerics.eval_batch_size
    parts = load_parts(prepared, device, workers=place.workers)
    model = load_classifier(previous / "model").to(device)
    base_score = evaluate(load_classifier(base).to(device), parts.validation, batch_size=batch_size)

    def retrain(pruned: nn.Module, sample: str) -> tuple[Score, Cost]:
        outcome = train_with_push(
            pruned,
            retraining,
            parts,
            lda,
            seed=derive_seed(seed, "prune", name, sample),
            resume=ResumePoint(place.resume / sample),
            numerics=numerics,
        )
        return outcome.validation, measure_cost(pruned, parts.image_set.image_shape)

    utility = unravel_utility(
        model,
        partial(discriminants, ridge=lda.ridge),
        train=parts.train,
        validation=parts.validation,
        surgery=surgery,
        lda=lda,
        seed=derive_seed(seed, "prune", name),
        batch_size=batch_size,
    )
    samples = prune_round(model, utility, etas=etas, sizes=sizes, surgery=surgery, retrain=retrain)
    acceptable = base_score.accuracy - max_drop
    chosen = smallest_acceptable(samples, acceptable)
    n_kept = int(utility.choice.kept.sum())
    write_csv(
        place.out / "samples.csv", sample_rows(samples, chosen, acceptable=acceptable, latent_kept=n_kept)
    )
    write_csv(place.out / "layers.csv", layer_rows(samples))
    write_csv(place.out / "latent.csv", latent_rows(utility))
    for sample in samples:
        about = {"stage": "prune", "seed": seed, "round": name, "eta": sample.eta}
        save_model(sample.model, place.out / "samples" / sample.name, about=about)
    save_model(model if chosen is None else chosen.model, place.out / "model")
    reason = "" if chosen else f"no sample of {name} reached {acceptable:.2%} on validation"
    write_json(place.out / "round.json", {"stopped": chosen is None, "reason": reason})
    if chosen is None:
        return f"{n_kept} latent neurons kept; stop: {reason}"
    return f"{n_kept} latent neurons kept; {chosen.cost.params:,} parameters at {chosen.score.accuracy:.2%}"


if __name__ == "__main__":
    run_stage("stages.prune")
