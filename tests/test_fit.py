import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import NUMERICS, lda_weights, parts, rms_prop, schedule, sgd
from torch import Tensor, nn

from pipeline.images.parts import Images
from pipeline.models import build_model
from pipeline.models.inception import Inception
from pipeline.params.training import Schedule
from pipeline.training.batches import balanced_batches, shuffled_batches
from pipeline.training.fit import DivergedError, Outcome, fit
from pipeline.training.objectives import AuxiliaryObjective, Objective, heads_of
from pipeline.training.predict import evaluate, predict_logits
from pipeline.training.push_objective import PushObjective
from pipeline.training.resume import ResumePoint


def fully_connected() -> nn.Module:
    return build_model("fc", 3, in_features=64, hidden=(12, 8))


class Recorder(Objective):
    """Notes what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.n_calls = 0
        self.labels: list[Tensor] = []
        self.images: list[Tensor] = []
        self.modes: list[bool] = []

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.n_calls += 1
        self.labels.append(labels)
        self.images.append(images)
        self.modes.append(model.training)
        return super().forward(model, images, labels)


def run(
    model: nn.Module, objective: Objective, folder: Path, *, settings: Schedule | None = None, seed: int = 3
) -> Outcome:
    return fit(
        model,
        objective,
        parts(),
        settings or schedule(),
        batching=shuffled_batches(6),
        seed=seed,
        resume=ResumePoint(folder / "run"),
        numerics=NUMERICS,
    )


class StoppedError(Exception):
    pass


class StopsInEpochThree:
    """Shuffled batches that raise in the middle of the third epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    def __call__(self, labels: Tensor, random: torch.Generator) -> Iterator[Tensor]:
        self.epoch += 1
        for position, batch in enumerate(shuffled_batches(6)(labels, random)):
            if self.epoch == 3 and position == 1:
                raise StoppedError
            yield batch


def with_dropout() -> nn.Module:
    return build_model("resnet", 3, config="c16", width=0.25, stem="small", in_channels=1, dropout=0.5)


def with_auxiliary_heads() -> nn.Module:
    stages = {"stages": (1, 1, 1), "base": (1, 1, 1)}
    return build_model("inception", 3, width=0.03, stem="small", in_channels=1, dropout=0.3, **stages)


def objective_for(model: nn.Module) -> Objective:
    if isinstance(model, Inception):
        return AuxiliaryObjective(Objective(), model, parts().train.scaled()[:4], weight=0.3)
    return Objective()


