"""Train a third model, on the same split, that attacks are crafted on."""

from pipeline.checkpoint import save_model
from pipeline.data.images import load_parts
from pipeline.errors import InputError
from pipeline.machine.processes import connect
from pipeline.machine.seeding import configure_torch
from pipeline.training.scratch import train_from_scratch
from pipeline.workflow.files import write_csv
from pipeline.workflow.resume import ResumePoint
from pipeline.workflow.stage import StageRun, run_stage


def source(run: StageRun) -> str:
    """From the prepared images to `model` and `history.csv`; a source that learnt too little is refused."""
    name = run.keys["source"]
    runtime, settings = run.params.runtime, run.params.sources[name]
    device = configure_torch(runtime)
    prepared = run.artefact("prepare")
    resume = ResumePoint(run.resume_folder([prepared], [runtime, settings]) / "fit")
    model, outcome = train_from_scratch(
        settings.model,
        settings.training,
        load_parts(prepared, device, workers=runtime.workers),
        auxiliary=None,
        seed=run.seed,
        purpose=f"source/{name}",
        wanted_for=f"sources.{name}.model",
        resume=resume,
        runtime=runtime,
    )
    accuracy = outcome.validation.accuracy
    if accuracy < settings.min_validation_accuracy:
        raise InputError(
            f"params.yaml: sources.{name}.min_validation_accuracy: expected a source model of at least "
            f"{settings.min_validation_accuracy:.2%} on validation (got {accuracy:.2%})"
        )
    about = {"stage": "source", "seed": run.seed, "validation": outcome.validation.as_dict()}
    save_model(model, run.out / "model", about=about)
    write_csv(run.out / "history.csv", outcome.history)
    return f"validation accuracy {accuracy:.2%}"


if __name__ == "__main__":
    run_stage(source, out="runs/{name}/{seed}/source/{source}", keys=["seed", "source"], connect=connect)
