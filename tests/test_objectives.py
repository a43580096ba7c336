import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import NUMERICS, lda_weights, parts, schedule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.cost import count_params
from pipeline.deconv import Utility, trace_utility
from pipeline.lda import push_loss
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, decision_layer, latent_and_logits
from pipeline.models.inception import Inception
from pipeline.params.training import Auxiliary
from pipeline.prune import prune_model
from pipeline.training.objectives import (
    AuxiliaryObjective,
    Objective,
    heads_of,
    with_auxiliary_heads,
)
from pipeline.training.push_objective import PushObjective, push_objective, train_with_push
from pipeline.training.resume import ResumePoint


def inception(n_middle: int = 3) -> Inception:
    torch.manual_seed(0)
    stages = {"stages": (1, n_middle, 1), "base": (1, min(n_middle, 5), 1)}
    net = build_model("inception", 3, width=0.0625, stem="small", in_channels=1, **stages)
    assert isinstance(net, Inception)
    return net


def fully_connected() -> nn.Module:
    torch.manual_seed(0)
    return build_model("fc", 3, in_features=64, hidden=(10, 6))


def batch(n: int = 24) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 8, 8, generator=random), torch.arange(n) % 3


def hook_count(model: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_plain_objective_is_mean_cross_entropy_with_smoothed_labels(smoothing: float) -> None:
    model, (images, labels) = fully_connected(), batch()
    terms = Objective(label_smoothing=smoothing)(model, images, labels)
    target = (1 - smoothing) * torch.eye(3)[labels] + smoothing / 3
    expected = -(target * model(images).log_softmax(1)).sum(1).mean()
    assert set(terms) == {"total"}
    torch.testing.assert_close(terms["total"], expected)


@pytest.mark.parametrize(("n_middle", "n_heads"), [(1, 1), (3, 2)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_auxiliary_heads_add_their_weighted_sum_of_cross_entropies(
    n_middle: int, n_heads: int, smoothing: float
) -> None:
    net, (images, labels) = inception(n_middle), batch()
    objective = AuxiliaryObjective(Objective(label_smoothing=smoothing), net, images[:4], weight=0.3)
    net.eval()
    objective.eval()
    terms = objective(net, images, labels)
    # The same by hand: the outputs of the tapped modules through the heads.
    stage = list(net.stages[1].children())
    maps, x = [], net.pools[0](net.stages[0](net.stem(images)))
    for module in stage:
        x = module(x)
        maps.append(x)
    tapped = [maps[0]] if n_heads == 1 else [maps[0], maps[-2]]
    assert len(objective.heads) == n_heads
    heads = [
        cross_entropy(head(taken), labels, label_smoothing=smoothing)
        for head, taken in zip(objective.heads, tapped, strict=True)
    ]
    expected = cross_entropy(net(images), labels, label_smoothing=smoothing) + 0.3 * sum(heads)
    torch.testing.assert_close(terms["total"], expected)
    torch.testing.assert_close(terms["auxiliary"], torch.stack(heads).mean())
    assert not terms["auxiliary"].requires_grad


def test_auxiliary_heads_are_trained_with_the_net_and_reach_only_what_is_before_them() -> None:
    net, (images, labels) = inception(), batch()
    objective = AuxiliaryObjective(Objective(), net, images[:4], weight=0.3)
    names = [name for name, _ in objective.named_parameters()]
    assert names
    assert all(name.startswith("heads.") for name in names)
    terms = objective(net.train(), images, labels)
    only_heads = terms["total"] - cross_entropy(net(images), labels).detach()
    only_heads.backward()
    head_grads = [p.grad for p in objective.parameters() if p.requires_grad]
    assert all(grad is not None for grad in head_grads)


def test_inception_v3_is_trained_with_its_head_which_reaches_the_factorised_modules() -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "module": "v3",
        "stem": "v3",
        "stages": (1, 2, 1),
        "base": (1, 2, 1),
        "in_channels": 1,
    }
    net = build_model("inception", 3, width=0.0625, **options)
    assert isinstance(net, Inception)
    images, labels = torch.rand(6, 1, 75, 75), torch.arange(6) % 3
    objective = AuxiliaryObjective(Objective(), net, images[:2], weight=0.4, batch_norm=True)
    (head,) = objective.heads
    with torch.no_grad():
        net.head.decision.weight.zero_()  # only the head's loss sends anything back
    objective(net.train(), images, labels)["total"].backward()
    assert all(parameter.grad is not None for parameter in head.parameters() if parameter.requires_grad)
    gradients = [net.get_parameter(f"stages.{stage}.0.branch1x1.conv.weight").grad for stage in range(3)]
    assert [gradient is not None and bool(gradient.any()) for gradient in gradients] == [True, True, False]


def test_auxiliary_heads_are_no_part_of_the_trained_net() -> None:
    net = inception()
    before = list(net.state_dict())
    AuxiliaryObjective(Objective(), net, batch()[0][:4], weight=0.3)
    assert list(net.state_dict()) == before


def test_making_auxiliary_heads_leaves_the_nets_batch_statistics() -> None:
    net = inception().train()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    AuxiliaryObjective(Objective(), net, batch()[0][:4], weight=0.3)
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def test_no_hook_stays_after_a_forward_pass_or_an_exception() -> None:
    net, (images, labels) = inception(), batch()
    objective = AuxiliaryObjective(Objective(), net, images[:4], weight=0.3)
    objective(net, images, labels)
    assert hook_count(net) == 0
    with pytest.raises(RuntimeError):
        objective(net, images[:, :, :, 0], labels)
    assert hook_count(net) == 0
    push = PushObjective(lda_weights())
    with pytest.raises(RuntimeError):
        push(net, images[:, :, :, 0], labels)
    assert hook_count(net) == 0


def classifier(net: nn.Module) -> Classifier:
    return Classifier(net, image_shape=(1, 8, 8), mean=[0.5], std=[0.25], classes=("a", "b", "c"))


@pytest.mark.parametrize(
    ("build", "auxiliary", "kind"),
    [
        (inception, Auxiliary(weight=0.3, batch_norm=False), AuxiliaryObjective),
        (inception, Auxiliary(weight=0.3, batch_norm=True), AuxiliaryObjective),
        (inception, None, Objective),
        (fully_connected, Auxiliary(weight=0.3, batch_norm=False), Objective),
    ],
)
def test_auxiliary_heads_are_there_where_they_have_a_weight_and_the_net_has_places(
    build: Any, auxiliary: Auxiliary | None, kind: type
) -> None:
    model, (images, labels) = classifier(build()), batch()
    objective = with_auxiliary_heads(Objective(label_smoothing=0.1), model, images[:2], auxiliary)
    assert type(objective) is kind
    assert objective.label_smoothing == 0.1
    if isinstance(objective, AuxiliaryObjective):
        assert auxiliary is not None
        assert objective.weight == auxiliary.weight
    assert objective(model.train(), images, labels)["total"].isfinite()


@pytest.mark.parametrize("batch_norm", [True, False])
def test_heads_of_the_training_objective_read_normalised_images_of_the_classifier(batch_norm: bool) -> None:
    """A Classifier's own normalisation comes before the tapped modules: the terms are the net's by hand."""
    model, (images, labels) = classifier(inception()).eval(), batch()
    torch.manual_seed(3)
    auxiliary = Auxiliary(weight=0.3, batch_norm=batch_norm)
    objective = with_auxiliary_heads(Objective(), model, images[:2], auxiliary).eval()
    torch.manual_seed(3)
    assert isinstance(model.net, Inception)
    normalized = (images - 0.5) / 0.25
    by_hand = AuxiliaryObjective(
        Objective(), model.net, normalized[:2], weight=0.3, batch_norm=batch_norm
    ).eval()
    expected = by_hand(model.net, normalized, labels)
    found = objective(model, images, labels)
    torch.testing.assert_close(found["total"], expected["total"])
    torch.testing.assert_close(found["auxiliary"], expected["auxiliary"])


@pytest.mark.parametrize("batch_norm", [True, False])
def test_batch_norm_of_the_heads_hidden_layers_is_there_where_it_is_asked_for(batch_norm: bool) -> None:
    objective = AuxiliaryObjective(
        Objective(), inception(), batch()[0][:4], weight=0.3, batch_norm=batch_norm
    )
    norms = [module for module in objective.modules() if isinstance(module, nn.BatchNorm1d)]
    assert len(norms) == (len(objective.heads) if batch_norm else 0)
    hidden = [head.get_submodule("hidden") for head in objective.heads]
    assert all(isinstance(layer, nn.Linear) and (layer.bias is None) == batch_norm for layer in hidden)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_push_objective_is_cross_entropy_plus_the_push_loss(smoothing: float) -> None:
    model, (images, labels), weights = fully_connected(), batch(), lda_weights()
    terms = PushObjective(weights, label_smoothing=smoothing)(model, images, labels)
    latent, logits = latent_and_logits(model, images)
    push = push_loss(latent, labels, weights)
    expected = cross_entropy(logits, labels, label_smoothing=smoothing) + push.loss
    assert float(push.loss.detach()) > 1e-3
    assert terms["total"].dtype == logits.dtype
    assert float(terms["total"].detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    for name in ("l_lda", "l_cov", "l_align"):
        assert float(terms[name]) == pytest.approx(float(getattr(push, name).detach()), rel=1e-6)
        assert not terms[name].requires_grad
    assert float(terms["n_active"]) == push.n_active
    assert float(terms["top_share"]) == pytest.approx(push.top_share, rel=1e-6)


def test_pushing_with_zero_weights_is_cross_entropy() -> None:
    model, (images, labels) = fully_connected(), batch()
    terms = PushObjective(lda_weights(**{"gamma": 0.0, "lambda": 0.0, "beta": 0.0}))(model, images, labels)
    torch.testing.assert_close(terms["total"], cross_entropy(model(images), labels))


@pytest.mark.parametrize("without", ["gamma", "lambda", "beta", "all"])
def test_a_push_without_any_weight_is_a_plain_objective(without: str) -> None:
    """A control's training is what it would be without this room, compiled where params say so."""
    zeros = dict.fromkeys(["gamma", "lambda", "beta"] if without == "all" else [without], 0.0)
    objective = push_objective(lda_weights(**zeros), label_smoothing=0.1)
    assert type(objective) is (Objective if without == "all" else PushObjective)
    assert objective.label_smoothing == 0.1
    assert objective.compilable == (without == "all")


def test_the_push_reaches_the_layers_below_the_latent_space() -> None:
    model, (images, labels) = fully_connected(), batch()
    both = PushObjective(lda_weights())(model, images, labels)["total"]
    (pushed,) = torch.autograd.grad(both, next(model.parameters()))
    plain = Objective()(model, images, labels)["total"]
    (unpushed,) = torch.autograd.grad(plain, next(model.parameters()))
    assert float((pushed - unpushed).abs().sum()) > 1e-6


class OneDiscriminant(nn.Module):
    """A latent space where one neuron separates the classes and the others are noise."""

    def __init__(self) -> None:
        super().__init__()
        self.decision = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.decision(images.flatten(1))
        return logits


def collapsing_batch() -> tuple[Tensor, Tensor]:
    labels = torch.arange(24) % 3
    features = torch.rand(24, 4, generator=torch.Generator().manual_seed(0)) * 0.5
    features[:, 0] += 10 * labels
    return features.view(24, 1, 2, 2), labels


def test_a_collapse_is_logged_once_and_says_what_to_change(caplog: pytest.LogCaptureFixture) -> None:
    objective, model = PushObjective(lda_weights(collapse_share=0.8)), OneDiscriminant()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert float(objective(model, *collapsing_batch())["top_share"]) > 0.8
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "collaps" in caplog.text
    assert "lower the push weights" in caplog.text
    assert "separation: log_det" in caplog.text
    assert "4 neurons" in caplog.text


def test_every_batch_says_whether_it_has_collapsed() -> None:
    model = OneDiscriminant()
    for share, collapsed in ((0.8, 1.0), (0.9999999, 0.0)):
        terms = PushObjective(lda_weights(collapse_share=share))(model, *collapsing_batch())
        assert float(terms["collapsed"]) == collapsed
    images, labels = collapsing_batch()
    dead = PushObjective(lda_weights())(model, torch.zeros_like(images), labels)
    assert (float(dead["collapsed"]), float(dead["n_active"])) == (1.0, 0.0)


def test_the_push_follows_the_separation_that_is_asked_for() -> None:
    model, (images, labels) = fully_connected(), batch()
    terms = [
        PushObjective(lda_weights(separation=separation))(model, images, labels)
        for separation in ("trace", "log_det")
    ]
    latent, _ = latent_and_logits(model, images)
    for found, separation in zip(terms, ("trace", "log_det"), strict=True):
        expected = push_loss(latent, labels, lda_weights(separation=separation)).l_lda
        assert float(found["l_lda"]) == pytest.approx(float(expected.detach()), rel=1e-9)
    # log(1 + v) < v: the same neurons over a smaller sum.
    assert float(terms[1]["l_lda"]) > float(terms[0]["l_lda"])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_push_sees_features_before_dropout(dropout: float) -> None:
    """Half of the features at random would be zeros: the push's terms must not depend on which."""
    torch.manual_seed(0)
    stages = {"stages": (1, 1, 1), "base": (1, 1, 1)}
    net = build_model("inception", 3, width=0.0625, stem="small", in_channels=1, dropout=dropout, **stages)
    features: list[Tensor] = []
    net.get_submodule("head.flatten").register_forward_hook(lambda _m, _i, output: features.append(output))
    images, labels = batch()
    objective = PushObjective(lda_weights())
    net.train()
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(objective(net, images, labels))
    expected = push_loss(features[0], labels, lda_weights())
    for terms in found:
        for name in ("l_lda", "l_cov", "l_align"):
            assert float(terms[name]) == pytest.approx(float(getattr(expected, name).detach()), rel=1e-6)
    totals = {float(terms["total"].detach()) for terms in found}
    assert len(totals) == (2 if dropout else 1)  # dropout acts on the decision alone


def test_a_push_that_does_not_collapse_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    objective, (images, labels) = PushObjective(lda_weights()), batch()
    with caplog.at_level(logging.WARNING):
        objective(fully_connected(), images, labels)
    assert not caplog.records


def test_heads_beside_a_push_add_their_cross_entropies_to_it() -> None:
    net, (images, labels) = inception().eval(), batch()
    main = PushObjective(lda_weights(), label_smoothing=0.1)
    objective = AuxiliaryObjective(main, net, images[:4], weight=0.3).eval()
    terms, pushed = objective(net, images, labels), main(net, images, labels)
    assert set(terms) == {*pushed, "auxiliary"}
    heads = terms["total"] - pushed["total"]
    assert float(heads.detach()) == pytest.approx(0.3 * 2 * float(terms["auxiliary"]), rel=1e-4)
    assert not objective.compilable
    assert objective.label_smoothing == 0.1
    assert hook_count(net) == 0


def test_heads_start_from_inherited_ones_where_name_and_shape_fit() -> None:
    net, images = inception(), batch()[0][:4]
    trained = AuxiliaryObjective(Objective(), net, images, weight=0.3).state_dict()
    torch.manual_seed(9)
    state = AuxiliaryObjective(Objective(), net, images, weight=0.3, inherited=trained).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in trained.items())
    # A net with one place has one head; what has another shape stays fresh.
    odd = trained | {"heads.0.decision.bias": torch.zeros(7)}
    torch.manual_seed(9)
    fresh = AuxiliaryObjective(Objective(), inception(1), images, weight=0.3).state_dict()
    torch.manual_seed(9)
    state = AuxiliaryObjective(Objective(), inception(1), images, weight=0.3, inherited=odd).state_dict()
    assert torch.equal(state["heads.0.decision.bias"], fresh["heads.0.decision.bias"])
    assert torch.equal(state["heads.0.decision.weight"], trained["heads.0.decision.weight"])


@pytest.mark.parametrize(("n_middle", "n_heads"), [(1, 0), (2, 0), (3, 2), (4, 2)])
def test_in_pushing_and_retraining_heads_are_for_deep_nets(n_middle: int, n_heads: int) -> None:
    model, (images, _) = classifier(inception(n_middle)), batch()
    main = PushObjective(lda_weights())
    auxiliary = Auxiliary(weight=0.3, batch_norm=False)
    objective = with_auxiliary_heads(main, model, images[:2], auxiliary, deep_only=True)
    if n_heads == 0:
        assert objective is main
    else:
        assert isinstance(objective, AuxiliaryObjective)
        assert len(objective.heads) == n_heads
        assert objective.main is main
    assert with_auxiliary_heads(main, model, images[:2], None, deep_only=True) is main


def test_heads_fit_a_pruned_net() -> None:
    """Widths of what they read are those after surgery; a branch may be gone."""
    model, (images, labels) = classifier(inception()).eval(), batch()
    random = torch.Generator().manual_seed(0)
    utilities = trace_utility(model, images, torch.ones(decision_layer(model).in_features, dtype=torch.bool))
    scores = {n: Utility(torch.rand(u.map.shape, generator=random).double()) for n, u in utilities.items()}
    smaller, _ = prune_model(model, scores, 1.5, images[:1])
    assert count_params(smaller) < count_params(model)
    auxiliary = Auxiliary(weight=0.3, batch_norm=False)
    objective = with_auxiliary_heads(Objective(), smaller, images[:2], auxiliary, deep_only=True)
    terms = objective(smaller.train(), images, labels)
    assert terms["auxiliary"].isfinite()


@pytest.mark.parametrize(
    ("progress", "strength"), [(0.0, 0.0), (0.25, 0.0), (0.5, 0.5), (0.75, 1.0), (0.9, 1.0)]
)
def test_a_ramped_push_is_cross_entropy_first_and_fades_in(progress: float, strength: float) -> None:
    model, (images, labels) = fully_connected(), batch()
    objective = push_objective(lda_weights(), label_smoothing=0.0, push="ramped")
    full = push_objective(lda_weights(), label_smoothing=0.0, push="full")
    for each in (objective, full):
        each.at(progress)
    plain = float(cross_entropy(model(images), labels).detach())
    whole = float(full(model, images, labels)["total"].detach())
    terms = objective(model, images, labels)
    assert float(terms["total"].detach()) == pytest.approx(plain + strength * (whole - plain), rel=1e-6)
    assert float(terms["l_lda"]) > 0  # measured all along
    assert terms["total"].requires_grad


def test_a_ramped_push_without_strength_yet_has_the_gradient_of_cross_entropy_whatever_the_features() -> None:
    """Right after a cut features may be such that the push's own gradient is no number."""
    model, (images, labels) = fully_connected(), batch()
    objective = push_objective(lda_weights(), label_smoothing=0.0, push="ramped")
    objective.at(0.1)
    parameters = list(model.parameters())
    found = torch.autograd.grad(objective(model, images, labels)["total"], parameters)
    expected = torch.autograd.grad(cross_entropy(model(images), labels), parameters)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_no_push_is_a_plain_objective() -> None:
    assert type(push_objective(lda_weights(), label_smoothing=0.0, push="none")) is Objective


def test_heads_hand_the_time_on_to_the_push() -> None:
    net, (images, labels) = inception().eval(), batch()
    main = push_objective(lda_weights(), label_smoothing=0.0, push="ramped")
    objective = AuxiliaryObjective(main, net, images[:4], weight=0.3).eval()
    totals = []
    for progress in (0.1, 0.9):
        objective.at(progress)
        totals.append(float(objective(net, images, labels)["total"].detach()))
    assert totals[1] > totals[0] + 1e-3


def test_pushing_has_heads_of_its_own_seed_whatever_came_before(tmp_path: Path) -> None:
    """Two trainings with one seed are equal to the bit, though fresh heads draw from torch's global generator."""
    histories = []
    for noise in (1, 2):
        model = classifier(inception())
        torch.manual_seed(noise)
        outcome = train_with_push(
            model,
            schedule(epochs=2),
            parts(),
            lda_weights(),
            push="ramped",
            auxiliary=Auxiliary(weight=0.3, batch_norm=False),
            seed=5,
            resume=ResumePoint(tmp_path / str(noise)),
            numerics=NUMERICS,
        )
        histories.append(outcome.history)
        assert heads_of(model)
    assert histories[0] == histories[1]
    assert {"train_auxiliary", "train_l_lda"} <= set(histories[0][0])
