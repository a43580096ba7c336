from hashlib import sha256
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.grow import extend
from pipeline.models import build_model
from pipeline.models.blocks import BatchNormNoScale
from pipeline.models.classifier import Classifier
from pipeline.models.inception import Inception
from pipeline.models.inception_modules import InceptionModule
from pipeline.params.nets.widths import scaled_width

torch.set_num_threads(1)

TINY: dict[str, Any] = {"stages": (1, 1, 1), "base": (1, 1, 1), "width": 1 / 16, "stem": "small"}
MODULES = ["v1", "v1_double3x3", "v2", "v3"]


def inception(**options: Any) -> Inception:
    net = build_model("inception", 4, **({"width": 1 / 16, "stem": "small"} | options))
    assert isinstance(net, Inception)
    return net


def n_convolutions(module: nn.Module) -> int:
    return sum(isinstance(each, nn.Conv2d) for each in module.modules())


def depth(net: Inception) -> int:
    """Layers of the longest way through: convolutions and the decision layer."""
    stem = n_convolutions(net.stem)
    modules = [module for stage in net.stages for module in stage]  # type: ignore[attr-defined]
    longest = [max(n_convolutions(branch) for branch in module.children()) for module in modules]
    return stem + sum(longest) + sum(isinstance(each, nn.Linear) for each in net.modules())


@pytest.mark.parametrize(
    ("stages", "layers"), [((2, 5, 2), 31), ((3, 5, 2), 34), ((10, 8, 10), 88), ((10, 8, 11), 91)]
)
@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_inception_n_has_four_layers_and_three_a_module(
    stages: tuple[int, int, int], layers: int, stem: str
) -> None:
    with torch.device("meta"):
        net = inception(stages=stages, stem=stem)
    assert depth(net) == layers == 4 + 3 * sum(stages)
    assert [len(stage) for stage in net.stages] == list(stages)  # type: ignore[arg-type]


def output_channels(module: nn.Module) -> tuple[int, ...]:
    return tuple(each.out_channels for each in module.modules() if isinstance(each, nn.Conv2d))


def test_added_modules_are_copies_of_the_last_one_of_their_stage() -> None:
    with torch.device("meta"):
        net = inception(stages=(3, 6, 4), width=1.0)
    first, second, third = ([output_channels(m) for m in stage] for stage in net.stages)  # type: ignore
    assert first[2] == first[1] != first[0]
    assert second[5] == second[4] != second[3]
    assert third[3] == third[2] == third[1] != third[0]


def test_a_shorter_base_copies_the_last_row_that_it_takes() -> None:
    with torch.device("meta"):
        net = inception(stages=(2, 3, 2), base=(1, 2, 1), width=1.0)
    first, second, third = ([output_channels(m) for m in stage] for stage in net.stages)  # type: ignore
    assert first[0] == first[1]
    assert second[0] != second[1] == second[2]
    assert third[0] == third[1]


def test_convolutions_have_no_bias_and_batch_norms_no_scale() -> None:
    net = inception()
    convolutions = [each for each in net.modules() if isinstance(each, nn.Conv2d)]
    norms = [each for each in net.modules() if isinstance(each, nn.BatchNorm2d)]
    assert len(convolutions) == len(norms) == 3 + 7 * 9
    assert all(each.bias is None for each in convolutions)
    for norm in norms:
        assert isinstance(norm, BatchNormNoScale)
        assert (norm.eps, norm.momentum) == (1e-5, 0.1)
        assert not norm.weight.requires_grad
        assert norm.bias.requires_grad


@pytest.mark.parametrize(
    ("stem", "size", "maps"),
    [("small", 8, (8, 4, 2)), ("imagenet", 224, (28, 14, 7)), ("small", 9, (9, 4, 2))],
)
def test_max_pools_stand_between_the_stages_and_the_stem_fits_its_images(
    stem: str, size: int, maps: tuple[int, int, int]
) -> None:
    net = inception(stem=stem, stages=(1, 1, 1), base=(1, 1, 1))
    found: list[int] = []
    for stage in net.stages:
        stage.register_forward_hook(lambda _m, _i, output: found.append(output.shape[-1]))
    assert net.eval()(torch.zeros(2, 3, size, size)).shape == (2, 4)
    assert tuple(found) == maps


