import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import ROOT
from torch import Tensor, nn

from pipeline import export
from pipeline.deconv import Utility
from pipeline.errors import InputError
from pipeline.export import export_onnx, export_program, onnx_bytes, program_bytes
from pipeline.int8 import int8_bytes
from pipeline.models import build_model
from pipeline.models.classifier import Blueprint, Classifier, decision_layer, set_blueprint
from pipeline.prune import prune_model

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting


def images_of(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


INCEPTION = ("inception", {"stages": (1, 1, 1), "base": (1, 1, 1), "width": 0.125, "stem": "small"})
CLASSES = ("ant", "bär", "猫", 'a "d"')
RESNET = ("resnet", {"config": "c16", "width": 0.25, "stem": "small"})


def classifier(architecture: tuple[str, dict[str, Any]]) -> Classifier:
    torch.manual_seed(0)
    name, options = architecture
    net = build_model(name, 4, in_channels=1, **options)
    model = Classifier(net, image_shape=(1, 8, 8), mean=[0.4], std=[0.3], classes=CLASSES)
    model.train()(images_of(16))
    return model.eval()


def pruned(model: Classifier) -> Classifier:
    random = torch.Generator().manual_seed(0)
    decision = decision_layer(model)
    utilities = {
        name: Utility(torch.rand(module.weight.shape[0], 1, 1, generator=random, dtype=torch.float64))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module is not decision
    }
    smaller = prune_model(model, utilities, 1.5, images_of(1))[0]
    assert isinstance(smaller, Classifier)
    return smaller


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path, Path]:
    """A pruned net with pools, branches and batch norm, and its two files."""
    model, folder = pruned(classifier(INCEPTION)), tmp_path_factory.mktemp("exported")
    export_onnx(model, folder / "model.onnx", examples=images_of(3))
    export_program(model, folder / "model.pt2", examples=images_of(3))
    return model, folder / "model.onnx", folder / "model.pt2"


def logits_of_onnx(content: bytes, images: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    assert isinstance(logits, np.ndarray)
    return logits


def logits_of_program(content: bytes, images: Tensor) -> np.ndarray:
    logits: Tensor = torch.export.load(io.BytesIO(content)).module()(images)
    return logits.detach().numpy()


KINDS = pytest.mark.parametrize(
    ("bytes_of", "logits_of"), [(onnx_bytes, logits_of_onnx), (program_bytes, logits_of_program)]
)


@pytest.mark.parametrize("n", [1, 2, 7, 9, 64])
def test_both_files_give_torchs_logits_for_any_batch_size(
    exported: tuple[Classifier, Path, Path], n: int
) -> None:
    model, onnx_file, program_file = exported
    images = images_of(n, seed=7)
    with torch.no_grad():
        expected = model(images).numpy()
    assert np.abs(expected).max() > 0.01
    for logits in (
        logits_of_onnx(onnx_file.read_bytes(), images),
        logits_of_program(program_file.read_bytes(), images),
    ):
        assert logits.shape == (n, 4)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@KINDS
def test_one_example_image_is_enough_for_any_batch_size(bytes_of: Any, logits_of: Any) -> None:
    """As a validation part of one image has; exporters take a batch of one for a constant."""
    model, images = classifier(RESNET), images_of(5, seed=7)
    content = bytes_of(model, images_of(1))
    with torch.no_grad():
        np.testing.assert_allclose(logits_of(content, images), model(images).numpy(), rtol=1e-4, atol=1e-5)


@KINDS
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_model_without_finite_logits_is_refused_by_name(bytes_of: Any, logits_of: Any, bad: float) -> None:
    """NaN is greater than no tolerance, so that a comparison alone lets it pass."""
    model = classifier(RESNET)
    with torch.no_grad():
        decision_layer(model).bias[1] = bad
    with pytest.raises(InputError, match=r"^resnet: expected finite logits, .*on 3 of 3 images$"):
        bytes_of(model, images_of(3))


@KINDS
def test_one_image_that_gives_no_number_is_enough(bytes_of: Any, logits_of: Any) -> None:
    images = images_of(9)
    images[8] = float("nan")
    with pytest.raises(InputError, match="on 1 of 9 images"):
        bytes_of(classifier(RESNET), images)


@pytest.mark.parametrize("difference", [0.01, float("nan")])
def test_an_export_whose_logits_differ_is_refused_and_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float
) -> None:
    model = classifier(RESNET)
    drop = export._drop_provenance

    def damage(proto: onnx.ModelProto) -> None:
        drop(proto)
        bias = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("decision.bias"))
        values = onnx.numpy_helper.to_array(bias) + np.float32(difference)
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))

    monkeypatch.setattr(export, "_drop_provenance", damage)
    with pytest.raises(
        InputError, match=r"^model\.onnx: resnet: .*ONNX.*expected PyTorch's logits for 1 images"
    ):
        export_onnx(model, tmp_path / "model.onnx", examples=images_of(2))
    assert not list(tmp_path.iterdir())


