"""Ours at its sizes, and competitors at the same: as many channels, weights and epochs, and seeds of their own."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import builders
import numpy as np
import pytest
import torch
from conftest import ROOT
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pipeline.compare import competitors
from pipeline.compare.competitors import entrants
from pipeline.compare.contest import Contest, Entrant, comparison_row
from pipeline.compare.criteria import score_filters
from pipeline.compared import OURS, is_ours
from pipeline.cost import count_params, measure_cost
from pipeline.errors import InputError
from pipeline.images.image_set import ImageSet
from pipeline.images.parts import Images, Parts
from pipeline.models.classifier import Classifier, decision_layer
from pipeline.params.file import read_params
from pipeline.params.nets.sections import InceptionModel, ResNetModel, TorchvisionModel
from pipeline.params.params import Params
from pipeline.params.pruning import COMPETITORS, FILTER_CRITERIA, FilterCriterion, FixedNet, SizeUnit
from pipeline.params.training import Auxiliary, Train
from pipeline.prune.target_size import Target
from pipeline.training.again import Tried
from pipeline.training.classifiers import build_classifier
from pipeline.training.objectives import Objective
from pipeline.training.predict import evaluate
from pipeline.training.resume import ResumePoint
from pipeline.uncertainty import unpack_hits

NUMERICS = builders.NUMERICS.model_copy(update={"eval_batch_size": 64})

NET = InceptionModel(
    architecture="inception",
    module="v1_double3x3",
    stages=[1, 1, 1],
    base=[1, 1, 1],
    width=0.0625,
    stem="small",
    factorized_kernel=7,
    dropout=0.0,
)
RESNET = ResNetModel(architecture="resnet", config="c16", width=0.25, stem="small", dropout=0.2)
FIXED = FixedNet(learning_rate=0.1, model=RESNET)
SIZES = (0.3, 0.15)
AT_OUR_WIDTHS = [each for each in FILTER_CRITERIA if not each.endswith("_own")]


@cache
def tiny() -> Params:
    return read_params(ROOT / "presets/tiny.yaml")


@cache
def parts() -> Parts:
    """A few of the digits: 150 to train on, 50 to validate with, 50 to test."""
    digits = load_digits()
    images = (digits.images[:250, None] * 15).astype(np.uint8)
    idx = np.arange(250)
    split = {"train": idx[:150], "validation": idx[150:200], "test": idx[200:]}
    classes = tuple("0123456789")
    image_set = ImageSet(images, digits.target[:250].astype(np.int64), classes, split)  # type: ignore[arg-type]

    def part(name: str) -> Images:
        found, labels = image_set.part(name)  # type: ignore[arg-type]
        return Images(torch.from_numpy(found), torch.from_numpy(labels))

    return Parts(part("train"), part("validation"), part("test"), image_set)


def start(seed: int = 1) -> Classifier:
    torch.manual_seed(seed)
    return build_classifier(NET, parts().image_set, wanted_for="model")


def targets() -> list[Target]:
    return [Target("params", size * count_params(start())) for size in SIZES]


@cache
def ours() -> list[tuple[Entrant, Tensor, dict[str, Any]]]:
    """Ours at each size from another net of the same architecture: its weights then, and its only epoch's row."""
    with TemporaryDirectory() as folder:
        played = contest(Path(folder), OURS, epochs_before=3)
        return [
            (entrant, state(entrant.model).clone(), history(played, entrant.step)[0])
            for entrant in play(played, model=start(2), ours=[])
        ]


def references() -> list[Classifier]:
    """What the others follow."""
    return [entrant.model for entrant, _, _ in ours()]


def do_not_retrain(monkeypatch: pytest.MonkeyPatch) -> None:
    """But the nets that the others follow, which are trained before: they are kept for all tests of a process."""
    ours()
    monkeypatch.setattr(Contest, "retrain", lambda *_: TRIED)


def contest(folder: Path, method: str = "some", *, seed: int = 0, epochs_before: int = 2) -> Contest:
    params = tiny()
    assert params.compare is not None
    return Contest(
        parts=parts(),
        retraining=params.compare.retraining,
        rate_factors=[1.0],
        auxiliary=params.train.auxiliary,
        lda=params.lda,
        surgery=params.surgery,
        epochs_before=epochs_before,
        seed=seed,
        method=method,
        resume=ResumePoint(folder / method / str(seed) / "fit"),
        numerics=NUMERICS,
    )


