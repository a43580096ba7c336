"""What params say of foolbox's attacks, held against the installed foolbox: every accepted one runs."""

import inspect
import math
from typing import Any

import foolbox
import pytest
import torch
from foolbox.attacks.base import FixedEpsilonAttack, FlexibleDistanceMinimizationAttack, MinimizationAttack
from pydantic import ValidationError
from test_attacks import Small, images_of, named, predicted
from torch import Tensor

from pipeline.attacks import build_attack, craft
from pipeline.errors import InputError
from pipeline.params.foolbox_attacks import ALIASES, ATTACKS, REFUSED, Number, norm_of
from pipeline.params.installed_names import foolbox_attacks

# A budget of the whole image in each norm, on the 0-255 scale: a tenth of a pixel's range in Linf and so on.
BUDGET = 25.5
FEW = {
    "steps": 5,
    "binary_search_steps": 2,
    "directions": 5,
    "repeats": 3,
    "initial_gradient_eval_steps": 5,
    "max_gradient_eval_steps": 10,
}
ORDERS = {"L1": 1, "L2": 2, "Linf": math.inf}


def class_of(name: str) -> type:
    found = getattr(foolbox.attacks, name)
    assert isinstance(found, type)
    return found


def refusals(name: str, epsilon: float | None, **options: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        named(name, epsilon, **options)
    (error,) = caught.value.errors()
    return error["msg"].removeprefix("Value error, ").split("\n")


def crafted(name: str, epsilon: float | None, **options: Any) -> tuple[Tensor, Tensor]:
    model, images = Small(2.0), images_of(8)
    labels = predicted(model, images)
    labels[3] = (labels[3] + 1) % 4  # misclassified from the start
    torch.manual_seed(0)
    return craft(named(name, epsilon, **options), model, images, labels, batch_size=8), images


def test_the_table_names_every_attack_of_foolbox_once() -> None:
    assert set(ATTACKS) | set(ALIASES) | set(REFUSED) == foolbox_attacks()
    assert len(ATTACKS) + len(ALIASES) + len(REFUSED) == len(foolbox_attacks())
    assert all(class_of(alias) is class_of(name) for alias, name in ALIASES.items())


@pytest.mark.parametrize("name", ATTACKS)
def test_norm_and_budget_are_foolboxs_own(name: str) -> None:
    needs, found = ATTACKS[name], class_of(name)
    assert (needs.epsilon == "whole") == issubclass(found, FixedEpsilonAttack)
    if needs.norm is None:
        no_distance = (
            issubclass(found, FlexibleDistanceMinimizationAttack) or found is foolbox.attacks.SpatialAttack
        )
        assert no_distance
        assert needs.epsilon == "none"
    else:
        built, _ = build_attack(named(name, BUDGET if needs.epsilon == "whole" else None, **few_of(name)))
        assert f"{built.distance}".replace("inf", "inf") == f"{needs.norm} distance"
    if needs.epsilon == "limit":
        assert issubclass(found, MinimizationAttack)


@pytest.mark.parametrize("name", ATTACKS)
def test_options_are_those_of_the_constructor(name: str) -> None:
    takes = set(inspect.signature(class_of(name).__init__).parameters)  # type: ignore[misc]
    ours = {"loss", "restarts"} if hasattr(class_of(name), "get_loss_fn") else set()
    assert set(ATTACKS[name].options) - ours <= takes
    needed = {
        key
        for key, value in inspect.signature(class_of(name).__init__).parameters.items()  # type: ignore[misc]
        if value.default is value.empty and value.kind not in (value.VAR_POSITIONAL, value.VAR_KEYWORD)
    }
    assert set(ATTACKS[name].required) == needed - {"self"}
    # What is left out takes objects, writes files, or draws what no seed repeats.
    left_out = {"self", "args", "kwargs", "init_attack", "tensorboard", "distance", "channel_axis"}
    left_out |= {"grid_search", "random_steps"}
    if "FMN" in name:
        left_out.add("binary_search_steps")  # of no use without an attack to start from
    assert takes - left_out <= set(ATTACKS[name].options)


def few_of(name: str) -> dict[str, Any]:
    return {key: value for key, value in FEW.items() if key in ATTACKS[name].options}


@pytest.mark.parametrize("name", ATTACKS)
def test_every_accepted_attack_runs_and_keeps_to_its_budget(name: str) -> None:
    needs = ATTACKS[name]
    for epsilon in {"whole": [BUDGET], "limit": [None, BUDGET], "none": [None]}[needs.epsilon]:
        found, images = crafted(name, epsilon, **few_of(name))
        assert found.shape == images.shape
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        if epsilon is not None:
            assert needs.norm is not None
            norms = (found - images).flatten(1).norm(ORDERS[needs.norm], dim=1)
            assert float(norms.max()) <= BUDGET / 255 * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("name", ATTACKS)
def test_every_bound_and_every_word_of_an_option_runs(name: str) -> None:
    for key, kind in ATTACKS[name].options.items():
        if isinstance(kind, Number) and kind.whole:
            continue
        values: Any = (kind.low, kind.high) if isinstance(kind, Number) else kind
        for value in values:
            at = min(value, 2 * BUDGET) if key == "abs_stepsize" else value
            epsilon = BUDGET if ATTACKS[name].epsilon == "whole" else None
            found, images = crafted(name, epsilon, **few_of(name) | {key: at})
            assert found.shape == images.shape, (key, value)
            assert bool(found.isfinite().all()), (key, value)


@pytest.mark.parametrize("name", REFUSED)
def test_an_attack_that_cannot_run_here_is_refused_with_its_reason(name: str) -> None:
    for epsilon in (None, 16.0):
        (line,) = refusals(name, epsilon)
        assert line.startswith("attack: expected one that can run here; ")
        assert line.endswith(f"(got {name!r})")


@pytest.mark.parametrize(
    ("name", "epsilon", "options", "line"),
    [
        ("LinfPGD", None, {}, "epsilon: expected a budget, which LinfPGD spends whole (got null)"),
        ("L0FMNAttack", 8.0, {}, "epsilon: expected null, as L0FMNAttack keeps to no budget (got 8)"),
        ("SpatialAttack", 8.0, {}, "epsilon: expected null, as SpatialAttack keeps to no budget (got 8)"),
        ("LinfPGD", 256.0, {}, "epsilon: expected at most 255 in Linf on the 0-255 scale (got 256)"),
        ("L2PGD", 1e9, {}, "epsilon: expected at most 1e+07 in L2 on the 0-255 scale (got 1e+09)"),
        ("LinfPGD", 8.0, {"steps": 0}, "options.steps: expected an integer from 1 to 1e+06 (got 0)"),
        ("LinfPGD", 8.0, {"steps": 2.0}, "options.steps: expected an integer from 1 to 1e+06 (got 2.0)"),
        ("LinfPGD", 8.0, {"steps": True}, "options.steps: expected an integer from 1 to 1e+06 (got True)"),
        (
            "LinfPGD",
            8.0,
            {"rel_stepsize": 0.0},
            "options.rel_stepsize: expected a number from 0.001 to 2 (got 0.0)",
        ),
        (
            "LinfPGD",
            8.0,
            {"rel_stepsize": -1},
            "options.rel_stepsize: expected a number from 0.001 to 2 (got -1)",
        ),
        (
            "LinfPGD",
            8.0,
            {"abs_stepsize": 17},
            "options.abs_stepsize: expected at most two epsilons, 16 (got 17)",
        ),
        ("LinfPGD", 8.0, {"abs_stepsize": "big"}, "on the 0-255 scale (got 'big')"),
        (
            "LinfPGD",
            8.0,
            {"loss": "hinge"},
            "options.loss: expected one of crossentropy, margin (got 'hinge')",
        ),
        (
            "LinfPGD",
            8.0,
            {"random_start": False, "restarts": 3},
            "options.restarts: expected none without random_start (got 3)",
        ),
        ("FGSM", 8.0, {"restarts": 3}, "options.restarts: expected none without random_start (got 3)"),
        ("LinfPGD", 8.0, {"restarts": 0}, "options.restarts: expected an integer from 1 to 1000 (got 0)"),
        (
            "L2FMNAttack",
            None,
            {},
            "attack: expected one that can run here; foolbox 3.3.4 does not project it",
        ),
        ("LinfPGD", 8.0, {"random_start": 1}, "options.random_start: expected one of true, false (got 1)"),
        (
            "LinfPGD",
            8.0,
            {"stride": 3},
            "options.stride: unknown key (got 3); allowed: random_start, ",
        ),
        (
            "BoundaryAttack",
            None,
            {"tensorboard": "x"},
            "options.tensorboard: unknown key (got",
        ),
        ("VirtualAdversarialAttack", 8.0, {}, "options.steps: required key is missing"),
        (
            "L2PGD",
            8.0,
            {"rel_stepsize": 0.1, "abs_stepsize": 2},
            "options.rel_stepsize: expected none beside abs_stepsize (got 0.1)",
        ),
    ],
)
def test_what_would_be_no_attack_is_refused_in_one_line(
    name: str, epsilon: float | None, options: dict[str, Any], line: str
) -> None:
    (found,) = refusals(name, epsilon, **options)
    assert line in found


def test_a_step_of_two_is_two_of_255() -> None:
    found, images = crafted("LinfPGD", 16.0, steps=1, abs_stepsize=2, random_start=False)
    assert float((found - images).abs().max()) == pytest.approx(2 / 255, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("DDNAttack", "init_epsilon"),
        ("LInfFMNAttack", "max_stepsize"),
        ("LInfFMNAttack", "min_stepsize"),
        ("VirtualAdversarialAttack", "xi"),
        ("EADAttack", "regularization"),
        ("L1PGD", "abs_stepsize"),
    ],
)
def test_every_distance_is_on_the_0_to_255_scale(name: str, option: str) -> None:
    epsilon = 255.0 if name in ("VirtualAdversarialAttack", "L1PGD") else None
    built, _ = build_attack(named(name, epsilon, steps=2, **{option: 51.0}))
    assert getattr(built, option) == 51 / 255


