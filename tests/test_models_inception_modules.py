from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from pipeline.checkpoint import load_model, save_model
from pipeline.cost import measure_cost
from pipeline.models import build_model
from pipeline.models.inception import Inception
from pipeline.models.inception_modules import (
    InceptionModule,
    build_module,
)
from pipeline.params.nets.inception_filters import (
    BN_INCEPTION,
    BN_INCEPTION_REDUCTIONS,
    GOOGLENET,
    GOOGLENET_DOUBLE_3X3,
    INCEPTION_V3,
    INCEPTION_V3_REDUCTIONS,
    MODULES,
    FactorizedFilters,
    ModuleRow,
    ReductionRow,
    check_stages,
    stage_limits,
)

torch.set_num_threads(1)

Convolution = tuple[int, int, tuple[int, ...]]
ROWS: list[ModuleRow | ReductionRow] = [
    GOOGLENET[0][0],
    GOOGLENET_DOUBLE_3X3[0][0],
    BN_INCEPTION[2][1],
    INCEPTION_V3[1][0],
    INCEPTION_V3[2][0],
    *BN_INCEPTION_REDUCTIONS,
    *INCEPTION_V3_REDUCTIONS,
]


def inception(**options: Any) -> Inception:
    tiny = {"stages": (1, 1, 1), "base": (1, 1, 1), "width": 1 / 16, "stem": "small"}
    net = build_model("inception", 4, **(tiny | options))
    assert isinstance(net, Inception)
    return net


def module_of(row: ModuleRow | ReductionRow, in_channels: int = 192) -> InceptionModule:
    return build_module(in_channels, row, kernel=7, batch_norm=True)


def convolutions(module: nn.Module) -> list[Convolution]:
    return [
        (each.in_channels, each.out_channels, each.kernel_size)
        for each in module.modules()
        if isinstance(each, nn.Conv2d)
    ]


def square(n_in: int, n_out: int, size: int) -> Convolution:
    return n_in, n_out, (size, size)


def test_module_3a_has_googlenets_filters() -> None:
    module = module_of(GOOGLENET[0][0])
    assert module.branch_names == ("branch1x1", "branch3x3", "branch5x5", "branch_pool")
    assert convolutions(module) == [
        square(192, 64, 1),
        square(192, 96, 1),
        square(96, 128, 3),
        square(192, 16, 1),
        square(16, 32, 5),
        square(192, 32, 1),
    ]
    assert isinstance(module.get_submodule("branch_pool.0"), nn.MaxPool2d)
    assert module(torch.zeros(2, 192, 5, 5)).shape == (2, 256, 5, 5)


def test_the_papers_module_3a_has_two_3x3_in_place_of_the_5x5() -> None:
    module = module_of(GOOGLENET_DOUBLE_3X3[0][0])
    assert convolutions(module) == [
        square(192, 64, 1),
        square(192, 96, 1),
        square(96, 128, 3),
        square(192, 16, 1),
        square(16, 16, 3),
        square(16, 32, 3),
        square(192, 32, 1),
    ]
    assert module(torch.zeros(2, 192, 5, 5)).shape == (2, 256, 5, 5)
    assert any(isinstance(each, nn.AvgPool2d) for each in module.modules())
    assert not any(isinstance(each, nn.MaxPool2d) for each in module.modules())


def test_the_average_pool_before_the_projection_leaves_padding_out() -> None:
    pool = module_of(GOOGLENET_DOUBLE_3X3[0][0], 4).get_submodule("branch_pool.0")
    assert torch.equal(pool(torch.full((1, 4, 3, 5), 2.0)), torch.full((1, 4, 3, 5), 2.0))


@pytest.mark.parametrize(
    ("module", "outputs", "reduced"),
    [
        ("v1", [[256, 480], [512, 512, 512, 528, 832], [832, 1024]], [480, 832]),
        ("v1_double3x3", [[256, 480], [512, 512, 512, 528, 832], [832, 1024]], [480, 832]),
        ("v2", [[256, 320], [576, 576, 576, 576], [1024, 1024]], [576, 1024]),
        ("v3", [[256, 288, 288], [768, 768, 768, 768], [2048, 2048]], [768, 1280]),
    ],
)
def test_output_sizes_are_those_of_the_published_tables(
    module: str, outputs: list[list[int]], reduced: list[int]
) -> None:
    assert [[module_of(row).out_channels for row in rows] for rows in MODULES[module].stages] == outputs
    with torch.device("meta"):
        net = build_model("inception", 10, module=module)
    found: dict[str, int] = {}
    for name, each in net.named_modules():
        if name.startswith(("stages.", "pools.")) and name.count(".") == (2 if name[0] == "s" else 1):
            each.register_forward_hook(lambda _m, _i, out, name=name: found.__setitem__(name, out.shape[1]))
    net.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    expected = {f"stages.{s}.{m}": n for s, row in enumerate(outputs) for m, n in enumerate(row)}
    assert found == expected | {f"pools.{idx}": n for idx, n in enumerate(reduced)}


