"""Prune in rounds (Algorithm 1): trace, threshold, cut, retrain, for each eta; chapter 3's rounds beside ours."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compared import AFTER_THE_FACT, PUSHED
from pipeline.jobs.job import Input, Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from torch import nn

    from pipeline.params.machine import Numerics
    from pipeline.params.pruning import AfterTheFact, Prune, Rounds, Sizes, Surgery
    from pipeline.params.training import Auxiliary, Lda, Retraining, Train
    from pipeline.prune.rounds import Sample
    from pipeline.prune.task_utility import TaskUtility
    from pipeline.training.fit import Outcome

TRAINS = True


def jobs(
    runs: Path,
    *,
    seeds: list[int],
    numerics: Numerics,
    train: Train,
    lda: Lda,
    surgery: Surgery,
    prune: Prune,
    after_the_fact: AfterTheFact | None,
) -> Iterator[Job]:
    """One for each seed, pipeline and round; a round starts from what the one before has left."""
    # From what each starts, in a folder for each seed.
    ways: dict[str, tuple[Rounds, str]] = {PUSHED: (prune, "push/{seed}/main")}
    if after_the_fact is not None:
        ways[AFTER_THE_FACT] = after_the_fact, "grow/{seed}"
    for pipeline, (rounds, start) in ways.items():
        shared = {"pipeline": pipeline, "numerics": numerics, "lda": lda, "surgery": surgery}
        shared |= {"auxiliary": train.auxiliary}
        # What a round does; their number is no part of it.
        shared |= {name: getattr(rounds, name) for name in type(rounds).model_fields if name != "rounds"}
        previous: dict[int, Input] = {seed: runs / start.format(seed=seed) for seed in seeds}
        for name, seed in product((f"round{number + 1}" for number in range(rounds.rounds)), seeds):
            original = runs / "grow" / str(seed) / "model"
            inputs = {"prepared": runs / "prepare", "original": original, "previous": previous[seed]}
            labels: dict[str, int | str] = {"seed": seed, "pipeline": pipeline, "round": name}
            job = Job(labels, shared | {"seed": seed, "name": name}, inputs)
            previous[seed] = job
            yield job


def work(
    place: Workplace,
    *,
    seed: int,
    pipeline: str,
    name: str,
    numerics: Numerics,
    lda: Lda,
    surgery: Surgery,
    etas: list[float],
    sizes: Sizes,
    max_drop: float,
    retraining: Retraining,
    auxiliary: Auxiliary | None,
    prepared: Path,
    original: Path,
    previous: Path,
) -> str:
    """From the round before to a model for the next one, and this round's samples.

    Writes `model` (the smallest acceptable sample), `round.json` (whether the rounds go on), `samples.csv`,
    `history.csv` (of each sample's retraining), `layers.csv`, `latent.csv`, and each sample's weights under `samples/`.
    After the stop there is `round.json` alone, and so where every size asked for is behind.
    """
    from shutil import copyfile

    from pipeline.checkpoint import load_classifier
    from pipeline.cost import Cost, measure_cost
    from pipeline.files import read_json, write_json
    from pipeline.images.parts import load_parts
    from pipeline.machine.device import configure_torch
    from pipeline.machine.seeding import derive_seed
    from pipeline.prune.rounds import check_rounding, prune_round
    from pipeline.prune.target_size import measure_size
    from pipeline.prune.task_utility import discriminants_by, unravel_utility
    from pipeline.training.predict import evaluate
    from pipeline.training.push_objective import train_with_push
    from pipeline.training.resume import ResumePoint

    before = previous / "round.json"
    if before.exists() and read_json(before)["stopped"]:
        copyfile(before, place.out / "round.json")
        return "the rounds had stopped before"
    device, batch_size = configure_torch(numerics), numerics.eval_batch_size
    parts = load_parts(prepared, device, workers=place.workers)
    model = load_classifier(previous / "model").to(device)
    started_from = load_classifier(original).to(device)
    check_rounding(started_from, surgery.round_to)
    original_score = evaluate(started_from, parts.validation, batch_size=batch_size)

    def retrain(pruned: nn.Module, sample: str) -> tuple[Outcome, Cost]:
        outcome = train_with_push(
            pruned,
            retraining,
            parts,
            lda,
            push=retraining.push,
            auxiliary=auxiliary,
            seed=derive_seed(seed, "prune", pipeline, name, sample),
            resume=ResumePoint(place.resume / sample),
            numerics=numerics,
        )
        return outcome, measure_cost(pruned, parts.image_set.image_shape)

    utility = unravel_utility(
        model,
        discriminants_by(lda, after_the_fact=pipeline == AFTER_THE_FACT),
        train=parts.train,
        validation=parts.validation,
        surgery=surgery,
        lda=lda,
        seed=derive_seed(seed, "prune", pipeline, name),
        batch_size=batch_size,
    )
    samples = prune_round(
        model,
        utility,
        etas=etas,
        sizes=sizes,
        original={unit: measure_size(started_from, unit, parts.image_set.image_shape) for unit in sizes},
        surgery=surgery,
        retrain=retrain,
    )
    if not samples:
        reason = f"{name} starts under every size of prune.sizes"
        write_json(place.out / "round.json", {"stopped": True, "reason": reason})
        return f"stop: {reason}"
    about = {"stage": "prune", "seed": seed, "pipeline": pipeline, "round": name}
    return _leave(place.out, about, model, samples, utility, acceptable=original_score.accuracy - max_drop)


def _leave(
    out: Path,
    about: dict[str, Any],
    model: nn.Module,
    samples: list[Sample],
    utility: TaskUtility,
    *,
    acceptable: float,
) -> str:
    """Write what a round leaves: its samples, the model of the next one, and whether there is to be one."""
    from pipeline.checkpoint import save_model
    from pipeline.files import write_csv, write_json
    from pipeline.prune.rounds import history_rows, latent_rows, layer_rows, sample_rows, smallest_acceptable

    chosen = smallest_acceptable(samples, acceptable)
    n_kept = int(utility.choice.kept.sum())
    rows = sample_rows(samples, chosen, acceptable=acceptable, latent_kept=n_kept)
    write_csv(out / "samples.csv", rows)
    write_csv(out / "history.csv", history_rows(samples))
    write_csv(out / "layers.csv", layer_rows(samples))
    write_csv(out / "latent.csv", latent_rows(utility))
    for sample in samples:
        save_model(sample.model, out / "samples" / sample.name, about=about | {"eta": sample.eta})
    save_model(model if chosen is None else chosen.model, out / "model")
    reason = "" if chosen else f"no sample of {about['round']} reached {acceptable:.2%} on validation"
    write_json(out / "round.json", {"stopped": chosen is None, "reason": reason})
    if chosen is None:
        return f"{n_kept} latent neurons kept; stop: {reason}"
    return f"{n_kept} latent neurons kept; {chosen.cost.params:,} parameters at {chosen.score.accuracy:.2%}"


if __name__ == "__main__":
    run_stage("stages.prune")
