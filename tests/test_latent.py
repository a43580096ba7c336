import pytest
import torch
from torch import Tensor, nn

from pipeline.images.parts import Images
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, decision_layer, latent_and_logits
from pipeline.params.pruning import OtsuChoice, SensitivityChoice
from pipeline.prune.latent import LatentChoice, choose_latent, hits_by_rank, n_above_otsu
from pipeline.training.predict import latent_features

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

OTSU = OtsuChoice(method="otsu")


def within(head: nn.Module, v: Tensor, features: Tensor, labels: Tensor, *, max_drop: float) -> LatentChoice:
    """The choice by sensitivity; the neurons' variances matter to PCA alone."""
    rule = SensitivityChoice(method="sensitivity", max_drop=max_drop)
    return choose_latent(head, v, torch.arange(float(len(v))), features, labels, rule)


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
    choice = within(head, v, features, labels, max_drop=0.1)
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
    choice = within(head, v, features, labels, max_drop=max_drop)
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
    choice = within(*chain_case(), max_drop=max_drop)
    # With k neurons k classes are right, and class 0 among those that tie at zero.
    assert choice.n_correct.tolist() == [10 * k for k in range(1, 11)]
    assert int(choice.kept.sum()) == n_kept


def test_equal_discriminants_keep_the_order_of_the_neurons() -> None:
    head, _, features, labels = chain_case()
    choice = within(head, torch.ones(10), features, labels, max_drop=0.5)
    assert choice.order.tolist() == list(range(10))
    assert choice.kept.tolist() == [True] * 5 + [False] * 5


def test_at_least_one_neuron_is_kept() -> None:
    head, v, features, labels = chain_case()
    assert within(head, v, features, labels, max_drop=1.0).kept.sum() == 1


def test_the_model_is_left_as_it_was() -> None:
    head, v, features, labels = random_case(0)
    before = head.decision.weight.clone()
    within(head, v, features, labels, max_drop=0.1)
    assert torch.equal(head.decision.weight, before)
    assert head.decision.weight.requires_grad


@pytest.mark.parametrize("seed", range(3))
def test_pca_adds_the_neurons_of_the_largest_variance_first(seed: int) -> None:
    head, v, features, labels = random_case(seed)
    variance = torch.rand(7, generator=torch.Generator().manual_seed(10 + seed))
    rule = SensitivityChoice(method="sensitivity", max_drop=0.1)
    choice = choose_latent(head, v, variance, features, labels, rule)
    order = sorted(range(7), key=lambda j: -float(variance[j]))
    expected = [hits_with_first(head, features, labels, order[: k + 1]) for k in range(7)]
    assert choice.n_correct_pca.tolist() == expected
    assert choice.n_correct_pca.tolist() != choice.n_correct.tolist()
    assert int(choice.n_correct_pca[-1]) == int(choice.n_correct[-1])
    kept = within(head, v, features, labels, max_drop=0.1).kept
    assert torch.equal(choice.kept, kept)  # whatever the variances are


@pytest.mark.parametrize("bias", [True, False])
def test_hits_by_rank_follow_any_order(bias: bool) -> None:
    head, _, features, labels = random_case(4, bias=bias)
    order = [3, 0, 6, 1, 5, 2, 4]
    expected = [hits_with_first(head, features, labels, order[: k + 1]) for k in range(7)]
    assert hits_by_rank(head, torch.tensor(order), features, labels).tolist() == expected


def chosen_by_otsu(v: Tensor) -> LatentChoice:
    d = len(v)
    head = Head(torch.ones(2, d).tolist(), None)
    return choose_latent(head, v, torch.ones(d), torch.ones(3, d), torch.zeros(3, dtype=torch.int64), OTSU)


def n_by_between_class_variance(v: Tensor) -> int:
    """Otsu's criterion by brute force: the split of the sorted values with the largest between-class variance."""
    values = sorted(v.double().tolist(), reverse=True)
    splits = {
        k: k * (len(values) - k) * (sum(values[:k]) / k - sum(values[k:]) / (len(values) - k)) ** 2
        for k in range(1, len(values))
        if values[k - 1] > values[k]
    }
    return max(splits, key=lambda k: splits[k])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("seed", range(4))
def test_otsu_parts_two_masses_where_they_part(seed: int, scale: float) -> None:
    random = torch.Generator().manual_seed(seed)
    low, high = torch.rand(40, generator=random), 5 + 3 * torch.rand(9 + seed, generator=random)
    v = (torch.cat([low, high]) * scale)[torch.randperm(49 + seed, generator=random)]
    assert chosen_by_otsu(v).kept.tolist() == (v > 2 * scale).tolist()
    assert n_above_otsu(v) == 9 + seed


@pytest.mark.parametrize("seed", range(4))
def test_otsus_split_is_exact_on_one_long_tail(seed: int) -> None:
    v = torch.randn(60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).exp()
    assert n_above_otsu(v) == n_by_between_class_variance(v)