# The slides' table of Inception v2, by hand: in, 1x1, 3x3 reduce, 3x3, double reduce, double, projection.
V2_TABLE = [
    (192, 64, 64, 64, 64, 96, 32),
    (256, 64, 64, 96, 64, 96, 64),
    (320, 0, 128, 160, 64, 96, 0),
    (576, 224, 64, 96, 96, 128, 128),
    (576, 192, 96, 128, 96, 128, 128),
    (576, 160, 128, 160, 128, 160, 96),
    (576, 96, 128, 192, 160, 192, 96),
    (576, 0, 128, 192, 192, 256, 0),
    (1024, 352, 192, 320, 160, 224, 128),
    (1024, 352, 192, 320, 192, 224, 128),
]


def test_bn_inception_has_the_parameters_of_its_table() -> None:
    """TF-Slim and the Caffe net are published with 11.2 and 11.3 million."""
    modules = sum(
        n_in * (one + three_r + double_r + pool) + 9 * (three_r * three + double_r * double + double * double)
        for n_in, one, three_r, three, double_r, double, pool in V2_TABLE
    )
    stem = 49 * 3 * 64 + 64 * 64 + 9 * 64 * 192
    with torch.device("meta"):
        cost = measure_cost(build_model("bn_googlenet", 1000), (3, 224, 224))
    assert cost.params == stem + modules + 1025 * 1000
    assert f"{cost.params / 1e6:.1f}M" == "11.2M"
    assert f"{cost.flops / 2e9:.1f}" == "2.0"  # "Rethinking" Table 3, multiply-adds in billions


def test_googlenet_has_the_published_size() -> None:
    with torch.device("meta"):
        hundred = measure_cost(build_model("googlenet", 100), (3, 224, 224))
        thousand = measure_cost(build_model("googlenet", 1000), (3, 224, 224))
    assert f"{hundred.params / 1e6:.1f}M" == "6.1M"  # thesis Table 3-3
    assert f"{hundred.flops / 1e9:.1f}B" == "3.2B"
    assert f"{thousand.params / 1e6:.1f}M" == "7.0M"
    assert f"{thousand.flops / 2e9:.1f}" == "1.6"


@pytest.mark.parametrize(
    ("row", "n_in", "counterpart"),
    [
        (INCEPTION_V3[1][0], 768, "Mixed_6b"),
        (INCEPTION_V3[1][2], 768, "Mixed_6d"),
        (INCEPTION_V3[1][3], 768, "Mixed_6e"),
        (INCEPTION_V3[2][0], 1280, "Mixed_7b"),
        (INCEPTION_V3[2][1], 2048, "Mixed_7c"),
        (INCEPTION_V3_REDUCTIONS[0], 288, "Mixed_6a"),
        (INCEPTION_V3_REDUCTIONS[1], 768, "Mixed_7a"),
    ],
)
def test_v3s_modules_have_the_convolutions_of_torchvisions(
    row: ModuleRow | ReductionRow, n_in: int, counterpart: str
) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.inception_v3(init_weights=False).get_submodule(counterpart)
        ours = module_of(row, n_in)
    assert sorted(convolutions(ours)) == sorted(convolutions(theirs))


V3: dict[str, Any] = {"module": "v3", "stem": "v3", "base": (3, 4, 2), "width": 1.0}


