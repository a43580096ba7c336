"""One round of pruning: a sample for each eta and size, retrained one after another, and its tables."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from pipeline.cost import Cost, count_params, measure_cost
from pipeline.deconv import Utility
from pipeline.images.parts import Images
from pipeline.models import build_model
from pipeline.params.pruning import OtsuChoice, Surgery
from pipeline.prune import prune_model
from pipeline.prune.latent import LatentChoice
from pipeline.prune.rounds import (
    Sample,
    latent_rows,
    layer_rows,
    prune_round,
    sample_rows,
    smallest_acceptable,
)
from pipeline.prune.target_size import prune_to_size
from pipeline.prune.task_utility import TaskUtility
from pipeline.training.predict import Score

SURGERY = Surgery(
    latent=OtsuChoice(method="otsu"), trace_images_per_class=1, round_to=2, remove_branches=False
)
SCORE = Score(100, 90, 0.5)


def net() -> nn.Module:
    torch.manual_seed(0)
    return build_model("fc", 3, in_features=64, hidden=(20, 12)).eval()


def utility() -> TaskUtility:
    """Four latent neurons, of which the second and the last are kept; random utilities of the layers."""
    random = torch.Generator().manual_seed(3)
    layers = {"hidden1": 20, "hidden2": 12}
    choice = LatentChoice(
        kept=torch.tensor([False, True, False, True]),
        order=torch.tensor([3, 1, 0, 2]),
        n=50,
        n_correct=torch.tensor([30, 40, 41, 42]),
        n_correct_pca=torch.tensor([20, 35, 41, 42]),
    )
    return TaskUtility(
        v=torch.tensor([0.5, 2.0, 0.25, 4.0]),
        choice=choice,
        utilities={
            name: Utility(torch.rand(n, 2, 2, generator=random).double()) for name, n in layers.items()
        },
        images=Images(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.zeros(3, dtype=torch.long)),
    )


def sample(name: str, params: int, n_correct: int) -> Sample:
    cost = Cost(params, 10 * params, 4 * params, ())
    return Sample(name, 0.5, nn.Identity(), cost, Score(100, n_correct, 0.1), [])


def state(model: nn.Module) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


def run(etas: Sequence[float], sizes: Sequence[float]) -> tuple[list[Sample], list[tuple[str, int]]]:
    """The samples, and what was retrained in which order: a name and a number of parameters."""
    retrained: list[tuple[str, int]] = []

    def retrain(model: nn.Module, name: str) -> tuple[Score, Cost]:
        cost = measure_cost(model, (1, 8, 8))
        retrained.append((name, cost.params))
        return SCORE, cost

    model = net()
    before = state(model).clone()
    samples = prune_round(model, utility(), etas=etas, sizes=sizes, surgery=SURGERY, retrain=retrain)
    assert torch.equal(state(model), before)
    return samples, retrained


def test_a_sample_is_made_for_each_eta_and_each_size_and_retrained_in_their_order() -> None:
    samples, retrained = run([1.5, 2.0], [0.5])
    assert [each.name for each in samples] == ["eta1.5", "eta2", "size0.5"]
    assert retrained == [(each.name, each.cost.params) for each in samples]
    image = utility().images.first(1)
    for each, eta in zip(samples, (1.5, 2.0), strict=False):
        expected, rows = prune_model(net(), utility().utilities, eta, image, round_to=2)
        assert torch.equal(state(each.model), state(expected))
        assert (each.eta, each.layers) == (eta, rows)
        assert each.score == SCORE
    n_params = round(0.5 * count_params(net()))
    expected, rows, eta = prune_to_size(net(), utility().utilities, n_params, image, round_to=2)
    assert torch.equal(state(samples[2].model), state(expected))
    assert (samples[2].eta, samples[2].layers) == (eta, rows)
    assert samples[2].cost.params <= n_params


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
    samples = [sample("eta1", 300, 90), sample("eta2", 100, 70)]
    assert sample_rows(samples, samples[0], acceptable=0.9, latent_kept=2) == [
        {"sample": "eta1", "eta": 0.5, "latent_kept": 2, "params": 300, "flops": 3000}
        | {"n": 100, "n_correct": 90, "acceptable": 1, "chosen": 1},
        {"sample": "eta2", "eta": 0.5, "latent_kept": 2, "params": 100, "flops": 1000}
        | {"n": 100, "n_correct": 70, "acceptable": 0, "chosen": 0},
    ]
    assert {row["chosen"] for row in sample_rows(samples, None, acceptable=0.9, latent_kept=2)} == {0}


def test_rows_of_layers_are_the_surgerys() -> None:
    samples, _ = run([1.5], [])
    rows = layer_rows(samples)
    assert [(row["sample"], row["layer"], row["n_before"]) for row in rows] == [
        ("eta1.5", "hidden1", 20),
        ("eta1.5", "hidden2", 12),
    ]
    assert [row["n_after"] for row in rows] == [each.n_after for each in samples[0].layers]


def test_rows_of_the_latent_space_go_by_rank() -> None:
    assert latent_rows(utility()) == [
        {"rank": 1, "neuron": 3, "v": 4.0, "n": 50, "n_correct": 30, "n_correct_pca": 20, "kept": 1},
        {"rank": 2, "neuron": 1, "v": 2.0, "n": 50, "n_correct": 40, "n_correct_pca": 35, "kept": 1},
        {"rank": 3, "neuron": 0, "v": 0.5, "n": 50, "n_correct": 41, "n_correct_pca": 41, "kept": 0},
        {"rank": 4, "neuron": 2, "v": 0.25, "n": 50, "n_correct": 42, "n_correct_pca": 42, "kept": 0},
    ]
