"""The latent layer is cut by v_j and M' alone, against masks written out by hand on a small net."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.deconv import Utility
from pipeline.prune import prune_model
from pipeline.prune.target_size import Target, prune_to_size

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

N_SUMMED, N_POSITIONS = 10, 4
CHANNELS = {"stem": 8, "left": 5, "right": 6, "body": N_SUMMED, "shortcut": N_SUMMED}


class Summed(nn.Module):
    """A pool, two branches side by side, a sum with a shortcut, and a latent space of all of its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 5, 1), nn.Conv2d(8, 6, 3, padding=1)
        self.body, self.shortcut = nn.Conv2d(11, N_SUMMED, 3, padding=1), nn.Conv2d(11, N_SUMMED, 1)
        self.decision = nn.Linear(N_SUMMED * N_POSITIONS, 5)

    def latent(self, images: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.stem(images).relu(), 2)
        x = torch.cat([self.left(x), self.right(x)], 1).relu()
        return nn.functional.max_pool2d((self.body(x) + self.shortcut(x)).relu(), 2).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.decision(self.latent(images))
        return logits


def net() -> Summed:
    """The bias of a layer's channel says which one it was."""
    torch.manual_seed(0)
    model = Summed().eval()
    for name, n in CHANNELS.items():
        model.get_submodule(name).bias.data = torch.arange(float(n)) / 10  # type: ignore[union-attr]
    return model


def images() -> Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def utilities(seed: int = 2) -> dict[str, Utility]:
    random = torch.Generator().manual_seed(seed)
    return {
        name: Utility(torch.rand(n, 2, 2, generator=random).double() - 0.3) for name, n in CHANNELS.items()
    }


def numbers(layer: nn.Module) -> list[int]:
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    return [round(10 * value) for value in layer.bias.tolist()]


def by_hand(kept: list[bool]) -> list[int]:
    """Channels of the sum of which a position is kept."""
    return [c for c in range(N_SUMMED) if any(kept[c * N_POSITIONS + p] for p in range(N_POSITIONS))]


def mask_of(seed: int, share: float) -> list[bool]:
    random = torch.Generator().manual_seed(seed)
    kept: list[bool] = (torch.rand(N_SUMMED * N_POSITIONS, generator=random) < share).tolist()
    kept[13] = True
    return kept


@pytest.mark.parametrize("eta", [1e-9, 0.5, 2.0, 1e9])
@pytest.mark.parametrize(("seed", "share"), [(0, 0.0), (1, 0.1), (2, 0.3), (3, 1.0)])
def test_exactly_the_kept_neurons_channels_stay_whatever_eta_is(seed: int, share: float, eta: float) -> None:
    kept = mask_of(seed, share)
    stay = by_hand(kept)
    pruned, _ = prune_model(net(), utilities(), eta, images()[:1], latent_kept=torch.tensor(kept))
    assert isinstance(pruned, Summed)
    assert numbers(pruned.body) == numbers(pruned.shortcut) == stay
    assert pruned.decision.in_features == N_POSITIONS * len(stay)
    # The same net whole, with the channels silenced that went, one after the other.
    silent = net()
    with torch.no_grad():
        for name in ("stem", "left", "right"):
            layer, left = silent.get_submodule(name), numbers(pruned.get_submodule(name))
            gone = [c for c in range(CHANNELS[name]) if c not in left]
            layer.weight[gone], layer.bias[gone] = 0, 0  # type: ignore[index,operator]
        mask = torch.tensor([c in stay for c in range(N_SUMMED)]).repeat_interleave(N_POSITIONS)
        torch.testing.assert_close(pruned(images()), silent.decision(silent.latent(images()) * mask))


