"""The JSON beside a pruned model's weights says which channels of the whole net are left: held on the weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from pipeline.checkpoint import load_classifier, read_kept_channels, save_model
from pipeline.deconv import Utility
from pipeline.errors import InputError
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, decision_layer
from pipeline.prune import prune_like, prune_model

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

_TINY = {"stages": (1, 1, 1), "base": (1, 1, 1), "width": 0.25, "stem": "small"}
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "branches, a pool and a concatenation": ("inception", _TINY),
    "residual sums": ("resnet", {"config": "c16-c32", "width": 0.5, "stem": "small"}),
    "a flattening": ("vgg16", {"width": 0.0625, "hidden": (48, 24), "pool": 2, "stem": "small"}),
    "depthwise convolutions": ("mobilenet_v2", {"width": 0.25, "stem": "small"}),
    "grouped convolutions": ("torchvision/resnet50", {"groups": 4, "width_per_group": 4}),
    "dense concatenations": ("python/own_nets:dense", {"options": {"classes": 4}}),
}


def whole(name: str) -> Classifier:
    torch.manual_seed(0)
    architecture, options = NETS[name]
    net = build_model(architecture, 4, **options)
    classes = [f"class {idx}" for idx in range(4)]
    return Classifier(net, image_shape=(3, 32, 32), mean=[0.5] * 3, std=[0.25] * 3, classes=classes).eval()


def utilities(model: nn.Module, seed: int) -> dict[str, Utility]:
    random, decision = torch.Generator().manual_seed(seed), decision_layer(model)
    return {
        name: Utility(torch.rand(len(layer.weight), 1, 1, generator=random, dtype=torch.float64))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer is not decision
    }


def example() -> Tensor:
    return torch.zeros(1, 3, 32, 32)


def numbers(ranges: str) -> list[int]:
    """`0-2,5` as 0, 1, 2, 5, by the docs' own words."""
    found: list[int] = []
    for part in ranges.split(","):
        ends = [int(end) for end in part.split("-")]
        found += range(ends[0], ends[-1] + 1)
    return found


def expected_weight(weight: np.ndarray, outputs: list[int], inputs: list[int], n_inputs: int) -> np.ndarray:
    """Of the whole layer, its rows and, in each of its groups, its columns."""
    per_group = weight.shape[1]
    if per_group == n_inputs:
        return weight[outputs][:, inputs]
    dense = np.zeros((len(weight), n_inputs, *weight.shape[2:]), weight.dtype)
    out_per_group = len(weight) // (n_inputs // per_group)
    for row in range(len(weight)):
        first = row // out_per_group * per_group
        dense[row, first : first + per_group] = weight[row]
    columns = dense[outputs][:, inputs]
    return np.stack([row[np.abs(row).sum((1, 2)) > 0] for row in columns])


def assert_rebuilt(before: Path, after: Path, whole_net: nn.Module) -> int:
    """Every layer's weights are those that the JSON names; how many layers lost channels."""
    old, new = load_file(before.with_suffix(".safetensors")), load_file(after.with_suffix(".safetensors"))
    spec = json.loads(after.with_suffix(".json").read_text(encoding="utf-8"))
    assert set(spec["kept_channels"]) == set(spec["channels"])
    layers = dict(whole_net.named_modules())
    n_cut = 0
    for name, kept in spec["kept_channels"].items():
        outputs, inputs = numbers(kept["out"]), numbers(kept["in"])
        layer = layers[name]
        n_inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        assert isinstance(n_inputs, int)
        rebuilt = expected_weight(old[f"{name}.weight"], outputs, inputs, n_inputs)
        np.testing.assert_array_equal(rebuilt, new[f"{name}.weight"], err_msg=name)
        if f"{name}.bias" in new:
            np.testing.assert_array_equal(old[f"{name}.bias"][outputs], new[f"{name}.bias"], err_msg=name)
        n_cut += len(outputs) < len(old[f"{name}.weight"])
    return n_cut


@pytest.mark.parametrize("name", NETS)
def test_a_cut_layer_is_the_whole_one_at_the_channels_that_its_file_names(tmp_path: Path, name: str) -> None:
    """After one cut, and after a second one of what came back from disk."""
    model = whole(name)
    save_model(model, tmp_path / "whole")
    assert "kept_channels" not in json.loads((tmp_path / "whole.json").read_text(encoding="utf-8"))
    assert read_kept_channels(tmp_path / "whole") == {}
    once = prune_model(model, utilities(model, 1), 1.5, example())[0]
    save_model(once, tmp_path / "once")
    n_cut = assert_rebuilt(tmp_path / "whole", tmp_path / "once", model)
    assert n_cut >= 5
    again = load_classifier(tmp_path / "once")
    twice = prune_model(again, utilities(again, 2), 1.5, example())[0]
    save_model(twice, tmp_path / "twice")
    assert assert_rebuilt(tmp_path / "whole", tmp_path / "twice", model) >= n_cut
    sizes = [
        sum(len(out) for out, _ in read_kept_channels(tmp_path / each).values()) for each in ("once", "twice")
    ]
    assert sizes[1] < sizes[0]


def test_what_a_whole_branch_leaves_behind_is_named_too(tmp_path: Path) -> None:
    """Its readers lose the columns that it wrote; the branch has no layers left to speak of."""
    model = whole("branches, a pool and a concatenation")
    found = utilities(model, 1)
    ends = [name for name in found if "stages.0" in name and "branch3x3." in name]
    assert ends
    for name in ends:
        found[name] = Utility(torch.zeros_like(found[name].map))
    smaller = prune_model(model, found, 1.0, example(), remove_branches=True)[0]
    save_model(model, tmp_path / "whole")
    save_model(smaller, tmp_path / "smaller")
    assert not set(ends) & set(read_kept_channels(tmp_path / "smaller"))
    assert_rebuilt(tmp_path / "whole", tmp_path / "smaller", model)


def test_a_competitor_at_the_same_widths_names_its_own_channels(tmp_path: Path) -> None:
    model = whole("residual sums")
    ours = prune_model(model, utilities(model, 1), 1.5, example())[0]
    scores = {name: torch.arange(len(each.map)).double() for name, each in utilities(model, 1).items()}
    theirs = prune_like(model, scores, ours, example())
    for path, net in (("whole", model), ("ours", ours), ("theirs", theirs)):
        save_model(net, tmp_path / path)
    assert_rebuilt(tmp_path / "whole", tmp_path / "theirs", model)
    assert read_kept_channels(tmp_path / "ours") != read_kept_channels(tmp_path / "theirs")


def test_a_description_that_is_damaged_is_refused_in_one_line(tmp_path: Path) -> None:
    model = whole("residual sums")
    save_model(prune_model(model, utilities(model, 1), 1.5, example())[0], tmp_path / "model")
    file = tmp_path / "model.json"
    spec = json.loads(file.read_text(encoding="utf-8"))
    next(iter(spec["kept_channels"].values()))["out"] = "three"
    file.write_text(json.dumps(spec), encoding="utf-8")
    for read in (read_kept_channels, load_classifier):
        with pytest.raises(InputError, match=r"model\.") as refused:
            read(tmp_path / "model")
        assert "\n" not in str(refused.value)
