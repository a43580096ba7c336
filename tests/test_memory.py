"""Out of memory: what is measured goes on in smaller batches, training ends with one line."""

import gc
import logging
from pathlib import Path

import pytest
import torch
from builders import NUMERICS, parts, schedule
from torch import Tensor, nn

from pipeline.attacks import craft
from pipeline.compare.criteria import Criterion, score_filters
from pipeline.deconv import trace_utility
from pipeline.deconv.layer_outputs import LayerOutput
from pipeline.errors import InputError
from pipeline.machine.memory import in_fitting_batches, is_out_of_memory
from pipeline.models import build_model
from pipeline.params.perturbations import Attack, FgsmAttack, NewtonFoolAttack
from pipeline.saliency import trace_saliency
from pipeline.training.batches import balanced_batches, shuffled_batches
from pipeline.training.fit import fit
from pipeline.training.objectives import Objective
from pipeline.training.predict import evaluate, predict_logits
from pipeline.training.resume import ResumePoint


class Narrow(nn.Module):
    """A net that runs out of memory above so many images at a time, and notes what it was given."""

    def __init__(self, n_fitting: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = build_model("fc", 3, in_features=64, hidden=(5,))
        self.n_fitting = n_fitting
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if len(images) > self.n_fitting:
            raise torch.OutOfMemoryError("tried to allocate 20.00 GiB")
        logits: Tensor = self.net(images)
        return logits


def test_every_device_says_in_its_own_way_that_memory_is_exhausted() -> None:
    with pytest.raises(RuntimeError) as of_cpu:
        torch.empty(1 << 55, dtype=torch.uint8)
    assert is_out_of_memory(of_cpu.value), str(of_cpu.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA: full"))
    of_mps = (
        "MPS backend out of memory (MPS allocated: 17.9 GB, other allocations: 1.2 GB, max allowed: 18 GB)"
    )
    assert is_out_of_memory(RuntimeError(of_mps))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"))


def test_another_error_is_no_reason_to_halve_a_batch() -> None:
    seen = []

    def compute(batch_size: int) -> None:
        seen.append(batch_size)
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        in_fitting_batches(compute, 8)
    assert seen == [8]


@pytest.mark.parametrize(
    ("n_fitting", "tried"),
    [(100, [100]), (99, [100, 50]), (13, [100, 50, 25, 12]), (1, [100, 50, 25, 12, 6, 3, 1])],
)
def test_a_batch_is_halved_until_it_fits(
    n_fitting: int, tried: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    def compute(batch_size: int) -> str:
        seen.append(batch_size)
        if batch_size > n_fitting:
            raise torch.OutOfMemoryError
        return f"by {batch_size}"

    with caplog.at_level(logging.WARNING):
        assert in_fitting_batches(compute, 100) == f"by {tried[-1]}"
    assert seen == tried
    assert caplog.messages == [f"out of memory: {size} images at a time from here on" for size in tried[1:]]


def test_a_single_image_too_many_is_one_line() -> None:
    def compute(_: int) -> None:
        raise torch.OutOfMemoryError("tried to allocate 20.00 GiB")

    with pytest.raises(InputError) as caught:
        in_fitting_batches(compute, 4)
    assert str(caught.value) == "the device's memory cannot hold this model and a single image"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("error", [RuntimeError("out of range"), ValueError("no"), MemoryError()])
def test_other_errors_pass_at_once(error: Exception) -> None:
    sizes = []

    def compute(batch_size: int) -> None:
        sizes.append(batch_size)
        raise error

    with pytest.raises(type(error)) as caught:
        in_fitting_batches(compute, 8)
    assert caught.value is error
    assert sizes == [8]


def test_predictions_and_scores_are_those_of_the_smaller_batches() -> None:
    data = parts()
    model, roomy = Narrow(3).eval(), Narrow(100).eval()
    images = data.validation.first(15)
    assert len(images) == 15
    logits = predict_logits(model, images, batch_size=14)
    assert model.sizes == [14, 7, 3, 3, 3, 3, 3]
    assert torch.equal(logits, predict_logits(roomy, images, batch_size=3))
    model.sizes.clear()
    score = evaluate(model, data.validation, batch_size=14)
    assert model.sizes == [14, 7, 3, 3, 3, 3, 3]
    assert score == evaluate(roomy, data.validation, batch_size=3)


@pytest.mark.parametrize(
    "attack",
    [FgsmAttack(method="fgsm", epsilon=8.0), NewtonFoolAttack(method="newton_fool", steps=2, eta=0.01)],
    ids=["fgsm", "newton_fool"],
)
def test_attacks_are_those_of_the_smaller_batches(attack: Attack) -> None:
    data = parts().validation
    model, images, labels = Narrow(3), data.first(15), data.labels[:15]
    attacked = craft(attack, model, images, labels, batch_size=14)
    assert model.sizes[:3] == [14, 7, 3]
    assert torch.equal(attacked, craft(attack, Narrow(100), images, labels, batch_size=3))
    assert not torch.equal(attacked, images)


@pytest.mark.parametrize("criterion", ["taylor", "apoz"])
def test_scores_of_filters_are_those_of_the_smaller_batches(criterion: Criterion) -> None:
    data = parts().validation
    images, labels, random = data.first(15), data.labels[:15], torch.Generator()
    model = Narrow(3)
    scores = score_filters(model, criterion, images, labels, random=random, batch_size=14)
    assert model.sizes == [14, 7, 3, 3, 3, 3, 3]
    roomy = score_filters(Narrow(100), criterion, images, labels, random=random, batch_size=3)
    assert scores
    assert all(torch.equal(score, roomy[name]) for name, score in scores.items())


@pytest.mark.parametrize("score", ["taylor", "saliency", "deconvolution"])
def test_no_batchs_outputs_outlive_it(score: str) -> None:
    """Without the garbage collector, which comes by too seldom where a few objects hold gigabytes."""
    data, model, random = parts(), build_model("fc", 3, in_features=64, hidden=(5, 4)), torch.Generator()
    images, labels, kept = data.train.first(20), data.train.labels[:20], torch.ones(4, dtype=torch.bool)
    gc.collect()
    gc.disable()
    try:
        if score == "taylor":
            score_filters(model, "taylor", images, labels, random=random, batch_size=4)
        elif score == "saliency":
            trace_saliency(model, images, labels, kept, ridge=1e-3, samples_per_class=2, seed=0, batch_size=4)
        else:
            trace_utility(model, images, kept, batch_size=4)
        # By type alone: what isinstance asks of torch's deprecated objects is a warning.
        assert not [each for each in gc.get_objects() if type(each) is LayerOutput]
    finally:
        gc.enable()


def test_the_mode_of_a_model_survives_a_halving() -> None:
    model = Narrow(2).train()
    evaluate(model, parts().validation, batch_size=8)
    assert model.training


@pytest.mark.parametrize(
    ("batching", "n"),
    [(shuffled_batches(10), 10), (balanced_batches(4, None), 12)],
    ids=["shuffled", "balanced"],
)
def test_training_stops_with_a_line_that_names_the_batch(batching: object, n: int, tmp_path: Path) -> None:
    """Half a batch would be another training."""
    with pytest.raises(InputError) as caught:
        fit(
            Narrow(n - 1),
            Objective(),
            parts(),
            schedule(),
            batching=batching,  # type: ignore[arg-type]
            seed=0,
            resume=ResumePoint(tmp_path / "fit"),
            numerics=NUMERICS,
        )
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"out of memory while training on {n} images of 8x8: lower the batch size")
    assert "lda.samples_per_class" in line
    assert caught.value.__suppress_context__