class TimesItsBatch(nn.Module):
    """Its logits depend on the batch's size in a way that tracing takes for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.decision = nn.Linear(64, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.decision(images.flatten(1)) * int(images.shape[0])
        return logits


@KINDS
def test_a_net_that_only_fits_the_traced_batch_is_refused_in_one_line(
    bytes_of: Any, logits_of: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    net = TimesItsBatch()
    set_blueprint(net, Blueprint("times_its_batch", 4))
    model = Classifier(net, image_shape=(1, 8, 8), mean=[0.4], std=[0.3], classes=CLASSES)
    with pytest.raises(
        InputError, match=r"^times_its_batch: expected a net that .* can hold, got: "
    ) as refused:
        bytes_of(model, images_of(3))
    assert "\n" not in str(refused.value)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert logging.root.manager.disable == 0


def test_what_the_quick_exporter_cannot_hold_goes_by_the_other_one_and_nothing_is_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """VGG's pool is asked for more places than there are."""
    options = {"width": 0.0625, "hidden": (8,), "pool": 3, "stem": "small", "batch_norm": False}
    net = build_model("vgg16", 4, in_channels=1, **options)
    model = Classifier(net, image_shape=(1, 32, 32), mean=[0.4], std=[0.3], classes=CLASSES).eval()
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with pytest.raises(Exception, match="adaptive"):
        export._by_torchscript(model, images)
    content = onnx_bytes(model, images)
    assert onnx.load_from_string(content).producer_name == "pytorch"
    with torch.no_grad():
        np.testing.assert_allclose(
            logits_of_onnx(content, images[:1]), model(images[:1]), rtol=1e-4, atol=1e-5
        )
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


@KINDS
def test_an_export_leaves_the_model_as_it_is(bytes_of: Any, logits_of: Any) -> None:
    model = classifier(RESNET).train()
    model.net.requires_grad_(True)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bytes_of(model, images_of(3))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_both_files_name_the_classes_in_the_order_of_the_logits(
    exported: tuple[Classifier, Path, Path],
) -> None:
    _, onnx_file, program_file = exported
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    of_onnx = session.get_modelmeta().custom_metadata_map
    of_program = {"classes": "", "input": ""}
    torch.export.load(program_file, extra_files=of_program)
    for facts in (of_onnx, of_program):
        assert json.loads(facts["classes"]) == list(CLASSES)
        assert "batch x 1 x 8 x 8" in facts["input"]
        assert "in [0, 1]" in facts["input"]


def hashes() -> list[str]:
    """Of each kind of file that can be exported."""
    model = pruned(classifier(INCEPTION))
    quick = onnx_bytes(model, images_of(3))
    other = export._by_dynamo(model.requires_grad_(False), images_of(2))
    kinds = (quick, other, program_bytes(model, images_of(3)), int8_bytes(quick, images_of(8)))
    return [hashlib.sha256(content).hexdigest() for content in kinds]


_ELSEWHERE = """
import sys
from pathlib import Path
sys.path[:0] = [".", sys.argv[1]]
import test_export
from pipeline import export
assert Path(export.__file__).is_relative_to(Path.cwd())
sys.stdout.write(" ".join(test_export.hashes()))
"""


@pytest.mark.processes
def test_every_process_and_folder_makes_the_same_bytes(tmp_path: Path) -> None:
    """This process, which has done other things before, and a new one with another order of sets."""
    shutil.copytree(ROOT / "pipeline", tmp_path / "another place/pipeline")
    said = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, os.fspath(ROOT / "tests")],
        cwd=tmp_path / "another place",
        env=os.environ | {"PYTHONHASHSEED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=240,
    ).stdout
    here = hashes()
    assert said.split()[-4:] == here
    assert len(set(here)) == 4


def test_files_hold_no_path_of_this_machine_and_none_of_the_users_images(
    exported: tuple[Classifier, Path, Path],
) -> None:
    _, onnx_file, program_file = exported
    with zipfile.ZipFile(program_file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    assert {name.split("/")[0] for name in contents} == {"archive"}  # not the name of a temporary file
    contents["model.onnx"] = onnx_file.read_bytes()
    for trace in (str(ROOT), str(Path.home()), tempfile.gettempdir(), "site-packages", ".py", "/pipeline"):
        assert [name for name, content in contents.items() if trace.encode() in content] == []
    pixels = images_of(3)[0].numpy().tobytes()[:32]
    assert [name for name, content in contents.items() if pixels in content] == []


def test_an_onnx_file_is_valid_with_named_input_and_output(exported: tuple[Classifier, Path, Path]) -> None:
    _, path, _ = exported
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "model.pt2"]
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [value.name for value in proto.graph.input] == ["images"]
    assert [value.name for value in proto.graph.output] == ["logits"]
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert not shape[0].HasField("dim_value")
    assert [dim.dim_value for dim in shape[1:]] == [1, 8, 8]


def test_a_masked_class_hides_no_difference_of_the_others() -> None:
    images = images_of(3)
    expected = torch.tensor([[1.0, 2.0, -1e9]]).repeat(3, 1)
    export._hold(lambda _: expected + 1e-5, [(images, expected)])
    with pytest.raises(ValueError, match=r"got a difference of 0\.5"):
        export._hold(lambda _: expected + torch.tensor([0.5, 0.0, 0.0]), [(images, expected)])
