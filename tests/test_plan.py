"""What a net costs without some channels, against the count of the net that is really cut."""

import pytest
import torch
from test_surgery import CASES, images_of, layers_of, net_of
from torch import Tensor, nn

from pipeline.cost import measure_cost
from pipeline.prune.plan import ChannelPlan
from pipeline.prune.surgery import Surgery

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting


class Mixed(nn.Module):
    """A branch that is concatenated, a residual sum, a depthwise and a grouped convolution, a flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 4, 1, bias=False), nn.Conv2d(8, 6, 3, padding=1)
        self.depthwise = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.grouped = nn.Conv2d(10, 12, 3, padding=1, groups=2)
        self.shortcut = nn.Conv2d(10, 12, 1)
        self.twice = nn.Conv2d(12, 12, 1)
        self.hidden, self.decision = nn.Linear(12 * 4 * 4, 7), nn.Linear(7, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).relu()
        x = self.depthwise(torch.cat([self.left(x), self.right(x)], 1).relu()).relu()
        x = (self.grouped(x) + self.shortcut(x)).relu()
        x = self.twice(self.twice(x).relu()).relu()
        x = nn.functional.max_pool2d(x, 2).flatten(1)
        logits: Tensor = self.decision(self.hidden(x).relu())
        return logits


def random_choice(plan: ChannelPlan, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Scores of groups, whose parts share them, and what is to go; some layers go whole."""
    random = torch.Generator().manual_seed(seed)
    scores = {
        name: torch.rand(len(layer.weight), generator=random, dtype=torch.float64)
        for name, layer in layers_of(plan.model).items()
    }
    score = plan.average(scores)
    removed = score < share
    for at in plan.slices[:: 2 + seed]:
        removed[at] = True
    return score, removed


def check(model: nn.Module, images: Tensor, share: float, seed: int, **options: int) -> int:
    surgery = Surgery(model, list(layers_of(model)), images)
    plan = surgery.plan
    whole = measure_cost(model, images.shape[1:])
    assert plan.costs.whole == (whole.params, whole.flops)
    selection = plan.select(*random_choice(plan, share, seed), **options)  # type: ignore[arg-type]
    expected = plan.cost(selection)
    found = measure_cost(surgery.cut(selection), images.shape[1:])
    assert (found.params, found.flops) == expected
    assert found.params < whole.params
    return len(selection.branches)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("round_to", [1, 2])
def test_the_cost_of_a_choice_is_that_of_the_net_cut_by_it(seed: int, round_to: int) -> None:
    torch.manual_seed(0)
    check(Mixed().eval(), images_of(1, 8), (0.3, 0.6, 0.9)[seed], seed, round_to=round_to)


EXACT = [name for name in CASES if not name.startswith("torchvision/")]
EXACT += [f"torchvision/{name}" for name in ("mobilenet_v3_small", "regnet_y_400mf", "resnet50")]


@pytest.mark.parametrize("name", EXACT)
def test_the_cost_of_a_choice_is_exact_in_every_family_of_nets(name: str) -> None:
    images = images_of(1, CASES[name].size)
    check(net_of(name), images, 0.4, 0)
    n_branches = check(net_of(name), images, 0.8, 1, remove_branches=True, round_to=2)
    assert n_branches > 0 or "inception" not in name


def test_a_channel_saves_its_own_weights_and_those_that_read_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 16, 6),
        nn.ReLU(),
        nn.Linear(6, 2),
    )
    plan = Surgery(model.eval(), ["0", "3"], images_of(1, 4)).plan
    params, flops = plan.costs.savings
    assert sorted(params.tolist()) == [64 + 1 + 2] * 6 + [27 + 1 + 16 * 6] * 4
    assert sorted(flops.tolist()) == [2 * (64 + 2)] * 6 + [2 * (27 * 16 + 16 * 6)] * 4
