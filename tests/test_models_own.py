"""Nets that a user's function makes, and timm's: built, stored and found again, or refused in one line."""

import copy
import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import own_nets
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline import imports
from pipeline.checkpoint import load_classifier, load_model, save_model
from pipeline.deconv import Utility
from pipeline.errors import InputError
from pipeline.images.augmentation import augment_images
from pipeline.models import build_model, own
from pipeline.models.classifier import Classifier, blueprint_of, decision_layer, latent_and_logits
from pipeline.models.own import fill_with_weights, read_weights
from pipeline.prune import prune_model

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

PYTHON = {
    "viewed": ("python/own_nets:viewed", {"options": {"width": 5}}),
    "head_first": ("python/own_nets:head_first", {"decision": "head"}),
    "timm": ("timm/resnet18", {"in_chans": 1, "channels": [4, 8, 8, 8], "stem_width": 4}),
}


def images_of(n: int = 3) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def built(which: str) -> nn.Module:
    torch.manual_seed(0)
    name, options = PYTHON[which]
    net = build_model(name, 3, **options)
    with torch.no_grad():
        net.train()(images_of(8))
    return net.eval()


def pruned(net: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(2)
    utilities = {
        name: Utility(torch.rand(module.weight.shape[0], 1, 1, generator=random, dtype=torch.float64))
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module is not decision_layer(net)
    }
    return prune_model(net, utilities, 1.2, images_of(1))[0]


def test_a_function_of_the_user_makes_the_net_with_its_options() -> None:
    net = built("viewed")
    assert type(net) is own_nets.Viewed
    assert net.first.out_channels == 5
    torch.manual_seed(0)
    for key, value in own_nets.viewed(width=5).named_parameters():
        assert torch.equal(net.get_parameter(key), value), key


def test_a_named_decision_layer_decides_though_it_is_not_the_last_one_found() -> None:
    net = built("head_first")
    assert [name for name, module in net.named_modules() if isinstance(module, nn.Linear)][-1] == "embed"
    assert decision_layer(net) is net.head
    latent, logits = latent_and_logits(net, images_of())
    torch.testing.assert_close(latent @ net.head.weight.T + net.head.bias, logits)
    assert decision_layer(build_model("python/own_nets:head_first", 3)).out_features == 6
    smaller = pruned(net)
    assert smaller.embed.out_features < 6
    assert decision_layer(smaller) is smaller.head
    assert smaller.head.weight.shape == (3, smaller.embed.out_features)


@pytest.mark.parametrize("which", list(PYTHON))
def test_it_is_stored_and_comes_back_bare_as_a_classifier_and_pruned(which: str, tmp_path: Path) -> None:
    net = built(which)
    model = Classifier(net, image_shape=(1, 8, 8), mean=[0.25], std=[0.5], classes=("a", "b", "c")).eval()
    cut = pruned(model)
    assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in model.parameters())
    for stored in (net, model, cut):
        save_model(stored, tmp_path / "model")
        loaded = load_model(tmp_path / "model")
        assert torch.equal(loaded(images_of()), stored(images_of()))
        assert blueprint_of(loaded) == blueprint_of(stored)
        loaded.train()(images_of(4)).sum().backward()
    assert load_classifier(tmp_path / "model").classes == ("a", "b", "c")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_of_maps_goes_on_working_after_random_shifts(channels: int) -> None:
    net = build_model("python/own_nets:viewed", 3, options={"channels": channels})
    zeros, ones = [0.0] * channels, [1.0] * channels
    model = Classifier(net, image_shape=(channels, 8, 8), mean=zeros, std=ones, classes=("a", "b", "c"))
    images = torch.rand(4, channels, 8, 8, generator=torch.Generator().manual_seed(1))
    random = torch.Generator().manual_seed(0)
    shifted = augment_images(images, crop_px=None, shift_px=1, mirror=False, random=random)
    assert shifted.stride()[1] == 1  # as of channels last
    model.train()(shifted).sum().backward()
    loaded = copy.deepcopy(model).train()
    torch.testing.assert_close(loaded(shifted), net(shifted.flatten(1).reshape(shifted.shape)))


def test_layers_that_share_their_weights_are_stored_and_share_them_again(tmp_path: Path) -> None:
    net = build_model("python/own_nets:tied", 3).eval()
    save_model(net, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert torch.equal(loaded(images_of()), net(images_of()))
    assert loaded.get_submodule("second").weight is loaded.get_submodule("first").weight


def test_the_description_names_function_options_and_decision(tmp_path: Path) -> None:
    save_model(built("viewed"), tmp_path / "viewed")
    save_model(built("head_first"), tmp_path / "head_first")
    found = json.loads((tmp_path / "viewed.json").read_text())
    assert (found["architecture"], found["num_classes"]) == ("python/own_nets:viewed", 3)
    assert found["options"] == {
        "options": {"width": 5},
        "decision": None,
        "factory_sha256": own.own_code_digest("own_nets"),
    }
    assert json.loads((tmp_path / "head_first.json").read_text())["options"]["decision"] == "head"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of the user's beside a model that it made; gone from memory and path afterwards."""
    file = tmp_path / "code" / "a_users_nets.py"
    file.parent.mkdir()
    file.write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
    )
    monkeypatch.syspath_prepend(file.parent)
    save_model(build_model("python/a_users_nets:make", 3), tmp_path / "model")
    yield file
    sys.modules.pop("a_users_nets", None)
    own._imported.pop("a_users_nets", None)