@pytest.mark.parametrize("build", [fully_connected, with_dropout, with_auxiliary_heads])
@pytest.mark.parametrize("where", ["batching", "objective"])
def test_a_run_stopped_in_epoch_three_and_resumed_ends_with_the_same_bits(
    build: Any, where: str, tmp_path: Path
) -> None:
    def fresh(seed: int) -> tuple[nn.Module, Objective]:
        torch.manual_seed(seed)
        model = build()
        return model, objective_for(model)

    undisturbed, objective = fresh(0)
    expected = run(undisturbed, objective, tmp_path / "undisturbed")

    stopped, objective = fresh(0)
    arguments: dict[str, Any] = {
        "batching": StopsInEpochThree() if where == "batching" else shuffled_batches(6),
        "seed": 3,
        "resume": ResumePoint(tmp_path / "stopped" / "run"),
        "numerics": NUMERICS,
    }
    if where == "objective":
        calls = iter(range(100))

        def interrupt(*_: Any) -> None:
            if next(calls) == 2 * 4 + 1:  # four batches an epoch: the second of the third
                raise StoppedError

        objective.register_forward_pre_hook(interrupt)
    with pytest.raises(StoppedError):
        fit(stopped, objective, parts(), schedule(), **arguments)

    point = arguments["resume"].load()
    assert [row["epoch"] for row in point[1]["history"]] == [1, 2]

    resumed, objective = fresh(99)  # its own initial weights must not matter
    found = run(resumed, objective, tmp_path / "stopped")
    assert found == expected
    assert len(found.history) == 5
    for key, tensor in undisturbed.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], tensor), key


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = fully_connected()
    expected = run(first, Objective(), tmp_path)
    again, recorder = fully_connected(), Recorder()
    assert run(again, recorder, tmp_path) == expected
    assert recorder.n_calls == 0
    assert all(torch.equal(tensor, first.state_dict()[key]) for key, tensor in again.state_dict().items())


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    states = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(0)
        model = with_dropout()
        torch.manual_seed(len(states))  # the global state at the start of a run is no one's business
        run(model, Objective(), tmp_path / name, seed=seed)
        states.append(torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


class Unit(Objective):
    """The loss is the sum of the decision layer's biases: plain SGD moves each by the learning rate."""

    def __init__(self) -> None:
        super().__init__()
        self.biases: list[float] = []

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        bias = model.get_parameter("decision.bias")
        self.biases.append(float(bias.detach()[0].double()))
        return {"total": bias.sum()}


@pytest.mark.parametrize(("epochs", "warmup"), [(4, 1), (3, 0), (5, 2), (2, 2)])
def test_the_learning_rate_warms_up_linearly_and_then_follows_a_cosine_to_zero(
    epochs: int, warmup: int, tmp_path: Path
) -> None:
    model, objective = fully_connected().double(), Unit()
    settings = schedule(
        epochs=epochs,
        warmup_epochs=warmup,
        optimizer=sgd(momentum=0.0),
        weight_decay=0.0,
        decision_weight_decay=0.0,
        learning_rate=0.2,
        shift_px=0,
        mirror=False,
    )

    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.net(x.double()))

        def get_parameter(self, target: str) -> nn.Parameter:
            return self.net.get_parameter(target)

    run(Cast(), objective, tmp_path, settings=settings)
    after = float(model.get_parameter("decision.bias").detach()[0])
    steps = -np.diff([*objective.biases, after])
    n_batches = 4  # 20 images in batches of 6
    expected = []
    for step in range(n_batches * epochs):
        time = (step + 0.5) / n_batches
        if time < warmup:
            expected.append(0.2 * time / warmup)
        else:
            expected.append(0.1 * (1 + math.cos(math.pi * (time - warmup) / (epochs - warmup))))
    np.testing.assert_allclose(steps, expected, rtol=1e-9, atol=1e-12)


class Nothing(Objective):
    """A loss that no weight moves: what is left is the decay."""

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        parameters = [*model.parameters(), *self.parameters()]
        return {"total": sum((p * 0).sum() for p in parameters if p.requires_grad)}  # type: ignore[dict-item]


class NothingWithAHead(Nothing):
    """Parameters of the objective's own, the last a linear layer: no decision layer of the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)


def without_linear_layer() -> nn.Module:
    """Torchvision's SqueezeNets decide by a convolution."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


@pytest.mark.parametrize(
    ("build", "decides"),
    [
        (fully_connected, "decision.weight"),
        (with_auxiliary_heads, "head.decision.weight"),
        (lambda: build_model("mobilenet", 3, width=0.1, stem="small", in_channels=1), "head.decision.weight"),
        (without_linear_layer, "2.weight"),
    ],
)
@pytest.mark.parametrize(("decay", "decision_decay"), [(0.1, 0.5), (0.0, 0.5), (0.5, 0.0)])
def test_decay_shrinks_weights_the_decision_layers_by_its_own_and_neither_biases_nor_batch_norm(
    build: Any, decides: str, decay: float, decision_decay: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, objective = build(), NothingWithAHead()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and batch norm that could shrink
            parameter += 0.25
    names = [*model.named_parameters(), *objective.named_parameters()]
    before = {name: parameter.detach().clone() for name, parameter in names}
    settings = schedule(
        epochs=1,
        warmup_epochs=0,
        optimizer=sgd(momentum=0.0),
        weight_decay=decay,
        decision_weight_decay=decision_decay,
        learning_rate=0.2,
        shift_px=0,
        mirror=False,
    )
    run(model, objective, tmp_path, settings=settings)
    rates = [0.1 * (1 + math.cos(math.pi * (step + 0.5) / 4)) for step in range(4)]
    n_decided = 0
    for name, parameter in names:
        if parameter.ndim <= 1 or not parameter.requires_grad:
            assert torch.equal(parameter, before[name]), name
            continue
        own = decision_decay if name == decides else decay
        n_decided += name == decides
        expected = before[name] * math.prod(1 - rate * own for rate in rates)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=0, msg=name)
    assert n_decided == 1