@pytest.mark.parametrize("name", ["L2CarliniWagnerAttack", "EADAttack"])
def test_an_image_that_these_cannot_fool_stays_and_is_not_made_black(name: str) -> None:
    options = {"steps": 1, "binary_search_steps": 1}
    model, images = Small(2.0), images_of(8)
    labels = predicted(model, images)
    raw, _, _ = class_of(name)(**options)(
        foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu"), images, labels, epsilons=None
    )
    assert float(raw.abs().max()) == 0, "expected an attack that finds nothing"
    found, _ = crafted(name, None, **options)
    unfooled = torch.tensor([0, 1, 2, 4, 5, 6, 7])
    assert torch.equal(found[unfooled], images[unfooled])


@pytest.mark.parametrize("name", ["BoundaryAttack", "HopSkipJumpAttack"])
def test_an_image_without_a_start_stays_and_the_others_are_attacked(name: str) -> None:
    model, images = Small(2.0), images_of(8)
    labels = predicted(model, images)
    with (
        pytest.raises(ValueError, match="init_attack failed"),
        pytest.warns(UserWarning, match="failed to draw"),
    ):
        class_of(name)(steps=5)(
            foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu"), images, labels, epsilons=None
        )
    torch.manual_seed(0)
    found = craft(named(name, None, steps=5), model, images, labels, batch_size=8)
    moved = (found != images).flatten(1).any(1)
    assert 0 < int(moved.sum()) < 8
    assert bool((predicted(model, found)[moved] != labels[moved]).all())