TRIED = Tried(collapsed=True, retried=True, learning_rate=0.1, history=[])
HEADS = Auxiliary(weight=0.3, batch_norm=False)


def base_training(*, auxiliary: Auxiliary | None = HEADS, **changes: Any) -> Train:
    """The base's section `train`, with other settings of its schedule."""
    schedule = tiny().train.training.model_copy(update={"batch_size": 50, **changes})
    return Train(training=schedule, auxiliary=auxiliary)


def play(
    played: Contest,
    *,
    model: Classifier | None = None,
    ours: Sequence[Classifier] | None = None,
    training: Train | None = None,
    net: FixedNet | None = None,
    n_steps: int = len(SIZES),
    sizes: Sequence[Target] | None = None,
) -> Iterator[Entrant]:
    """The contest's method, given what all are given."""
    return entrants(
        played,
        model or start(),
        targets=sizes or targets(),
        ours=references() if ours is None else ours,
        training=training or base_training(),
        net=net,
        n_steps=n_steps,
    )


def channels(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of every filter bank by layer."""
    return {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def state(model: nn.Module) -> Tensor:
    return torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])


def history(played: Contest, child: object) -> list[dict[str, Any]]:
    loaded = played.resume.child(child).load()
    assert loaded is not None
    rows: list[dict[str, Any]] = loaded[1]["history"]
    return rows


def states(found: Iterator[Entrant]) -> list[Tensor]:
    """Each step's weights, taken before the next step begins."""
    return [state(entrant.model).clone() for entrant in found]


def test_ours_goes_through_the_sizes_one_after_another_and_is_retrained_with_the_push() -> None:
    before = channels(start(2))
    for step, ((entrant, _, row), target) in enumerate(zip(ours(), targets(), strict=True)):
        cost = measure_cost(entrant.model, (1, 8, 8))
        assert entrant.step == step
        assert (entrant.params, entrant.flops) == (cost.params, cost.flops)
        assert entrant.params == pytest.approx(target.value, rel=0.02)
        assert entrant.epochs == 3 + (step + 1) * 1
        assert row["epoch"] == 1
        assert {"train_l_lda", "train_l_cov", "train_l_align"} <= set(row)
        after = channels(entrant.model)
        assert all(after[name] <= before[name] for name in after)  # from what the step before left
        before = after
    # Else the tests of the others, which follow ours, would say little.
    assert len(before) < len(channels(start())), "expected a branch to go"


@pytest.mark.parametrize("criterion", AT_OUR_WIDTHS)
def test_every_criterion_keeps_as_many_channels_in_every_layer_as_ours(
    criterion: FilterCriterion, tmp_path: Path
) -> None:
    played, model = contest(tmp_path, criterion), start()
    untouched = state(model)
    steps = []
    for entrant, reference in zip(play(played, model=model), references(), strict=True):
        cost = measure_cost(reference, (1, 8, 8))
        assert channels(entrant.model) == channels(reference)
        assert (entrant.params, entrant.flops) == (cost.params, cost.flops)
        assert entrant.epochs == played.epochs(entrant.step)
        rows = history(played, entrant.step)
        assert len(rows) == played.retraining.epochs
        assert "train_l_lda" not in rows[0]  # cross-entropy alone
        steps.append(entrant.step)
    assert steps == [0, 1]
    assert torch.equal(state(model), untouched)


OWN = {
    "l1_own": "uniform",
    "fpgm_own": "uniform",
    "apoz_own": "uniform",
    "activation_mean_own": "uniform",
    "activation_variance_own": "uniform",
    "random_own": "uniform",
    "taylor_own": "global",
    "lda_after_the_fact_own": "layer",
}


@pytest.mark.parametrize("criterion", OWN)
def test_at_its_own_widths_a_criterion_is_as_large_as_ours(
    criterion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_not_retrain(monkeypatch)
    for entrant, reference in zip(play(contest(tmp_path, criterion)), references(), strict=True):
        assert entrant.params == pytest.approx(count_params(reference), rel=0.02)
        assert channels(entrant.model) != channels(reference)
        assert entrant.flops == measure_cost(entrant.model, (1, 8, 8)).flops
        if OWN[criterion] != "layer":  # that one chooses its latent neurons itself
            n_latent = decision_layer(entrant.model).in_features
            assert n_latent == pytest.approx(decision_layer(reference).in_features, abs=3)


KEPT = "net.stages.1.0.branch3x3.0.conv"
RULES = {"keep": [KEPT.removeprefix("net.")], "min_channels": 3, "remove_branches": False}


@cache
def ours_by_the_rules() -> Classifier:
    """Not retrained."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Contest, "retrain", lambda *_: TRIED)
        played = contest(Path(folder), OURS)
        played = replace(played, surgery=played.surgery.model_copy(update=RULES))
        return next(play(played, model=start(2), ours=[])).model


@pytest.mark.parametrize("method", [OURS, "l1", *OWN])
def test_kept_layers_and_a_least_width_hold_for_every_method(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_not_retrain(monkeypatch)
    model, before = start(), channels(start())
    played = contest(tmp_path, method)
    played = replace(played, surgery=played.surgery.model_copy(update=RULES))
    ours = [ours_by_the_rules()]
    entrant = next(play(played, model=model, ours=ours if method != OURS else []))
    after = channels(entrant.model)
    assert after[KEPT][0] == before[KEPT][0]
    assert all(after[name][0] >= min(3, n_out) for name, (n_out, *_) in before.items())
    assert count_params(entrant.model) == pytest.approx(count_params(ours[0]), rel=0.02)
    assert count_params(entrant.model) < 0.9 * count_params(start())


@pytest.mark.parametrize("unit", ["flops", "milliseconds"])
def test_where_ours_is_at_a_number_of_flops_or_milliseconds_the_others_match_its_flops(
    unit: SizeUnit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_not_retrain(monkeypatch)
    sizes = [Target(unit, 1.0), Target(unit, 0.5)]
    for entrant, reference in zip(play(contest(tmp_path, "l1_own"), sizes=sizes), references(), strict=True):
        assert entrant.flops == pytest.approx(measure_cost(reference, (1, 8, 8)).flops, rel=0.02)


def test_uniform_widths_take_the_same_share_of_every_layer_but_the_latent_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do_not_retrain(monkeypatch)
    entrant = next(play(contest(tmp_path, "l1_own"), ours=references()[:1]))
    before, after = channels(start()), channels(entrant.model)
    inside = [name for name in after if "stages.2" not in name and "decision" not in name]
    shares = [after[name][0] / before[name][0] for name in inside if before[name][0] >= 8]
    assert len(shares) > 2
    assert max(shares) - min(shares) < 0.2  # a channel of eight is an eighth


def test_criteria_keep_different_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without retraining: what differs is what the criterion kept."""
    do_not_retrain(monkeypatch)
    kept = {
        criterion: states(play(contest(tmp_path, criterion), ours=references()[:1]))[0]
        for criterion in AT_OUR_WIDTHS
    }
    for criterion, weights in kept.items():
        equal = [other for other, theirs in kept.items() if torch.equal(weights, theirs)]
        assert equal == [criterion]


def test_taylor_is_accumulated_over_all_training_images_and_the_others_see_as_many_as_ours_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thesis 3.3.3: over an epoch of training images, whatever the budget of tracing."""
    pruned_by: dict[str, dict[str, Tensor]] = {}
    for criterion in ("taylor", "apoz"):

        def record(
            model: Classifier, scores: dict[str, Tensor], *_: Any, name: str = criterion
        ) -> Classifier:
            pruned_by[name] = scores
            return model

        do_not_retrain(monkeypatch)
        monkeypatch.setattr(competitors, "prune_like", record)
        list(play(contest(tmp_path, criterion), ours=references()[:1]))
    train = parts().train
    for criterion, on_all in (("taylor", True), ("apoz", False)):
        images, random = train.scaled(), torch.Generator()
        expected = score_filters(start(), criterion, images, train.labels, random=random)  # type: ignore[arg-type]
        found = pruned_by[criterion]
        assert set(found) == set(expected)
        close = [torch.allclose(found[name], scores, rtol=1e-6) for name, scores in expected.items()]
        assert all(close) == on_all


def test_random_filters_follow_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    do_not_retrain(monkeypatch)
    one, again, other = (states(play(contest(tmp_path, "random", seed=seed))) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(one) == 2


METHODS = [OURS, "ours_global", "l1", "random", "random_own", "han", "scratch", "fixed"]


def method(name: str, folder: Path) -> list[Tensor]:
    """Ours at one size alone, as its search for an eta takes the longest."""
    played = contest(folder, name, epochs_before=3)
    return states(play(played, model=start(2), net=FIXED if name == "fixed" else None, sizes=targets()[:1]))


def test_a_methods_bits_depend_on_its_name_and_seed_alone_and_come_back_from_its_resume_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {name: method(name, tmp_path / "first") for name in METHODS if name != OURS}
    expected[OURS] = [ours()[0][1]]
    assert {name: len(states) for name, states in expected.items() if len(states) != 2} == {
        name: 1 for name in METHODS if name == "fixed" or is_ours(name)
    }
    torch.manual_seed(99)
    torch.rand(17)
    again = {
        name: method(name, tmp_path / "second") for name in reversed(METHODS)
    }  # others before each of them

    def no_step(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(torch.optim.SGD, "step", no_step)
    stored = {name: method(name, tmp_path / "second") for name in METHODS}
    for name, states_then in expected.items():
        for one, other, third in zip(states_then, again[name], stored[name], strict=True):
            assert torch.equal(one, other), name
            assert torch.equal(one, third), name


def test_every_competitor_that_params_may_name_is_among_the_methods_tried_here() -> None:
    assert {*METHODS, *FILTER_CRITERIA} - {OURS, "ours_global", "fixed"} == set(COMPETITORS)


def test_single_weights_keep_the_dense_flops_and_the_references_number_of_weights(tmp_path: Path) -> None:
    played = contest(tmp_path, "han")
    dense = measure_cost(start(), (1, 8, 8))
    zeros: dict[str, Tensor] = {}
    n_steps = 0
    for entrant, reference in zip(play(played), references(), strict=True):
        layers = {
            name: module
            for name, module in entrant.model.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        }
        n_nonzero = sum(int(layer.weight.count_nonzero()) for layer in layers.values())
        n_biases = sum(0 if layer.bias is None else layer.bias.numel() for layer in layers.values())
        assert n_nonzero + n_biases == count_params(reference) == entrant.params
        assert entrant.flops == dense.flops
        assert channels(entrant.model) == channels(start())
        assert entrant.epochs == played.epochs(entrant.step)
        for name, zero in zeros.items():
            assert not bool(layers[name].weight[zero].any())  # what was cut before stays cut
        zeros = {name: layer.weight.detach() == 0 for name, layer in layers.items()}
        n_steps += 1
    assert n_steps == 2


def test_from_scratch_trains_the_references_architectures_with_fresh_weights(tmp_path: Path) -> None:
    played = contest(tmp_path, "scratch", epochs_before=2)
    before = [state(reference).clone() for reference in references()]
    found = list(play(played, training=base_training(epochs=7)))
    assert [entrant.step for entrant in found] == [0, 1]
    for entrant, reference, untouched in zip(found, references(), before, strict=True):
        assert channels(entrant.model) == channels(reference)
        theirs = dict(reference.named_parameters())
        for name, parameter in entrant.model.named_parameters():
            if parameter.ndim > 1:
                assert not torch.equal(parameter, theirs[name]), name
        assert torch.equal(state(reference), untouched)
        rows = history(played, entrant.step)
        # As many epochs as ours has had: those before and those of every size so far.
        assert len(rows) == entrant.epochs == 2 + (entrant.step + 1) * 1
        assert all("train_auxiliary" in row for row in rows)


def test_from_scratch_without_auxiliary_heads_has_none(tmp_path: Path) -> None:
    played = contest(tmp_path, "scratch", epochs_before=0)
    list(play(played, ours=references()[:1], training=base_training(auxiliary=None)))
    assert not any("train_auxiliary" in row for row in history(played, 0))


def test_from_scratch_draws_other_weights_for_every_seed_and_size(tmp_path: Path) -> None:
    same_twice = [references()[1], references()[1]]

    def run(seed: int) -> list[Tensor]:
        return states(play(contest(tmp_path, "scratch", seed=seed, epochs_before=0), ours=same_twice))

    one, other = run(0), run(1)
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], one[1])


def test_a_fixed_net_is_trained_once_for_as_many_epochs_as_our_smallest(tmp_path: Path) -> None:
    played = contest(tmp_path, "resnet6", epochs_before=1)
    (entrant,) = play(played, ours=[], net=FIXED, training=base_training(epochs=50), n_steps=3)
    assert (entrant.step, entrant.epochs) == (2, 1 + 3)
    assert len(history(played, "fixed")) == 4
    cost = measure_cost(entrant.model, (1, 8, 8))
    assert (entrant.params, entrant.flops) == (cost.params, cost.flops)
    assert entrant.model.classes == tuple("0123456789")


def test_a_fixed_net_goes_by_its_own_learning_rate_and_not_by_the_bases(tmp_path: Path) -> None:
    def run(own: float, base: float) -> Tensor:
        played = contest(tmp_path / f"{own}-{base}", "net", epochs_before=0)
        net = FixedNet(learning_rate=own, model=RESNET)
        return states(play(played, net=net, training=base_training(learning_rate=base), n_steps=1))[0]

    slow, again, fast = run(0.001, 0.1), run(0.001, 0.2), run(0.1, 0.1)
    assert torch.equal(slow, again)
    assert not torch.equal(slow, fast)


def test_a_fixed_net_that_cannot_take_the_images_is_named_by_its_section(tmp_path: Path) -> None:
    model = TorchvisionModel(architecture="torchvision", name="alexnet", pretrained=False)
    alexnet = FixedNet(learning_rate=0.1, model=model)
    with pytest.raises(InputError, match=r"^params\.yaml: compare\.fixed_nets\.alexnet\.model: expected"):
        list(play(contest(tmp_path, "alexnet"), net=alexnet))


@pytest.mark.parametrize(
    ("epochs_before", "per_size", "expected"), [(44, 8, [52, 60, 68]), (0, 1, [1, 2, 3])]
)
def test_epochs_are_those_before_and_those_of_every_size_so_far(
    epochs_before: int, per_size: int, expected: list[int], tmp_path: Path
) -> None:
    played = contest(tmp_path, epochs_before=epochs_before)
    played = replace(played, retraining=played.retraining.model_copy(update={"epochs": per_size}))
    assert [played.epochs(step) for step in range(3)] == expected


def test_streams_are_apart_by_seed_method_purpose_and_step(tmp_path: Path) -> None:
    seeds = {
        contest(tmp_path, name, seed=seed).stream(*names)
        for name in ("l1", "random")
        for seed in (0, 1)
        for names in (("scores", 0), ("scores", 1), ("retrain", 0), ("images", 0))
    }
    assert len(seeds) == 16
    assert contest(tmp_path).stream("a", 1) == contest(tmp_path / "elsewhere").stream("a", "1")


def test_a_row_of_the_comparison_holds_counts_on_validation_and_test(tmp_path: Path) -> None:
    played = contest(tmp_path, "l1", seed=3)
    entrant = played.enter(start(), 1, TRIED)
    validation, test = (
        evaluate(entrant.model, part, batch_size=50) for part in (parts().validation, parts().test)
    )
    cost = measure_cost(start(), (1, 8, 8))
    row = comparison_row(played, entrant)
    for part, images in (("validation", parts().validation), ("test", parts().test)):
        with torch.no_grad():
            right = entrant.model.eval()(images.scaled()).argmax(1) == images.labels
        assert unpack_hits(row.pop(f"{part}_hits"), 50).tolist() == right.tolist()
    assert row == {
        "step": 1,
        "params": cost.params,
        "flops": cost.flops,
        "epochs": 4,
        "collapsed": 1,
        "retried": 1,
        "learning_rate": 0.1,
        "validation_n": 50,
        "validation_n_correct": validation.n_correct,
        "test_n": 50,
        "test_n_correct": test.n_correct,
    }


def test_weights_that_are_zero_do_not_count_as_parameters_of_an_entrant(tmp_path: Path) -> None:
    assert contest(tmp_path).enter(start(), 0, TRIED, n_params=123).params == 123


@pytest.mark.parametrize("name", [OURS, "l1"])
def test_retraining_uses_balanced_batches_of_the_push(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    forward = Objective.cross_entropy

    def record(self: Objective, logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return forward(self, logits, labels)

    monkeypatch.setattr(Objective, "cross_entropy", record)
    contest(tmp_path, name).retrain(start(), 0)
    per_class = tiny().lda.samples_per_class
    assert seen
    for labels in seen:
        assert labels.bincount(minlength=10).tolist() == [per_class] * 10