def test_width_multiplies_every_channel_count_and_leaves_at_least_one() -> None:
    assert [scaled_width(64, w) for w in (1.0, 0.5, 0.25, 0.001)] == [64, 32, 16, 1]
    with torch.device("meta"):
        full, half = inception(width=1.0), inception(width=0.5)
    assert output_channels(half) == tuple(n // 2 for n in output_channels(full))


@pytest.mark.parametrize(("n_modules", "places"), [(1, [0]), (2, [0]), (3, [0, 1]), (5, [0, 3]), (8, [0, 6])])
def test_auxiliary_heads_sit_after_the_first_module_of_stage_two_and_before_its_last(
    n_modules: int, places: list[int]
) -> None:
    net = inception(stages=(1, n_modules, 1))
    taps = [tap for tap, _ in net.auxiliary_heads()]
    stage = list(net.stages[1])  # type: ignore[call-overload]
    assert [stage.index(tap) for tap in taps] == places


def test_auxiliary_heads_pool_five_by_five_and_have_the_papers_widths() -> None:
    net = inception(width=1.0, stages=(1, 3, 1))
    (_, first), (_, second) = net.auxiliary_heads()
    assert first(torch.rand(2, 512, 14, 14)).shape == (2, 4)
    assert second(torch.rand(2, 512, 14, 14)).shape == (2, 4)
    convolutions = [each for each in first.modules() if isinstance(each, nn.Conv2d)]
    linears = [each for each in first.modules() if isinstance(each, nn.Linear)]
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in convolutions] == [(512, 128, (1, 1))]
    # 14 pixels under a 5x5 pool at stride 3 are 4.
    assert [(each.in_features, each.out_features) for each in linears] == [(128 * 16, 1024), (1024, 4)]


def test_auxiliary_heads_take_maps_smaller_than_their_pool() -> None:
    net = inception(stages=(1, 1, 1))
    ((tap, head),) = net.auxiliary_heads()
    assert isinstance(tap, InceptionModule)
    assert head(torch.rand(2, tap.out_channels, 4, 4)).shape == (2, 4)


def test_auxiliary_heads_are_no_part_of_the_net() -> None:
    net = inception()
    before = set(net.state_dict())
    net.auxiliary_heads()
    assert set(net.state_dict()) == before


@pytest.mark.parametrize("options", [{"stages": (1, 1)}, {"stages": (0, 1, 1)}, {"stages": (1, 1, 1, 1)}])
def test_inception_refuses_stages_that_are_not_three_positive_counts(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="three stages"):
        inception(**options)


@pytest.mark.parametrize("base", [(3, 5, 2), (2, 6, 2), (0, 5, 2), (2, 5)])
def test_inception_refuses_a_base_outside_the_filter_table(base: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"between \(1, 1, 1\) and \(2, 5, 2\)"):
        inception(base=base)


def digest(state: dict[str, Tensor]) -> str:
    """Of the names, shapes and bytes of a state, in its order."""
    total = sha256()
    for name, tensor in state.items():
        total.update(f"{name}{tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


@pytest.mark.parametrize(
    ("options", "state", "logits"),
    [
        (
            {},
            "925924daa420c3f61a82544fcb13ed42b4d78aee6e054108e029a522278b62ac",
            [
                [-0.08394752, -0.03509451, -0.05582274, 0.07991059],
                [-0.07233785, -0.03428659, -0.07885900, 0.08225068],
            ],
        ),
        (
            {"stages": (3, 6, 3), "stem": "imagenet", "in_channels": 1, "dropout": 0.1},
            "ac83c90931fc96d77191ae73be47255a9608035ca0eec7ae0d0796c47783f499",
            [
                [0.10898618, 0.09003657, 0.06447884, 0.05731642],
                [0.13094631, 0.12331532, 0.04320783, 0.05033943],
            ],
        ),
    ],
)
def test_names_initial_weights_and_logits_of_the_papers_net_are_those_of_stored_models(
    options: dict[str, Any], state: str, logits: list[list[float]]
) -> None:
    """Written down before the other module types came: checkpoints and seeds have to stay good."""
    torch.manual_seed(0)
    net = inception(**options)
    assert digest(net.state_dict()) == state
    channels = options.get("in_channels", 3)
    images = torch.linspace(-1, 1, 2 * channels * 32 * 32).reshape(2, channels, 32, 32)
    assert torch.allclose(net.eval()(images), torch.tensor(logits), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "depth_", "title"),
    [
        ({"stages": (2, 5, 2)}, 31, "InceptionV1"),
        ({"stages": (3, 5, 2)}, 34, "Inception-34"),
        ({"stages": (10, 8, 10)}, 88, "Inception-88"),
        ({"stages": (2, 5, 2), "module": "v1"}, 22, "GoogLeNet"),
        ({"stages": (3, 5, 2), "module": "v1"}, 24, "Inception-24 (v1)"),
        ({"stages": (2, 4, 2), "module": "v2"}, 34, "Inception-34 (v2)"),
        # 3 + 3 x 3, reduction 3, 4 x 5, reduction 4, 2 x 3, decision
        ({"stages": (3, 4, 2), "module": "v3"}, 3 + 9 + 3 + 20 + 4 + 6 + 1, "Inception-46 (v3)"),
        # torchvision's, commonly said to have 48 layers: five convolutions in the stem
        (
            {"stages": (3, 4, 2), "module": "v3", "stem": "v3"},
            5 + 9 + 3 + 20 + 4 + 6 + 1,
            "Inception-48 (v3)",
        ),
    ],
)
def test_depth_and_title_count_layers_as_the_papers_do(
    options: dict[str, Any], depth_: int, title: str
) -> None:
    with torch.device("meta"):
        net = inception(**options)
    assert (net.depth, net.title) == (depth_, title)


