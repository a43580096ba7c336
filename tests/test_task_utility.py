"""From a trained net to utilities: the traced images' budget, and the choice that the trace starts from."""

from functools import cache, partial
from typing import Any, Literal

import pytest
import torch
from builders import lda_weights
from torch import Tensor, nn

from pipeline.deconv import trace_utility
from pipeline.images.parts import Images
from pipeline.lda import discriminants, discriminants_decorrelated
from pipeline.models import build_model
from pipeline.params.pruning import LatentChoiceRule, OtsuChoice, SensitivityChoice, Surgery
from pipeline.prune.latent import choose_latent
from pipeline.prune.task_utility import TaskUtility, trace_images, unravel_utility
from pipeline.saliency import trace_saliency
from pipeline.training.predict import latent_features

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting


def numbered(counts: dict[int, int]) -> Images:
    """So many images of each class, in mixed order; an image's first two pixels are its number."""
    labels = torch.tensor([label for label, count in counts.items() for _ in range(count)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(labels)) % 256
    images[:, 0, 0, 1] = torch.arange(len(labels)) // 256
    return Images(images, labels)


def numbers(traced: Tensor) -> list[int]:
    pixels = (traced * 255).round().long()
    return (pixels[:, 0, 0, 0] + 256 * pixels[:, 0, 0, 1]).tolist()


def per_class(train: Images, traced: Tensor) -> dict[int, int]:
    labels = train.labels[numbers(traced)].tolist()
    return {label: labels.count(label) for label in sorted(set(labels))}


@pytest.mark.parametrize("budget", [1, 3, 20])
@pytest.mark.parametrize("seed", range(3))
def test_every_class_gives_its_budget(budget: int, seed: int) -> None:
    train = numbered({0: 20, 4: 25, 7: 90})
    traced = trace_images(train, budget, seed=seed).scaled()
    assert per_class(train, traced) == {0: budget, 4: budget, 7: budget}
    assert len(set(numbers(traced))) == 3 * budget
    assert traced.dtype == torch.float32
    assert 0 <= float(traced.min()) <= float(traced.max()) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_where_a_class_is_short_the_others_fill_the_gap(seed: int) -> None:
    train = numbered({0: 2, 1: 30, 2: 30, 3: 5})
    traced = trace_images(train, 10, seed=seed).scaled()
    found = per_class(train, traced)
    assert (found[0], found[3]) == (2, 5)
    assert found[1] >= 10
    assert found[2] >= 10
    assert sum(found.values()) == len(set(numbers(traced))) == 4 * 10


def test_the_gap_is_filled_at_random_from_all_that_is_left() -> None:
    train = numbered({0: 1, 1: 30, 2: 30})
    fillings = [per_class(train, trace_images(train, 15, seed=seed).scaled()) for seed in range(8)]
    assert len({tuple(found.items()) for found in fillings}) > 1
    assert all(found[1] > 15 or found[2] > 15 for found in fillings)
    assert any(found[1] > 15 and found[2] > 15 for found in fillings)


def test_a_budget_above_the_whole_set_takes_every_image_once() -> None:
    train = numbered({0: 3, 1: 8, 2: 5})
    for budget in (8, 6, 100):
        assert sorted(numbers(trace_images(train, budget, seed=0).scaled())) == list(range(16))
    assert len(trace_images(train, 5, seed=0)) == 15


def test_traced_images_are_those_of_the_seed_and_not_of_the_global_generator() -> None:
    train = numbered({0: 50, 1: 40, 2: 3})
    torch.manual_seed(1)
    one = trace_images(train, 10, seed=4).scaled()
    torch.manual_seed(2)
    assert torch.equal(trace_images(train, 10, seed=4).scaled(), one)
    assert set(numbers(trace_images(train, 10, seed=5).scaled())) != set(numbers(one))


def test_classes_that_no_image_has_take_no_budget() -> None:
    train = numbered({3: 10, 9: 10})
    assert len(trace_images(train, 4, seed=0)) == 8


@cache
def classified(n: int, seed: int) -> Images:
    """Three classes of 6x6 images: bright in the upper, middle or lower rows."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    images = torch.randint(0, 90, (n, 1, 6, 6), generator=random, dtype=torch.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 2 * label : 2 * label + 2] += 120
    return Images(images, labels)


def surgery(
    rule: LatentChoiceRule,
    *,
    utility: Literal["deconvolution", "saliency"] = "deconvolution",
    per_class: int | None = 6,
) -> Surgery:
    keys: dict[str, Any] = {"widths": "layer", "per_cost": None, "round_to": 1, "remove_branches": False}
    keys |= {"keep": [], "min_channels": 1}
    return Surgery(**keys, utility=utility, latent=rule, trace_images_per_class=per_class)


def net() -> nn.Module:
    torch.manual_seed(0)
    return build_model("resnet", 3, config="c16", width=0.5, stem="small", in_channels=1).eval()


def unravelled(
    model: nn.Module, rule: LatentChoiceRule, *, seed: int = 0, batch_size: int = 16
) -> TaskUtility:
    return unravel_utility(
        model,
        partial(discriminants, ridge=0.01),
        train=classified(45, 0),
        validation=classified(30, 1),
        surgery=surgery(rule),
        lda=lda_weights(),
        seed=seed,
        batch_size=batch_size,
    )


RULES: list[LatentChoiceRule] = [
    SensitivityChoice(method="sensitivity", max_drop=0.0),
    SensitivityChoice(method="sensitivity", max_drop=0.3),
    OtsuChoice(method="otsu"),
]


@pytest.mark.parametrize("rule", RULES, ids=["all", "with-drop", "otsu"])
def test_utility_is_traced_from_the_neurons_that_the_rule_chooses(rule: LatentChoiceRule) -> None:
    model, train, validation = net(), classified(45, 0), classified(30, 1)
    found = unravelled(model, rule)
    features = latent_features(model, train, batch_size=64)
    held_out = latent_features(model, validation, batch_size=64)
    v = discriminants(features, train.labels, ridge=0.01)
    choice = choose_latent(model, v, features.double().var(0), held_out, validation.labels, rule)
    torch.testing.assert_close(found.v, v, rtol=1e-4, atol=1e-9)
    assert found.choice.kept.tolist() == choice.kept.tolist()
    assert found.choice.order.tolist() == choice.order.tolist()
    assert found.choice.n == 30
    assert 0 < int(found.choice.kept.sum()) <= len(v)
    assert torch.equal(found.images.scaled(), trace_images(train, 6, seed=0).scaled())
    expected = trace_utility(model, found.images.scaled(), found.choice.kept)
    assert list(found.utilities) == list(expected)
    for name, utility in expected.items():
        torch.testing.assert_close(found.utilities[name].map, utility.map, rtol=1e-4, atol=1e-9)


def test_utility_may_be_our_saliency_on_the_same_images_and_neurons() -> None:
    model, rule, weights = net(), OtsuChoice(method="otsu"), lda_weights()
    found = unravel_utility(
        model,
        partial(discriminants, ridge=0.01),
        train=classified(45, 0),
        validation=classified(30, 1),
        surgery=surgery(rule, utility="saliency", per_class=None),
        lda=weights,
        seed=3,
        batch_size=16,
    )
    assert torch.equal(found.choice.kept, unravelled(model, rule).choice.kept)
    images = found.images.scaled()
    assert torch.equal(images, classified(45, 0).scaled())
    expected = trace_saliency(
        model, images, found.images.labels, found.choice.kept,
        ridge=weights.ridge, samples_per_class=weights.samples_per_class, seed=3, batch_size=16,
    )  # fmt: skip
    assert list(found.utilities) == list(expected)
    for name, utility in expected.items():
        assert utility.map.shape == (len(utility.map), 1, 1)
        torch.testing.assert_close(found.utilities[name].map, utility.map, rtol=1e-4, atol=1e-9)


def test_without_a_budget_all_training_images_are_traced() -> None:
    train = numbered({0: 20, 4: 25})
    assert numbers(trace_images(train, None, seed=0).scaled()) == list(range(45))


def test_the_discriminating_power_is_that_of_the_given_discriminants_on_training_images() -> None:
    model, train = net(), classified(45, 0)
    seen: list[tuple[Tensor, Tensor]] = []

    def backwards(features: Tensor, labels: Tensor) -> Tensor:
        seen.append((features, labels))
        return torch.arange(features.shape[1], 0, -1, dtype=torch.float64)

    found = unravel_utility(
        model,
        backwards,
        train=train,
        validation=classified(30, 1),
        surgery=surgery(SensitivityChoice(method="sensitivity", max_drop=0.5)),
        lda=lda_weights(),
        seed=0,
        batch_size=16,
    )
    ((features, labels),) = seen
    assert torch.equal(labels, train.labels)
    torch.testing.assert_close(features, latent_features(model, train, batch_size=45))
    assert found.v.tolist() == list(range(8, 0, -1))
    assert found.choice.order.tolist() == list(range(8))
    n_kept = int(found.choice.kept.sum())
    assert found.choice.kept.tolist() == [True] * n_kept + [False] * (8 - n_kept)


def test_after_the_fact_discriminants_may_stand_in_for_those_of_a_push() -> None:
    model, train = net(), classified(45, 0)
    found = unravel_utility(
        model,
        discriminants_decorrelated,
        train=train,
        validation=classified(30, 1),
        surgery=surgery(OtsuChoice(method="otsu")),
        lda=lda_weights(),
        seed=0,
        batch_size=16,
    )
    features = latent_features(model, train, batch_size=16)
    assert torch.equal(found.v, discriminants_decorrelated(features, train.labels))


def test_unravelling_is_deterministic_and_its_seed_is_that_of_the_traced_images() -> None:
    rule = SensitivityChoice(method="sensitivity", max_drop=0.1)
    model = net()
    one, again, other = (unravelled(model, rule, seed=seed) for seed in (0, 0, 1))
    for name, utility in one.utilities.items():
        assert torch.equal(again.utilities[name].map, utility.map)
    assert torch.equal(one.v, other.v)
    assert torch.equal(one.choice.kept, other.choice.kept)
    assert not torch.equal(one.images.scaled(), other.images.scaled())


def test_unravelling_leaves_the_model_as_it_was() -> None:
    model = net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    unravelled(model, OtsuChoice(method="otsu"))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules()) == 0