@pytest.mark.parametrize("name", ["LinfFastGradientAttack", "LinfPGD", "L2PGD", "L1BasicIterativeAttack"])
def test_the_margin_does_not_vanish_where_a_net_is_saturated(name: str) -> None:
    """With logits times 1,000 the softmax of the label is 1, and the cross-entropy's gradient zero, of most images."""
    options: dict[str, Any] = {"random_start": False}
    found = {}
    for scale in (1.0, 1e3):
        model, images = Small(scale), images_of(40)
        labels = predicted(model, images)
        for loss in ("crossentropy", "margin"):
            attack = named(name, BUDGET, **options, loss=loss)
            found[loss, scale] = craft(attack, model, images, labels, batch_size=40) - images
    still = (found["crossentropy", 1e3] == 0).flatten(1).all(1)
    assert int(still.sum()) >= 10
    assert int((found["margin", 1e3] == 0).flatten(1).all(1).sum()) == 0
    torch.testing.assert_close(found["margin", 1e3], found["margin", 1.0], rtol=0, atol=1e-5)


def test_the_margins_step_is_along_the_gradient_of_the_best_other_logit_less_the_labels() -> None:
    model, images = Small(), images_of(10).double()
    model = model.double()
    labels = predicted(model, images)
    found = craft(named("FGM", 2.55, loss="margin"), model, images, labels, batch_size=10)
    for image, label, moved in zip(images, labels, found, strict=True):
        x = image[None].clone().requires_grad_(True)
        logits = model(x)[0]
        others = [logits[i] for i in range(4) if i != int(label)]
        (gradient,) = torch.autograd.grad(max(others) - logits[int(label)], x)
        expected = (image + 0.01 * gradient[0] / gradient.norm()).clamp(0, 1)
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6)


def test_hop_skip_jumps_norm_is_that_of_its_constraint() -> None:
    assert norm_of("HopSkipJumpAttack", {}) == "L2"
    assert norm_of("HopSkipJumpAttack", {"constraint": "linf"}) == "Linf"


@pytest.mark.parametrize(
    "kind", [RuntimeError, NotImplementedError, AttributeError, ZeroDivisionError, KeyError]
)
def test_an_attack_that_gives_up_is_one_line_with_its_name(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(*_: Any, **__: Any) -> None:
        raise kind("no more\nto do")

    monkeypatch.setattr(foolbox.attacks.L2ContrastReductionAttack, "run", give_up)
    attack, model, images = named("L2ContrastReductionAttack", 8.0), Small(), images_of(3)
    labels = predicted(model, images)
    with pytest.raises(
        InputError, match=r"^L2ContrastReductionAttack: cannot run as the params say: "
    ) as error:
        craft(attack, model, images, labels, batch_size=3)
    assert "\n" not in str(error.value)


class Greedy(Small):
    """Has memory for two images at a time."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


def test_an_attack_by_name_runs_in_batches_that_fit() -> None:
    model, images = Greedy(), images_of(5)
    found = craft(named("FGM", 8.0), model, images, torch.zeros(5, dtype=torch.int64), batch_size=5)
    assert found.shape == images.shape
