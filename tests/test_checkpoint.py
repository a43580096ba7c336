import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.checkpoint import load_classifier, load_model, save_model
from pipeline.deconv import Utility
from pipeline.errors import InputError
from pipeline.grow import extend
from pipeline.models import build_model
from pipeline.models.blocks import BatchNormNoScale
from pipeline.models.classifier import Classifier, blueprint_of, decision_layer
from pipeline.prune import prune_model

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

OPTIONS: dict[str, dict[str, Any]] = {
    "fc": {"in_features": 3 * 16 * 16, "hidden": (12, 8)},
    "inception": {"stages": (1, 2, 1), "base": (1, 2, 1), "width": 0.0625, "stem": "small"},
    "resnet": {"config": "(c16, i16)-c32", "width": 0.25, "stem": "small"},
    "torchvision/mobilenet_v2": {"width_mult": 0.1},
}


def small(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = build_model(name, 3, **OPTIONS[name])
    net.train()(images_of(4))  # batch statistics that are not the initial ones
    return net.eval()


def images_of(n: int = 3) -> Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def classifier(net: nn.Module) -> Classifier:
    mean, std = [0.5, 0.25, 0.1], [0.2, 0.3, 1 / 3]
    return Classifier(net, image_shape=(3, 16, 16), mean=mean, std=std, classes=("a", "b", "ü")).eval()


def pruned(net: nn.Module, seed: int = 3) -> nn.Module:
    random = torch.Generator().manual_seed(seed)
    decision = decision_layer(net)
    utilities = {
        name: Utility(torch.rand(module.weight.shape[0], 1, 1, generator=random, dtype=torch.float64))
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module is not decision
    }
    return prune_model(net, utilities, 1.5, images_of(1))[0]


@torch.no_grad()
def assert_same_model(loaded: nn.Module, original: nn.Module) -> None:
    assert list(loaded.state_dict()) == list(original.state_dict())
    for key, tensor in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
        assert loaded.state_dict()[key].dtype == tensor.dtype
    assert torch.equal(loaded(images_of()), original(images_of()))
    assert blueprint_of(loaded).architecture == blueprint_of(original).architecture
    trainable = {key: parameter.requires_grad for key, parameter in original.named_parameters()}
    assert {key: parameter.requires_grad for key, parameter in loaded.named_parameters()} == trainable


@pytest.mark.parametrize("name", list(OPTIONS))
def test_a_model_comes_back_with_the_same_bits_bare_as_a_classifier_and_pruned(
    name: str, tmp_path: Path
) -> None:
    net = small(name)
    save_model(net, tmp_path / "bare")
    assert_same_model(load_model(tmp_path / "bare"), net)
    model = classifier(net)
    check_classifier(model, tmp_path / "classifier")
    check_pruned(pruned(model), tmp_path / "pruned")


def check_classifier(model: Classifier, path: Path) -> None:
    """It comes back with its normalisation and classes."""
    save_model(model, path)
    loaded = load_classifier(path)
    assert_same_model(loaded, model)
    assert torch.equal(loaded.mean, model.mean)
    assert torch.equal(loaded.std, model.std)
    assert loaded.classes == ("a", "b", "ü")
    assert loaded.image_shape == (3, 16, 16)


def check_pruned(model: nn.Module, path: Path) -> None:
    """It comes back smaller, knows the sizes of its layers, and can be trained."""
    save_model(model, path)
    loaded = load_model(path)
    assert_same_model(loaded, model)
    for found, expected in zip(loaded.modules(), model.modules(), strict=True):
        if isinstance(expected, nn.Conv2d):
            assert (found.in_channels, found.out_channels) == (expected.in_channels, expected.out_channels)
            assert found.groups == expected.groups
        elif isinstance(expected, nn.Linear):
            assert (found.in_features, found.out_features) == (expected.in_features, expected.out_features)
        elif isinstance(expected, nn.BatchNorm2d):
            assert found.num_features == expected.num_features
    loaded.train()(images_of(4)).sum().backward()


def test_a_pruned_model_can_be_pruned_and_saved_again(tmp_path: Path) -> None:
    first = pruned(small("torchvision/mobilenet_v2"))
    save_model(first, tmp_path / "first")
    second = pruned(load_model(tmp_path / "first"), seed=4)
    save_model(second, tmp_path / "second")
    assert_same_model(load_model(tmp_path / "second"), second)


def test_a_loaded_net_can_be_grown(tmp_path: Path) -> None:
    save_model(classifier(small("inception")), tmp_path / "model")
    grown = extend(load_classifier(tmp_path / "model"), 1, inherit=True)
    assert len(grown.get_submodule("net.stages.1")) == 3  # type: ignore[arg-type]


def test_batch_norms_without_scale_come_back_without_scale(tmp_path: Path) -> None:
    save_model(pruned(small("inception")), tmp_path / "model")
    norms = [m for m in load_model(tmp_path / "model").modules() if isinstance(m, BatchNormNoScale)]
    assert len(norms) == 3 + 4 * 7
    assert not any(norm.weight.requires_grad for norm in norms)


def test_a_model_saved_in_training_mode_keeps_it_and_loads_in_evaluation_mode(tmp_path: Path) -> None:
    net = small("resnet").train()
    save_model(net, tmp_path / "model")
    assert net.training
    assert not any(module.training for module in load_model(tmp_path / "model").modules())


@pytest.mark.parametrize("ending", ["", ".safetensors", ".json"])
def test_the_two_files_are_named_by_either_of_them(ending: str, tmp_path: Path) -> None:
    net = small("fc")
    save_model(net, tmp_path / f"eta0.5{ending}")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["eta0.5.json", "eta0.5.safetensors"]
    assert_same_model(load_model(f"{tmp_path}/eta0.5{ending}"), net)


def test_facts_about_a_model_are_kept_beside_it(tmp_path: Path) -> None:
    save_model(small("fc"), tmp_path / "model", about={"eta": 0.5, "n_correct": 7})
    description = json.loads((tmp_path / "model.json").read_text())
    assert description["about"] == {"eta": 0.5, "n_correct": 7}
    assert description["architecture"] == "fc"
    assert description["channels"]["hidden1"] == [12, 768]


def test_two_saves_of_a_model_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_model(classifier(small("inception")), tmp_path / name)
    for ending in ("json", "safetensors"):
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()


def test_loading_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    save_model(classifier(small("inception")), tmp_path / "model")
    torch.manual_seed(11)
    before = torch.get_rng_state()
    load_model(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_from_elsewhere_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="from build_model"):
        save_model(nn.Linear(2, 2), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_bare_net_is_no_classifier(tmp_path: Path) -> None:
    save_model(small("fc"), tmp_path / "model")
    with pytest.raises(InputError, match="got a bare net"):
        load_classifier(tmp_path / "model")


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path.parent) in message
    return message


@pytest.mark.parametrize("missing", ["model.json", "model.safetensors"])
def test_a_missing_file_is_an_input_error(missing: str, tmp_path: Path) -> None:
    save_model(small("fc"), tmp_path / "model")
    (tmp_path / missing).unlink()
    assert "expected a saved model" in refused(tmp_path / "model")


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_weights_file_is_an_input_error(keep: float, tmp_path: Path) -> None:
    save_model(small("fc"), tmp_path / "model")
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(keep * len(content))])
    assert "expected a saved model" in refused(tmp_path / "model")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"not json"])
