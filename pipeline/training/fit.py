"""One training run: epochs over a set, a resume point after each, the same bits every time."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from pipeline.distributed.collectives import agree_on, mean_over_processes, n_processes, own_share, rank
from pipeline.distributed.sharding import held_whole, trained_copy, whole
from pipeline.errors import InputError
from pipeline.images.augmentation import augment_images
from pipeline.machine.float64 import float64
from pipeline.machine.memory import is_out_of_memory
from pipeline.machine.seeding import derive_seed, generator
from pipeline.models.classifier import load_state
from pipeline.progress import tell
from pipeline.training.descent import Descent
from pipeline.training.objectives import set_heads
from pipeline.training.predict import Score, at_chance, evaluate
from pipeline.training.step import Step, gradient_scaler, training_step

if TYPE_CHECKING:
    from pipeline.images.parts import Images, Parts
    from pipeline.params.machine import Numerics
    from pipeline.params.training import Schedule
    from pipeline.training.batches import Batching
    from pipeline.training.objectives import Objective
    from pipeline.training.resume import Restored, ResumePoint

log = logging.getLogger(__name__)

# Prefix of the weights among a resume point's tensors.
_WEIGHT = "weight."


class DivergedError(InputError):
    """Training whose loss is no finite number any more."""


@dataclass(frozen=True)
class Outcome:
    """A finished run: a row an epoch, and the validation score of the last one.

    A row's `collapsed` is 1 where validation is at chance: no better than the largest class's share, within two
    standard deviations of guessing; or where the push is in that state in most batches (`PushTerms.collapsed`).
    """

    history: list[dict[str, Any]]
    validation: Score

    @property
    def collapsed(self) -> bool:
        """Whether the last epoch ended so."""
        return bool(self.history[-1]["collapsed"])


def fit(
    model: nn.Module,
    objective: Objective,
    parts: Parts,
    settings: Schedule,
    *,
    batching: Batching,
    seed: int,
    resume: ResumePoint,
    numerics: Numerics,
) -> Outcome:
    """Train `model` in place on the training part; score it on the validation part after every epoch.

    The last epoch's weights, or their running average, are the result; none is picked by its validation accuracy. A
    collapse is logged in one line after the epoch that it shows in, and training goes on. The objective's own state,
    auxiliary heads, stays with the model (`heads_of`). Batches, shifts and
    dropout depend on `seed` and the epoch alone, so that a run which resumes ends with the same bits.

    Args:
        model: trained in place, on the device of its data.
        objective: what to minimise; its own parameters are trained too.
        batching: which images form the batches of an epoch.
        seed: of this run's batches, shifts and dropout.
        resume: where finished epochs are kept.

    Raises:
        DivergedError: after the first epoch whose mean loss, or the validation loss after it, is not finite.
        InputError: if a batch does not fit into the device's memory.
    """
    train, validation = parts.train.with_reader(), parts.validation.with_reader()
    device, restored = train.device, resume.load()
    together = nn.ModuleDict({"model": model, "objective": objective})
    with trained_copy(together, numerics, device) as everything:
        if restored is not None:
            _restore_weights(everything, restored)
        trained, trained_objective = everything["model"], cast("Objective", everything["objective"])
        step = training_step(trained, trained_objective, numerics, device)
        scaler = gradient_scaler(numerics, device)
        descent = Descent(everything, settings, scaler)
        history: list[dict[str, Any]] = []
        if restored is not None:
            tensors, state = restored
            descent.restore(tensors)
            scaler.load_state_dict(state["scaler"])
            history = state["history"]
        for epoch in range(len(history), settings.epochs):
            trained.train()
            batches = _epoch_batches(train, settings, batching, seed, epoch)
            means = _train_epoch(step, trained_objective, descent, batches, settings.epochs)
            agree_on(held_whole(everything.state_dict().values()))
            with descent.averaged():
                score = evaluate(trained, validation, batch_size=numerics.eval_batch_size)
            if not math.isfinite(means["total"] + score.loss):
                raise DivergedError(
                    f"the loss is no finite number in epoch {epoch + 1}: lower the learning rate or, "
                    "where the push takes part, its weights (lda)"
                )
            collapse = _collapse(score, validation.labels, means)
            if collapse and not any(row["collapsed"] for row in history):
                log.warning(
                    "collapsed, or not yet begun to learn, at the end of epoch %d: %s", epoch + 1, collapse
                )
            history.append(
                {"epoch": epoch + 1}
                | {f"train_{name}": mean for name, mean in means.items()}
                | {"validation_n": score.n, "validation_n_correct": score.n_correct}
                | {"validation_loss": score.loss, "collapsed": int(bool(collapse))}
            )
            weights = {f"{_WEIGHT}{name}": whole(tensor) for name, tensor in everything.state_dict().items()}
            resume.save(weights | descent.tensors(), {"history": history, "scaler": scaler.state_dict()})
            tell(f"epoch {epoch + 1} of {settings.epochs}, validation {score.accuracy:.2%}")
        descent.take_average()
    model.eval()
    last = history[-1]
    score = Score(last["validation_n"], last["validation_n_correct"], last["validation_loss"])
    set_heads(model, {name: tensor.detach().cpu() for name, tensor in objective.state_dict().items()})
    return Outcome(history, score)


def _train_epoch(
    step: Step,
    objective: Objective,
    descent: Descent,
    batches: Iterable[tuple[Tensor, Tensor, float]],
    epochs: int,
) -> dict[str, float]:
    """One pass over the batches; the mean of each term over them."""
    sums: dict[str, Tensor] = {}
    n_batches = 0
    for images, labels, time in batches:
        objective.at(time / epochs)
        try:
            terms = step(images, labels)
            descent.descend(terms["total"], time)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(
                f"out of memory while training on {len(images)} images of {images.shape[2]}x{images.shape[3]}: "
                "lower the batch size (lda.samples_per_class for balanced batches), or numerics.precision"
            ) from None
        n_batches += 1
        for name, value in terms.items():
            # Added up where they lie: reading a number makes the host wait for the device in every step.
            sums[name] = float64(value.detach()) + sums.get(name, 0.0)
    return mean_over_processes({name: float(total) / n_batches for name, total in sums.items()})


def _collapse(score: Score, labels: Tensor, means: Mapping[str, float]) -> str:
    """What shows that an epoch ended in a collapse, in words; empty where nothing does."""
    if at_chance(score.n_correct, labels):
        return f"{score.n_correct} of {score.n} right on validation, no better than chance"
    if means.get("collapsed", 0.0) > 0.5:
        return "in most batches one discriminant holds the push, or no neuron is active"
    return ""


def _epoch_batches(
    train: Images, settings: Schedule, batching: Batching, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Images in [0, 1], labels, and the time in epochs in the middle of each batch."""
    # Processes agree on the batches, and differ in what they do to their shares.
    own = (rank(),) if n_processes() > 1 else ()
    torch.manual_seed(derive_seed(seed, "dropout", epoch, *own))
    random = generator(seed, "batches", epoch)
    batches = [own_share(batch) for batch in batching(train.labels.cpu(), random)]
    batches = [batch for batch in batches if len(batch)]
    if own:
        random = generator(seed, "augmentation", epoch, *own)
    for idx, (batch, uncropped) in enumerate(zip(batches, train.uncropped(batches), strict=True)):
        images = augment_images(
            uncropped.float() / 255,
            crop_px=train.crop_px,
            shift_px=settings.shift_px,
            mirror=settings.mirror,
            random=random,
        )
        yield images, train.labels[batch.to(train.device)], epoch + (idx + 0.5) / len(batches)


def _restore_weights(everything: nn.Module, restored: Restored) -> None:
    """Before they are shared out."""
    tensors, _ = restored
    weights = {name.removeprefix(_WEIGHT): t for name, t in tensors.items() if name.startswith(_WEIGHT)}
    load_state(everything, weights)
