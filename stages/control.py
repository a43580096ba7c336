"""Train the grown model on for as long as the push, without the push: what the others start from."""

from pipeline.checkpoint import load_classifier, read_about, save_model
from pipeline.data.images import load_parts
from pipeline.machine.processes import connect
from pipeline.machine.seeding import configure_torch, derive_seed
from pipeline.training.batches import balanced_batches
from pipeline.training.objectives import Objective
from pipeline.training.train import fit
from pipeline.workflow.files import write_csv
from pipeline.workflow.resume import ResumePoint
from pipeline.workflow.stage import StageRun, run_stage


def control(run: StageRun) -> str:
    """From the grown model to `model` and `history.csv`: the push's batches and epochs, cross-entropy alone."""
    runtime, lda, training = run.params.runtime, run.params.lda, run.params.push.training
    device = configure_torch(runtime)
    prepared, grown = run.artefact("prepare"), run.artefact(run.seed, "grow")
    resume = ResumePoint(run.resume_folder([prepared, grown], [runtime, lda, training]) / "fit")
    model = load_classifier(grown / "model").to(device)
    outcome = fit(
        model,
        Objective(label_smoothing=training.label_smoothing),
        load_parts(prepared, device, workers=runtime.workers),
        training,
        batching=balanced_batches(lda.samples_per_class, lda.classes_per_batch),
        seed=derive_seed(run.seed, "push"),  # the push's own stream: the same batches
        resume=resume,
        runtime=runtime,
        description=f"control, seed {run.seed}",
    )
    epochs = read_about(grown / "model")["epochs"] + training.epochs
    about = {
        "stage": "control",
        "seed": run.seed,
        "epochs": epochs,
        "validation": outcome.validation.as_dict(),
    }
    save_model(model, run.out / "model", about=about)
    write_csv(run.out / "history.csv", outcome.history)
    return f"validation accuracy {outcome.validation.accuracy:.2%}"


if __name__ == "__main__":
    run_stage(control, out="runs/{name}/{seed}/control", keys=["seed"], connect=connect)
