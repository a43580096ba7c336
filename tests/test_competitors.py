"""Competing methods at the sizes of ours: as many channels, weights and epochs, and no say in each other's seeds."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from conftest import ROOT
from pipeline.workflow.tables import COMPARISON_FIELDS
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pipeline.compare.competitors import (
    Contest,
    Entrant,
    FilterCriterion,
    comparison_row,
    fixed_net,
    from_scratch,
    prune_filters,
    prune_weights,
)
from pipeline.compare.criteria import Criterion
from pipeline.cost import count_params, measure_cost
from pipeline.errors import InputError
from pipeline.images.image_set import ImageSet
from pipeline.images.parts import Images, Parts
from pipeline.lda import discriminants
from pipeline.models.classifier import Classifier
from pipeline.params.file import read_params
from pipeline.params.nets.sections import InceptionModel, ResNetModel, TorchvisionModel
from pipeline.params.params import Params
from pipeline.params.training import Auxiliary
from pipeline.prune.target_size import prune_to_size
from pipeline.prune.task_utility import unravel_utility
from pipeline.training.classifiers import build_classifier
from pipeline.training.objectives import Objective
from pipeline.training.predict import evaluate
from pipeline.training.resume import ResumePoint

NUMERICS = read_params(ROOT / "presets/tiny.yaml").numerics.model_copy(update={"eval_batch_size": 64})
torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

CRITERIA: tuple[FilterCriterion, ...] = (*get_args(Criterion), "lda_after_the_fact")
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
SIZES = (0.5, 0.2)


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
    source = ImageSet(images, digits.target[:250].astype(np.int64), tuple("0123456789"), split)  # type: ignore[arg-type]

    def part(name: str) -> Images:
        found, labels = source.part(name)  # type: ignore[arg-type]
        return Images(torch.from_numpy(found), torch.from_numpy(labels))

    return Parts(part("train"), part("validation"), part("test"), source)


def start() -> Classifier:
    torch.manual_seed(1)
    return build_classifier(NET, parts().source, wanted_for="model")


@cache
def references() -> list[Classifier]:
    """Another net of the same architecture, pruned by utility to two sizes: what `shrink` leaves."""
    torch.manual_seed(2)
    model = build_classifier(NET, parts().source, wanted_for="model")
    found, n_params = [], count_params(model)
    for size in SIZES:
        utility = unravel_utility(
            model,
            lambda features, labels: discriminants(features, labels, ridge=1e-3),
            train=parts().train,
            validation=parts().validation,
            surgery=tiny().surgery,
            seed=0,
            batch_size=64,
        )
        model, _, _ = prune_to_size(
            model, utility.utilities, round(size * n_params), utility.images[:1], remove_branches=True
        )
        found.append(model)
    return found


def contest(folder: Path, method: str = "some", *, seed: int = 0, epochs_before: int = 2) -> Contest:
    params = tiny()
    return Contest(
        parts=parts(),
        retraining=params.shrink.retraining,
        objective=Objective(),
        lda=params.lda,
        surgery=params.surgery,
        epochs_before=epochs_before,
        seed=seed,
        method=method,
        resume=ResumePoint(folder / method / str(seed) / "fit"),
        numerics=NUMERICS,
    )


def training(**changes: Any) -> Training:
    return tiny().train.training.model_copy(update={"batch_size": 50, **changes})


HEADS = Auxiliary(weight=0.3, batch_norm=False)


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


def states(entrants: Iterator[Entrant]) -> list[Tensor]:
    """Each step's weights, taken before the next step begins."""
    return [state(entrant.model).clone() for entrant in entrants]


