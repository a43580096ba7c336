"""One competing method, at the sizes of ours."""

from collections.abc import Iterator

import torch

from pipeline.checkpoint import load_classifier, read_about, save_model
from pipeline.data.images import load_parts
from pipeline.machine.processes import connect
from pipeline.machine.seeding import configure_torch
from pipeline.params import FilterCompetitor, FixedCompetitor, WeightCompetitor
from pipeline.pruning.competitors import (
    Contest,
    Entrant,
    comparison_row,
    fixed_net,
    from_scratch,
    prune_filters,
    prune_weights,
)
from pipeline.training.objectives import Objective
from pipeline.workflow.files import write_csv
from pipeline.workflow.resume import ResumePoint
from pipeline.workflow.stage import StageRun, run_stage
from pipeline.workflow.tables import COMPARISON_FIELDS


def compete(run: StageRun) -> str:
    """From the control model and the sizes of ours to `step0`, `step1`, ... and `comparison.csv`."""
    method, runtime, settings = run.keys["competitor"], run.params.runtime, run.params.shrink
    lda, surgery, competitor = run.params.lda, run.params.surgery, run.params.competitors[method]
    device = configure_torch(runtime)
    prepared = run.artefact("prepare")
    control, ours = run.artefact(run.seed, "control"), run.artefact(run.seed, "shrink")
    sections = [runtime, run.params.train, lda, surgery, settings, competitor]
    contest = Contest(
        parts=load_parts(prepared, device, workers=runtime.workers),
        retraining=settings.retraining,
        objective=Objective(label_smoothing=settings.retraining.label_smoothing),
        lda=lda,
        surgery=surgery,
        epochs_before=read_about(control / "model")["epochs"],
        seed=run.seed,
        method=method,
        resume=ResumePoint(run.resume_folder([prepared, control, ours], sections) / "fit"),
        runtime=runtime,
    )
    rows = []
    for entrant in _entrants(run, contest, device):
        rows.append(comparison_row(contest, entrant))
        save_model(entrant.model, run.out / f"step{entrant.step}")
    write_csv(run.out / "comparison.csv", rows, fields=COMPARISON_FIELDS)
    return ", ".join(f"{row['params']:,} parameters" for row in rows)


def _entrants(run: StageRun, contest: Contest, device: torch.device) -> Iterator[Entrant]:
    competitor, training = run.params.competitors[contest.method], run.params.train
    n_steps = len(run.params.shrink.sizes)
    if isinstance(competitor, FixedCompetitor):
        place = f"competitors.{contest.method}.model"
        own = training.training.model_copy(update={"learning_rate": competitor.learning_rate})
        return fixed_net(contest, competitor.model, own, n_steps, wanted_for=place)
    ours = run.artefact(run.seed, "shrink")
    references = [load_classifier(ours / f"step{step}").to(device) for step in range(n_steps)]
    control = load_classifier(run.artefact(run.seed, "control") / "model").to(device)
    if isinstance(competitor, FilterCompetitor):
        return prune_filters(contest, control, references, competitor.criterion)
    if isinstance(competitor, WeightCompetitor):
        return prune_weights(contest, control, references)
    return from_scratch(contest, references, training.training, training.auxiliary)


if __name__ == "__main__":
    run_stage(
        compete, out="runs/{name}/{seed}/compete/{competitor}", keys=["seed", "competitor"], connect=connect
    )
