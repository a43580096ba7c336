"""Train the base model, with auxiliary heads."""

from pipeline.checkpoint import save_model
from pipeline.data.images import load_parts
from pipeline.machine.processes import connect
from pipeline.machine.seeding import configure_torch
from pipeline.training.scratch import train_from_scratch
from pipeline.workflow.files import write_csv
from pipeline.workflow.resume import ResumePoint
from pipeline.workflow.stage import StageRun, run_stage


def train(run: StageRun) -> str:
    """From the prepared images to `model` and `history.csv`."""
    runtime, architecture, settings = run.params.runtime, run.params.model, run.params.train
    device = configure_torch(runtime)
    prepared = run.artefact("prepare")
    resume = ResumePoint(run.resume_folder([prepared], [runtime, architecture, settings]) / "fit")
    model, outcome = train_from_scratch(
        architecture,
        settings.training,
        load_parts(prepared, device, workers=runtime.workers),
        auxiliary=settings.auxiliary,
        seed=run.seed,
        purpose="train",
        wanted_for="model",
        resume=resume,
        runtime=runtime,
    )
    about = {
        "stage": "train",
        "seed": run.seed,
        "epochs": settings.training.epochs,
        "validation": outcome.validation.as_dict(),
    }
    save_model(model, run.out / "model", about=about)
    write_csv(run.out / "history.csv", outcome.history)
    return f"validation accuracy {outcome.validation.accuracy:.2%}"


if __name__ == "__main__":
    run_stage(train, out="runs/{name}/{seed}/train", keys=["seed"], connect=connect)