def test_a_damaged_description_is_an_input_error(content: bytes, tmp_path: Path) -> None:
    save_model(small("fc"), tmp_path / "model")
    (tmp_path / "model.json").write_bytes(content)
    assert "expected a saved model" in refused(tmp_path / "model")


@pytest.mark.parametrize("found", [2, 0, None, "1"])
def test_another_format_is_an_input_error_that_names_it(found: object, tmp_path: Path) -> None:
    save_model(small("fc"), tmp_path / "model")
    change(tmp_path / "model.json", format=found)
    assert f"expected format 1, got {found!r}" in refused(tmp_path / "model")


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"'])
def test_a_description_that_is_no_object_is_an_input_error(content: str, tmp_path: Path) -> None:
    save_model(small("fc"), tmp_path / "model")
    (tmp_path / "model.json").write_text(content)
    assert "expected format 1" in refused(tmp_path / "model")


def change(description: Path, **entries: object) -> None:
    spec = json.loads(description.read_text()) | entries
    description.write_text(json.dumps({key: value for key, value in spec.items() if value != "(absent)"}))


@pytest.mark.parametrize(
    "entries",
    [
        {"architecture": "inceptio"},
        {"architecture": 5},
        {"architecture": "(absent)"},
        {"num_classes": 1},
        {"num_classes": "ten"},
        {"options": []},
        {"options": {"hidden": [12, 8], "colour": 1}},
        {"options": {"in_features": 768, "hidden": 12}},
        {"classes": 5},
        {"normalization": "(absent)"},
        {"normalization": {"mean": "grey", "std": [1.0]}},
        {"image_shape": None},
    ],
    ids=str,
)
def test_a_description_with_wrong_entries_is_an_input_error(entries: dict[str, Any], tmp_path: Path) -> None:
    save_model(classifier(small("fc")), tmp_path / "model")
    change(tmp_path / "model.json", **entries)
    assert "does not fit model.json" in refused(tmp_path / "model")


