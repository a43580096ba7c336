"""One round of pruning: a sample for each eta and size, retrained one after another, and its tables."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.cost import Cost, count_params, measure_cost
from pipeline.deconv import Utility
from pipeline.images.parts import Images
from pipeline.models import build_model
from pipeline.params.pruning import OtsuChoice, Sizes, Surgery
from pipeline.prune import LayerPruning, prune_model
from pipeline.prune.latent import LatentChoice
from pipeline.prune.rounds import (
    Sample,
    history_rows,
    latent_rows,
    layer_rows,
    prune_round,
    sample_rows,
    smallest_acceptable,
)
from pipeline.prune.target_size import Target, measure_size, prune_to_size
from pipeline.prune.task_utility import TaskUtility
from pipeline.training.fit import Outcome
from pipeline.training.predict import Score

SURGERY = Surgery(
    utility="deconvolution",
    widths="layer",
    per_cost=None,
    latent=OtsuChoice(method="otsu"),
    trace_images_per_class=1,
    round_to=2,
    remove_branches=False,
    keep=[],
    min_channels=1,
)
# Of the net below, whose latent layer has twelve neurons: two go.
KEPT = torch.arange(12) >= 2
OPTIONS: dict[str, Any] = {"latent_kept": KEPT, "latent_order": torch.arange(12.0), "round_to": 2}
OUTCOME = Outcome([{"epoch": 1, "collapsed": 0}], Score(100, 90, 0.5))


def net() -> nn.Module:
    torch.manual_seed(0)
    return build_model("fc", 3, in_features=64, hidden=(20, 12)).eval()


def utility() -> TaskUtility:
    """Ten of twelve latent neurons are kept; random utilities of the layers."""
    random = torch.Generator().manual_seed(3)
    layers = {"hidden1": 20, "hidden2": 12}
    choice = LatentChoice(
        kept=KEPT,
        order=torch.arange(11, -1, -1),
        n=50,
        n_correct=torch.arange(30, 42),
        n_correct_pca=torch.arange(20, 32),
    )
    return TaskUtility(
        v=torch.arange(12.0),
        choice=choice,
        utilities={
            name: Utility(torch.rand(n, 2, 2, generator=random).double()) for name, n in layers.items()
        },
        images=Images(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.long)),
    )


def outcome(n_correct: int, *, collapsed: int = 0) -> Outcome:
    rows = [{"epoch": 1, "collapsed": 1}, {"epoch": 2, "collapsed": collapsed}]
    return Outcome(rows, Score(100, n_correct, 0.1))


def sample(name: str, params: int, n_correct: int) -> Sample:
    cost = Cost(params, 10 * params, 4 * params, ())
    return Sample(name, 0.5, f"{name} asked", nn.Identity(), cost, outcome(n_correct), [])


def state(model: nn.Module) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


def run(etas: Sequence[float], sizes: Sizes) -> tuple[list[Sample], list[tuple[str, int]]]:
    """The samples, and what was retrained in which order: a name and a number of parameters."""
    retrained: list[tuple[str, int]] = []

    def retrain(model: nn.Module, name: str) -> tuple[Outcome, Cost]:
        cost = measure_cost(model, (1, 8, 8))
        retrained.append((name, cost.params))
        return OUTCOME, cost

    model = net()
    before = state(model).clone()
    original = {unit: 2 * measure_size(model, unit, (1, 8, 8)) for unit in sizes}
    samples = prune_round(
        model, utility(), etas=etas, sizes=sizes, original=original, surgery=SURGERY, retrain=retrain
    )
    assert torch.equal(state(model), before)
    return samples, retrained


def test_a_sample_is_made_for_each_eta_and_each_size_and_retrained_in_their_order() -> None:
    samples, retrained = run([1.5, 2.0], {"params": [0.25], "flops": [0.2]})
    assert [each.target for each in samples] == ["eta1.5", "eta2", "params0.25", "flops0.2"]
    assert retrained == [(each.target, each.cost.params) for each in samples]
    image = utility().images.first(1)
    for each, eta in zip(samples, (1.5, 2.0), strict=False):
        expected, rows = prune_model(net(), utility().utilities, eta, image, **OPTIONS)
        assert torch.equal(state(each.model), state(expected))
        assert (each.name, each.eta) == (f"eta{eta:g}", eta)
        assert layers_of(each.layers) == layers_of(rows)
        assert each.outcome == OUTCOME
    target = Target("params", 0.25 * 2 * count_params(net()))
    expected, _, eta, reached = prune_to_size(net(), utility().utilities, target, image, **OPTIONS)
    assert torch.equal(state(samples[2].model), state(expected))
    assert samples[2].eta == eta
    assert samples[2].cost.params == reached


def test_samples_are_named_by_the_share_of_the_original_that_was_reached() -> None:
    for each in run([], {"params": [0.25, 0.1], "flops": [0.3]})[0]:
        unit = "params" if each.name.startswith("params") else "flops"
        share = getattr(each.cost, unit) / (2 * measure_size(net(), unit, (1, 8, 8)))
        assert each.name == f"{unit}{share:.3g}"
        assert each.target.startswith(unit)
        assert share == pytest.approx(float(each.target.removeprefix(unit)), rel=0.1)


def test_a_size_that_is_behind_or_leads_where_another_led_makes_no_sample() -> None:
    samples, _ = run([], {"params": [0.9, 0.5, 0.2, 0.2001]})
    assert [each.target for each in samples] == ["params0.2"]
    assert run([], {"params": [0.9, 0.5]})[0] == []


def layers_of(rows: list[LayerPruning]) -> list[tuple[str, int, int]]:
    return [(row.name, row.n_before, row.n_after) for row in rows]


def test_the_latent_layer_of_every_sample_is_as_wide_as_the_choice_says() -> None:
    for each in run([0.5, 1.5, 4.0], {"params": [0.3, 0.1]})[0]:
        assert [row.n_after for row in each.layers if row.name == "hidden2"] == [10]


@pytest.mark.parametrize(
    ("acceptable", "expected"), [(0.80, "small"), (0.85, "middle"), (0.90, "large"), (0.95, None)]
)
def test_the_smallest_sample_at_or_above_an_accuracy_is_acceptable(
    acceptable: float, expected: str | None
) -> None:
    samples = [sample("large", 300, 90), sample("small", 100, 80), sample("middle", 200, 85)]
    found = smallest_acceptable(samples, acceptable)
    assert (found.name if found else None) == expected


def test_of_equally_small_samples_the_more_accurate_is_taken() -> None:
    samples = [sample("worse", 100, 80), sample("better", 100, 82)]
    for order in (samples, samples[::-1]):
        found = smallest_acceptable(order, 0.5)
        assert found is not None
        assert found.name == "better"


def test_rows_of_samples_say_which_are_acceptable_and_which_is_chosen() -> None:
    samples = [sample("eta1", 300, 90), replace(sample("eta2", 100, 70), outcome=outcome(70, collapsed=1))]
    assert sample_rows(samples, samples[0], acceptable=0.9, latent_kept=2) == [
        {"sample": "eta1", "target": "eta1 asked", "eta": 0.5, "latent_kept": 2, "params": 300, "flops": 3000}
        | {"n": 100, "n_correct": 90, "collapsed": 0, "acceptable": 1, "chosen": 1},
        {"sample": "eta2", "target": "eta2 asked", "eta": 0.5, "latent_kept": 2, "params": 100, "flops": 1000}
        | {"n": 100, "n_correct": 70, "collapsed": 1, "acceptable": 0, "chosen": 0},
    ]
    assert {row["chosen"] for row in sample_rows(samples, None, acceptable=0.9, latent_kept=2)} == {0}


def test_rows_of_history_are_every_epoch_of_every_samples_retraining() -> None:
    samples = [sample("eta1", 300, 90), replace(sample("eta2", 100, 70), outcome=outcome(70, collapsed=1))]
    assert history_rows(samples) == [
        {"sample": "eta1", "epoch": 1, "collapsed": 1},
        {"sample": "eta1", "epoch": 2, "collapsed": 0},
        {"sample": "eta2", "epoch": 1, "collapsed": 1},
        {"sample": "eta2", "epoch": 2, "collapsed": 1},
    ]


def test_rows_of_layers_are_the_surgerys() -> None:
    samples, _ = run([1.5], {})
    rows = layer_rows(samples)
    assert [(row["sample"], row["layer"], row["n_before"]) for row in rows] == [
        ("eta1.5", "hidden1", 20),
        ("eta1.5", "hidden2", 12),
    ]
    assert [row["n_after"] for row in rows] == [each.n_after for each in samples[0].layers]


def test_rows_of_the_latent_space_go_by_rank() -> None:
    rows = latent_rows(utility())
    assert rows[0] == {
        "rank": 1,
        "neuron": 11,
        "v": 11.0,
        "n": 50,
        "n_correct": 30,
        "n_correct_pca": 20,
        "kept": 1,
    }
    assert rows[-1] == {
        "rank": 12,
        "neuron": 0,
        "v": 0.0,
        "n": 50,
        "n_correct": 41,
        "n_correct_pca": 31,
        "kept": 0,
    }
    assert [row["kept"] for row in rows] == [1] * 10 + [0, 0]