def test_one_step_shrinks_the_decision_weights_by_rate_times_decay(tmp_path: Path) -> None:
    model = fully_connected()
    decision, hidden = (model.get_parameter(f"{name}.weight") for name in ("decision", "hidden1"))
    before, untouched = decision.detach().clone(), hidden.detach().clone()
    settings = schedule(
        epochs=1,
        warmup_epochs=0,
        optimizer=sgd(momentum=0.0),
        weight_decay=0.0,
        decision_weight_decay=0.5,
        learning_rate=0.2,
        shift_px=0,
        mirror=False,
    )
    fit(
        model,
        Nothing(),
        parts(),
        settings,
        batching=shuffled_batches(20),  # one step, in the middle of the cosine: half the rate
        seed=0,
        resume=ResumePoint(tmp_path / "run"),
        numerics=NUMERICS,
    )
    torch.testing.assert_close(decision.detach(), before * (1 - 0.1 * 0.5), rtol=1e-6, atol=0)
    assert torch.equal(hidden, untouched)


def test_frozen_parameters_are_left_alone(tmp_path: Path) -> None:
    model = fully_connected()
    frozen = model.get_parameter("hidden1.weight").requires_grad_(False)
    before, free = frozen.clone(), model.get_parameter("hidden2.weight").detach().clone()
    run(model, Objective(), tmp_path)
    assert torch.equal(frozen, before)
    assert not torch.equal(model.get_parameter("hidden2.weight"), free)


def test_a_class_of_the_digits_kind_is_learnt(tmp_path: Path) -> None:
    torch.manual_seed(0)
    outcome = run(fully_connected(), Objective(), tmp_path, settings=schedule(epochs=25))
    assert outcome.validation.accuracy > 0.9
    losses = [row["train_total"] for row in outcome.history]
    assert losses[-1] < 0.3 * losses[0]


def test_training_sees_scaled_and_shifted_images_with_their_labels_in_training_mode(tmp_path: Path) -> None:
    recorder, data = Recorder(), parts().train
    model = with_dropout()
    run(model, recorder, tmp_path, settings=schedule(epochs=1, warmup_epochs=0, shift_px=0))
    images, labels = torch.cat(recorder.images), torch.cat(recorder.labels)
    assert set(recorder.modes) == {True}
    assert not model.training
    assert len(images) == len(data)
    scaled = data.images.float() / 255
    for image, label in zip(images, labels, strict=True):
        (idx,) = (scaled == image).flatten(1).all(1).nonzero().flatten().tolist()
        assert int(label) == int(data.labels[idx])
    shifted = Recorder()
    run(with_dropout(), shifted, tmp_path / "shifted", settings=schedule(epochs=1, warmup_epochs=0))
    assert not torch.equal(torch.cat(shifted.images).sort(0).values, images.sort(0).values)


def test_an_epochs_row_holds_mean_terms_over_batches_and_validation_counts(tmp_path: Path) -> None:
    class Counting(Recorder):
        def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            terms = super().forward(model, images, labels)
            return {"total": terms["total"], "call": torch.tensor(float(self.n_calls))}

    model = fully_connected()
    outcome = run(model, Counting(), tmp_path, settings=schedule(epochs=2))
    assert [row["epoch"] for row in outcome.history] == [1, 2]
    assert [row["train_call"] for row in outcome.history] == [2.5, 6.5]  # calls 1-4 and 5-8
    validation = parts().validation
    score = evaluate(model, validation, batch_size=3)
    last = outcome.history[-1]
    assert (last["validation_n"], last["validation_n_correct"]) == (15, score.n_correct)
    assert outcome.validation == evaluate(model, validation, batch_size=7)


