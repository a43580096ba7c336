"""What `python -m pipeline.params` says of the net that params name, before any data are read."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import own_nets
import pytest
from conftest import ROOT
from tiny_params import ABLATE, PYTHON, TINY, TORCHVISION, Change, edited, params_of

from pipeline.checkpoint import save_model
from pipeline.cost import measure_cost
from pipeline.errors import InputError
from pipeline.images.expected import expected_images
from pipeline.imports import own_code_digest
from pipeline.models import build_model
from pipeline.models.classifier import Classifier
from pipeline.net_check import check_net
from pipeline.prune.target_size import smallest_cost

SMALL_IMAGES: Change = (
    "data",
    {
        "source": "cifar10",
        "root": "nowhere",
        "download": False,
        "validation": {"rule": "first", "images": 10},
        "images_per_class": None,
        "resize_px": None,
        "crop_px": None,
        "copies": "refuse",
    },
)


def torchvision(name: str, *changes: Change, utility: str = "saliency") -> list[Change]:
    """The tiny preset with one of torchvision's nets on CIFAR's images, which are not there."""
    net: list[Change] = [("model", TORCHVISION | {"name": name}), ("grow", None), SMALL_IMAGES]
    return [*net, ("surgery.utility", utility), ("compare.variants", {}), *changes]


def said(*changes: Change) -> str:
    """What the check answers; an error behind `refused: `."""
    try:
        return check_net(params_of(*changes))
    except InputError as error:
        return f"refused: {error}"


def test_it_says_nothing_where_every_layer_can_be_pruned() -> None:
    assert said() == ""
    assert said(*torchvision("resnet18")) == ""


def test_what_is_left_whole_is_said_in_one_line_with_the_reason() -> None:
    line = said(*torchvision("shufflenet_v2_x0_5"))
    assert re.fullmatch(r"left whole: stage2\.0\.branch1\.2, .+ and \d+ more \(a \w+.*\)", line), line
    line = said(*torchvision("resnet18", ("surgery.keep", ["conv1", "layer2"])))
    assert line.startswith(
        "left whole: conv1, layer1.0.conv2, layer1.1.conv2 (kept by surgery.keep, conv1); "
    )
    assert "(kept by surgery.keep, layer2)" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            torchvision("mobilenet_v3_small", utility="deconvolution"),
            "surgery.utility: expected layers that deconvolution can trace, got Hardswish in features.0.2 (got "
            "deconvolution; take saliency)",
        ),
        (
            torchvision("regnet_y_400mf", utility="deconvolution"),
            "surgery.utility: expected layers that deconvolution can trace, got ",
        ),
        (
            torchvision(
                "mobilenet_v3_small",
                (
                    "compare.variants",
                    {"papers": {"utility": "deconvolution", "widths": "layer", "trace_images_per_class": 3}},
                ),
            ),
            "compare.variants.papers.utility: expected layers that deconvolution can trace, got Hardswish",
        ),
        (
            torchvision("mobilenet_v3_small", ("ablate", ABLATE | {"scores": ["deconvolution"]})),
            "ablate.scores: expected layers that deconvolution can trace, got Hardswish",
        ),
        (torchvision("squeezenet1_1"), "model: expected a linear decision layer, SqueezeNet has none"),
        (
            torchvision("resnet18", ("surgery.keep", ["conv1", "feat*"])),
            "surgery.keep.1: expected a pattern over the names of modules with layers, such as 'conv1' (got 'feat*')",
        ),
        (
            torchvision("resnet18", ("surgery.keep", ["*"])),
            "model: expected a net with channels to prune, got none: ",
        ),
        (torchvision("vit_b_16"), "model: expected a net that takes images of 3x32x32"),
    ],
)
def test_what_cannot_be_pruned_is_refused_by_name(changes: list[Change], words: str) -> None:
    line = said(*changes)
    assert line.startswith(f"refused: {words}")
    assert "\n" not in line


def own(function: str, **keys: Any) -> list[Change]:
    """Changes to a net of tests/own_nets.py, with ten classes where nothing else is said."""
    factory = {"factory": f"own_nets:{function}", "factory_sha256": own_code_digest("own_nets")}
    model = {**PYTHON, **factory, "options": {"classes": 10}, **keys}
    return [("model", model), ("grow", None), ("surgery.utility", "saliency")]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("unregistered", "expected a net that its weights bring back, got other logits from its stored copy"),
        ("weight_normed", "own_nets:weight_normed: expected layers whose weights are parameters (got conv, "),
        (
            "cached",
            "expected a net that can be stored and read back (model.json: own_nets:cached: expected a new",
        ),
        ("not_finite", "expected finite logits of random images (got NaN"),
        ("exits", "own_nets:exits raised SystemExit: 10"),
        ("checkpointed", "expected a net that saliency can be traced through (When use_reentrant=True"),
        (
            "lazy",
            "own_nets:lazy: expected parameters with shapes (got conv.weight, conv.bias of lazy modules)",
        ),
    ],
)
def test_a_net_that_could_not_be_kept_is_refused_before_it_is_trained(function: str, words: str) -> None:
    line = said(*own(function, decision=None if function == "exits" else "head"))
    assert line.startswith(f"refused: model: {words}")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("remembers", "model: expected a net that can be copied (Only Tensors created explicitly"),
        ("draws", "model: expected the same logits from every call in evaluation mode"),
        ("pair", "model: expected logits in training, too, of shape (2, 10) (got tuple)"),
        ("batch", "model: expected logits of an image that do not depend on the others of its batch"),
        ("frozen", "model: expected a net that can be trained (element 0 of tensors does not require grad"),
        (
            "branches",
            "select.formats: python/own_nets:kinds: expected a net that ONNX can hold, got: Could not",
        ),
    ],
)
def test_a_net_that_a_stage_would_stumble_over_is_refused_before(
    kind: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    line = said(*own("kinds", decision="head", options={"classes": 10, "kind": kind}))
    assert line.startswith(f"refused: {words}")
    assert "\n" not in line
    assert capfd.readouterr() == ("", "")


def test_a_saved_net_of_nan_is_refused_too(tmp_path: Path) -> None:
    net = build_model("fc", 10, in_features=64, hidden=(8, 6))
    next(net.parameters()).data.fill_(np.nan)
    classes = [str(number) for number in range(10)]
    save_model(
        Classifier(net, image_shape=(1, 8, 8), mean=[0.5], std=[0.5], classes=classes), tmp_path / "nan"
    )
    digest = hashlib.sha256((tmp_path / "nan.safetensors").read_bytes()).hexdigest()
    saved = {"architecture": "saved", "path": os.fspath(tmp_path / "nan"), "sha256": digest}
    line = said(("model", saved), ("grow", None), ("train.auxiliary", None))
    assert line == "refused: model: expected finite logits of random images (got NaN, or infinite ones)"


@pytest.mark.parametrize("kind", ["shared", "normed", "transposed"])
def test_a_net_that_runs_a_layer_twice_or_has_odd_ones_is_cut_stored_and_read_back(kind: str) -> None:
    assert said(*own("kinds", decision="head", options={"classes": 10, "kind": kind})) == ""


def test_a_masked_class_hides_no_wrong_cut() -> None:
    sizes: list[Change] = [("compare.sizes", {"params": [0.9]}), ("lineup", None)]
    line = said(*own("kinds", decision="head", options={"classes": 10, "kind": "counts"}), *sizes)
    assert line == "left whole: conv (a function that counts channels)"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "classes",
            [*"abcdefghi", "i"],
            "expected the 10 classes of the data, in the order of the net's logits",
        ),
        (
            "normalization",
            {"mean": [0.5] * 3, "std": [0.2]},
            "expected a mean and a std for each of 1 channels",
        ),
    ],
)
def test_what_is_said_of_a_net_fits_the_data_before_they_are_read(key: str, value: Any, words: str) -> None:
    assert said(*own("head_first", decision="head", **{key: value})).startswith(
        f"refused: model.{key}: {words}"
    )


def test_a_net_of_ones_own_waits_for_the_folders_that_say_how_many_classes_there_are(tmp_path: Path) -> None:
    folders = {"train": "train", "validation": None, "test": None}
    section: dict[str, Any] = {"source": "image_folder", "root": os.fspath(tmp_path), "folders": folders}
    section |= {"split_seed": 0, "validation_fraction": 0.2, "test_fraction": 0.2, "store": "pixels"}
    section |= {"images_per_class": None, "resize_px": 8, "crop_px": None, "copies": "refuse"}
    data = section | {"max_unreadable_share": 0.01}
    net = own("viewed", options={"classes": 3, "channels": 3})
    assert said(("data", data), *net) == "data: not there yet, so that the net is not checked"
    for name in "abc":
        tmp_path.joinpath("train", name).mkdir(parents=True)
    assert said(("data", data), *net) == ""


def test_limits_that_leave_no_room_are_named() -> None:
    line = said(*own("head_first", decision="head"), ("surgery.min_channels", 99))
    assert line.endswith("got none: all layers are too narrow for min_channels 99, round_to 1")


@pytest.mark.parametrize(
    ("section", "unit"), [("prune", "params"), ("prune", "flops"), ("compare", "params"), ("ablate", "flops")]
)
def test_sizes_that_no_pruning_reaches_are_refused(section: str, unit: str) -> None:
    import torch

    net, image = own_nets.viewed(10), torch.zeros(1, 1, 8, 8)
    cost = measure_cost(net, (1, 8, 8))
    limits: dict[str, Any] = {"keep": ["first"], "min_channels": 2}
    least = smallest_cost(net, image, **limits)[unit] / getattr(cost, unit)  # type: ignore[index]
    changes = [*own("viewed", decision="head"), *((f"surgery.{key}", value) for key, value in limits.items())]
    changes += [("ablate", ABLATE | {"scores": ["saliency"]}), ("lineup", None), ("prune.sizes", {})]
    changes += [("compare.sizes", {"params": [0.9]}), ("ablate.sizes", {"params": [0.9]})]
    assert said(*changes, (f"{section}.sizes", {unit: [0.9, 1.01 * least]})).startswith("left whole: ")
    refused = said(*changes, (f"{section}.sizes", {unit: [0.9, 0.99 * least]}))
    assert refused.startswith(
        f"refused: {section}.sizes.{unit}: expected sizes that pruning can reach, at least "
    )
    assert f"{least:.4g} of this net" in refused


def test_growing_leaves_room_for_smaller_sizes() -> None:
    """A grown net may be cut to a smaller share of it than the base; what no grown net reaches is refused."""
    nothing: list[Change] = [("lineup", None), ("prune.sizes", {}), ("surgery.remove_branches", False)]
    grown = said(*nothing, ("compare.sizes", {"params": [0.0001]}))
    alone = said(*nothing, ("compare.sizes", {"params": [0.0001]}), ("grow", None))
    shares = [float(re.findall(r"at least ([\d.e-]+) of", line)[0]) for line in (grown, alone)]
    assert 0 < shares[0] < shares[1]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (TINY["data"], ((1, 8, 8), 10)),
        (SMALL_IMAGES[1], ((3, 32, 32), 10)),
        (SMALL_IMAGES[1] | {"source": "mnist", "crop_px": 24}, ((1, 24, 24), 10)),
        (SMALL_IMAGES[1] | {"source": "cifar100", "resize_px": 64}, ((3, 64, 64), 100)),
    ],
)
def test_shape_and_classes_are_known_without_images(section: Any, expected: Any) -> None:
    assert expected_images(params_of(("data", section)).data) == expected


@pytest.mark.parametrize("n_channels", [1, 3])
def test_an_archive_is_asked_for_its_header(n_channels: int, tmp_path: Path) -> None:
    images = np.zeros((4, 6, 5, n_channels) if n_channels > 1 else (4, 6, 5), dtype=np.uint8)
    section = {
        key: SMALL_IMAGES[1][key]
        for key in ("validation", "images_per_class", "resize_px", "crop_px", "copies")
    }
    file = tmp_path / "mine.npz"
    data = section | {"source": "arrays", "file": os.fspath(file)}
    assert expected_images(params_of(("data", data)).data) is None
    np.savez(file, x_train=images, y_train=np.array([0, 1, 2, 0]), x_test=images, y_test=np.zeros(4))
    assert expected_images(params_of(("data", data)).data) == ((n_channels, 6, 5), 3)
    np.savez_compressed(file, x_train=images, y_train=np.zeros(4), classes=np.array(list("abcd")))
    assert expected_images(params_of(("data", data)).data) == ((n_channels, 6, 5), 4)


@pytest.mark.processes
def test_the_command_is_silent_when_all_is_good_and_asks_once(tmp_path: Path) -> None:
    def run(*changes: Change) -> tuple[int, str, str]:
        (tmp_path / "params.yaml").write_text(json.dumps(edited(*changes)))
        command = [sys.executable, "-m", "pipeline.params"]
        environment = os.environ | {"PYTHONPATH": os.fspath(ROOT)}
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        return ended.returncode, ended.stdout, ended.stderr

    assert run() == (0, "", "")
    memory = tmp_path / ".jobs/net_check.json"
    ((key, line),) = json.loads(memory.read_text()).items()
    assert line == ""
    memory.write_text(json.dumps({key: "left whole: told by the memory"}))
    assert run(("report.dpi", 99)) == (0, "params.yaml: left whole: told by the memory\n", "")
    code, out, err = run(("surgery.keep", ["nothing"]))
    assert (code, out) == (1, "")
    assert err.startswith("params.yaml: surgery.keep.0: expected a pattern ")
    assert err.count("\n") == 1