def test_depth_is_counted_on_the_net_as_it_is() -> None:
    net = inception(**TINY)
    assert net.depth == 13
    net.get_submodule("stages.0.0").remove_branch("branch_double3x3")  # type: ignore[operator]
    assert net.depth == 12


@pytest.mark.parametrize(
    ("module", "stages"),
    [("v1", (2, 5, 2)), ("v1_double3x3", (2, 5, 2)), ("v2", (2, 4, 2)), ("v3", (3, 4, 2))],
)
def test_stages_and_base_are_the_whole_table_unless_told(module: str, stages: tuple[int, ...]) -> None:
    with torch.device("meta"):
        default = inception(module=module, width=0.5)
        told = inception(module=module, width=0.5, stages=stages, base=stages)
    shapes = [{name: t.shape for name, t in net.state_dict().items()} for net in (default, told)]
    assert shapes[0] == shapes[1]
    assert tuple(len(stage) for stage in default.stages) == stages  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(("stem", "size"), [("small", 8), ("small", 9), ("imagenet", 64)])
def test_every_module_type_runs_on_small_and_large_images(
    module: str, stem: str, size: int, batch_norm: bool
) -> None:
    net = inception(module=module, stem=stem, batch_norm=batch_norm, in_channels=1)
    assert net.eval()(torch.rand(2, 1, size, size)).shape == (2, 4)
    assert isinstance(list(net.modules())[-1], nn.Linear)


@pytest.mark.parametrize("module", MODULES)
def test_without_batch_norm_every_convolution_has_a_bias_that_starts_at_zero(module: str) -> None:
    net = inception(module=module, batch_norm=False)
    convolutions = [each for each in net.modules() if isinstance(each, nn.Conv2d)]
    assert not [each for each in net.modules() if isinstance(each, nn.BatchNorm2d)]
    assert all(each.bias is not None and not each.bias.any() for each in convolutions)
    (_, head), *_ = net.auxiliary_heads()
    assert not [each for each in head.modules() if isinstance(each, nn.BatchNorm2d)]


def test_an_unknown_module_type_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="expected a module among v1, v1_double3x3, v2, v3; got 'v4'"):
        inception(module="v4")


@pytest.mark.parametrize("size", [1, 2, 6, -3])
def test_a_factorized_kernel_that_is_even_or_too_small_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"odd factorized_kernel of at least 3, got {size}"):
        inception(module="v3", factorized_kernel=size)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("module", MODULES)
def test_nets_of_every_module_type_grow_and_keep_their_parents_weights(module: str, stage: int) -> None:
    torch.manual_seed(0)
    net = inception(**TINY, module=module, in_channels=1)
    parent = Classifier(net, image_shape=(1, 8, 8), mean=[0.4], std=[0.3], classes=tuple("abcd"))
    child = extend(parent, stage, inherit=True)
    assert isinstance(child.net, Inception)
    assert [len(each) for each in child.net.stages] == [1 + (idx == stage) for idx in range(3)]  # type: ignore
    before, after = net.state_dict(), child.net.state_dict()
    new = {name for name in after if name.startswith(f"stages.{stage}.1.")}
    changed = {name for name in before if not torch.equal(before[name], after.get(name, torch.empty(0)))}
    assert new
    assert set(after) == set(before) | new
    assert changed == set()
    assert child.eval()(torch.rand(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize("name", ["googlenet", "bn_googlenet"])
def test_the_published_nets_grow_too(name: str) -> None:
    net = build_model(name, 4, **TINY)
    parent = Classifier(net, image_shape=(3, 8, 8), mean=[0.4] * 3, std=[0.3] * 3, classes=tuple("abcd"))
    child = extend(parent, 1, inherit=True)
    key = "net.stages.1.0.branch3x3.1.conv.weight"
    assert torch.equal(child.state_dict()[key], parent.state_dict()[key])
    assert child.eval()(torch.rand(2, 3, 8, 8)).shape == (2, 4)


def test_auxiliary_heads_batch_normalise_their_hidden_layer_where_told() -> None:
    net = inception(stages=(1, 1, 1))
    ((tap, plain),), ((_, normalised),) = net.auxiliary_heads(), net.auxiliary_heads(batch_norm_hidden=True)
    assert isinstance(tap, InceptionModule)
    maps = torch.rand(8, tap.out_channels, 5, 5)
    hidden: list[Tensor] = []
    for head in (plain, normalised):
        head.get_submodule("relu").register_forward_pre_hook(
            lambda _, inputs: hidden.append(inputs[0].detach())
        )
        assert head.train()(maps).shape == (8, 4)
    assert hidden[0].mean(0).abs().max() > 1e-3
    assert hidden[1].mean(0).abs().max() < 1e-5
    assert sum(isinstance(each, nn.BatchNorm1d) for each in normalised.modules()) == 1