def test_the_references_are_small_and_lack_a_branch() -> None:
    """Else the tests below would say little."""
    sizes = [count_params(model) for model in [start(), *references()]]
    assert sizes[1] < 0.51 * sizes[0]
    assert sizes[2] < 0.21 * sizes[0]
    assert len(channels(references()[1])) < len(channels(start()))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_keeps_as_many_channels_in_every_layer_as_the_reference(
    criterion: FilterCriterion, tmp_path: Path
) -> None:
    played, model = contest(tmp_path, criterion), start()
    untouched = state(model)
    steps = []
    for entrant, reference in zip(
        prune_filters(played, model, references(), criterion), references(), strict=True
    ):
        cost = measure_cost(reference, (1, 8, 8))
        assert channels(entrant.model) == channels(reference)
        assert (entrant.params, entrant.flops) == (cost.params, cost.flops)
        assert entrant.epochs == played.epochs(entrant.step)
        assert len(history(played, entrant.step)) == played.retraining.epochs
        steps.append(entrant.step)
    assert steps == [0, 1]
    assert torch.equal(state(model), untouched)


def test_criteria_keep_different_channels(tmp_path: Path) -> None:
    """The same streams and batches for all: what differs is what the criterion kept."""
    kept = {
        criterion: states(
            prune_filters(contest(tmp_path / criterion, "same"), start(), references()[:1], criterion)
        )[0]
        for criterion in CRITERIA
    }
    for criterion, weights in kept.items():
        equal = [other for other, theirs in kept.items() if torch.equal(weights, theirs)]
        assert equal == [criterion]


def test_random_filters_follow_the_seed(tmp_path: Path) -> None:
    def run(folder: str, seed: int) -> list[Tensor]:
        played = contest(tmp_path / folder, "random", seed=seed)
        return states(prune_filters(played, start(), references(), "random"))

    one, again, other = run("one", 0), run("again", 0), run("other", 1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(one) == 2


def methods(folder: Path) -> dict[str, Iterator[Entrant]]:
    fixed = ResNetModel(architecture="resnet", config="c16", width=0.25, stem="small", dropout=0.2)
    named = {name: contest(folder, name) for name in ("l1", "random", "han", "scratch", "fixed")}
    return {
        "l1": prune_filters(named["l1"], start(), references(), "l1"),
        "random": prune_filters(named["random"], start(), references(), "random"),
        "han": prune_weights(named["han"], start(), references()),
        "scratch": from_scratch(named["scratch"], references(), training(), HEADS),
        "fixed": fixed_net(named["fixed"], fixed, training(), 2, wanted_for="competitors.fixed.model"),
    }


def test_a_methods_result_does_not_depend_on_which_others_run_or_on_the_global_generator(
    tmp_path: Path,
) -> None:
    names = ["l1", "random", "han", "scratch", "fixed"]
    forwards, backwards = {}, {}
    for name in names:
        forwards[name] = states(methods(tmp_path / "forwards")[name])
    for name in reversed(names):
        alone = methods(tmp_path / "backwards" / name)[name]  # none has run beside it
        torch.manual_seed(99)
        torch.rand(17)
        backwards[name] = states(alone)
    for name in names:
        assert len(forwards[name]) == (1 if name == "fixed" else 2)
        assert all(
            torch.equal(one, other) for one, other in zip(forwards[name], backwards[name], strict=True)
        )


@pytest.mark.parametrize("name", ["l1", "han", "scratch", "fixed"])
def test_a_finished_method_is_taken_from_its_resume_points_with_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = states(methods(tmp_path)[name])

    def no_step(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(torch.optim.SGD, "step", no_step)
    again = states(methods(tmp_path)[name])
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_single_weights_keep_the_dense_flops_and_the_references_number_of_weights(tmp_path: Path) -> None:
    played = contest(tmp_path, "han")
    dense = measure_cost(start(), (1, 8, 8))
    zeros: dict[str, Tensor] = {}
    n_steps = 0
    for entrant, reference in zip(prune_weights(played, start(), references()), references(), strict=True):
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
    entrants = list(from_scratch(played, references(), training(epochs=7), HEADS))
    assert [entrant.step for entrant in entrants] == [0, 1]
    for entrant, reference, untouched in zip(entrants, references(), before, strict=True):
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


def test_from_scratch_without_a_weight_has_no_auxiliary_heads(tmp_path: Path) -> None:
    played = contest(tmp_path, "scratch", epochs_before=0)
    without = Auxiliary(weight=0.0, batch_norm=False)
    list(from_scratch(played, references()[:1], training(), without))
    assert not any("train_auxiliary" in row for row in history(played, 0))


def test_from_scratch_draws_other_weights_for_every_seed_and_size(tmp_path: Path) -> None:
    same_twice = [references()[1], references()[1]]

    def run(seed: int) -> list[Tensor]:
        played = contest(tmp_path, "scratch", seed=seed, epochs_before=0)
        return states(from_scratch(played, same_twice, training(), HEADS))

    one, other = run(0), run(1)
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], one[1])


