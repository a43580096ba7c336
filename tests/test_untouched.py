"""Images that an attack left as they were, and gradients that vanish: a net with huge logits looks robust."""

import numpy as np
import pytest
import torch
from foolbox import Misclassification, PyTorchModel
from foolbox.attacks import LinfFastGradientAttack
from torch import Tensor, nn

from pipeline.robustness.untouched import count_untouched, vanishing

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting


class Thirds(nn.Module):
    """Logits are the sums of three thirds of an image, times a scale; a large one saturates the softmax."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * torch.stack([part.sum((1, 2, 3)) for part in images.chunk(3, dim=2)], dim=1)


def images(n: int = 60) -> tuple[Tensor, Tensor]:
    """A third of each is brighter, by more from image to image."""
    random = np.random.default_rng(0)
    labels = torch.arange(n) % 3
    found = torch.tensor(random.uniform(0.3, 0.4, (n, 1, 6, 6)), dtype=torch.float32)
    for idx, label in enumerate(labels):
        found[idx, :, 2 * label : 2 * label + 2] += 0.5 * idx / n
    return found, labels


def right(model: nn.Module) -> Tensor:
    found, labels = images()
    return model(found).argmax(1) == labels


def fgsm(model: nn.Module) -> Tensor:
    found, labels = images()
    attack = LinfFastGradientAttack(random_start=False)
    wrapped = PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
    attacked: Tensor = attack(wrapped, found, Misclassification(labels), epsilons=8 / 255)[1]
    return attacked


def counts(model: nn.Module, attacked: Tensor) -> dict[str, int]:
    found, labels = images()
    still = model(attacked).argmax(1) == labels
    return count_untouched(
        model, labels, found, attacked, right=right(model), still_right=still, batch_size=7
    )


def test_a_net_with_small_logits_has_every_image_moved() -> None:
    model = Thirds(1.0)
    assert counts(model, fgsm(model)) == {
        "n_attacked": int(right(model).sum()),
        "n_untouched": 0,
        "n_vanished": 0,
        "n_idle": 0,
    }


def test_the_same_net_with_logits_times_a_hundred_leaves_images_as_they_were() -> None:
    model = Thirds(100.0)
    assert torch.equal(right(model), right(Thirds(1.0)))  # the same decisions
    found, labels = images()
    attacked = fgsm(model)
    # By hand: the softmax of every other class is exactly 0 in float32, and with it the gradient.
    others = torch.nn.functional.one_hot(labels, 3) == 0
    saturated = (model(found).softmax(1)[others].view(60, 2) == 0).all(1) & right(model)
    same = (found == attacked).flatten(1).all(1) & right(model)
    assert counts(model, attacked) == {
        "n_attacked": int(right(model).sum()),
        "n_untouched": int(same.sum()),
        "n_vanished": int(saturated.sum()),
        "n_idle": int(same.sum()),
    }
    assert int(saturated.sum()) == int(same.sum()) > 10


def test_an_image_that_was_wrong_from_the_start_needs_no_attack_and_is_not_counted() -> None:
    model = Thirds(1.0)
    found, labels = images()
    wrong = ~right(model)
    wrong[:5] = True
    n_right = int((~wrong).sum())
    assert count_untouched(model, labels, found, found, right=~wrong, still_right=~wrong, batch_size=7) == {
        "n_attacked": n_right,
        "n_untouched": n_right,
        "n_vanished": 0,
        "n_idle": n_right,
    }


def test_a_random_start_moves_images_that_no_gradient_leads_anywhere() -> None:
    model = Thirds(100.0)
    found, _ = images()
    torch.manual_seed(0)
    moved = (found + 0.01 * torch.randn_like(found).sign()).clamp(0, 1)
    held = counts(model, moved)
    assert held["n_untouched"] == 0
    assert held["n_idle"] > 0.5 * held["n_attacked"]


def test_an_image_without_a_gradient_that_is_fooled_all_the_same_is_not_idle() -> None:
    model = Thirds(100.0)
    found, _ = images()
    held = counts(model, found.roll(2, dims=2))  # another third is the brightest
    assert held["n_vanished"] > 0.5 * held["n_attacked"]
    assert held["n_idle"] == 0


@pytest.mark.parametrize("change", [0.0, 1e-6])
def test_what_half_precision_rounds_away_has_moved_no_image(change: float) -> None:
    model = Thirds(1.0)
    found, _ = images()
    assert counts(model, found.half().float() + change)["n_untouched"] == int(right(model).sum())


class Infinite(Thirds):
    """Its gradient is infinite at some images, and not a number at others."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + (images.sum((1, 2, 3), keepdim=True)[:, :, 0, 0] * 0).sqrt()


def test_a_gradient_that_is_not_finite_has_vanished_too() -> None:
    found, labels = images()
    assert vanishing(Infinite(1.0), found, labels, batch_size=7).all()
    assert not vanishing(Thirds(1.0), found, labels, batch_size=7).any()


def test_batches_and_the_mode_of_the_net_change_nothing() -> None:
    model = nn.Sequential(nn.Dropout(0.5), Thirds(100.0)).train()
    found, labels = images()
    whole, parted = (vanishing(model, found, labels, batch_size=n) for n in (60, 7))
    assert torch.equal(whole, parted)
    assert model.training
