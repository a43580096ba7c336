import json
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision.models as zoo
from torch import nn

from pipeline.checkpoint import load_model, save_model
from pipeline.models import build_model
from pipeline.models.classifier import blueprint_of
from pipeline.models.torchvision_models import drop_auxiliary_heads

torch.set_num_threads(1)

N_IMAGENET = 1000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty file cache of torchvision's, on a machine without network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def no_network(*_args: Any, **_kwargs: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def weights_file(name: str) -> str:
    return str(zoo.get_model_weights(name).DEFAULT.url).rpartition("/")[2]


def store_weights(cache: Path, name: str, **options: Any) -> dict[str, torch.Tensor]:
    """Weights of no training at all, where torchvision would keep its own."""
    torch.manual_seed(1)
    state = zoo.get_model(name, **options).state_dict()
    torch.save(state, cache / weights_file(name))
    return state  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "name",
    [
        "resnet19",
        "get_model",
        "segmentation.fcn_resnet50",
        "fcn_resnet50",
        "raft_large",
        "",
        "quantized_resnet18",
    ],
)
def test_what_is_no_classifier_of_torchvision_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="classifier of torchvision"):
        build_model(f"torchvision/{name}", 4)


@pytest.mark.parametrize(
    ("name", "last"),
    [("mnasnet0_5", "classifier.1"), ("shufflenet_v2_x0_5", "fc"), ("squeezenet1_1", "classifier.1")],
)
def test_trained_weights_come_from_the_cache_with_a_fresh_last_layer(
    name: str, last: str, cache: Path
) -> None:
    stored = store_weights(cache, name)
    net = build_model(f"torchvision/{name}", 7, pretrained=True)
    found = net.state_dict()
    assert set(found) == set(stored)
    assert [key for key in found if not torch.equal(found[key], stored[key])] == [
        f"{last}.weight",
        f"{last}.bias",
    ]
    assert len(found[f"{last}.weight"]) == len(found[f"{last}.bias"]) == 7
    assert net.eval()(torch.rand(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("name", ["squeezenet1_1", "mnasnet0_5"])
def test_trained_weights_are_kept_whole_for_their_own_classes(name: str, cache: Path) -> None:
    stored = store_weights(cache, name)
    found = build_model(f"torchvision/{name}", N_IMAGENET, pretrained=True).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in stored.items())


def test_a_model_from_trained_weights_is_stored_and_read_without_them(cache: Path, tmp_path: Path) -> None:
    store_weights(cache, "shufflenet_v2_x0_5")
    net = build_model("torchvision/shufflenet_v2_x0_5", 7, pretrained=True).eval()
    assert blueprint_of(net).options == {}
    save_model(net, tmp_path / "model")
    (cache / weights_file("shufflenet_v2_x0_5")).unlink()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(load_model(tmp_path / "model")(images), net(images))


@pytest.mark.parametrize("name", ["mnasnet0_5", "googlenet"])
def test_weights_that_cannot_be_had_are_named_in_one_line(name: str, cache: Path) -> None:
    with pytest.raises(ValueError, match="expected trained weights at") as caught:
        build_model(f"torchvision/{name}", 7, pretrained=True)
    assert str(cache / weights_file(name)) in str(caught.value)
    assert "no network" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_would_run_code_is_refused_before_it_is_unpickled(cache: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (cache / "sprung",)

    torch.save({"classifier.1.bias": Trap()}, cache / weights_file("mnasnet0_5"))
    with pytest.raises(ValueError, match="expected trained weights at"):
        build_model("torchvision/mnasnet0_5", 7, pretrained=True)
    assert not (cache / "sprung").exists()


def test_a_damaged_file_is_refused(cache: Path) -> None:
    (cache / weights_file("mnasnet0_5")).write_bytes(b"not weights")
    with pytest.raises(ValueError, match="expected trained weights at"):
        build_model("torchvision/mnasnet0_5", 7, pretrained=True)


def test_random_weights_need_no_file(cache: Path) -> None:
    net = build_model("torchvision/mnasnet0_5", 7, pretrained=False)
    assert blueprint_of(net).options == {}
    assert not list(cache.iterdir())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_nets_with_auxiliary_heads_give_their_logits_alone_and_dropped_heads_leave_no_weights(
    name: str,
) -> None:
    images = torch.rand(2, 3, 96, 96)
    dropped = zoo.get_model(name, num_classes=5, aux_logits=True, init_weights=False)
    drop_auxiliary_heads(dropped)
    for net in (build_model(f"torchvision/{name}", 5, init_weights=False), dropped):
        assert net.train()(images).shape == (2, 5)
        assert not [key for key in net.state_dict() if key.lower().startswith("aux")]


@pytest.mark.parametrize(("name", "first"), [("googlenet", "conv1"), ("inception_v3", "Conv2d_1a_3x3")])
def test_pretrained_nets_with_auxiliary_logits_give_their_logits_alone_and_come_back(
    name: str, first: str, cache: Path, tmp_path: Path
) -> None:
    stored = store_weights(cache, name, aux_logits=True, init_weights=False)
    net = build_model(f"torchvision/{name}", 5, pretrained=True)
    images = torch.rand(2, 3, 96, 96)
    assert net.train()(images).shape == (2, 5)
    assert torch.equal(net.state_dict()[f"{first}.conv.weight"], stored[f"{first}.conv.weight"])
    # torchvision's weights expect images normalised in another way, which the net does by itself.
    assert blueprint_of(net).options == {"transform_input": True}
    save_model(net, tmp_path / "model")
    assert json.loads((tmp_path / "model.json").read_text())["options"] == {"transform_input": True}
    assert torch.equal(load_model(tmp_path / "model")(images), net.eval()(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "DEFAULT"}, "expected pretrained: true in place of weights, got 'DEFAULT'"),
        ({"pretrained": True, "aux_logits": True}, "expected no auxiliary logits beside pretrained weights"),
    ],
)
def test_options_that_would_not_come_back_are_refused(
    options: dict[str, Any], message: str, cache: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        build_model("torchvision/googlenet", 4, **options)


def test_the_last_layer_that_is_replaced_keeps_its_place_and_having_a_bias(cache: Path) -> None:
    store_weights(cache, "squeezenet1_1")
    net = build_model("torchvision/squeezenet1_1", 6, pretrained=True)
    last = net.get_submodule("classifier.1")
    assert isinstance(last, nn.Conv2d)
    assert (last.in_channels, last.out_channels, last.kernel_size) == (512, 6, (1, 1))
    assert last.bias is not None