def test_weights_of_another_architecture_are_an_input_error(tmp_path: Path) -> None:
    save_model(small("fc"), tmp_path / "model")
    save_model(small("resnet"), tmp_path / "other")
    shutil.copy(tmp_path / "other.safetensors", tmp_path / "model.safetensors")
    assert "does not fit model.json" in refused(tmp_path / "model")


def test_weights_of_a_deeper_net_are_an_input_error(tmp_path: Path) -> None:
    save_model(build_model("fc", 3, in_features=4, hidden=(5, 5)), tmp_path / "model")
    save_model(build_model("fc", 3, in_features=4, hidden=(5, 5, 5)), tmp_path / "deeper")
    shutil.copy(tmp_path / "deeper.safetensors", tmp_path / "model.safetensors")
    assert "does not fit model.json" in refused(tmp_path / "model")


def test_the_description_of_another_pruned_sample_is_an_input_error(tmp_path: Path) -> None:
    net = small("inception")
    save_model(pruned(net, seed=3), tmp_path / "model")
    save_model(pruned(net, seed=4), tmp_path / "other")
    shutil.copy(tmp_path / "other.json", tmp_path / "model.json")
    assert "does not fit model.json" in refused(tmp_path / "model")


def test_layers_that_do_not_fit_each_other_are_an_input_error(tmp_path: Path) -> None:
    save_model(small("fc"), tmp_path / "model")
    state = load_file(tmp_path / "model.safetensors")
    state["hidden1.weight"] = state["hidden1.weight"][:9].clone()
    save_file(state, tmp_path / "model.safetensors")
    assert "does not fit model.json" in refused(tmp_path / "model")


def test_a_missing_tensor_is_an_input_error_that_names_it(tmp_path: Path) -> None:
    save_model(small("resnet"), tmp_path / "model")
    state = load_file(tmp_path / "model.safetensors")
    del state["stem.bn.running_mean"]
    save_file(state, tmp_path / "model.safetensors")
    assert "does not fit model.json" in refused(tmp_path / "model")


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("ending", ["safetensors", "json"])
def test_a_pickle_in_place_of_a_file_is_refused_and_not_run(ending: str, tmp_path: Path) -> None:
    save_model(small("fc"), tmp_path / "model")
    (tmp_path / f"model.{ending}").write_bytes(pickle.dumps(Bomb(tmp_path / "gone off")))
    refused(tmp_path / "model")
    assert not (tmp_path / "gone off").exists()


def test_a_torch_save_file_in_place_of_the_weights_is_refused(tmp_path: Path) -> None:
    net = small("fc")
    save_model(net, tmp_path / "model")
    torch.save(net.state_dict(), tmp_path / "model.safetensors")
    assert "expected a saved model" in refused(tmp_path / "model")