def test_otsu_keeps_the_one_discriminant_that_took_over() -> None:
    collapsed = torch.tensor([3145.0, 98, 9, 7, 5, 4, 3, 2, 1])  # bins of equal width would keep two
    assert chosen_by_otsu(collapsed).kept.tolist() == [True] + [False] * 8


@pytest.mark.parametrize("value", [0.0, 0.1, 7.0])
@pytest.mark.parametrize("d", [1, 6])
def test_otsu_keeps_all_neurons_of_equal_power(value: float, d: int) -> None:
    assert n_above_otsu(torch.full((d,), value)) == d
    assert bool(chosen_by_otsu(torch.full((d,), value)).kept.all())


def test_otsu_keeps_the_better_one_of_two() -> None:
    assert chosen_by_otsu(torch.tensor([1.0, 3.0])).kept.tolist() == [False, True]


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return build_model("resnet", 3, config="c16", width=0.5, stem="small", dropout=0.5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_latent_features_are_the_decision_layers_inputs_in_evaluation_mode(
    batch_size: int, training: bool
) -> None:
    random = torch.Generator().manual_seed(1)
    images = Images(torch.randint(0, 256, (7, 3, 8, 8), generator=random).byte(), torch.zeros(7).long())
    net = small_net()
    with torch.no_grad():
        expected = net.eval()(images.scaled())
    features = latent_features(net.train(training), images, batch_size=batch_size)
    assert net.training == training
    assert features.shape == (7, 8)
    assert not features.requires_grad
    torch.testing.assert_close(decision_layer(net)(features), expected, rtol=1e-5, atol=1e-6)


DROPPING = {
    "pooled head": ("resnet", {"config": "c16", "width": 0.5, "stem": "small", "dropout": 0.5}),
    "vgg": ("vgg16", {"width": 0.125, "hidden": (256, 128), "pool": 1, "stem": "small"}),
    "nn.Sequential": ("torchvision/mobilenet_v2", {"width_mult": 0.25, "dropout": 0.5}),
}


@pytest.mark.parametrize("in_classifier", [False, True])
@pytest.mark.parametrize("name", DROPPING)
def test_features_are_those_before_dropout_and_logits_those_after(name: str, in_classifier: bool) -> None:
    torch.manual_seed(0)
    architecture, options = DROPPING[name]
    net = build_model(architecture, 3, **options)
    decision = decision_layer(net)
    before, after = last_dropout_and_its_reader(net)
    if in_classifier:
        net = Classifier(net, image_shape=(3, 16, 16), mean=[0.5] * 3, std=[0.25] * 3, classes="abc")
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    latent, logits = latent_and_logits(net.train(), images)
    (undropped,), (dropped,) = before, after
    assert torch.equal(latent, undropped)
    assert torch.equal(logits, decision(dropped))
    zeroed = (dropped == 0) & (undropped != 0)
    assert 0.2 * undropped.count_nonzero() < zeroed.sum() < 0.8 * undropped.count_nonzero()
    torch.testing.assert_close(dropped, torch.where(zeroed, 0, 2 * undropped))


def last_dropout_and_its_reader(net: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """What enters the last dropout and what enters the decision layer, filled by the next forward pass."""
    before: list[Tensor] = []
    after: list[Tensor] = []
    dropout = [module for module in net.modules() if isinstance(module, nn.Dropout)][-1]
    dropout.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0].clone()))
    decision_layer(net).register_forward_pre_hook(lambda _, inputs: after.append(inputs[0].clone()))
    return before, after


@pytest.mark.parametrize("name", DROPPING)
def test_in_evaluation_mode_features_and_logits_belong_together(name: str) -> None:
    torch.manual_seed(0)
    architecture, options = DROPPING[name]
    net = build_model(architecture, 3, **options).eval()
    with torch.no_grad():
        latent, logits = latent_and_logits(net, torch.rand(4, 3, 16, 16))
        assert torch.equal(decision_layer(net)(latent), logits)


def test_latent_and_logits_come_from_one_forward_pass_and_carry_gradient() -> None:
    net = small_net()
    n_runs: list[int] = []
    net.register_forward_hook(lambda *_: n_runs.append(1))
    latent, logits = latent_and_logits(net, torch.rand(4, 3, 8, 8))
    assert len(n_runs) == 1
    for output in (latent, logits):
        net.zero_grad()
        output.square().sum().backward(retain_graph=True)
        first = next(net.parameters())
        assert first.grad is not None
        assert float(first.grad.abs().sum()) > 0


def test_other_dropouts_than_the_one_before_the_decision_layer_are_part_of_the_features() -> None:
    torch.manual_seed(0)
    net = build_model("vgg16", 3, width=0.125, hidden=(256, 128), pool=1, stem="small").train()
    images = torch.rand(4, 3, 16, 16)
    first, _ = latent_and_logits(net, images)
    second, _ = latent_and_logits(net, images)
    assert not torch.equal(first, second)


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