class NoNumber(Objective):
    """Cross-entropy whose value is `value` from the second epoch on, four batches each."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.n_calls = value, 0

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.n_calls += 1
        terms = super().forward(model, images, labels)
        return {"total": terms["total"] * self.value} if self.n_calls > 4 else terms


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_training_that_diverges_stops_after_the_epoch_with_one_line(value: float, tmp_path: Path) -> None:
    objective = NoNumber(value)
    with pytest.raises(DivergedError) as caught:
        run(fully_connected(), objective, tmp_path)
    assert str(caught.value) == (
        "the loss is no finite number in epoch 2: lower the learning rate or, where the push takes part, "
        "its weights (lda)"
    )
    assert objective.n_calls == 8  # no third epoch
    loaded = ResumePoint(tmp_path / "run").load()
    assert loaded is not None
    assert [row["epoch"] for row in loaded[1]["history"]] == [1]


def test_weights_that_diverge_in_the_last_step_are_not_handed_on(tmp_path: Path) -> None:
    class Overshoots(NoNumber):
        """The loss is a number; its gradient is none."""

        def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            loss = Objective.forward(self, model, images, labels)["total"]
            self.n_calls += 1
            return {"total": loss + (0 * loss).sqrt() if self.n_calls == 4 else loss}

    with pytest.raises(DivergedError, match="in epoch 1:"):
        run(fully_connected(), Overshoots(1.0), tmp_path, settings=schedule(epochs=1))


def test_pushing_runs_on_balanced_batches(tmp_path: Path) -> None:
    outcome = fit(
        fully_connected(),
        PushObjective(lda_weights()),
        parts(),
        schedule(epochs=2),
        batching=balanced_batches(8, 2),
        seed=0,
        resume=ResumePoint(tmp_path / "run"),
        numerics=NUMERICS,
    )
    terms = ("total", "l_lda", "l_cov", "l_align", "n_active", "top_share", "collapsed")
    assert {f"train_{name}" for name in terms} < set(outcome.history[0])


@pytest.mark.parametrize(("share", "collapsed"), [(1e-6, 1.0), (0.9999999, 0.0)])
def test_the_history_of_a_push_holds_the_share_of_collapsed_batches(
    share: float, collapsed: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    outcome = fit(
        fully_connected(),
        PushObjective(lda_weights(classes_per_batch=None, collapse_share=share)),
        parts(),
        schedule(epochs=2),
        batching=balanced_batches(8, None),
        seed=0,
        resume=ResumePoint(tmp_path / "run"),
        numerics=NUMERICS,
    )
    assert [row["train_collapsed"] for row in outcome.history] == [collapsed] * 2
    assert all(0 < row["train_top_share"] <= 1 + 1e-6 for row in outcome.history)


class Pixels(nn.Module):
    """Logits are the first three pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3]


def test_evaluation_counts_hits_and_averages_cross_entropy_over_images() -> None:
    images = torch.zeros(5, 1, 2, 2, dtype=torch.uint8)
    for idx, brightest in enumerate([0, 1, 2, 2, 1]):
        images[idx].view(-1)[brightest] = 255
    data = Images(images, torch.tensor([0, 1, 2, 0, 0]))
    hit, miss = -math.log(math.e / (math.e + 2)), -math.log(1 / (math.e + 2))
    for batch_size in (1, 2, 5, 64):
        score = evaluate(Pixels(), data, batch_size=batch_size)
        assert (score.n, score.n_correct, score.accuracy) == (5, 3, 0.6)
        assert score.loss == pytest.approx((3 * hit + 2 * miss) / 5, rel=1e-6)
        assert score.as_dict() == {"n": 5, "n_correct": 3, "loss": score.loss}


@pytest.mark.parametrize("training", [True, False])
def test_prediction_is_in_evaluation_mode_without_gradient_and_restores_the_mode(training: bool) -> None:
    model = with_dropout().train(training)
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    one, other = (predict_logits(model, images, batch_size=size) for size in (2, 5))
    assert model.training == training
    assert not one.requires_grad
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


