"""No subnormal number in a saved or exported model: a processor takes a hundred times as long over each."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from pipeline.checkpoint import load_model, save_model
from pipeline.export import onnx_bytes
from pipeline.models import build_model
from pipeline.models.classifier import Classifier

TINY = float(np.finfo(np.float32).tiny)


def n_subnormal(values: np.ndarray) -> int:
    return int(((values != 0) & (np.abs(values) < TINY)).sum())


@pytest.fixture
def classifier() -> Classifier:
    """A net whose first batch norm has a channel that died: what training leaves of its weights and statistics."""
    torch.set_flush_denormal(False)
    torch.manual_seed(0)
    net = build_model("resnet", 4, in_channels=1, config="c16", width=0.25, stem="small")
    model = Classifier(net, image_shape=(1, 8, 8), mean=[0.4], std=[0.3], classes=tuple("abcd")).eval()
    batch_norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    with torch.no_grad():
        for tensor in (batch_norm.weight, batch_norm.bias, batch_norm.running_mean, batch_norm.running_var):
            assert tensor is not None
            tensor[0], tensor[1] = 1e-41, 1.5 * TINY
    return model


def test_a_saved_model_has_none_and_everything_else_as_it_was(classifier: Classifier, tmp_path: Path) -> None:
    before = {name: tensor.numpy().copy() for name, tensor in classifier.state_dict().items()}
    assert sum(map(n_subnormal, before.values())) == 4
    save_model(classifier, tmp_path / "model")
    saved = load_file(tmp_path / "model.safetensors")
    assert sum(map(n_subnormal, saved.values())) == 0
    for name, values in before.items():
        expected = np.where(np.abs(values) < TINY, 0, values)
        assert (saved[name] == expected).all(), name
        assert saved[name].dtype == values.dtype
    # The model itself is not touched, and the one from disk says the same of images.
    assert sum(n_subnormal(tensor.numpy()) for tensor in classifier.state_dict().values()) == 4
    images = torch.rand(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "model")(images), classifier(images))


def test_batch_norm_folded_into_its_convolution_leaves_none_in_the_onnx_file(classifier: Classifier) -> None:
    """Two numbers that are normal each, with a product that is not."""
    convolution = next(module for module in classifier.modules() if isinstance(module, nn.Conv2d))
    batch_norm = next(module for module in classifier.modules() if isinstance(module, nn.BatchNorm2d))
    with torch.no_grad():
        convolution.weight[0], batch_norm.weight[0] = 1e-20, 1e-20
    examples = torch.rand(2, 1, 8, 8)
    proto = onnx.load_model_from_string(onnx_bytes(classifier, examples))
    arrays = [onnx.numpy_helper.to_array(each) for each in proto.graph.initializer]
    arrays += [
        onnx.numpy_helper.to_array(attribute.t)
        for node in proto.graph.node
        for attribute in node.attribute
        if attribute.HasField("t")
    ]
    assert not any(node.op_type == "BatchNormalization" for node in proto.graph.node), "it is folded"
    assert sum(n_subnormal(array) for array in arrays if array.dtype == np.float32) == 0
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        expected = classifier(images).numpy()
    np.testing.assert_allclose(
        session.run(["logits"], {"images": images.numpy()})[0], expected, rtol=1e-4, atol=1e-5
    )
