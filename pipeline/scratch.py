"""Training an architecture from scratch: the base, and the source of attacks."""

from pipeline.batches import shuffled_batches
from pipeline.images import Parts, build_classifier
from pipeline.models.classifier import Classifier
from pipeline.objectives import training_objective
from pipeline.params import InceptionModel, ResNetModel, Training
from pipeline.resume import ResumePoint
from pipeline.seeding import derive_seed, seed_torch
from pipeline.train import Outcome, fit


def train_from_scratch(
    architecture: InceptionModel | ResNetModel,
    settings: Training,
    parts: Parts,
    *,
    auxiliary_weight: float,
    seed: int,
    purpose: str,
    resume: ResumePoint,
    eval_batch_size: int,
) -> tuple[Classifier, Outcome]:
    """A fresh classifier, trained; `seed` and `purpose` fix its initial weights, batches and shifts.

    Args:
        architecture: section `model` of the params, or the source's.
        settings: one training run.
        parts: the data, on the device to train on.
        auxiliary_weight: of each auxiliary head's cross-entropy; 0 for none.
        seed: the run's seed.
        purpose: keeps the random streams of different stages apart.
        resume: where finished epochs are kept.
        eval_batch_size: images at a time when scoring.
    """
    seed_torch(seed, purpose)
    model = build_classifier(architecture, parts.source).to(parts.train.images.device)
    objective = training_objective(
        model,
        parts.train.scaled()[:2],
        auxiliary_weight=auxiliary_weight,
        label_smoothing=settings.label_smoothing,
    )
    outcome = fit(
        model,
        objective,
        parts,
        settings,
        batching=shuffled_batches(settings.batch_size),
        seed=derive_seed(seed, purpose),
        resume=resume,
        eval_batch_size=eval_batch_size,
        description=f"{purpose}, seed {seed}",
    )
    return model, outcome