OPTIMIZERS = {
    "rmsprop": rms_prop(momentum=0.0),
    "rmsprop with momentum": rms_prop(),
    "clipped": sgd(clip_grad_norm=0.05),
    "averaged": sgd(average_weights=0.8),
    "all": rms_prop(clip_grad_norm=2.0, average_weights=0.9),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_a_resumed_run_ends_with_the_same_bits_whatever_the_optimiser(optimizer: Any, tmp_path: Path) -> None:
    settings, objective = schedule(optimizer=optimizer), Objective()

    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return with_dropout()

    undisturbed, plain = fresh(), fresh()
    expected = run(undisturbed, objective, tmp_path / "undisturbed", settings=settings)
    run(plain, objective, tmp_path / "plain", settings=schedule())
    assert any(
        not torch.equal(a, b) for a, b in zip(undisturbed.parameters(), plain.parameters(), strict=True)
    )
    resume = ResumePoint(tmp_path / "stopped" / "run")
    arguments: dict[str, Any] = {"batching": StopsInEpochThree(), "seed": 3, "numerics": NUMERICS}
    with pytest.raises(StoppedError):
        fit(fresh(), objective, parts(), settings, resume=resume, **arguments)
    resumed = fresh()
    assert run(resumed, objective, tmp_path / "stopped", settings=settings) == expected
    for name, tensor in undisturbed.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    again = fresh()  # a finished run hands on the same weights, the average where there is one
    assert run(again, objective, tmp_path / "undisturbed", settings=settings) == expected
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), undisturbed.parameters(), strict=True))


def weights_after_each_step(
    model: nn.Module, settings: Schedule, folder: Path
) -> tuple[Tensor, list[Tensor]]:
    """What is handed on at the end, and the weights that each step started from, all in one vector each."""
    seen: list[Tensor] = []

    class Watching(Objective):
        def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            seen.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))
            return super().forward(model, images, labels)

    run(model, Watching(), folder, settings=settings)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), seen


def test_averaged_weights_are_the_running_average_of_those_after_each_step(tmp_path: Path) -> None:
    """What is evaluated and handed on; training itself goes on from its own weights, as without an average."""
    torch.manual_seed(0)
    model = fully_connected()
    own = fully_connected()
    own.load_state_dict(model.state_dict())
    plain, seen = weights_after_each_step(own, schedule(), tmp_path / "plain")
    settings = schedule(optimizer=sgd(average_weights=0.75))
    averaged, seen_too = weights_after_each_step(model, settings, tmp_path / "averaged")
    assert all(torch.equal(a, b) for a, b in zip(seen, seen_too, strict=True))
    expected = seen[0].double()
    for after in [*seen[1:], plain]:
        expected = 0.75 * expected + 0.25 * after.double()
    torch.testing.assert_close(averaged.double(), expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(averaged, plain, atol=1e-4)


def test_the_score_of_an_epoch_is_that_of_averaged_weights_and_batch_statistics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = with_dropout()
    outcome = run(model, Objective(), tmp_path, settings=schedule(optimizer=sgd(average_weights=0.9)))
    score = evaluate(model, parts().validation, batch_size=7)
    assert outcome.validation.n_correct == score.n_correct
    assert outcome.validation.loss == pytest.approx(score.loss, rel=1e-6)
    torch.manual_seed(0)
    plain = with_dropout()
    run(plain, Objective(), tmp_path / "plain")
    buffers = [name for name, _ in model.named_buffers() if name.endswith("running_mean")]
    assert buffers
    assert not any(torch.equal(model.get_buffer(name), plain.get_buffer(name)) for name in buffers)


@pytest.mark.parametrize("largest", [0.01, 1e9])
def test_gradients_are_clipped_to_their_largest_norm_over_all_weights(largest: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = fully_connected()
    settings = schedule(
        epochs=1,
        learning_rate=0.1,
        warmup_epochs=0,
        weight_decay=0.0,
        decision_weight_decay=0.0,
        optimizer=sgd(momentum=0.0, clip_grad_norm=largest),
    )
    end, seen = weights_after_each_step(model, settings, tmp_path)
    steps = [float((after - before).norm()) for before, after in zip(seen, [*seen[1:], end], strict=True)]
    n = len(steps)
    rates = [0.05 * (1 + math.cos(math.pi * (idx + 0.5) / n)) for idx in range(n)]
    if largest == 0.01:
        assert steps == pytest.approx([0.01 * rate for rate in rates], rel=1e-3)
    else:
        assert all(step > 0.1 * rate for step, rate in zip(steps, rates, strict=True))


def test_rmsprop_divides_by_the_root_of_the_running_square_and_its_epsilon(tmp_path: Path) -> None:
    """The first step from a known gradient, by hand: g / (sqrt(0.1 g^2) + epsilon)."""
    torch.manual_seed(0)
    model = fully_connected()
    before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])

    class Linear(Objective):
        def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"total": 3 * torch.stack([p.sum() for p in model.parameters()]).sum() + 100}

    settings = schedule(
        epochs=1, warmup_epochs=0, learning_rate=0.1, weight_decay=0.0, decision_weight_decay=0.0
    )
    fit(
        model,
        Linear(),
        parts(),
        settings.model_copy(update={"optimizer": rms_prop(momentum=0.0)}),
        batching=shuffled_batches(100),
        seed=0,
        resume=ResumePoint(tmp_path / "run"),
        numerics=NUMERICS,
    )
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    rate = 0.1 * 0.5 * (1 + math.cos(math.pi / 2))
    expected = before - rate * 3 / (math.sqrt(0.1 * 9) + 1)
    torch.testing.assert_close(after, expected)


