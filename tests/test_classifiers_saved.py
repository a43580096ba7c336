"""A user's own model as the base: what fits the data set is taken as it is, anything else is one line."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.checkpoint import save_model
from pipeline.errors import InputError
from pipeline.images.image_set import ImageSet
from pipeline.models import build_model
from pipeline.models.classifier import Classifier
from pipeline.params.nets.sections import SavedModel
from pipeline.training.classifiers import build_classifier


def image_set(classes: Sequence[str] = ("ant", "bee"), channels: int = 1) -> ImageSet:
    random = np.random.default_rng(0)
    n = 6 * len(classes)
    labels = (np.arange(n) % len(classes)).astype(np.int64)
    images = random.integers(0, 256, (n, channels, 6, 6), dtype=np.uint8)
    parts = np.split(np.arange(n), 3)
    return ImageSet(
        images, labels, tuple(classes), dict(zip(("train", "validation", "test"), parts, strict=True))
    )


def section(path: Path, *, sha256: str | None = None) -> SavedModel:
    weights = path.with_name(f"{path.name}.safetensors")
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    return SavedModel(architecture="saved", path=str(path), sha256=sha256 or found)


def bare(num_classes: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model("fc", num_classes, hidden=[5], in_features=36)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = Classifier(bare(), image_shape=(1, 6, 6), mean=[0.25], std=[0.5], classes=("ant", "bee"))
    save_model(model, tmp_path / "mine")
    return tmp_path / "mine"


def line_of(params: SavedModel, data: ImageSet) -> str:
    with pytest.raises(InputError) as caught:
        build_classifier(params, data, wanted_for="model")
    (line,) = str(caught.value).splitlines()
    return line


def test_a_saved_classifier_keeps_its_weights_and_its_normalisation(saved: Path) -> None:
    model = build_classifier(section(saved), image_set(), wanted_for="model")
    assert model.training
    assert (float(model.mean), float(model.std)) == (0.25, 0.5)
    for name, parameter in bare().named_parameters():
        assert torch.equal(dict(model.net.named_parameters())[name], parameter)
    with_ending = section(saved).model_copy(update={"path": f"{saved}.safetensors"})
    assert build_classifier(with_ending, image_set(), wanted_for="model").classes == ("ant", "bee")


def test_a_bare_net_gets_the_sets_classes_and_normalisation(tmp_path: Path) -> None:
    save_model(bare(), tmp_path / "net")
    data = image_set()
    model = build_classifier(section(tmp_path / "net"), data, wanted_for="model")
    assert model.classes == data.classes
    assert model.mean.flatten().tolist() == pytest.approx(data.normalization()[0])


def test_other_weights_than_those_of_the_params_are_refused(saved: Path) -> None:
    line = line_of(section(saved, sha256="0" * 64), image_set())
    assert line.startswith("params.yaml: model.sha256: expected ")
    assert line.endswith(f"(got {'0' * 64})")


def test_classes_in_another_order_are_put_in_that_of_the_data(saved: Path) -> None:
    data = image_set(("bee", "ant"))
    model = build_classifier(section(saved), data, wanted_for="model")
    images = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = bare()((images - 0.25) / 0.5)
    assert model.classes == ("bee", "ant")
    torch.testing.assert_close(model(images).detach(), logits.flip(1))


def test_other_classes_are_refused(saved: Path) -> None:
    line = line_of(section(saved), image_set(("ant", "cat")))
    assert "expected a net for the 2 classes of the data, got one for 2, without 'cat' and with 'bee'" in line


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    save_model(bare(3), tmp_path / "net")
    assert "expected a net for 2 classes, got one for 3" in line_of(section(tmp_path / "net"), image_set())


def test_images_with_other_channels_are_refused(saved: Path) -> None:
    assert "expected a net for images with 3 channels, got 1" in line_of(
        section(saved), image_set(channels=3)
    )


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = SavedModel(architecture="saved", path=str(tmp_path / "gone"), sha256="0" * 64)
    assert f"{tmp_path / 'gone'}.safetensors: expected a saved model" in line_of(missing, image_set())
