"""One training run: epochs over a set, a resume point after each, the same bits every time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.distributed.collectives import agree_on, mean_over_processes, n_processes, own_share, rank
from pipeline.distributed.sharding import held_whole, share_like, trained_copy, whole
from pipeline.errors import InputError
from pipeline.images.augmentation import augment_images
from pipeline.machine.float64 import float64
from pipeline.machine.memory import is_out_of_memory
from pipeline.machine.seeding import derive_seed, generator
from pipeline.models.classifier import load_state, output_layer
from pipeline.progress import tell
from pipeline.training.predict import Score, evaluate
from pipeline.training.step import Step, gradient_scaler, training_step

if TYPE_CHECKING:
    from pipeline.images.parts import Images, Parts
    from pipeline.params.machine import Numerics
    from pipeline.params.training import Schedule
    from pipeline.training.batches import Batching
    from pipeline.training.objectives import Objective
    from pipeline.training.resume import Restored, ResumePoint

# What a resume point's tensors are.
_WEIGHT, _MOMENTUM = "weight.", "momentum."


class DivergedError(InputError):
    """Training whose loss is no finite number any more."""


@dataclass(frozen=True)
class Outcome:
    """A finished run: a row an epoch, and the validation score of the last one."""

    history: list[dict[str, Any]]
    validation: Score


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

    The last epoch's weights are the result; none is picked by its validation accuracy. Batches, shifts and
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
    device = train.device
    restored = resume.load()
    together = nn.ModuleDict({"model": model, "objective": objective})
    with trained_copy(together, numerics, device) as everything:
        if restored is not None:
            _restore_weights(everything, restored)
        trained = everything["model"]
        step = training_step(trained, everything["objective"], numerics, device)  # type: ignore[arg-type]
        optimizer, scaler = _optimizer(everything, settings), gradient_scaler(numerics, device)
        history = _restore_progress(everything, optimizer, scaler, restored)
        for epoch in range(len(history), settings.epochs):
            trained.train()
            batches = _epoch_batches(train, settings, batching, seed, epoch)
            means = _train_epoch(step, optimizer, scaler, batches, settings)
            agree_on(held_whole(everything))
            score = evaluate(trained, validation, batch_size=numerics.eval_batch_size)
            if not math.isfinite(means["total"] + score.loss):
                raise DivergedError(
                    f"the loss is no finite number in epoch {epoch + 1}: lower the learning rate or, "
                    "where the push takes part, its weights (lda)"
                )
            history.append(
                {"epoch": epoch + 1}
                | {f"train_{name}": mean for name, mean in means.items()}
                | {"validation_n": score.n, "validation_n_correct": score.n_correct}
                | {"validation_loss": score.loss}
            )
            state = {"history": history, "scaler": scaler.state_dict()}
            resume.save(_tensors(everything, optimizer), state)
            tell(f"epoch {epoch + 1} of {settings.epochs}, validation {score.accuracy:.2%}")
    model.eval()
    last = history[-1]
    return Outcome(
        history, Score(last["validation_n"], last["validation_n_correct"], last["validation_loss"])
    )


def _train_epoch(
    step: Step,
    optimizer: torch.optim.SGD,
    scaler: torch.amp.GradScaler,
    batches: Iterable[tuple[Tensor, Tensor, float]],
    settings: Schedule,
) -> dict[str, float]:
    """One pass over the batches; the mean of each term over them."""
    sums: dict[str, Tensor] = {}
    n_batches = 0
    for images, labels, time in batches:
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(settings, time)
        try:
            terms = step(images, labels)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(terms["total"]).backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise InputError(
                f"out of memory while training on {len(images)} images of {images.shape[2]}x{images.shape[3]}: "
                "lower the batch size (lda.samples_per_class for balanced batches), or numerics.precision"
            ) from None
        scaler.step(optimizer)
        scaler.update()
        n_batches += 1
        for name, value in terms.items():
            # Added up where they lie: reading a number makes the host wait for the device in every step.
            sums[name] = float64(value.detach()) + sums.get(name, 0.0)
    return mean_over_processes({name: float(total) / n_batches for name, total in sums.items()})


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


def _learning_rate(settings: Schedule, time: float) -> float:
    """Linear warm-up, then a cosine to zero; `time` in epochs."""
    if time < settings.warmup_epochs:
        return settings.learning_rate * time / settings.warmup_epochs
    progress = (time - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _optimizer(everything: nn.ModuleDict, settings: Schedule) -> torch.optim.SGD:
    """SGD; weight decay on weight matrices and filters only, not on biases and batch norm.

    The decision layer's weights have a decay of their own (CVIU Figure 1).
    """
    decides = set(output_layer(everything["model"]).parameters())
    trainable = [parameter for parameter in everything.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.ndim > 1]
    groups = [
        {"params": [p for p in matrices if p not in decides], "weight_decay": settings.weight_decay},
        {"params": [p for p in matrices if p in decides], "weight_decay": settings.decision_weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0
    )


def _tensors(everything: nn.Module, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """Weights and momentum by parameter name; that, the seed and the epoch are all the state there is."""
    tensors = {f"{_WEIGHT}{name}": whole(tensor) for name, tensor in everything.state_dict().items()}
    for name, parameter in everything.named_parameters():
        momentum = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if momentum is not None:
            tensors[f"{_MOMENTUM}{name}"] = whole(momentum)
    return tensors


def _restore_weights(everything: nn.Module, restored: Restored) -> None:
    """Before they are shared out."""
    tensors, _ = restored
    weights = {name.removeprefix(_WEIGHT): t for name, t in tensors.items() if name.startswith(_WEIGHT)}
    load_state(everything, weights)


def _restore_progress(
    everything: nn.Module, optimizer: torch.optim.SGD, scaler: torch.amp.GradScaler, restored: Restored | None
) -> list[dict[str, Any]]:
    """The history so far, with the optimiser and the scaler as they were at its end."""
    if restored is None:
        return []
    tensors, state = restored
    for name, parameter in everything.named_parameters():
        momentum = tensors.get(f"{_MOMENTUM}{name}")
        if momentum is not None:
            optimizer.state[parameter]["momentum_buffer"] = share_like(momentum, parameter)
    scaler.load_state_dict(state["scaler"])
    history: list[dict[str, Any]] = state["history"]
    return history