class Lost(Objective):
    """Keeps every logit at zero: nothing is learnt."""

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"total": sum(p.square().sum() for p in model.parameters())}  # type: ignore[dict-item]


def test_a_run_that_stays_at_chance_is_collapsed_in_every_row_and_logged_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    outcome = run(fully_connected(), Lost(), tmp_path)
    assert outcome.collapsed
    assert [row["collapsed"] for row in outcome.history] == [1] * 5
    (record,) = [each for each in caplog.records if "collapsed" in each.getMessage()]
    assert "epoch 1" in record.getMessage()
    assert f"of {outcome.validation.n} right" in record.getMessage()


def test_a_run_that_learns_is_not_collapsed_and_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    outcome = run(fully_connected(), Objective(), tmp_path, settings=schedule(epochs=12, shift_px=0))
    assert not outcome.collapsed
    assert outcome.history[-1]["collapsed"] == 0
    n_at_chance = sum(row["collapsed"] for row in outcome.history)
    assert len([each for each in caplog.records if "collapsed" in each.getMessage()]) == min(n_at_chance, 1)


@pytest.mark.parametrize(("share", "collapsed"), [(1e-6, True), (0.9999999, False)])
def test_a_push_in_its_collapsed_state_makes_a_run_collapsed(
    share: float, collapsed: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    outcome = fit(
        fully_connected(),
        PushObjective(lda_weights(**{"collapse_share": share, "gamma": 1e-6, "lambda": 0.0, "beta": 0.0})),
        parts(200),
        schedule(epochs=8),
        batching=balanced_batches(8, None),
        seed=0,
        resume=ResumePoint(tmp_path / "run"),
        numerics=NUMERICS,
    )
    assert outcome.validation.accuracy > 0.8
    assert outcome.collapsed is collapsed


def test_the_objective_is_told_how_far_training_is_before_every_step(tmp_path: Path) -> None:
    calls: list[float | str] = []

    class Timed(Objective):
        def at(self, progress: float) -> None:
            calls.append(progress)

        def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            calls.append("step")
            return super().forward(model, images, labels)

    run(fully_connected(), Timed(), tmp_path)
    told = calls[::2]
    assert calls[1::2] == ["step"] * 20
    assert told == pytest.approx([(idx + 0.5) / 20 for idx in range(20)])


def test_heads_of_a_run_are_handed_on_as_they_were_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = with_auxiliary_heads()
    objective = objective_for(model)
    run(model, objective, tmp_path)
    heads = heads_of(model)
    assert set(heads) == set(objective.state_dict())
    assert all(torch.equal(tensor, objective.state_dict()[name]) for name, tensor in heads.items())
    later = AuxiliaryObjective(Objective(), model, parts().train.scaled()[:4], weight=0.3, inherited=heads)
    assert all(torch.equal(later.state_dict()[name], tensor) for name, tensor in heads.items())
    plain = fully_connected()
    run(plain, Objective(), tmp_path / "plain")
    assert heads_of(plain) == {}
