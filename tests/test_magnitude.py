"""Single weights set to zero: how many, which, and that they stay zero whatever training does."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import NUMERICS, parts, schedule
from torch import Tensor, nn

from pipeline.compare.magnitude import magnitude_masks, masked
from pipeline.cost import count_params, measure_cost
from pipeline.models import build_model
from pipeline.models.classifier import lay_out
from pipeline.training.batches import shuffled_batches
from pipeline.training.fit import fit
from pipeline.training.objectives import Objective
from pipeline.training.resume import ResumePoint


def net() -> nn.Module:
    """Convolutions with batch norm, and a decision layer, which alone has biases."""
    torch.manual_seed(0)
    return build_model("resnet", 3, config="c16", width=0.25, stem="small", in_channels=1)


def layers_of(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    return {
        name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }


def n_nonzero(model: nn.Module) -> int:
    """Weights and biases of convolutions and linear layers that are not zero; biases count, zero or not."""
    return sum(
        int(layer.weight.count_nonzero()) + (0 if layer.bias is None else layer.bias.numel())
        for layer in layers_of(model).values()
    )


def train(model: nn.Module, folder: Path, *, epochs: int = 3) -> None:
    """Momentum and weight decay, which would move a weight that has no gradient."""
    decay = {"weight_decay": 0.01, "decision_weight_decay": 0.02}
    fit(
        model,
        Objective(),
        parts(),
        schedule(epochs=epochs, learning_rate=0.1, warmup_epochs=0, **decay),
        batching=shuffled_batches(6),
        seed=0,
        resume=ResumePoint(folder / "run"),
        numerics=NUMERICS,
    )


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1, 0.013])
def test_exactly_so_many_weights_and_biases_are_not_zero(share: float) -> None:
    model = net()
    n_params = round(share * count_params(model))
    assert n_nonzero(model) == count_params(model)
    with masked(model, magnitude_masks(model, n_params)):
        assert n_nonzero(model) == n_params
    assert n_nonzero(model) == n_params


def test_ties_are_cut_to_the_exact_number_and_the_same_way_every_time() -> None:
    model = net()
    for layer in layers_of(model).values():
        layer.weight.data = layer.weight.data.sign()
    n_params = count_params(model) // 3
    one, other = (magnitude_masks(model, n_params) for _ in range(2))
    n_biases = count_params(model) - sum(layer.weight.numel() for layer in layers_of(model).values())
    assert sum(int(mask.sum()) for mask in one.values()) == n_params - n_biases
    assert all(torch.equal(mask, other[name]) for name, mask in one.items())


@pytest.mark.parametrize("share", [0.75, 0.3, 0.05])
def test_those_weights_stay_that_are_largest_in_deviations_of_their_layer(share: float) -> None:
    model = net()
    with torch.no_grad():  # one layer a thousand times larger: it must not keep all of its weights
        model.get_submodule("stem.conv").get_parameter("weight").mul_(1000)
    masks = magnitude_masks(model, round(share * count_params(model)))
    layers = layers_of(model)
    assert list(masks) == list(layers)
    scaled = {
        name: [abs(value) / np.std(layer.weight.detach().double().numpy(), ddof=1) for value in flat(layer)]
        for name, layer in layers.items()
    }
    ranked = sorted((value for values in scaled.values() for value in values), reverse=True)
    n_kept = sum(int(mask.sum()) for mask in masks.values())
    limit = (ranked[n_kept - 1] + ranked[n_kept]) / 2
    for name, mask in masks.items():
        assert mask.dtype == torch.bool
        assert mask.shape == layers[name].weight.shape
        assert mask.flatten().tolist() == [value > limit for value in scaled[name]], name
    assert not bool(masks["stem.conv"].all())


def flat(layer: nn.Conv2d | nn.Linear) -> list[float]:
    values: list[float] = layer.weight.detach().double().flatten().tolist()
    return values


def test_the_largest_weights_of_a_small_net_are_those_picked_by_hand() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1))
    model[0].weight.data = torch.tensor([[1.0, -2.0], [3.0, -4.0]])  # deviation sqrt(29/3)
    model[1].weight.data = torch.tensor([[0.001, -0.003]])  # deviation 0.002 sqrt(2)
    # In deviations: 0.32, 0.64, 0.96, 1.29; and 0.35, 1.06.
    orders = {1: [[0, 0], [0, 1]], 2: [[0, 0], [0, 1]], 3: [[0, 0], [1, 1]], 4: [[0, 1], [1, 1]]}
    seconds = {1: [[0, 0]], 2: [[0, 1]], 3: [[0, 1]], 4: [[0, 1]], 5: [[1, 1]]}
    for n_weights, expected in orders.items():
        masks = magnitude_masks(model, n_weights + 1)  # and the bias
        assert masks["0"].int().tolist() == expected
        assert masks["1"].int().tolist() == seconds[n_weights]


def test_a_layer_of_equal_weights_or_a_single_one_has_no_deviation_and_is_taken_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 3, bias=False))
    model[0].weight.data = torch.tensor([[5.0]])
    model[1].weight.data = torch.full((3, 1), 2.0)
    masks = magnitude_masks(model, 1)
    assert masks["0"].tolist() == [[True]]
    assert not bool(masks["1"].any())
    masks = magnitude_masks(model, 3)
    assert masks["0"].tolist() == [[True]]
    assert int(masks["1"].sum()) == 2


def a_flat_output() -> nn.Sequential:
    """A hidden layer with 6 weights of 40 far beyond the rest, an output layer of 20 that are all alike."""
    model = nn.Sequential(nn.Linear(8, 5, bias=False), nn.ReLU(), nn.Linear(5, 4, bias=False))
    model[0].weight.data = ((torch.arange(40) % 7 == 0) * 4.0 + 0.1).view(5, 8)
    model[2].weight.data = torch.linspace(-1.0, 1.1, 20).view(4, 5)
    return model


@pytest.mark.parametrize(("share", "n_output"), [(0.0, 0), (0.1, 2), (0.2, 4), (0.3, 6)])
def test_the_output_layer_keeps_its_share_of_largest_weights(share: float, n_output: int) -> None:
    model = a_flat_output()
    largest = model[2].weight.detach().abs().flatten().sort().values
    masks = magnitude_masks(model, 6, output_share=share)
    assert (int(masks["0"].sum()), int(masks["2"].sum())) == (6 - n_output, n_output)
    kept = model[2].weight.detach()[masks["2"]].abs().sort().values
    assert kept.tolist() == largest[20 - n_output :].tolist()


def test_a_share_of_the_output_layer_brings_no_zero_back() -> None:
    model = a_flat_output()
    model[2].weight.data.view(-1)[:18] = 0.0
    masks = magnitude_masks(model, 10, output_share=0.5)
    assert masks["2"].flatten().tolist() == [False] * 18 + [True] * 2


def test_making_masks_leaves_the_model_alone() -> None:
    model = net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    magnitude_masks(model, count_params(model) // 2)
    assert model.training
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_biases_and_batch_norm_keep_their_values() -> None:
    model = net()
    rest = {
        name: tensor.clone()
        for name, tensor in model.state_dict().items()
        if not any(name == f"{layer}.weight" for layer in layers_of(model))
    }
    with masked(model, magnitude_masks(model, 20)):
        pass
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in rest.items())
    assert "head.decision.bias" in rest


def test_of_equal_weights_the_first_stay() -> None:
    model = nn.Linear(40, 30, bias=False)
    model.weight.data.fill_(-0.5)
    (mask,) = magnitude_masks(model, 417).values()
    assert mask.flatten().tolist() == [True] * 417 + [False] * (1200 - 417)


def test_masks_hold_through_training_with_momentum_and_weight_decay(tmp_path: Path) -> None:
    model = net()
    train(model, tmp_path / "dense", epochs=2)  # so that weights are worth something
    before = {name: layer.weight.detach().clone() for name, layer in layers_of(model).items()}
    n_params = round(0.3 * count_params(model))
    masks = magnitude_masks(model, n_params)
    with masked(model, masks):
        train(model, tmp_path / "masked", epochs=4)
        for name, layer in layers_of(model).items():
            assert not bool(layer.weight[~masks[name]].any()), name
    for name, layer in layers_of(model).items():
        assert not bool(layer.weight[~masks[name]].any()), name
        if bool(masks[name].any()):
            assert not torch.equal(layer.weight[masks[name]], before[name][masks[name]])
    assert n_nonzero(model) == n_params


def test_masked_weights_get_no_gradient_and_outputs_are_those_of_zeros() -> None:
    model = net().eval()
    images = torch.rand(3, 1, 6, 6)
    masks = magnitude_masks(model, 40)
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        for name, layer in layers_of(by_hand).items():
            layer.weight.mul_(masks[name])
    with masked(model, masks):
        torch.testing.assert_close(model(images), by_hand(images), rtol=0, atol=0)
        model(images).square().sum().backward()
        for name in masks:
            gradient = model.get_parameter(f"{name}.weight_orig").grad
            assert gradient is not None
            assert not bool(gradient[~masks[name]].any())
    torch.testing.assert_close(model(images), by_hand(images), rtol=0, atol=0)


def hook_count(model: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


def test_after_the_block_the_model_is_an_ordinary_one_with_zeros() -> None:
    model = net()
    names = list(model.state_dict())
    with masked(model, magnitude_masks(model, 30)):
        assert hook_count(model) == len(layers_of(model))
    assert sorted(model.state_dict()) == sorted(names)
    assert hook_count(model) == 0
    for layer in layers_of(model).values():
        assert isinstance(layer.weight, nn.Parameter)
        assert layer.weight.requires_grad
        assert layer.weight.is_leaf
    copied = copy.deepcopy(model)
    assert n_nonzero(copied) == 30


def test_an_exception_in_the_block_passes_and_leaves_zeros_and_no_hook() -> None:
    model = net()
    with pytest.raises(KeyError, match="from inside"), masked(model, magnitude_masks(model, 30)):
        raise KeyError("from inside")
    assert hook_count(model) == 0
    assert n_nonzero(model) == 30
    assert all(isinstance(layer.weight, nn.Parameter) for layer in layers_of(model).values())


@pytest.mark.parametrize("n_over", [1, 1000, -(10**6)])
def test_more_weights_than_there_are_and_fewer_than_none_are_refused(n_over: int) -> None:
    model = net()
    n_weights = sum(layer.weight.numel() for layer in layers_of(model).values())
    with pytest.raises(ValueError, match=f"between 1 and {n_weights} weights"):
        magnitude_masks(model, count_params(model) + n_over)


def test_all_weights_may_stay() -> None:
    model = net()
    assert all(bool(mask.all()) for mask in magnitude_masks(model, count_params(model)).values())


def test_one_weight_beside_the_biases_is_the_least() -> None:
    model = net()
    n_biases = sum(0 if layer.bias is None else layer.bias.numel() for layer in layers_of(model).values())
    masks = magnitude_masks(model, n_biases + 1)
    assert sum(int(mask.sum()) for mask in masks.values()) == 1
    with pytest.raises(ValueError, match="got 0"):
        magnitude_masks(model, n_biases)


def test_a_smaller_size_afterwards_keeps_zeros_zero(tmp_path: Path) -> None:
    model = net()
    sizes = [count_params(model) // 2, count_params(model) // 4, count_params(model) // 8]
    zeros: dict[str, Tensor] = {}
    for step, n_params in enumerate(sizes):
        masks = magnitude_masks(model, n_params)
        for name, zero in zeros.items():
            assert not bool((masks[name] & zero).any())
        with masked(model, masks):
            train(model, tmp_path / str(step))
        zeros = {name: layer.weight.detach() == 0 for name, layer in layers_of(model).items()}
        assert n_nonzero(model) == n_params


def test_a_smaller_size_within_the_block_of_a_larger_keeps_zeros_zero() -> None:
    model = net()
    outer = magnitude_masks(model, 60)
    with masked(model, outer):
        inner = magnitude_masks(model, 30)
        assert not any(bool((mask & ~outer[name]).any()) for name, mask in inner.items())
        assert sum(int(mask.sum()) for mask in inner.values()) < sum(int(m.sum()) for m in outer.values())


def test_masking_saves_no_flops() -> None:
    model = net()
    before = measure_cost(model, (1, 6, 6))
    with masked(model, magnitude_masks(model, 30)):
        pass
    assert measure_cost(model, (1, 6, 6)) == before


def test_masking_keeps_the_layout_of_the_filters() -> None:
    model = build_model("inception", 3, stages=(1, 1, 1), base=(1, 1, 1), width=1 / 16, stem="small")
    images = torch.rand(2, 3, 8, 8)
    convolutions = [layer.weight for layer in layers_of(model).values() if isinstance(layer, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)
    with masked(model.eval(), magnitude_masks(model, count_params(model) // 2)):
        inside = model(images)
    convolutions = [layer.weight for layer in layers_of(model).values() if isinstance(layer, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)
    assert torch.equal(model(images), inside)
    assert torch.equal(lay_out(copy.deepcopy(model))(images), inside)
