import math
from itertools import pairwise
from typing import Any

import foolbox
import pytest
import torch
from conftest import ROOT
from foolbox import Misclassification, PyTorchModel, TargetedMisclassification
from pydantic import ValidationError
from torch import Tensor, nn

from pipeline.attacks import Fgsm, NewtonFool, build_attack, craft
from pipeline.params.file import read_params
from pipeline.params.perturbations import Attack, FgsmAttack, FoolboxAttack, NewtonFoolAttack

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting


class Small(nn.Module):
    """A smooth convolutional net; `scale` multiplies its logits."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.conv, self.decision, self.scale = nn.Conv2d(1, 6, 3), nn.Linear(6 * 36, 4), scale
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=random) * (
                0.5 / parameter[0].numel() ** 0.3
            )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decision(torch.tanh(self.conv(x)).flatten(1))
        return self.scale * logits


def images_of(n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def predicted(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(images).argmax(1)
    return found


def newton_fool_by_loop(model: nn.Module, images: Tensor, *, steps: int, eta: float) -> list[Tensor]:
    """Jang et al. 2017, an image at a time, with the softmax probability itself."""
    results = []
    for x_0 in images:
        x, at_start = x_0.clone(), int(model(x_0[None]).argmax())
        for _ in range(steps):
            x = x.detach().requires_grad_(True)
            probabilities = model(x[None]).softmax(1)[0]
            if int(probabilities.argmax()) != at_start:
                break
            (g,) = torch.autograd.grad(probabilities[at_start], x)
            g_norm = float(g.norm())
            if g_norm == 0:
                break
            p, n_classes = float(probabilities[at_start].detach()), len(probabilities)
            delta = min(eta * float(x_0.norm()) * g_norm, p - 1 / n_classes)
            x = (x.detach() - delta * g / g_norm**2).clamp(0, 1)
        results.append(x.detach())
    return results


def attack(model: nn.Module, images: Tensor, labels: Tensor, *, steps: int, eta: float) -> Tensor:
    foolbox_model = PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
    _, clipped, success = NewtonFool(steps=steps, eta=eta)(foolbox_model, images, labels, epsilons=None)
    assert torch.equal(success, predicted(model, clipped) != labels)
    return clipped  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("steps", "eta", "scale"),
    [(1, 0.01, 1.0), (12, 0.01, 1.0), (40, 0.03, 1.0), (10, 5.0, 1.0), (20, 0.01, 4.0), (6, 0.3, 2.0)],
)
def test_newton_fool_equals_a_plain_loop_of_jang_et_als_formula(steps: int, eta: float, scale: float) -> None:
    model, images = Small(scale).double(), images_of(12, torch.float64)
    labels = predicted(model, images)
    labels[3] = (labels[3] + 1) % 4  # a label that the model gets wrong changes nothing
    found = attack(model, images, labels, steps=steps, eta=eta)
    expected = torch.stack(newton_fool_by_loop(model, images, steps=steps, eta=eta))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert float((found - images).abs().max()) > 1e-3
    assert bool((found[3] != images[3]).any())


def test_newton_fool_follows_the_class_predicted_at_the_start_whatever_the_label() -> None:
    """Jang et al. 2017: a misclassified image, too, is led away from the class that the model gives it."""
    model, images = Small(2.0).double(), images_of(12, torch.float64)
    at_start = predicted(model, images)
    labels = at_start.clone()
    labels[::2] = (labels[::2] + 1) % 4  # as if every second image were misclassified
    found = attack(model, images, labels, steps=60, eta=0.05)
    assert torch.equal(found, attack(model, images, at_start, steps=60, eta=0.05))
    assert bool((found != images).flatten(1).any(1).all())
    assert bool((predicted(model, found) != at_start).all())
    crafted = craft(NEWTON_FOOL, model, images, labels, batch_size=5)
    torch.testing.assert_close(crafted, craft(NEWTON_FOOL, model, images, at_start, batch_size=5))


def test_both_arms_of_the_step_are_taken_somewhere() -> None:
    model, images = Small().double(), images_of(12, torch.float64)
    labels = predicted(model, images)
    # A huge eta leaves the probability's arm, a tiny one the length eta |x| |g|.
    x_norm = images.flatten(1).norm(dim=1)
    moved = (attack(model, images, labels, steps=1, eta=1e-4) - images).flatten(1).norm(dim=1)
    inside = ((images > 1e-2) & (images < 1 - 1e-2)).flatten(1).all(1)
    torch.testing.assert_close(moved[inside], 1e-4 * x_norm[inside], rtol=1e-6, atol=0)
    far = (attack(model, images, labels, steps=1, eta=1e3) - images).flatten(1).norm(dim=1)
    assert bool((far < 0.9 * 1e3 * x_norm).all())


def test_an_image_is_left_as_soon_as_its_prediction_has_changed() -> None:
    model, images = Small(2.0).double(), images_of(30, torch.float64)
    labels = predicted(model, images)
    runs = [attack(model, images, labels, steps=steps, eta=0.05) for steps in (4, 8, 40)]
    fooled = [predicted(model, run) != labels for run in runs]
    assert int(fooled[1].sum()) > 0
    for earlier, later, done in zip(runs, runs[1:], fooled, strict=False):
        assert torch.equal(earlier[done], later[done])


class Recording(Small):
    """Remembers what it was asked."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale)
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.detach().clone())
        return super().forward(x)


