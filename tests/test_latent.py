import pytest
import torch
from torch import Tensor, nn

from pipeline.latent import choose_latent, latent_features
from pipeline.models import build_model
from pipeline.models.classifier import decision_layer, latent_and_logits


class Head(nn.Module):
    """Features in, logits out: the decision layer alone."""

    def __init__(self, weight: list[list[float]], bias: list[float] | None) -> None:
        super().__init__()
        self.decision = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
        self.decision.weight.data = torch.tensor(weight)
        if bias is not None:
            self.decision.bias.data = torch.tensor(bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.decision(x)
        return logits


def hits_with_first(head: Head, features: Tensor, labels: Tensor, neurons: list[int]) -> int:
    """By brute force: all other columns set to zero, then predicted as always."""
    masked = torch.zeros_like(features)
    for neuron in neurons:
        masked[:, neuron] = features[:, neuron]
    return int((head(masked).argmax(1) == labels).sum())


def random_case(seed: int, *, bias: bool = True) -> tuple[Head, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randint(-3, 4, (4, 7), generator=random).float()
    offset = [0.5, -0.25, 0.0, 0.125] if bias else None
    features = torch.randint(0, 5, (60, 7), generator=random).float()
    head = Head(weight.tolist(), offset)
    # Mostly what the whole head says, so that dropping neurons costs something.
    labels = head(features).argmax(1).detach()
    labels[::7] = 0
    return head, torch.rand(7, generator=random, dtype=torch.float64), features, labels


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_hits_equal_those_of_a_brute_force_mask(seed: int, bias: bool) -> None:
    head, v, features, labels = random_case(seed, bias=bias)
    choice = choose_latent(head, v, features, labels, max_drop=0.1)
    order = sorted(range(7), key=lambda j: -float(v[j]))
    assert choice.order.tolist() == order
    expected = [hits_with_first(head, features, labels, order[: k + 1]) for k in range(7)]
    assert choice.n_correct.tolist() == expected
    assert len(set(expected)) > 2
    assert choice.n == 60


@pytest.mark.parametrize("max_drop", [0.0, 0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_fewest_top_neurons_within_the_drop_are_kept(seed: int, max_drop: float) -> None:
    head, v, features, labels = random_case(seed)
    choice = choose_latent(head, v, features, labels, max_drop=max_drop)
    n_kept = int(choice.kept.sum())
    hits = choice.n_correct.tolist()
    assert hits[n_kept - 1] >= hits[-1] - max_drop * 60 - 1e-6
    assert all(hits[k] < hits[-1] - max_drop * 60 for k in range(n_kept - 1))
    assert set(choice.kept.nonzero().flatten().tolist()) == set(choice.order[:n_kept].tolist())


def chain_case() -> tuple[Head, Tensor, Tensor, Tensor]:
    """Neuron j decides for class j; ten images of each of ten classes."""
    head = Head(torch.eye(10).tolist(), [0.0] * 10)
    features, labels = torch.eye(10).repeat(10, 1), torch.arange(10).repeat(10)
    return head, torch.arange(10.0, 0.0, -1.0), features, labels


@pytest.mark.parametrize(("max_drop", "n_kept"), [(0.0, 10), (0.0999, 10), (0.1, 9), (0.3, 7), (0.7, 3)])
def test_exactly_the_allowed_drop_is_within(max_drop: float, n_kept: int) -> None:
    choice = choose_latent(*chain_case(), max_drop=max_drop)
    # With k neurons k classes are right, and class 0 among those that tie at zero.
    assert choice.n_correct.tolist() == [10 * k for k in range(1, 11)]
    assert int(choice.kept.sum()) == n_kept


def test_equal_discriminants_keep_the_order_of_the_neurons() -> None:
    head, _, features, labels = chain_case()
    choice = choose_latent(head, torch.ones(10), features, labels, max_drop=0.5)
    assert choice.order.tolist() == list(range(10))
    assert choice.kept.tolist() == [True] * 5 + [False] * 5


def test_at_least_one_neuron_is_kept() -> None:
    head, v, features, labels = chain_case()
    assert choose_latent(head, v, features, labels, max_drop=1.0).kept.sum() == 1


def test_the_model_is_left_as_it_was() -> None:
    head, v, features, labels = random_case(0)
    before = head.decision.weight.clone()
    choose_latent(head, v, features, labels, max_drop=0.1)
    assert torch.equal(head.decision.weight, before)
    assert head.decision.weight.requires_grad


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return build_model("resnet", 3, config="c16", width=0.5, stem="small", dropout=0.5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_latent_features_are_the_decision_layers_inputs_in_evaluation_mode(
    batch_size: int, training: bool
) -> None:
    net, images = small_net(), torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = net.eval()(images)
    features = latent_features(net.train(training), images, batch_size=batch_size)
    assert net.training == training
    assert features.shape == (7, 8)
    assert not features.requires_grad
    torch.testing.assert_close(decision_layer(net)(features), expected, rtol=1e-5, atol=1e-6)


def test_latent_and_logits_come_from_one_forward_pass_and_carry_gradient() -> None:
    net = small_net()
    latent, logits = latent_and_logits(net, torch.rand(4, 3, 8, 8))  # dropout would differ between two
    assert torch.equal(decision_layer(net)(latent), logits)
    latent.sum().backward()
    first = next(net.parameters())
    assert first.grad is not None
    assert float(first.grad.abs().sum()) > 0


def test_the_hook_is_removed_even_when_the_model_raises() -> None:
    net = small_net()
    with pytest.raises(RuntimeError):
        latent_and_logits(net, torch.rand(4, 5, 8, 8))
    assert not decision_layer(net)._forward_pre_hooks


def test_the_decision_layer_is_the_last_linear_one_and_a_model_without_is_refused() -> None:
    net = build_model("fc", 3, in_features=4, hidden=(6, 5))
    assert decision_layer(net) is net.get_submodule("decision")
    with pytest.raises(ValueError, match="Conv2d has none"):
        decision_layer(nn.Conv2d(1, 1, 1))