def forget() -> None:
    sys.modules.pop("a_users_nets")
    own._imported.pop("a_users_nets")


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path)
    (line,) = str(caught.value).splitlines()
    return line


def test_where_the_module_is_not_importable_the_model_says_so(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_model(tmp_path / "model")(images_of()).shape == (3, 3)
    forget()
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(written.parent)])
    line = refused(tmp_path / "model")
    assert line.startswith(
        f"{tmp_path / 'model.json'}: a_users_nets:make: expected a module that can be imported"
    )
    assert "No module named 'a_users_nets'" in line
    assert "start Python in the folder where it lies, or install it" in line


@pytest.fixture
def only_by_file() -> Iterator[None]:
    """Nobody has named a function in this process."""
    known = imports.trusted()
    imports._trusted.clear()
    yield
    imports._trusted.clear()
    imports.trust(*known)


@pytest.mark.usefixtures("only_by_file")
@pytest.mark.parametrize(
    ("factory", "options"),
    [
        ("os:system", {"command": "touch gone_off"}),
        ("subprocess:check_call", {"args": ["touch", "gone_off"]}),
        ("torch.hub:load", {"repo_or_dir": "somebody/something", "model": "net"}),
        ("pipeline.files:write_json", {"path": "gone_off", "value": 1}),
        ("aliases:system", {"command": "touch gone_off"}),
        ("a_users_nets:make", {}),
    ],
)
def test_a_file_alone_calls_no_function(
    factory: str, options: dict[str, Any], written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the current folder only what is defined there; of installed packages only what the user has named."""
    imports._trusted.clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "aliases.py").write_text("from os import system\n")
    spec = json.loads((tmp_path / "model.json").read_text())
    spec |= {"architecture": f"python/{factory}", "options": {"options": options}}
    (tmp_path / "model.json").write_text(json.dumps(spec))
    line = refused(tmp_path / "model")
    assert (
        f"{factory}: expected a function in a module of the current folder, or one that you have named"
        in line
    )
    assert not (tmp_path / "gone_off").exists()
    assert "aliases" not in sys.modules


@pytest.mark.usefixtures("only_by_file")
def test_a_function_of_the_current_folder_or_a_named_one_is_called(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports._trusted.clear()
    with pytest.raises(InputError, match="one that you have named"):
        load_model(tmp_path / "model")
    with monkeypatch.context() as inside:
        inside.chdir(written.parent)
        assert load_model(tmp_path / "model")(images_of()).shape == (3, 3)
    imports._trusted.clear()
    imports.trust("a_users_nets:make")
    assert load_model(tmp_path / "model")(images_of()).shape == (3, 3)


def test_a_model_of_other_code_is_not_rebuilt_by_this_one(written: Path, tmp_path: Path) -> None:
    written.write_text(written.read_text().replace("nn.Flatten()", "nn.Flatten(), nn.ReLU()"))
    forget()
    line = refused(tmp_path / "model")
    assert "expected the code of a_users_nets to be that of factory_sha256" in line


def test_a_process_that_has_older_code_in_memory_does_not_build_by_it(written: Path) -> None:
    written.write_text(f"{written.read_text()}# more\n")
    with pytest.raises(ValueError, match="its code has changed since this process imported it"):
        build_model("python/a_users_nets:make", 3)


@pytest.mark.parametrize(
    ("factory", "options", "words"),
    [
        ("own_nets:raising", {}, "own_nets:raising raised KeyError: 'no such net"),
        (
            "own_nets:viewed",
            {"options": {"depth": 3}},
            "raised TypeError: viewed() got an unexpected keyword",
        ),
        ("own_nets:no_module", {}, "expected it to return a torch.nn.Module (got list)"),
        ("own_nets:all_convolutions", {}, "expected a net with a linear layer"),
        ("own_nets:missing", {}, "own_nets:missing: expected a function of own_nets (got NoneType)"),
        ("own_nets:NOT_A_FUNCTION", {}, "expected a function of own_nets (got int)"),
        ("no_such_nets:make", {}, "expected a module that can be imported (got ModuleNotFoundError"),
        (
            "own_nets:viewed",
            {"decision": "conv"},
            "decision: expected a linear layer of own_nets:viewed: hidden, head",
        ),
        ("own_nets:viewed", {"width": 3}, "unexpected keyword argument 'width'"),
    ],
)
def test_a_function_that_gives_no_such_net_is_one_line(
    factory: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=r"expected|raised|unexpected") as caught:
        build_model(f"python/{factory}", 3, **options)
    (line,) = str(caught.value).splitlines()
    assert words in line


def test_a_module_that_is_not_python_is_one_line(written: Path) -> None:
    written.write_text("def make(:\n")
    forget()
    with pytest.raises(ValueError, match=r"a module that can be imported \(got SyntaxError: ") as caught:
        build_model("python/a_users_nets:make", 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet19", {}, "expected a net of timm, such as "),
        (
            "resnet18",
            {"pretrained": True},
            "expected weights from a file (weights), got timm's option pretrained",
        ),
        ("resnet18", {"checkpoint_path": "x.pt"}, "got timm's option checkpoint_path"),
        ("resnet18", {"colour": 1}, "timm's resnet18 raised TypeError: "),
        (
            "resnet18",
            {"decision": "layer1"},
            "decision: expected a linear layer of resnet18: fc (got 'layer1')",
        ),
    ],
)
def test_what_timm_cannot_build_is_one_line(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"expected|raised|unexpected") as caught:
        build_model(f"timm/{name}", 3, **options)
    (line,) = str(caught.value).splitlines()
    assert words in line


def test_without_timm_its_nets_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="expected timm to be installed: pip install timm"):
        build_model("timm/resnet18", 3)


def weights_at(path: Path) -> dict[str, Tensor]:
    torch.manual_seed(5)
    state = own_nets.viewed().state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return state


@pytest.mark.parametrize("name", ["mine.safetensors", "mine.pt", "mine.pth"])
def test_weights_are_read_bit_for_bit_from_either_kind_of_file(name: str, tmp_path: Path) -> None:
    state = weights_at(tmp_path / name)
    net = build_model("python/own_nets:viewed", 3)
    fill_with_weights(net, read_weights(tmp_path / name), tmp_path / name)
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def line_of_weights(path: Path) -> str:
    with pytest.raises(ValueError, match=r"expected|raised|unexpected") as caught:
        read_weights(path)
    (line,) = str(caught.value).splitlines()
    assert str(path) in line
    return line


@pytest.mark.parametrize("name", ["mine.pt", "mine.safetensors"])
def test_code_in_a_pickle_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    state = {"head.weight": torch.zeros(2), "more": Bomb(tmp_path / "gone off")}
    torch.save(state, tmp_path / name)
    line = line_of_weights(tmp_path / name)
    if name == "mine.pt":
        assert "expected tensors alone" in line
        assert "code in a file is never run (got UnpicklingError)" in line
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(tmp_path / "gone off")))
    line_of_weights(tmp_path / name)
    assert not (tmp_path / "gone off").exists()


def test_a_whole_net_that_was_pickled_is_refused(tmp_path: Path) -> None:
    torch.save(own_nets.viewed(), tmp_path / "mine.pt")
    assert "torch.save(net.state_dict(), ...)" in line_of_weights(tmp_path / "mine.pt")


def test_a_checkpoint_with_more_than_weights_is_told_by_its_keys(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": own_nets.viewed().state_dict()}, tmp_path / "mine.pt")
    line = line_of_weights(tmp_path / "mine.pt")
    assert "(got dict with epoch, state_dict); save net.state_dict()" in line


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00", b"text"])
@pytest.mark.parametrize("name", ["mine.pt", "mine.safetensors"])
def test_a_damaged_file_is_one_line(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert "expected" in line_of_weights(tmp_path / name)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    assert line_of_weights(tmp_path / "mine.pt").startswith("expected a file (got ")


def test_weights_of_another_net_are_named(tmp_path: Path) -> None:
    state = weights_at(tmp_path / "mine.safetensors")
    assert load_file(tmp_path / "mine.safetensors").keys() == state.keys()
    state["head.weight"] = torch.zeros(5, 10)
    state["extra"] = state.pop("norm.bias")
    with pytest.raises(ValueError, match=r"expected|raised|unexpected") as caught:
        fill_with_weights(own_nets.viewed(), state, Path("mine.pt"))
    assert str(caught.value) == (
        "mine.pt: expected the weights of this net; the file lacks norm.bias; has in addition extra; has in another "
        "shape head.weight (5, 10) for (3, 10)"
    )


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({0: torch.zeros(2)}, "expected a state_dict, tensors by name (got dict with 0)"),
        ({"a": torch.zeros(2, device="meta")}, "expected dense tensors with values (got others in a)"),
    ],
    ids=["a number for a name", "without values"],
)
def test_what_is_no_dense_tensor_by_name_is_one_line(state: Any, words: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "mine.pt")
    assert words in line_of_weights(tmp_path / "mine.pt")


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_weights_of_another_kind_of_number_are_refused_and_not_rounded(dtype: torch.dtype) -> None:
    state = own_nets.viewed().state_dict() | {"head.weight": torch.ones(3, 10, dtype=dtype)}
    with pytest.raises(ValueError, match=rf"has in another kind of number head.weight {dtype}$"):
        fill_with_weights(own_nets.viewed(), state, Path("mine.pt"))