RESNET = ResNetModel(architecture="resnet", config="c16", width=0.25, stem="small", dropout=0.0)


def test_a_fixed_net_is_trained_once_for_as_many_epochs_as_our_smallest(tmp_path: Path) -> None:
    played = contest(tmp_path, "resnet6", epochs_before=1)
    (entrant,) = fixed_net(played, RESNET, training(epochs=50), 3, wanted_for="competitors.resnet6.model")
    assert (entrant.step, entrant.epochs) == (2, 1 + 3)
    assert len(history(played, "fixed")) == 4
    cost = measure_cost(entrant.model, (1, 8, 8))
    assert (entrant.params, entrant.flops) == (cost.params, cost.flops)
    assert entrant.model.classes == tuple("0123456789")


def test_a_fixed_net_goes_by_the_learning_rate_that_it_is_given(tmp_path: Path) -> None:
    found = []
    for name, rate in (("slow", 0.001), ("fast", 0.1)):
        played = contest(tmp_path / name, "net", epochs_before=0)
        found.append(states(fixed_net(played, RESNET, training(learning_rate=rate), 1, wanted_for="x"))[0])
    assert not torch.equal(found[0], found[1])


def test_a_fixed_net_that_cannot_take_the_images_is_named_by_its_section(tmp_path: Path) -> None:
    alexnet = TorchvisionModel(architecture="torchvision", name="alexnet", pretrained=False)
    with pytest.raises(InputError, match=r"^params\.yaml: competitors\.alexnet\.model: expected"):
        list(
            fixed_net(
                contest(tmp_path, "alexnet"), alexnet, training(), 1, wanted_for="competitors.alexnet.model"
            )
        )


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
        contest(tmp_path, method, seed=seed).stream(*names)
        for method in ("l1", "random")
        for seed in (0, 1)
        for names in (("scores", 0), ("scores", 1), ("retrain", 0), ("images", 0))
    }
    assert len(seeds) == 16
    assert contest(tmp_path).stream("a", 1) == contest(tmp_path / "elsewhere").stream("a", "1")


def test_a_row_of_the_comparison_holds_counts_on_validation_and_test(tmp_path: Path) -> None:
    played = contest(tmp_path, "l1", seed=3)
    entrant = played.enter(start(), 1)
    row = comparison_row(played, entrant)
    assert tuple(row) == COMPARISON_FIELDS
    validation, test = (
        evaluate(entrant.model, part, batch_size=50) for part in (parts().validation, parts().test)
    )
    cost = measure_cost(start(), (1, 8, 8))
    assert row == {
        "seed": 3,
        "method": "l1",
        "step": 1,
        "params": cost.params,
        "flops": cost.flops,
        "epochs": 4,
        "validation_n": 50,
        "validation_n_correct": validation.n_correct,
        "test_n": 50,
        "test_n_correct": test.n_correct,
    }


def test_weights_that_are_zero_do_not_count_as_parameters_of_an_entrant(tmp_path: Path) -> None:
    assert contest(tmp_path).enter(start(), 0, n_params=123).params == 123


def test_retraining_uses_balanced_batches_of_the_push(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Recorder(Objective):
        def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            seen.append(labels)
            return super().forward(model, images, labels)

    played = replace(contest(tmp_path), objective=Recorder())
    played.retrain(start(), 0)
    per_class = tiny().lda.samples_per_class
    assert seen
    for labels in seen:
        assert labels.bincount(minlength=10).tolist() == [per_class] * 10
