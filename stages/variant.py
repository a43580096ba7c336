"""Push with other weights or the other separation, to be held against the main push."""

from pipeline.checkpoint import load_classifier
from pipeline.data.images import load_parts
from pipeline.lda import describe_latent
from pipeline.machine.processes import connect
from pipeline.machine.seeding import configure_torch, derive_seed
from pipeline.pruning.latent import latent_features
from pipeline.training.batches import balanced_batches
from pipeline.training.objectives import PushObjective
from pipeline.training.train import DivergedError, fit
from pipeline.workflow.files import write_csv
from pipeline.workflow.resume import ResumePoint
from pipeline.workflow.stage import StageRun, run_stage
from pipeline.workflow.tables import VARIANT_FIELDS


def variant(run: StageRun) -> str:
    """From the grown model to `history.csv` and `variant.csv`, the latent space that this push ends with.

    A push that diverges has neither a history nor numbers in its row.
    """
    runtime, training, name = run.params.runtime, run.params.push.training, run.keys["variant"]
    lda = run.params.lda.model_copy(update=dict(run.params.variants[name]))
    device = configure_torch(runtime)
    prepared, grown = run.artefact("prepare"), run.artefact(run.seed, "grow")
    resume = ResumePoint(run.resume_folder([prepared, grown], [runtime, lda, training]) / "fit")
    parts = load_parts(prepared, device, workers=runtime.workers)
    model = load_classifier(grown / "model").to(device)
    row: dict[str, object] = {"seed": run.seed, "variant": name, "n": len(parts.validation)}
    try:
        outcome = fit(
            model,
            PushObjective(lda, label_smoothing=training.label_smoothing),
            parts,
            training,
            batching=balanced_batches(lda.samples_per_class, lda.classes_per_batch),
            seed=derive_seed(run.seed, "push"),  # the main push's own stream: the same batches
            resume=resume,
            runtime=runtime,
            description=f"push variant {name}, seed {run.seed}",
        )
    except DivergedError as error:
        # How strong a push may be is what variants are there to find out: this one was too strong.
        write_csv(run.out / "variant.csv", [row], fields=VARIANT_FIELDS)
        return str(error)
    features = latent_features(model, parts.train, batch_size=runtime.eval_batch_size)
    space = describe_latent(features, parts.train.labels, lda)
    spectrum = space["spectrum"].clamp_min(0)
    row |= {
        "n_correct": outcome.validation.n_correct,
        "n_active": int(space["active"].sum()),
        "v_sum": float(spectrum.sum()),
        "v_top": float(spectrum.max()),
        "collapsed": outcome.history[-1]["train_collapsed"],
    }
    write_csv(run.out / "history.csv", outcome.history)
    write_csv(run.out / "variant.csv", [row], fields=VARIANT_FIELDS)
    return (
        f"validation accuracy {outcome.validation.accuracy:.2%}, {row['n_active']} active neurons, largest "
        f"eigenvalue {float(spectrum.max() / spectrum.sum().clamp_min(1e-30)):.0%} of the sum"
    )


if __name__ == "__main__":
    run_stage(variant, out="runs/{name}/{seed}/variant/{variant}", keys=["seed", "variant"], connect=connect)
