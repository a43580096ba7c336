"""One prune round (Algorithm 1): trace, threshold, cut, retrain with the push, for each eta."""

import json
import shutil
from functools import partial
from typing import Any

from torch import nn

from pipeline.checkpoint import load_classifier, save_model
from pipeline.cost import Cost, measure_cost
from pipeline.data.images import load_parts
from pipeline.lda import discriminants
from pipeline.machine.processes import connect
from pipeline.machine.seeding import configure_torch, derive_seed
from pipeline.pruning.rounds import (
    latent_rows,
    layer_rows,
    prune_round,
    sample_rows,
    smallest_acceptable,
)
from pipeline.pruning.task_utility import unravel_utility
from pipeline.training.batches import balanced_batches
from pipeline.training.objectives import PushObjective
from pipeline.training.train import Score, evaluate, fit
from pipeline.workflow.files import write_csv, write_json
from pipeline.workflow.resume import ResumePoint
from pipeline.workflow.stage import StageRun, run_stage
from pipeline.workflow.tables import LATENT_FIELDS, LAYER_FIELDS, SAMPLE_FIELDS


def prune(run: StageRun) -> str:
    """From the round before to a model for the next one, and this round's samples.

    Writes `model` (the smallest acceptable sample), `round.json` (whether the rounds go on), `samples.csv`,
    `layers.csv`, `latent.csv`, and each sample's weights under `samples/`. After the stop, the input passes
    through and the tables are empty.
    """
    runtime, lda = run.params.runtime, run.params.lda
    surgery, settings = run.params.surgery, run.params.prune
    name, previous = run.keys["round"], run.artefact(run.seed, *run.keys["previous"].split("/"))
    state = previous / "round.json"
    if state.exists() and json.loads(state.read_text(encoding="utf-8"))["stopped"]:
        return _pass_through(run, previous)
    device = configure_torch(runtime)
    prepared, base = run.artefact("prepare"), run.artefact(run.seed, "train")
    resume = ResumePoint(run.resume_folder([prepared, base, previous], [runtime, lda, surgery, settings]))
    parts = load_parts(prepared, device, workers=runtime.workers)
    model = load_classifier(previous / "model").to(device)
    base_score = evaluate(
        load_classifier(base / "model").to(device), parts.validation, batch_size=runtime.eval_batch_size
    )

    def retrain(pruned: nn.Module, sample: str) -> tuple[list[dict[str, Any]], Score, Cost]:
        outcome = fit(
            pruned,
            PushObjective(lda, label_smoothing=settings.retraining.label_smoothing),
            parts,
            settings.retraining,
            batching=balanced_batches(lda.samples_per_class, lda.classes_per_batch),
            seed=derive_seed(run.seed, "prune", name, sample),
            resume=resume.child(sample),
            runtime=runtime,
            description=f"{name}, {sample}, seed {run.seed}",
        )
        return outcome.history, outcome.validation, measure_cost(pruned, parts.source.image_shape)

    utility = unravel_utility(
        model,
        partial(discriminants, ridge=lda.ridge),
        train=parts.train,
        validation=parts.validation,
        surgery=surgery,
        seed=derive_seed(run.seed, "prune", name),
        batch_size=runtime.eval_batch_size,
    )
    samples = prune_round(
        model, utility, etas=settings.etas, sizes=settings.sizes, surgery=surgery, retrain=retrain
    )
    acceptable = base_score.accuracy - settings.max_drop
    chosen = smallest_acceptable(samples, acceptable)
    n_kept = int(utility.choice.kept.sum())
    key: dict[str, Any] = {"seed": run.seed, "name": name}
    rows = sample_rows(samples, chosen, acceptable=acceptable, latent_kept=n_kept, **key)
    write_csv(run.out / "samples.csv", rows, fields=SAMPLE_FIELDS)
    write_csv(run.out / "layers.csv", layer_rows(samples, **key), fields=LAYER_FIELDS)
    write_csv(run.out / "latent.csv", latent_rows(utility, **key), fields=LATENT_FIELDS)
    for sample in samples:
        about = {"stage": "prune", "seed": run.seed, "round": name, "eta": sample.eta}
        save_model(sample.model, run.out / "samples" / sample.name, about=about)
    save_model(model if chosen is None else chosen.model, run.out / "model")
    reason = "" if chosen else f"no sample of {name} reached {acceptable:.2%} on validation"
    write_json(run.out / "round.json", {"stopped": chosen is None, "reason": reason})
    if chosen is None:
        return f"{n_kept} latent neurons kept; stop: {reason}"
    return f"{n_kept} latent neurons kept; {chosen.cost.params:,} parameters at {chosen.score.accuracy:.2%}"


def _pass_through(run: StageRun, previous: Any) -> str:
    for file in ("model.safetensors", "model.json", "round.json"):
        shutil.copyfile(previous / file, run.out / file)
    for file, fields in (
        ("samples.csv", SAMPLE_FIELDS),
        ("layers.csv", LAYER_FIELDS),
        ("latent.csv", LATENT_FIELDS),
    ):
        write_csv(run.out / file, [], fields=fields)
    return "passed through: the rounds had stopped before"


if __name__ == "__main__":
    run_stage(
        prune, out="runs/{name}/{seed}/prune/{round}", keys=["seed", "round", "previous"], connect=connect
    )
