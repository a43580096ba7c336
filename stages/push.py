"""Push: train on with the deep LDA terms, so that discriminants align with few latent neurons."""

from safetensors.torch import save_file
from torch import Tensor

from pipeline.checkpoint import load_classifier, read_about, save_model
from pipeline.data.images import load_parts
from pipeline.lda import describe_latent
from pipeline.machine.processes import connect
from pipeline.machine.seeding import configure_torch, derive_seed
from pipeline.pruning.latent import latent_features
from pipeline.training.batches import balanced_batches
from pipeline.training.objectives import PushObjective
from pipeline.training.train import fit
from pipeline.workflow.files import write_csv
from pipeline.workflow.resume import ResumePoint
from pipeline.workflow.stage import StageRun, run_stage


def push(run: StageRun) -> str:
    """From the grown model to `model`, `history.csv` and `latent.safetensors` (before and after)."""
    runtime, lda, training = run.params.runtime, run.params.lda, run.params.push.training
    device = configure_torch(runtime)
    prepared, grown = run.artefact("prepare"), run.artefact(run.seed, "grow")
    resume = ResumePoint(run.resume_folder([prepared, grown], [runtime, lda, training]) / "fit")
    parts = load_parts(prepared, device, workers=runtime.workers)
    model = load_classifier(grown / "model").to(device)
    train = parts.train

    def latent_space(prefix: str) -> dict[str, Tensor]:
        features = latent_features(model, train, batch_size=runtime.eval_batch_size)
        return {f"{prefix}.{name}": t for name, t in describe_latent(features, train.labels, lda).items()}

    before = latent_space("before")
    outcome = fit(
        model,
        PushObjective(lda, label_smoothing=training.label_smoothing),
        parts,
        training,
        batching=balanced_batches(lda.samples_per_class, lda.classes_per_batch),
        seed=derive_seed(run.seed, "push"),
        resume=resume,
        runtime=runtime,
        description=f"push, seed {run.seed}",
    )
    epochs = read_about(grown / "model")["epochs"] + training.epochs
    about = {"stage": "push", "seed": run.seed, "epochs": epochs, "validation": outcome.validation.as_dict()}
    save_model(model, run.out / "model", about=about)
    write_csv(run.out / "history.csv", outcome.history)
    save_file(before | latent_space("after"), run.out / "latent.safetensors")
    last = outcome.history[-1]
    return (
        f"validation accuracy {outcome.validation.accuracy:.2%}, {last['train_n_active']:.0f} active "
        f"neurons, top discriminant {last['train_top_share']:.0%} of the sum"
    )


if __name__ == "__main__":
    run_stage(push, out="runs/{name}/{seed}/push", keys=["seed"], connect=connect)
