"""A classifier for a data set: what every architecture makes of its images, and which cannot take them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.images.image_set import ImageSet
from pipeline.models.classifier import Classifier, blueprint_of, decision_layer
from pipeline.params.nets.sections import (
    Architecture,
    CompactModel,
    FcModel,
    GoogLeNetModel,
    InceptionModel,
    ResNetModel,
    TorchvisionModel,
    Vgg16Model,
)
from pipeline.training.classifiers import build_classifier

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

SMALL: dict[str, Any] = {"width": 0.0625, "stem": "small", "dropout": 0.0}
ROWS: dict[str, Any] = {"stages": [1, 1, 1], "base": [1, 1, 1]}


def image_set(channels: int, size: int, n_classes: int = 4) -> ImageSet:
    random = np.random.default_rng(0)
    n = 6 * n_classes
    labels = (np.arange(n) % n_classes).astype(np.int64)
    images = random.integers(0, 256, (n, channels, size, size + 1), dtype=np.uint8)
    idx = np.arange(n)
    split = {"train": idx[: n // 2], "validation": idx[n // 2 : -n_classes], "test": idx[-n_classes:]}
    return ImageSet(images, labels, tuple("abcdefgh"[:n_classes]), split)  # type: ignore[arg-type]


def vgg16(**changes: Any) -> Vgg16Model:
    options: dict[str, Any] = SMALL | {"hidden": [8], "pool": 1, "batch_norm": True}
    return Vgg16Model(architecture="vgg16", **(options | changes))


def torchvision(name: str) -> TorchvisionModel:
    return TorchvisionModel(architecture="torchvision", name=name, pretrained=False)


FAMILIES: list[Architecture] = [
    FcModel(architecture="fc", hidden=[12, 6]),
    vgg16(),
    *(
        InceptionModel(architecture="inception", module=module, factorized_kernel=3, **ROWS, **SMALL)
        for module in ("v1", "v1_double3x3", "v2", "v3")
    ),
    GoogLeNetModel(architecture="googlenet", **ROWS, **SMALL),
    GoogLeNetModel(architecture="bn_googlenet", **ROWS, **SMALL),
    ResNetModel(architecture="resnet", config="ResNet6", **SMALL),
    ResNetModel(architecture="resnet", config="i64-c128", **SMALL),
    CompactModel(architecture="mobilenet", **SMALL),
    CompactModel(architecture="mobilenet_v2", **SMALL),
    CompactModel(architecture="squeezenet", **SMALL),
]


def label(section: Architecture) -> str:
    return f"{section.architecture}-{getattr(section, 'module', getattr(section, 'config', ''))}"


@pytest.mark.parametrize("section", FAMILIES, ids=label)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 11)])
def test_every_architecture_fits_the_images_and_classes_of_a_set(
    section: Architecture, channels: int, size: int
) -> None:
    data = image_set(channels, size)
    torch.manual_seed(0)
    model = build_classifier(section, data, wanted_for="model")
    images = torch.from_numpy(data.images).float() / 255
    assert model(images).shape == (24, 4)
    assert (model.image_shape, model.classes) == ((channels, size, size + 1), tuple("abcd"))
    assert blueprint_of(model).architecture == section.architecture
    assert decision_layer(model).out_features == 4


def test_a_classifier_normalises_by_the_training_images_of_its_set() -> None:
    data = image_set(3, 8)
    model = build_classifier(FAMILIES[0], data, wanted_for="model")
    pixels = data.part("train")[0].astype(np.float64) / 255
    np.testing.assert_allclose(model.mean.flatten().numpy(), pixels.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(model.std.flatten().numpy(), pixels.std((0, 2, 3)), rtol=1e-6)


def test_the_fully_connected_net_reads_every_pixel() -> None:
    for channels, size in ((1, 8), (3, 5)):
        model = build_classifier(FAMILIES[0], image_set(channels, size), wanted_for="model")
        first = next(module for module in model.modules() if isinstance(module, nn.Linear))
        assert first.in_features == channels * size * (size + 1)
        assert blueprint_of(model).options == {"hidden": [12, 6], "in_features": first.in_features}


def test_a_torchvision_net_takes_images_that_are_large_enough_with_three_channels() -> None:
    model = build_classifier(torchvision("resnet18"), image_set(3, 32), wanted_for="model")
    assert model(torch.rand(2, 3, 32, 33)).shape == (2, 4)
    assert blueprint_of(model).architecture == "torchvision/resnet18"


@pytest.mark.parametrize(
    ("section", "channels", "size", "name"),
    [
        pytest.param(vgg16(stem="imagenet"), 1, 8, "vgg16", id="vgg16-of-224-pixels"),
        pytest.param(torchvision("alexnet"), 3, 8, "torchvision/alexnet", id="alexnet-at-8-pixels"),
        pytest.param(torchvision("resnet18"), 1, 32, "torchvision/resnet18", id="resnet18-in-grey"),
        pytest.param(torchvision("vit_b_16"), 3, 32, "torchvision/vit_b_16", id="vit-at-32-pixels"),
    ],
)
def test_a_net_that_cannot_take_the_images_is_named_on_one_line_with_its_section(
    section: Architecture, channels: int, size: int, name: str
) -> None:
    with pytest.raises(InputError) as caught:
        build_classifier(section, image_set(channels, size), wanted_for="sources.first.model")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("params.yaml: sources.first.model: expected ")
    assert f"images of {channels}x{size}x{size + 1}" in line
    assert f"{name} does not" in line
    assert len(line) < 300


@pytest.mark.parametrize("name", ["resnet17", "", "segmentation/fcn_resnet50", "fcn_resnet50"])
def test_a_name_that_is_no_classifier_of_torchvision_is_refused_on_one_line(name: str) -> None:
    with pytest.raises(InputError) as caught:
        build_classifier(torchvision(name), image_set(3, 32), wanted_for="model")
    (line,) = str(caught.value).splitlines()
    assert line == f"params.yaml: model: expected a classifier of torchvision.models, got {name!r}"


def test_trying_a_net_on_an_image_leaves_it_fresh_and_in_training_mode() -> None:
    section = InceptionModel(architecture="inception", module="v1", factorized_kernel=3, **ROWS, **SMALL)
    model = build_classifier(section, image_set(1, 8), wanted_for="model")
    assert isinstance(model, Classifier)
    assert model.training
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert not bool(module.running_mean.any())
            assert int(module.num_batches_tracked or 0) == 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_fresh_weights_are_those_of_the_global_generator() -> None:
    data, weights = image_set(1, 8), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = build_classifier(FAMILIES[1], data, wanted_for="model")
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