def laid_out(model: nn.Module) -> tuple[list[tuple[Any, ...]], int]:
    """Every convolution with stride, padding and the map that it gives for 299 pixels; and weights, biases in all."""
    found: list[tuple[Any, ...]] = []
    layers = [each for each in model.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            shape = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding
            layer.register_forward_hook(
                lambda _m, _i, output, shape=shape: found.append((*shape, tuple(output.shape[2:])))
            )
    model.eval()(torch.zeros(1, 3, 299, 299, device="meta"))
    return sorted(found), sum(parameter.numel() for each in layers for parameter in each.parameters())


def test_inception_v3_is_torchvisions_to_the_last_parameter_but_for_what_the_paper_has_otherwise() -> None:
    """Figure 5 has a 3x3 where torchvision keeps a 5x5, and Table 1 five factorised modules where it has four.

    Weights and biases of convolutions and linear layers (`cost`'s count), without torchvision's own auxiliary head.
    """
    zoo = torchvision.models.inception
    with torch.device("meta"):
        theirs = zoo.inception_v3(init_weights=False, aux_logits=False)
        assert laid_out(theirs)[1] == 23_800_136
        for module in (theirs.Mixed_5b, theirs.Mixed_5c, theirs.Mixed_5d):
            module.branch5x5_2 = zoo.BasicConv2d(48, 64, kernel_size=3, padding=1)
        four = build_model("inception", 1000, stages=(3, 4, 2), **V3)
        assert laid_out(four) == laid_out(theirs)
        theirs.Mixed_6e = nn.Sequential(theirs.Mixed_6e, zoo.InceptionC(768, channels_7x7=192))
        five = build_model("inception", 1000, stages=(3, 5, 2), **V3)
        assert laid_out(five) == laid_out(theirs)
        n_five = measure_cost(five, (3, 299, 299)).params
    n_factorised = 192 * (768 * 4 + 192 * 7 * 6)  # four 1x1, six 1x7 or 7x1
    assert n_five == 23_800_136 - 3 * 48 * 64 * (25 - 9) + n_factorised


def test_inception_v3_has_the_grids_of_its_table_and_one_normalised_head_on_the_last_17x17() -> None:
    with torch.device("meta"):
        net = build_model("inception", 1000, stages=(3, 5, 2), **V3)
        assert isinstance(net, Inception)
        maps: list[tuple[int, ...]] = []
        ((tap, head),) = net.auxiliary_heads(batch_norm_hidden=True)
        assert tap is net.stages[1][-1]  # type: ignore[index]
        for part in (net.stem, *net.stages, tap):
            part.register_forward_hook(lambda _m, _i, output: maps.append(tuple(output.shape[1:])))
        net.eval()(torch.zeros(1, 3, 299, 299, device="meta"))
        assert maps == [(192, 35, 35), (288, 35, 35), (768, 17, 17), (768, 17, 17), (2048, 8, 8)]
        assert [size for _, _, size in convolutions(net.stem)][:3] == [(3, 3)] * 3
        assert head(torch.zeros(2, 768, 17, 17, device="meta")).shape == (2, 1000)
    # 5x5 under the pool at stride 3; batch norm in the place of the two hidden layers' biases.
    n_weights = 768 * 128 + 128 * 25 * 1024 + 1024 * 1000 + 1000
    layers = [each for each in head.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    assert sum(parameter.numel() for each in layers for parameter in each.parameters()) == n_weights
    assert len([each for each in head.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)]) == 2


def test_v3s_first_modules_are_figure_5() -> None:
    module = module_of(INCEPTION_V3[0][0])
    assert convolutions(module) == [
        square(192, 64, 1),
        square(192, 48, 1),
        square(48, 64, 3),
        square(192, 64, 1),
        square(64, 96, 3),
        square(96, 96, 3),
        square(192, 32, 1),
    ]


@pytest.mark.parametrize("kernel", [3, 5, 9])
def test_n_of_the_factorised_convolutions_can_be_chosen(kernel: int) -> None:
    row = INCEPTION_V3[1][0]
    assert isinstance(row, FactorizedFilters)
    module = build_module(8, row._replace(inner=4), kernel=kernel, batch_norm=True)
    sizes = [size for _, _, size in convolutions(module.get_submodule("branch_double_nxn"))]
    assert sizes == [(1, 1), (kernel, 1), (1, kernel), (kernel, 1), (1, kernel)]
    assert [size for _, _, size in convolutions(module.get_submodule("branch_nxn"))][1:] == [
        (1, kernel),
        (kernel, 1),
    ]
    assert module(torch.zeros(1, 8, 6, 4)).shape == (1, 768, 6, 4)


def test_the_kernel_reaches_the_modules_and_the_reduction_of_a_net() -> None:
    net = inception(module="v3", factorized_kernel=5)
    for name in ("stages.1.0", "pools.1"):
        assert (1, 5) in [size for _, _, size in convolutions(net.get_submodule(name))]
        assert (1, 7) not in [size for _, _, size in convolutions(net.get_submodule(name))]


def test_only_the_last_module_of_bn_inception_pools_by_maximum() -> None:
    net = build_model("bn_googlenet", 4, width=1 / 16)
    pools = {
        name: type(each)
        for name, each in net.named_modules()
        if name.endswith("branch_pool.0") and name[0] == "s"
    }
    assert len(pools) == 8
    assert [name for name, kind in pools.items() if kind is nn.MaxPool2d] == ["stages.2.1.branch_pool.0"]
    assert set(pools.values()) == {nn.AvgPool2d, nn.MaxPool2d}


@pytest.mark.parametrize(("module", "added"), [("v2", (256, 448)), ("v3", (480, 512))])
@pytest.mark.parametrize(("size", "half"), [(8, 4), (9, 5), (7, 4), (1, 1)])
def test_grids_are_halved_without_a_bottleneck(
    module: str, added: tuple[int, int], size: int, half: int
) -> None:
    """Every branch reads all channels, and more channels leave than enter ("Rethinking" section 5)."""
    for n_in, row, n_added in zip((288, 768), MODULES[module].reductions, added, strict=True):
        reduction = module_of(row, n_in)
        x = torch.rand(1, n_in, size, size)
        out = reduction.eval()(x)
        assert out.shape == (1, n_in + n_added, half, half)
        assert reduction.out_channels == n_in + n_added
        assert torch.equal(out[:, -n_in:], nn.functional.max_pool2d(x, 3, 2, padding=1))
        assert all(
            next(c for c in branch.modules() if isinstance(c, nn.Conv2d)).in_channels == n_in
            for name, branch in reduction.named_children()
            if name != "branch_pool"
        )


@pytest.mark.parametrize(("module", "kind"), [("v1", nn.MaxPool2d), ("v3", InceptionModule)])
def test_between_stages_stand_max_pools_or_stride_two_modules(module: str, kind: type[nn.Module]) -> None:
    assert [isinstance(each, kind) for each in inception(module=module).pools] == [True, True]


@pytest.mark.parametrize("module", MODULES)
def test_limits_are_the_rows_of_the_tables(module: str) -> None:
    limits = {"v1": (2, 5, 2), "v1_double3x3": (2, 5, 2), "v2": (2, 4, 2), "v3": (3, 4, 2)}[module]
    assert stage_limits(module) == limits
    check_stages(module, (10, 1, 7), limits)
    for idx in range(3):
        over = [n + (place == idx) for place, n in enumerate(limits)]
        with pytest.raises(ValueError, match=r"expected base between \(1, 1, 1\) and"):
            check_stages(module, (1, 1, 1), over)
        with pytest.raises(ValueError, match="expected three stages"):
            check_stages(module, [0 if place == idx else 1 for place in range(3)], limits)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_a_module_is_the_concatenation_of_its_branches_with_or_without_one(
    row: ModuleRow | ReductionRow,
) -> None:
    x = torch.rand(2, 16, 6, 6)
    module = module_of(row, 16).eval()
    outputs = {name: branch(x) for name, branch in module.named_children()}
    assert module.branch_names == tuple(outputs)
    assert torch.equal(module(x), torch.cat(list(outputs.values()), dim=1))
    for name in module.branch_names[:-1]:
        module.remove_branch(name)
        del outputs[name]
        assert torch.equal(module(x), torch.cat(list(outputs.values()), dim=1))
        assert module.out_channels == module(x).shape[1]
    with pytest.raises(ValueError, match="at least one branch to remain"):
        module.remove_branch(module.branch_names[0])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_the_ends_of_a_branch_are_the_convolutions_whose_outputs_it_gives(
    row: ModuleRow | ReductionRow,
) -> None:
    x = torch.rand(2, 16, 6, 6)
    module = module_of(row, 16).eval()
    for name, branch in module.named_children():
        ends = module.branch_ends(name)
        if not ends:
            assert name == "branch_pool"
            assert not list(branch.parameters())
            continue
        with torch.no_grad():
            for end in ends:
                end.weight.zero_()
        assert sum(end.out_channels for end in ends) == branch(x).shape[1]
        assert not branch(x).any()  # untrained batch norm leaves zero at zero


def test_a_branch_that_is_not_there_is_refused_by_name() -> None:
    module = module_of(GOOGLENET[0][0], 16)
    module.remove_branch("branch3x3")
    for call in (module.remove_branch, module.branch_ends):
        with pytest.raises(ValueError, match="among branch1x1, branch5x5, branch_pool; got 'branch3x3'"):
            call("branch3x3")


def test_widths_follow_surgery() -> None:
    """Whoever cuts a convolution sets its numbers of channels; the module reads them there."""
    module = module_of(BN_INCEPTION_REDUCTIONS[0], 320)
    assert (module.in_channels, module.out_channels) == (320, 576)
    module.branch_ends("branch3x3")[0].out_channels -= 10
    assert module.out_channels == 566
    for name in ("branch3x3.0.conv", "branch_double3x3.0.conv"):
        module.get_submodule(name).in_channels = 300  # type: ignore[assignment]
    assert (module.in_channels, module.out_channels) == (300, 546)
    for name in ("branch3x3", "branch_double3x3"):
        module.remove_branch(name)
    assert module(torch.zeros(1, 320, 4, 4)).shape[1] == module.out_channels == 320


@pytest.mark.parametrize(
    ("module", "n_branches"), [("v1", 12), ("v1_double3x3", 12), ("v2", 12 + 4), ("v3", 12 + 4)]
)
def test_branches_that_end_in_convolutions_can_be_left_out_one_at_a_time(
    module: str, n_branches: int
) -> None:
    net = inception(module=module)
    branches = net.removable_branches()
    assert len(branches) == n_branches
    assert all(net.get_submodule(name.rpartition(".")[0]) is owner for name, owner in branches.items())
    assert not [name for name in branches if name.startswith("pools") and name.endswith("branch_pool")]
    images = torch.rand(1, 3, 8, 8)
    for name, owner in branches.items():
        smaller = inception(module=module, without=[name])
        place, _, branch = name.rpartition(".")
        found = smaller.get_submodule(place)
        assert isinstance(found, InceptionModule)
        assert found.branch_names == tuple(each for each in owner.branch_names if each != branch)
        n_gone = sum(end.out_channels for end in owner.branch_ends(branch))
        assert found.out_channels == owner.out_channels - n_gone
        assert smaller.eval()(images).shape == (1, 4)
        assert name not in smaller.removable_branches()


def test_the_last_branch_of_a_module_cannot_be_removed() -> None:
    gone = [f"stages.1.0.{name}" for name in ("branch1x1", "branch3x3", "branch_double3x3")]
    net = inception(without=gone)
    assert not [name for name in net.removable_branches() if name.startswith("stages.1.0.")]
    with pytest.raises(ValueError, match="at least one branch to remain, got 'branch_pool'"):
        inception(without=[*gone, "stages.1.0.branch_pool"])


@pytest.mark.parametrize("name", ["branch1x1", "stages.0.1.branch1x1", "stages.0.0.branch5x5", "stem.0", ""])
def test_a_branch_that_the_net_does_not_have_cannot_be_left_out(name: str) -> None:
    with pytest.raises(ValueError, match="expected branches of this net in without, got"):
        inception(without=[name])


def test_a_net_without_a_branch_computes_what_the_whole_one_does_when_no_one_reads_it() -> None:
    torch.manual_seed(0)
    whole, name = inception(), "stages.2.0.branch3x3"
    first = whole.get_submodule("stages.2.0.branch1x1.conv").out_channels
    assert isinstance(first, int)
    columns = slice(first, first + whole.removable_branches()[name].branch_ends("branch3x3")[0].out_channels)
    smaller = inception(without=[name])
    state = {key: tensor for key, tensor in whole.state_dict().items() if not key.startswith(name)}
    weight = state["head.decision.weight"]
    state["head.decision.weight"] = torch.cat([weight[:, : columns.start], weight[:, columns.stop :]], dim=1)
    smaller.load_state_dict(state)
    with torch.no_grad():
        whole.head.decision.weight[:, columns] = 0
    images = torch.rand(2, 3, 8, 8)
    assert torch.allclose(smaller.eval()(images), whole.eval()(images), atol=1e-6)


@pytest.mark.parametrize("module", ["v1_double3x3", "v3"])
def test_a_net_without_branches_comes_back_from_disk(module: str, tmp_path: Any) -> None:
    gone = ["stages.0.0.branch_pool", "stages.2.0.branch3x3"]
    net = inception(module=module, without=gone).eval()
    save_model(net, tmp_path / "model")
    again = load_model(tmp_path / "model")
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(again(images), net(images))
    assert set(again.state_dict()) == set(net.state_dict())
