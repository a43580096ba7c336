import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from pipeline import export
from pipeline.deconv import Utility
from pipeline.export import export_onnx
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, decision_layer
from pipeline.prune import prune_model

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting


def images_of(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


INCEPTION = ("inception", {"stages": (1, 1, 1), "base": (1, 1, 1), "width": 0.125, "stem": "small"})
RESNET = ("resnet", {"config": "c16", "width": 0.25, "stem": "small"})


def classifier(architecture: tuple[str, dict[str, Any]]) -> Classifier:
    torch.manual_seed(0)
    name, options = architecture
    net = build_model(name, 4, in_channels=1, **options)
    model = Classifier(net, image_shape=(1, 8, 8), mean=[0.4], std=[0.3], classes=tuple("abcd"))
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
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path]:
    """A pruned net with pools, branches and batch norm."""
    model, path = pruned(classifier(INCEPTION)), tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(model, path, examples=images_of(3))
    return model, path


@pytest.mark.parametrize("n", [1, 2, 9])
def test_onnxruntime_gives_torchs_logits_for_any_batch_size(
    exported: tuple[Classifier, Path], n: int
) -> None:
    model, path = exported
    images = images_of(n, seed=7)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        expected = model(images).numpy()
    assert logits.shape == (n, 4)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_two_exports_are_the_same_bytes_and_leave_the_weights(tmp_path: Path) -> None:
    files = [tmp_path / "first/model.onnx", tmp_path / "elsewhere/other.onnx"]
    for file in files:
        model = classifier(RESNET)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        export_onnx(model, file, examples=images_of(3))
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_export_holds_no_path_of_this_machine(exported: tuple[Classifier, Path]) -> None:
    _, path = exported
    content = path.read_bytes()
    root = Path(__file__).resolve().parents[1]
    for trace in (str(root), str(Path.home()), tempfile.gettempdir(), "site-packages", ".py", "/pipeline"):
        assert trace.encode() not in content, trace


def test_an_export_is_one_valid_file_with_named_input_and_output(
    exported: tuple[Classifier, Path],
) -> None:
    _, path = exported
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [value.name for value in proto.graph.input] == ["images"]
    assert [value.name for value in proto.graph.output] == ["logits"]
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert not shape[0].HasField("dim_value")
    assert [dim.dim_value for dim in shape[1:]] == [1, 8, 8]


def test_an_export_whose_logits_differ_is_refused_and_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier(RESNET)
    drop = export._drop_provenance

    def damage(proto: onnx.ModelProto) -> None:
        drop(proto)
        bias = next(tensor for tensor in proto.graph.initializer if tensor.name.endswith("decision.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.01, bias.name))

    monkeypatch.setattr(export, "_drop_provenance", damage)
    with pytest.raises(RuntimeError, match="expected ONNX logits equal"):
        export_onnx(model, tmp_path / "model.onnx", examples=images_of(2))
    assert not list(tmp_path.iterdir())