@pytest.mark.parametrize(("eta", "scale"), [(0.05, 2.0), (5.0, 1.0), (0.01, 1e3)])
def test_images_are_within_bounds_at_every_step(eta: float, scale: float) -> None:
    model, images = Recording(scale), images_of(30)
    labels = predicted(model, images)
    attack(model, images, labels, steps=30, eta=eta)
    asked = torch.cat(model.asked)
    assert 0 <= float(asked.min()) <= float(asked.max()) <= 1


def test_images_that_are_done_leave_the_batch_in_few_sizes() -> None:
    # Every new size costs a compilation of the net's kernels, every image that stays a part of each step.
    model, images = Recording(2.0), images_of(200)
    labels = predicted(model, images)
    attack(model, images, labels, steps=60, eta=0.02)
    sizes = [
        len(batch) for batch in model.asked[1:-2]
    ]  # less this test's questions, and foolbox's after the last
    assert sizes[0] == 200
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 50
    distinct = sorted(set(sizes), reverse=True)
    assert all(after <= 0.75 * before for before, after in pairwise(distinct))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_a_saturated_classifier_gives_no_nan_and_stays_within_bounds(
    scale: float, dtype: torch.dtype
) -> None:
    model, images = Small(scale).to(dtype), images_of(30, dtype)
    labels = predicted(model, images)
    with torch.no_grad():
        assert bool((model(images).softmax(1).amax(1) == 1).any()), "expected saturated images"
    found = attack(model, images, labels, steps=60, eta=0.01)  # also checks success against predictions
    assert bool(found.isfinite().all())
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    changed = (found != images).flatten(1).any(1)
    assert bool(changed.all()), "a saturated image still has a direction"
    fooled = predicted(model, found) != labels
    assert int(fooled.sum()) > 15


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(x[:, 0, 0, :1]), x[:, 0, 0, :1] * 0], 1)


def test_an_image_without_gradient_stays_as_it_is_and_is_not_counted_as_fooled() -> None:
    images, labels = images_of(5), torch.zeros(5, dtype=torch.int64)
    assert torch.equal(attack(Flat(), images, labels, steps=5, eta=0.1), images)


def test_a_black_image_has_no_length_to_step_by_and_stays() -> None:
    model, images = Small(), torch.zeros(2, 1, 8, 8)
    labels = predicted(model, images)
    assert torch.equal(attack(model, images, labels, steps=5, eta=0.1), images)


def test_newton_fool_leaves_its_inputs_as_they_were() -> None:
    model, images = Small(), images_of(6)
    labels, before = predicted(model, images), images.clone()
    attack(model, images, labels, steps=5, eta=0.1)
    assert torch.equal(images, before)
    assert all(parameter.grad is None for parameter in model.parameters())


NEWTON_FOOL = NewtonFoolAttack(method="newton_fool", steps=15, eta=0.02)
FGSM = FgsmAttack(method="fgsm", epsilon=16.0)


