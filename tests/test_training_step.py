"""Precision and compilation of a training step, and what stays as it is whatever they are."""

import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import NUMERICS, lda_weights, parts, schedule
from torch import Tensor, nn

from pipeline.models import build_model
from pipeline.models.classifier import Classifier
from pipeline.params.machine import Numerics
from pipeline.training.batches import balanced_batches, shuffled_batches
from pipeline.training.fit import Outcome, fit
from pipeline.training.objectives import Objective
from pipeline.training.push_objective import PushObjective
from pipeline.training.resume import ResumePoint
from pipeline.training.step import gradient_scaler, training_step

CPU = torch.device("cpu")


def numerics(**changes: Any) -> Numerics:
    return NUMERICS.model_copy(update=changes)


def classifier(name: str = "fc", **options: Any) -> Classifier:
    torch.manual_seed(0)
    given = options or {"in_features": 64, "hidden": (12, 8)}
    net = build_model(name, 3, **given)
    return Classifier(net, image_shape=(1, 8, 8), mean=(0.3,), std=(0.25,), classes=("a", "b", "c")).train()


def batch(n: int = 24, seed: int = 1) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)), torch.arange(n) % 3


def train(
    folder: Path, settings: Numerics, *, push: bool = False, epochs: int = 12
) -> tuple[Classifier, Outcome]:
    model = classifier()
    outcome = fit(
        model,
        PushObjective(lda_weights(**{"gamma": 0.01, "lambda": 1e-4, "beta": 1e-5})) if push else Objective(),
        parts(120),
        schedule(epochs=epochs, shift_px=0),
        batching=balanced_batches(8, None) if push else shuffled_batches(12),
        seed=0,
        resume=ResumePoint(folder / "fit"),
        numerics=settings,
    )
    return model, outcome


