"""How wide layers stay: one threshold over all layers, with or without costs, and the same share of each."""

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.deconv import Utility
from pipeline.prune import prune_model

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

SIZES = {"0": 40, "2": 10, "4": 6}


def net() -> nn.Sequential:
    """Three hidden layers whose bias says which neuron it was; the last of them is the latent one."""
    torch.manual_seed(0)
    a, b, c = SIZES.values()
    model = nn.Sequential(
        nn.Linear(3, a), nn.ReLU(), nn.Linear(a, b), nn.ReLU(), nn.Linear(b, c), nn.ReLU(), nn.Linear(c, 2)
    )
    for at in (0, 2, 4):
        model[at].bias.data = torch.arange(float(len(model[at].weight)))
    return model.eval()


def scores() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(n, generator=random).double() * 10.0**idx
        for idx, (name, n) in enumerate(SIZES.items())
    }


def utilities() -> dict[str, Utility]:
    return {name: Utility(each.view(-1, 1, 1)) for name, each in scores().items()}


def kept(pruned: nn.Module) -> dict[str, list[int]]:
    return {name: pruned.get_submodule(name).bias.int().tolist() for name in SIZES}  # type: ignore[union-attr]


def normed() -> dict[str, list[float]]:
    """Each layer's scores over their Euclidean norm."""
    found = {}
    for name, each in scores().items():
        norm = math.sqrt(sum(value**2 for value in each.tolist()))
        found[name] = [value / norm for value in each.tolist()]
    return found


def by_one_threshold(values: dict[str, list[float]], eta: float) -> dict[str, list[int]]:
    everything = [value for each in values.values() for value in each]
    mean = sum(everything) / len(everything)
    spread = math.sqrt(sum((value - mean) ** 2 for value in everything) / (len(everything) - 1))
    return {
        name: [c for c, value in enumerate(each) if value >= eta * spread]
        or [max(range(len(each)), key=lambda c: each[c])]
        for name, each in values.items()
    }


@pytest.mark.parametrize("eta", [0.3, 0.8, 1.3, 2.5, 100.0])
def test_globally_one_threshold_cuts_all_layers_scores_of_norm_one(eta: float) -> None:
    pruned, rows = prune_model(net(), utilities(), eta, torch.zeros(1, 3), widths="global")
    assert kept(pruned) == by_one_threshold(normed(), eta)
    for row in rows:  # in units of the layer's own scores
        values = scores()[row.name].tolist()
        assert sum(value >= row.threshold for value in values) == (
            row.n_after if max(values) >= row.threshold else 0
        )


@pytest.mark.parametrize("eta", [0.2, 0.6, 1.5])
@pytest.mark.parametrize("per_cost", ["params", "flops"])
def test_per_cost_a_score_is_divided_by_what_its_channel_saves(eta: float, per_cost: str) -> None:
    n_in = {"0": 3, "2": 40, "4": 10}
    n_out = {"0": 10, "2": 6, "4": 2}
    saved = {name: n_in[name] + n_out[name] + (per_cost == "params") for name in SIZES}
    values = {name: [value / saved[name] for value in each] for name, each in normed().items()}
    pruned, rows = prune_model(net(), utilities(), eta, torch.zeros(1, 3), widths="global", per_cost=per_cost)  # type: ignore[arg-type]
    assert kept(pruned) == by_one_threshold(values, eta)
    assert all(math.isnan(row.threshold) for row in rows)


@pytest.mark.parametrize(("share", "left"), [(0.1, (36, 9)), (0.5, (20, 5)), (0.75, (10, 3)), (0.99, (1, 1))])
def test_uniformly_the_same_share_of_every_layer_goes_but_of_the_latent_one(
    share: float, left: tuple[int, int]
) -> None:
    pruned, _ = prune_model(net(), utilities(), share, torch.zeros(1, 3), widths="uniform")
    for name, n in zip(("0", "2"), left, strict=True):
        best = scores()[name].argsort(descending=True)[:n]
        assert kept(pruned)[name] == sorted(best.tolist())
    assert len(kept(pruned)["4"]) == 6
    with_choice, _ = prune_model(
        net(), utilities(), share, torch.zeros(1, 3), widths="uniform", latent_kept=torch.arange(6) > 3
    )
    assert kept(with_choice) == kept(pruned) | {"4": [4, 5]}


def test_coupled_layers_average_their_scores_of_norm_one() -> None:
    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 9), nn.Linear(3, 9)
            self.between, self.decision = nn.Linear(9, 3), nn.Linear(3, 2)
            self.left.bias.data = torch.arange(9.0)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.decision(self.between(torch.relu(self.left(x) + self.right(x))))
            return logits

    random = torch.Generator().manual_seed(3)
    own = {
        "left": torch.rand(9, generator=random).double(),
        "right": 1e6 * torch.rand(9, generator=random).double(),
    }
    own |= {"between": torch.ones(3).double()}
    mean = (own["left"] / own["left"].norm() + own["right"] / own["right"].norm()) / 2
    together = torch.cat([mean, own["between"] / own["between"].norm()])
    eta = float(mean.median() / together.std())
    given = {name: Utility(each.view(-1, 1, 1)) for name, each in own.items()}
    pruned, _ = prune_model(Summed().eval(), given, eta * (1 + 1e-9), torch.zeros(1, 3), widths="global")
    assert pruned.left.bias.int().tolist() == sorted(mean.argsort(descending=True)[:4].tolist())