@pytest.mark.parametrize("method", [NEWTON_FOOL, FGSM], ids=lambda method: str(method.method))
@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_does_not_change_what_is_crafted(method: Any, batch_size: int) -> None:
    model, images = Small(3.0), images_of(40)
    labels = predicted(model, images)
    at_once = craft(method, model, images, labels, batch_size=64)
    found = craft(method, model, images, labels, batch_size=batch_size)
    assert found.shape == images.shape
    assert not found.requires_grad
    torch.testing.assert_close(found, at_once, rtol=0, atol=1e-5)


@pytest.mark.parametrize("epsilon", [4.0, 16.0, 255.0])
def test_fgsm_is_one_step_along_the_sign_of_the_loss_gradient(epsilon: float) -> None:
    model, images = Small(2.0), images_of(20)
    labels = torch.arange(20) % 4
    x = images.clone().requires_grad_(True)
    nn.functional.cross_entropy(model(x), labels, reduction="sum").backward()
    assert x.grad is not None
    expected = (images + epsilon / 255 * x.grad.sign()).clamp(0, 1)
    found = craft(FgsmAttack(method="fgsm", epsilon=epsilon), model, images, labels, batch_size=8)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_fgsm_has_no_random_start() -> None:
    model, images = Small(), images_of(6)
    labels = predicted(model, images)
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        runs.append(craft(FGSM, model, images, labels, batch_size=6))
    assert torch.equal(runs[0], runs[1])
    assert Fgsm().random_start is False


def test_newton_fools_params_reach_the_attack() -> None:
    model, images = Small().double(), images_of(10, torch.float64)
    labels = predicted(model, images)
    found = craft(NEWTON_FOOL, model, images, labels, batch_size=4)
    assert torch.equal(
        found, torch.cat([attack(model, b, c, steps=15, eta=0.02) for b, c in parts(images, labels)])
    )
    once = NewtonFoolAttack(method="newton_fool", steps=1, eta=0.02)
    assert not torch.equal(found, craft(once, model, images, labels, batch_size=4))


def parts(images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images.split(4), labels.split(4), strict=True))


def test_crafting_attacks_the_source_in_evaluation_mode() -> None:
    class WithDropout(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.dropout(x, 0.5, self.training))

    model, images = WithDropout().train(), images_of(8)
    labels = torch.arange(8) % 4
    expected = craft(FGSM, Small(), images, labels, batch_size=8)
    assert torch.equal(craft(FGSM, model, images, labels, batch_size=8), expected)


@pytest.mark.parametrize("method", [NEWTON_FOOL, FGSM], ids=lambda method: str(method.method))
@pytest.mark.parametrize("shape", [(6, 1), (5,), (7,), (1,)])
def test_labels_of_the_wrong_shape_are_refused(method: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"label|zip"):
        craft(method, Small(), images_of(6), torch.zeros(shape, dtype=torch.int64), batch_size=6)


def test_newton_fool_names_the_shape_that_it_expected() -> None:
    model = PyTorchModel(Small().eval(), bounds=(0, 1), device="cpu")
    with pytest.raises(ValueError, match=r"shape \(6,\), got \(6, 1\)"):
        NewtonFool().run(model, images_of(6), Misclassification(torch.zeros(6, 1, dtype=torch.int64)))


def test_newton_fool_refuses_another_criterion() -> None:
    model = PyTorchModel(Small().eval(), bounds=(0, 1), device="cpu")
    target = TargetedMisclassification(torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ValueError, match="misclassification criterion"):
        NewtonFool().run(model, images_of(6), target)


@pytest.mark.parametrize(("steps", "eta"), [(0, 0.1), (-1, 0.1), (5, 0.0), (5, -0.1)])
def test_newton_fool_refuses_numbers_that_make_no_step(steps: int, eta: float) -> None:
    with pytest.raises(ValueError, match=f"steps={steps}, eta={eta}"):
        NewtonFool(steps=steps, eta=eta)


def test_newton_fool_refuses_images_outside_the_bounds() -> None:
    model = PyTorchModel(Small().eval(), bounds=(0, 1), device="cpu")
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(AssertionError):
        NewtonFool().run(model, images_of(2) + 1, Misclassification(labels))


def test_a_confident_image_needs_a_smaller_newton_step_than_the_gradients_fourth_power_would_say() -> None:
    # The defect of foolbox 3.3.4: dividing by |g|_2^4 overshoots where the gradient is small.
    model, images = Small(6.0).double(), images_of(12, torch.float64)
    labels = predicted(model, images)
    moved = (attack(model, images, labels, steps=1, eta=0.01) - images).flatten(1).norm(dim=1)
    assert bool((moved <= 0.01 * images.flatten(1).norm(dim=1) * (1 + 1e-9)).all())
    assert math.isfinite(float(moved.sum()))


