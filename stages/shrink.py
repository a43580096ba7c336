"""Take the pushed model through the sizes of the comparison, one after another."""

from functools import partial

from pipeline.checkpoint import load_classifier, read_about, save_model
from pipeline.cost import count_params
from pipeline.data.images import load_parts
from pipeline.lda import discriminants
from pipeline.machine.processes import connect
from pipeline.machine.seeding import configure_torch
from pipeline.pruning.competitors import Contest, comparison_row
from pipeline.pruning.target_size import prune_to_size
from pipeline.pruning.task_utility import unravel_utility
from pipeline.training.objectives import PushObjective
from pipeline.workflow.files import write_csv, write_json
from pipeline.workflow.resume import ResumePoint
from pipeline.workflow.stage import StageRun, run_stage
from pipeline.workflow.tables import COMPARISON_FIELDS, OURS


def shrink(run: StageRun) -> str:
    """From the pushed model to `step0`, `step1`, ... and `comparison.csv`."""
    runtime, lda = run.params.runtime, run.params.lda
    surgery, settings = run.params.surgery, run.params.shrink
    device = configure_torch(runtime)
    prepared, base = run.artefact("prepare"), run.artefact(run.seed, "train")
    pushed = run.artefact(run.seed, "push")
    resume = ResumePoint(
        run.resume_folder([prepared, base, pushed], [runtime, lda, surgery, settings]) / "fit"
    )
    model = load_classifier(pushed / "model").to(device)
    n_params = count_params(load_classifier(base / "model"))
    contest = Contest(
        parts=load_parts(prepared, device, workers=runtime.workers),
        retraining=settings.retraining,
        objective=PushObjective(lda, label_smoothing=settings.retraining.label_smoothing),
        lda=lda,
        surgery=surgery,
        epochs_before=read_about(pushed / "model")["epochs"],
        seed=run.seed,
        method=OURS,
        resume=resume,
        runtime=runtime,
    )
    rows, etas = [], {}
    for step, size in enumerate(settings.sizes):
        utility = unravel_utility(
            model,
            partial(discriminants, ridge=lda.ridge),
            train=contest.parts.train,
            validation=contest.parts.validation,
            surgery=surgery,
            seed=contest.stream("images", step),
            batch_size=runtime.eval_batch_size,
        )
        model, _, etas[f"{size:g}"] = prune_to_size(
            model,
            utility.utilities,
            round(size * n_params),
            utility.images[:1],
            round_to=surgery.round_to,
            remove_branches=surgery.remove_branches,
        )
        contest.retrain(model, step)
        rows.append(comparison_row(contest, contest.enter(model, step)))
        save_model(model, run.out / f"step{step}")
    write_csv(run.out / "comparison.csv", rows, fields=COMPARISON_FIELDS)
    write_json(run.out / "etas.json", etas)
    return ", ".join(f"{row['params']:,} parameters" for row in rows)


if __name__ == "__main__":
    run_stage(shrink, out="runs/{name}/{seed}/shrink", keys=["seed"], connect=connect)
