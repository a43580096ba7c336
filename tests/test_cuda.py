"""What only a GPU can show; elsewhere these tests are skipped. `python -m benchmarks.gpu check` runs them.

What they can do without one was done on simulated devices: see tests/test_separate_device.py.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import NUMERICS, lda_weights, parts, schedule
from test_separate_device import (
    attacks,
    classifier,
    criteria,
    latent_space,
    push,
    single_weights,
    traced_and_pruned,
)
from torch import Tensor

from pipeline.images.parts import Images, Parts
from pipeline.machine.device import configure_torch
from pipeline.machine.memory import in_fitting_batches
from pipeline.models.classifier import Classifier
from pipeline.params.machine import Numerics
from pipeline.training.batches import balanced_batches, shuffled_batches
from pipeline.training.fit import Outcome, fit
from pipeline.training.objectives import Objective
from pipeline.training.push_objective import PushObjective
from pipeline.training.resume import ResumePoint

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    # Where an operation has no deterministic form on CUDA, torch warns.
    pytest.mark.filterwarnings("default"),
]
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def _configured() -> Iterator[None]:
    """As a stage on CUDA sets torch, but convolutions in full float32, as the comparisons with the CPU are to 1e-3."""
    tf32 = torch.backends.cudnn.allow_tf32
    assert configure_torch(numerics()).type == "cuda"
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_deterministic_debug_mode("default")
    torch.set_flush_denormal(False)


def numerics(**changes: Any) -> Numerics:
    return NUMERICS.model_copy(update={"device": "cuda"} | changes)


@pytest.mark.parametrize(
    "compute", [push, latent_space, traced_and_pruned, criteria, single_weights, attacks]
)
def test_results_are_those_of_the_cpu(
    compute: Callable[[Classifier, Tensor, Tensor], list[Tensor]],
) -> None:
    """But for rounding, and the signs of eigenvectors."""
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(20) % 3
    expected = compute(classifier(), images, labels)
    found = compute(classifier().to(CUDA), images.to(CUDA), labels.to(CUDA))
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu().double().abs(), other.double().abs(), rtol=1e-3, atol=1e-4)


def on_cuda(source: Parts) -> Parts:
    def moved(images: Images) -> Images:
        assert isinstance(images.images, Tensor)
        return Images(images.images.to(CUDA), images.labels.to(CUDA))

    return Parts(moved(source.train), moved(source.validation), moved(source.test), source.image_set)


def train(folder: Path, settings: Numerics, *, pushed: bool = False) -> tuple[Classifier, Outcome]:
    model = classifier().to(CUDA).train()
    weak = lda_weights(**{"gamma": 0.01, "lambda": 1e-4, "beta": 1e-5})
    outcome = fit(
        model,
        (PushObjective(weak) if pushed else Objective()).to(CUDA),
        on_cuda(parts(120)),
        schedule(epochs=12, shift_px=0),
        batching=balanced_batches(8, None) if pushed else shuffled_batches(12),
        seed=0,
        resume=ResumePoint(folder / "fit"),
        numerics=settings,
    )
    return model, outcome


@pytest.mark.parametrize("pushed", [False, True], ids=["plain", "push"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_net_learns_in_every_precision_compiled_or_not(
    precision: str, compiled: bool, pushed: bool, tmp_path: Path
) -> None:
    model, outcome = train(tmp_path, numerics(precision=precision, compile=compiled), pushed=pushed)
    assert outcome.validation.accuracy > 0.9
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("pushed", [False, True], ids=["plain", "push"])
def test_training_twice_gives_the_same_bits(pushed: bool, tmp_path: Path) -> None:
    """What torch says of operations without a deterministic form is printed."""
    seconds, models = [], []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for turn in ("warm-up", "first", "second"):
            started = time.perf_counter()
            models.append(train(tmp_path / turn, numerics(), pushed=pushed)[0])
            seconds.append(time.perf_counter() - started)
    warned = sorted({str(each.message)[:90] for each in said})
    sys.stdout.write(f"training: {seconds[1]:.2f} s; torch warned: {warned}\n")
    for one, other in zip(models[1].state_dict().values(), models[2].state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_batch_that_does_not_fit_is_halved() -> None:
    free, _ = torch.cuda.mem_get_info()
    bytes_per_image = free // 6
    tried = []

    def compute(batch_size: int) -> int:
        tried.append(batch_size)
        torch.empty(batch_size * bytes_per_image, dtype=torch.uint8, device=CUDA)
        return batch_size

    assert in_fitting_batches(compute, 16) == 4
    assert tried == [16, 8, 4]