@pytest.mark.parametrize("steps", [3, 30])
@pytest.mark.parametrize("method", ["newton_fool", "fgsm", "pgd"])
def test_batch_size_does_not_change_what_is_crafted_on_a_saturated_classifier(
    method: str, steps: int
) -> None:
    # To 1e-6 and in float64, not bitwise: a matrix product may add up in another order for another number
    # of rows. In float32 logits of thousands carry that into the images as a few 1e-6.
    settings: dict[str, Attack] = {
        "newton_fool": NewtonFoolAttack(method="newton_fool", steps=steps, eta=0.01),
        "fgsm": FGSM,
        "pgd": named("LinfPGD", 16.0, steps=steps, random_start=False),
    }
    model, images = Small(1e3).double(), images_of(40, torch.float64)
    labels = predicted(model, images)
    found = [craft(settings[method], model, images, labels, batch_size=size) for size in (1, 7, 256)]
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[2], found[0], rtol=0, atol=1e-6)
    assert bool(found[0].isfinite().all())


def test_crafted_images_on_a_saturated_classifier_fool_it_only_where_its_prediction_changed() -> None:
    model, images = Small(1e3), images_of(40)
    labels = predicted(model, images)
    found = craft(
        NewtonFoolAttack(method="newton_fool", steps=20, eta=0.01), model, images, labels, batch_size=40
    )
    fooled = predicted(model, found) != labels
    assert 0 < int(fooled.sum()) < 40
    assert not bool(fooled[(found == images).flatten(1).all(1)].any())
    assert bool(found.isfinite().all())
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def named(attack: str, epsilon: float | None, **options: Any) -> FoolboxAttack:
    return FoolboxAttack(method="foolbox", attack=attack, epsilon=epsilon, options=options)


@pytest.mark.parametrize("epsilon", [4.0, 16.0])
@pytest.mark.parametrize("steps", [1, 10])
def test_pgd_by_name_stays_within_epsilon_and_bounds_and_fools(epsilon: float, steps: int) -> None:
    model, images = Small(2.0), images_of(40)
    labels = predicted(model, images)
    torch.manual_seed(0)
    found = craft(named("LinfPGD", epsilon, steps=steps), model, images, labels, batch_size=16)
    assert float((found - images).abs().max()) <= epsilon / 255 + 1e-6
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    before = model(images).log_softmax(1).gather(1, labels[:, None])
    after = model(found).log_softmax(1).gather(1, labels[:, None])
    assert float((after - before).mean().detach()) < 0


@pytest.mark.parametrize("preset", ["digits", "digits_full"])
def test_pgd_of_the_digits_presets_can_cross_its_ball_from_any_random_start(preset: str) -> None:
    # From a corner of the ball to the one across are two epsilons: with fewer, one step of FGSM is stronger.
    params = read_params(ROOT / f"presets/{preset}.yaml")
    entries = [
        entry
        for entry in params.attacks.values()
        if isinstance(entry, FoolboxAttack) and entry.attack == "LinfPGD"
    ]
    assert entries
    for entry in entries:
        built, _ = build_attack(entry)
        built = getattr(built, "attack", built)  # of one with restarts
        assert built.steps * built.rel_stepsize >= 2


def test_more_steps_of_pgd_raise_the_loss_further() -> None:
    model, images = Small(2.0), images_of(40)
    labels = predicted(model, images)
    losses = []
    for steps in (1, 20):
        settings = named("LinfPGD", 16.0, steps=steps, random_start=False)
        found = craft(settings, model, images, labels, batch_size=40)
        losses.append(float(nn.functional.cross_entropy(model(found), labels).detach()))
    assert losses[1] > losses[0] + 0.01


def test_an_l2_budget_is_of_the_whole_images_norm() -> None:
    model, images = Small(2.0), images_of(20)
    labels = predicted(model, images)
    found = craft(named("L2PGD", 51.0, steps=60, random_start=False), model, images, labels, batch_size=20)
    norms = (found - images).flatten(1).norm(dim=1)
    assert float(norms.max()) <= 51 / 255 + 1e-6
    assert float(norms.max()) > 0.9 * 51 / 255


