"""Push: train on with the deep LDA terms, so that discriminants align with few latent neurons.

Beside the main push: a control, which is trained on for as long on the same batches without the push, and the variants
that the params name, with other weights or the other separation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics
    from pipeline.params.training import Auxiliary, Lda, Push, Schedule, Train

TRAINS = True


def jobs(
    runs: Path, *, seeds: list[int], numerics: Numerics, train: Train, lda: Lda, push: Push
) -> Iterator[Job]:
    """One for each seed and push."""
    weights = {"main": lda, "control": lda.without_push()}
    weights |= {name: lda.model_copy(update=dict(each)) for name, each in push.variants.items()}
    for name, each in weights.items():
        for seed in seeds:
            settings = {"seed": seed, "numerics": numerics, "lda": each, "training": push.training}
            grown = runs / "grow" / str(seed)
            yield Job(
                {"seed": seed, "push": name},
                settings | {"auxiliary": train.auxiliary, "may_diverge": name in push.variants},
                {
                    "prepared": runs / "prepare",
                    "grown": grown / "model",
                    "heads": grown / "heads.safetensors",
                },
            )


def work(
    place: Workplace,
    *,
    seed: int,
    numerics: Numerics,
    lda: Lda,
    training: Schedule,
    auxiliary: Auxiliary | None,
    may_diverge: bool,
    prepared: Path,
    grown: Path,
    heads: Path,
) -> str:
    """From the grown model to `model`, `history.csv` and `latent.safetensors` (before and after).

    A push that diverges ends the job or, where it may, leaves nothing: how strong a push may be is what variants are
    there to find out.
    """
    import torch
    from safetensors.torch import load_file

    from pipeline.checkpoint import load_classifier, read_about, save_model
    from pipeline.files import write_csv
    from pipeline.images.parts import load_parts
    from pipeline.images.rare_classes import rare_classes_remark
    from pipeline.lda import describe_latent
    from pipeline.machine.device import configure_torch
    from pipeline.machine.seeding import derive_seed
    from pipeline.tensors import save_tensors
    from pipeline.training.fit import DivergedError
    from pipeline.training.objectives import set_heads
    from pipeline.training.predict import latent_features
    from pipeline.training.push_objective import train_with_push
    from pipeline.training.resume import ResumePoint

    device = configure_torch(numerics)
    parts = load_parts(prepared, device, workers=place.workers)
    model, train = load_classifier(grown).to(device), parts.train
    set_heads(model, load_file(heads))
    spaces = {}

    def look(state: str) -> None:
        features = latent_features(model, train, batch_size=numerics.eval_batch_size)
        for name, found in describe_latent(features, train.labels, lda).items():
            spaces[f"{state}.{name}"] = found

    look("before")
    try:
        outcome = train_with_push(
            model,
            training,
            parts,
            lda,
            auxiliary=auxiliary,
            seed=derive_seed(seed, "push"),  # the same batches for every push
            resume=ResumePoint(place.resume / "fit"),
            numerics=numerics,
        )
    except DivergedError as error:
        if not may_diverge:
            raise
        return str(error)
    look("after")
    epochs = read_about(grown)["epochs"] + training.epochs
    about = {"stage": "push", "seed": seed, "epochs": epochs, "validation": outcome.validation.as_dict()}
    save_model(model, place.out / "model", about=about)
    write_csv(place.out / "history.csv", outcome.history)
    save_tensors(spaces, place.out / "latent.safetensors")
    counts = torch.bincount(train.labels.cpu(), minlength=len(model.classes)).tolist()
    few = rare_classes_remark(model.classes, counts, lda.samples_per_class)
    active, spectrum = spaces["after.active"], spaces["after.spectrum"].clamp_min(0)
    return (
        f"validation accuracy {outcome.validation.accuracy:.2%}, {int(active.sum())} active neurons, largest "
        f"eigenvalue {float(spectrum.max() / spectrum.sum().clamp_min(1e-30)):.0%} of the sum"
        + (f"; {few}" if few else "")
    )


if __name__ == "__main__":
    run_stage("stages.push")