@pytest.mark.parametrize("push", [False, True], ids=["plain", "push"])
def test_bfloat16_trains_and_leaves_float32_weights(tmp_path: Path, push: bool) -> None:
    model, outcome = train(tmp_path / "low", numerics(precision="bfloat16"), push=push)
    assert outcome.validation.accuracy > 0.9
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    reference, _ = train(tmp_path / "full", NUMERICS, push=push)
    pairs = list(zip(model.parameters(), reference.parameters(), strict=True))
    assert not all(torch.equal(one, other) for one, other in pairs), "bfloat16 was not used"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_layers_run_in_the_precision_and_the_push_loss_does_not(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scatter matrices get float32 features and no autocast, which would multiply them in 16 bits."""
    seen: list[tuple[torch.dtype, bool]] = []
    true_loss = sys.modules["pipeline.training.push_objective"].push_loss  # type: ignore[attr-defined]

    def spy(features: Tensor, labels: Tensor, weights: Any) -> Any:
        seen.append((features.dtype, torch.is_autocast_enabled("cpu")))
        return true_loss(features, labels, weights)

    monkeypatch.setattr("pipeline.training.push_objective.push_loss", spy)
    model = classifier()
    outputs: list[tuple[torch.dtype, bool]] = []
    layer = next(module for module in model.modules() if isinstance(module, nn.Linear))
    layer.register_forward_hook(
        lambda _module, _inputs, output: outputs.append((output.dtype, torch.is_autocast_enabled("cpu")))
    )
    step = training_step(model, PushObjective(lda_weights()), numerics(precision=precision), CPU)
    terms = step(*batch())
    terms["total"].backward()  # type: ignore[no-untyped-call]
    assert seen == [(torch.float32, False)]
    low = precision == "bfloat16"
    assert outputs == [(torch.bfloat16 if low else torch.float32, low)]
    assert all(each.grad is not None and each.grad.dtype == torch.float32 for each in model.parameters())
    assert not torch.is_autocast_enabled("cpu")


def test_only_float16_scales_its_loss() -> None:
    assert [
        gradient_scaler(numerics(precision=precision), CPU).is_enabled()
        for precision in ("float32", "bfloat16", "float16")
    ] == [False, False, True]


class _Interrupted(Exception):  # noqa: N818
    pass


def test_the_scale_of_float16_survives_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scaler that started afresh would scale by 65536 and grow every 2000 steps; this one grows every 3."""

    def scaler(_runtime: Numerics, device: torch.device) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(device.type, init_scale=8.0, growth_interval=3)

    monkeypatch.setattr("pipeline.training.fit.gradient_scaler", scaler)
    undisturbed, _ = train(tmp_path / "undisturbed", numerics(precision="float16"), epochs=4)

    save, n_saved = ResumePoint.save, 0

    def save_twice(self: ResumePoint, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        nonlocal n_saved
        save(self, tensors, state)
        n_saved += 1
        if n_saved == 2:
            raise _Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(ResumePoint, "save", save_twice)
        with pytest.raises(_Interrupted):
            train(tmp_path / "killed", numerics(precision="float16"), epochs=4)
    states = []
    for name in ("killed", "undisturbed"):
        loaded = ResumePoint(tmp_path / name / "fit").load()
        assert loaded is not None
        states.append(loaded[1]["scaler"])
    # Five batches an epoch: three growths in ten steps, six in twenty.
    assert (states[0]["scale"], states[0]["_growth_tracker"]) == (64.0, 1)
    assert (states[1]["scale"], states[1]["_growth_tracker"]) == (512.0, 2)

    resumed, _ = train(tmp_path / "killed", numerics(precision="float16"), epochs=4)
    loaded = ResumePoint(tmp_path / "killed/fit").load()
    assert loaded is not None
    assert loaded[1]["scaler"] == states[1]
    for one, other in zip(resumed.parameters(), undisturbed.parameters(), strict=True):
        assert torch.equal(one, other)


def _compile_that_fails(error: Exception, *, after: int) -> Callable[..., Any]:
    def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
        n_calls = 0

        def run(*inputs: Tensor) -> Any:
            nonlocal n_calls
            n_calls += 1
            if n_calls > after:
                raise error
            return step(*inputs)

        return run

    return compile_step


@pytest.mark.parametrize("after", [0, 2])
def test_a_failed_compilation_is_one_line_and_the_training_goes_on(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException, Unsupported

    plain, expected = train(tmp_path / "plain", NUMERICS, epochs=2)
    for idx, error in enumerate(
        [
            BackendCompilerFailed("inductor", RuntimeError("no C++ compiler\nwas found"), None),
            TorchDynamoException("line\n" * 500),
            Unsupported("generator", case_name="x"),
        ]
    ):
        caplog.clear()
        monkeypatch.setattr("torch.compile", _compile_that_fails(error, after=after))
        model, outcome = train(tmp_path / str(idx), numerics(compile=True), epochs=2)
        (record,) = [each for each in caplog.records if each.name == "pipeline.training.step"]
        assert record.levelno == logging.WARNING
        message = record.getMessage()
        assert message.startswith(f"torch.compile failed, going on without it ({type(error).__name__}: ")
        assert "\n" not in message
        assert len(message) < 320
        assert outcome == expected
        assert all(torch.equal(*pair) for pair in zip(model.parameters(), plain.parameters(), strict=True))


def test_errors_of_the_training_itself_are_no_reason_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compile", _compile_that_fails(torch.OutOfMemoryError("full"), after=0))
    step = training_step(classifier(), Objective(), numerics(compile=True), CPU)
    with pytest.raises(torch.OutOfMemoryError):
        step(*batch())


def test_without_the_setting_and_with_the_push_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("torch.compile", lambda step: calls.append(step) or step)
    training_step(classifier(), Objective(), NUMERICS, CPU)(*batch())
    training_step(classifier(), PushObjective(lda_weights()), numerics(compile=True), CPU)(*batch())
    assert calls == []
    training_step(classifier(), Objective(), numerics(compile=True), CPU)(*batch())
    assert len(calls) == 1


def test_leftover_batches_do_not_compile_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the batch, once for a leftover, and from then on for any size."""
    from torch._dynamo import reset
    from torch._dynamo.testing import CompileCounter

    counter, true_compile = CompileCounter(), torch.compile
    monkeypatch.setattr("torch.compile", lambda step: true_compile(step, backend=counter))
    model = classifier("resnet", config="i64-c128", width=0.0625, stem="small", in_channels=1)
    step = training_step(model, Objective(label_smoothing=0.1), numerics(compile=True), CPU)
    try:
        for n in (24, 24, 13, 24, 13, 24, 7, 5, 24, 19, 24):
            step(*batch(n))["total"].backward()  # type: ignore[no-untyped-call]
        assert 1 <= counter.frame_count <= 3
    finally:
        reset()


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_compiled_step_gives_the_same_gradients(caplog: pytest.LogCaptureFixture) -> None:
    from torch._dynamo import reset

    gradients = []
    for settings in (NUMERICS, numerics(compile=True)):
        model = classifier()
        step = training_step(model, Objective(), settings, CPU)
        step(*batch())["total"].backward()  # type: ignore[no-untyped-call]
        gradients.append([parameter.grad for parameter in model.parameters()])
    reset()
    assert "torch.compile failed" not in caplog.text
    for plain, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, compiled, rtol=1e-4, atol=1e-6)