def test_deep_fool_without_epsilon_changes_almost_every_prediction_within_bounds() -> None:
    model, images = Small(2.0), images_of(30)
    labels = predicted(model, images)
    found = craft(named("L2DeepFoolAttack", None, steps=50), model, images, labels, batch_size=7)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert int((predicted(model, found) != labels).sum()) >= 27
    assert float((found - images).flatten(1).norm(dim=1).mean()) < 2


def test_deep_fool_with_epsilon_stays_within_it() -> None:
    model, images = Small(2.0), images_of(30)
    labels = predicted(model, images)
    found = craft(named("L2DeepFoolAttack", 10.0, steps=50), model, images, labels, batch_size=30)
    assert float((found - images).flatten(1).norm(dim=1).max()) <= 10 / 255 + 1e-6


def test_random_starts_draw_from_the_global_generator_alone() -> None:
    model, images = Small(), images_of(10)
    labels = predicted(model, images)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(craft(named("LinfPGD", 16.0, steps=2), model, images, labels, batch_size=4))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


class GivesUp(foolbox.attacks.L2ContrastReductionAttack):  # type: ignore[misc]
    """Leaves every second image as NaN or infinity, as attacks do that divide by a gradient of zero."""

    def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **_: Any) -> Any:
        raw = inputs.raw.clone()
        raw[0::4, 0, 0, 0] = torch.nan
        raw[2::4] = torch.inf
        raw[1::2] = (raw[1::2] + 0.01).clamp(0, 1)
        return type(inputs)(raw)


def test_where_an_attack_gives_nan_the_original_image_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foolbox.attacks, "L2ContrastReductionAttack", GivesUp)
    model, images = Small(), images_of(9)
    labels = predicted(model, images)
    found = craft(named("L2ContrastReductionAttack", 255.0), model, images, labels, batch_size=9)
    assert torch.equal(found[0::2], images[0::2])
    assert bool((found[1::2] != images[1::2]).flatten(1).any(1).all())
    assert bool(found.isfinite().all())


def test_foolboxs_own_newton_fool_never_leaves_nan_in_what_is_crafted() -> None:
    model, images = Small(1e3), images_of(30)
    labels = predicted(model, images)
    settings = named("NewtonFoolAttack", None, steps=5)
    raw, _, _ = foolbox.attacks.NewtonFoolAttack(steps=5)(
        PyTorchModel(model.eval(), bounds=(0, 1), device="cpu"), images, labels, epsilons=None
    )
    assert bool(raw.isnan().any()), "expected an attack that goes wrong here"
    found = craft(settings, model, images, labels, batch_size=30)
    assert bool(found.isfinite().all())
    spoilt = raw.isnan().flatten(1).any(1)
    assert torch.equal(found[spoilt], images[spoilt])


@pytest.mark.parametrize("epsilon", [4.0, 32.0])
def test_the_budget_is_divided_by_255(epsilon: float) -> None:
    assert build_attack(FgsmAttack(method="fgsm", epsilon=epsilon))[1] == epsilon / 255
    assert build_attack(named("LinfPGD", epsilon))[1] == epsilon / 255
    assert build_attack(named("L2DeepFoolAttack", None))[1] is None
    assert build_attack(NEWTON_FOOL)[1] is None


def test_options_reach_the_attacks_constructor() -> None:
    built, _ = build_attack(named("LinfPGD", 8.0, steps=3, rel_stepsize=0.25, random_start=False))
    assert type(built) is foolbox.attacks.LinfPGD
    assert (built.steps, built.rel_stepsize, built.random_start) == (3, 0.25, False)
    ours, _ = build_attack(NEWTON_FOOL)
    assert (type(ours), ours.steps, ours.eta) == (NewtonFool, 15, 0.02)


@pytest.mark.parametrize("name", ["LinfPDG", "Attack", "linfpgd", "", "np"])
def test_a_name_that_foolbox_lacks_is_refused_by_params_on_one_line(name: str) -> None:
    with pytest.raises(ValidationError, match=r"expected a class of foolbox\.attacks, such as \w+") as caught:
        FoolboxAttack(method="foolbox", attack=name, epsilon=None, options={})
    assert len(caught.value.errors()) == 1