@pytest.mark.parametrize("round_to", [2, 4])
def test_rounding_adds_the_next_channels_by_discriminating_power(round_to: int) -> None:
    kept = mask_of(0, 0.0)
    v = torch.rand(len(kept), generator=torch.Generator().manual_seed(7)) * torch.tensor([0.01, 1.0]).repeat(
        len(kept) // 2
    )
    v[[idx for idx, is_kept in enumerate(kept) if is_kept]] = 5.0
    options: dict[str, Any] = {"latent_kept": torch.tensor(kept), "latent_order": v, "round_to": round_to}
    pruned, _ = prune_model(net(), utilities(), 1e9, images()[:1], **options)
    best = [max(v[c * N_POSITIONS : (c + 1) * N_POSITIONS].tolist()) for c in range(N_SUMMED)]

    assert isinstance(pruned, Summed)
    assert numbers(pruned.body) == sorted(sorted(range(N_SUMMED), key=lambda c: -best[c])[:round_to])


@pytest.mark.parametrize("widths", ["layer", "global", "uniform"])
def test_no_size_has_a_say_over_the_latent_layer(widths: Any) -> None:
    kept = mask_of(1, 0.1)
    for fraction in (0.5, 0.3, 0.2):
        target = Target("params", fraction * sum(p.numel() for p in net().parameters()))
        pruned, *_ = prune_to_size(
            net(), utilities(), target, images()[:1], widths=widths, latent_kept=torch.tensor(kept)
        )
        assert isinstance(pruned, Summed)
        assert numbers(pruned.shortcut) == by_hand(kept)


def test_as_many_neurons_as_asked_for_are_the_best_by_their_own_utility() -> None:
    flat = {name: Utility(each.channels.abs().view(-1, 1, 1)) for name, each in utilities().items()}
    pruned, _ = prune_model(net(), flat, 1e-9, images()[:1], widths="uniform", latent_kept=5 * N_POSITIONS)
    units = {name: each.channels / each.channels.norm() for name, each in flat.items()}
    score = (units["body"] + units["shortcut"]) / 2
    assert isinstance(pruned, Summed)
    assert numbers(pruned.shortcut) == sorted(score.argsort(descending=True)[:5].tolist())


@pytest.mark.parametrize("kept", [torch.ones(3, dtype=torch.bool), torch.ones(40)])
def test_a_mask_that_is_not_the_latent_spaces_is_refused(kept: Tensor) -> None:
    with pytest.raises(ValueError, match=r"latent_kept as a boolean mask \(40,\)"):
        prune_model(net(), utilities(), 1.0, images()[:1], latent_kept=kept)


def test_without_a_choice_the_latent_layer_is_cut_like_the_others() -> None:
    widths = [
        len(prune_model(net(), utilities(), eta, images()[:1])[0].body.weight) for eta in (0.5, 2.0, 1e9)
    ]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1] == 1


class Concatenated(nn.Module):
    """A sum and a branch side by side, pooled to the latent space."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.shortcut, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.decision = nn.Linear(10, 5)
        for layer in (self.left, self.right):
            layer.bias.data = torch.arange(float(len(layer.weight))) / 10

    def forward(self, images: Tensor) -> Tensor:
        x = torch.cat([self.left(images) + self.shortcut(images), self.right(images)], 1)
        logits: Tensor = self.decision(x.relu().mean((2, 3)))
        return logits


def test_each_branch_keeps_its_own_neurons_and_one_without_any_the_best_by_discriminating_power() -> None:
    given = {
        name: Utility(torch.rand(n, 2, 2, generator=torch.Generator().manual_seed(n)).double())
        for name, n in {"left": 4, "shortcut": 4, "right": 6}.items()
    }
    v = torch.tensor([1.0, 3, 2, 1, 9, 1, 1, 8, 7, 1])
    for kept, left, right in (
        ([1, 2, 4, 7, 8], [1, 2], [0, 3, 4]),
        ([4, 7], [1], [0, 3]),  # a layer keeps a channel
    ):
        mask = torch.zeros(10, dtype=torch.bool)
        mask[kept] = True
        pruned, _ = prune_model(
            Concatenated().eval(), given, 1e9, images()[:1], latent_kept=mask, latent_order=v
        )
        assert isinstance(pruned, Concatenated)
        assert (numbers(pruned.left), numbers(pruned.right)) == (left, right)
