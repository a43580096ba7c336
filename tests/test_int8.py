"""Eight-bit ONNX: smaller, near the float32 file's logits, scored as ONNX Runtime scores it."""

import json
from pathlib import Path

import builders
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from test_export import CLASSES
from tiny_params import params_of
from torch import Tensor

from pipeline.compared import int8_models
from pipeline.export import onnx_bytes
from pipeline.int8 import hits_of_onnx, int8_bytes
from pipeline.models import build_model
from pipeline.models.classifier import Classifier

torch.set_num_threads(1)  # on nets this small two threads spend their time waiting


def images_of(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def files() -> tuple[bytes, bytes]:
    """Of a net with 90,000 weights, so that scales and zero points weigh less than what they save."""
    torch.manual_seed(0)
    net = build_model("resnet", 4, in_channels=1, config="c32-c64", width=1.0, stem="small")
    model = Classifier(net, image_shape=(1, 8, 8), mean=[0.4], std=[0.3], classes=CLASSES)
    model.train()(images_of(64))
    content = onnx_bytes(model.eval(), images_of(3))
    return content, int8_bytes(content, images_of(40))


def logits_of(content: bytes, images: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    assert isinstance(logits, np.ndarray)
    return logits


def test_logits_stay_near_at_any_batch_size_and_the_file_is_smaller(files: tuple[bytes, bytes]) -> None:
    whole, eight = files
    assert len(eight) < 0.5 * len(whole)
    for n in (1, 2, 7, 64):
        expected, found = (logits_of(content, images_of(n, seed=3)) for content in files)
        spread = np.abs(expected - expected.mean(1, keepdims=True)).max()
        assert 0 < np.abs(found - expected).mean() < 0.05 * spread


def test_every_convolution_has_eight_bit_weights_with_a_scale_for_each_filter(
    files: tuple[bytes, bytes],
) -> None:
    proto = onnx.load_from_string(files[1])
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    made = {node.output[0]: node for node in proto.graph.node}
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 3
    for node in convolutions:
        weight = made[node.input[1]]
        assert weight.op_type == "DequantizeLinear"
        assert tensors[weight.input[0]].dtype == np.int8
        assert tensors[weight.input[1]].shape == (len(tensors[weight.input[0]]),)


def test_names_facts_and_operators_are_those_of_the_whole_file(files: tuple[bytes, bytes]) -> None:
    """Operators that ONNX Runtime alone has would bind the file to it."""
    whole, eight = (onnx.load_from_string(content) for content in files)
    for proto in (whole, eight):
        assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == ["images", "logits"]
        assert {each.domain for each in proto.opset_import} == {""}
    facts = [{each.key: each.value for each in proto.metadata_props} for proto in (whole, eight)]
    assert facts[0] == facts[1]
    assert json.loads(facts[1]["classes"]) == list(CLASSES)


def test_ranges_come_from_the_calibration_images(files: tuple[bytes, bytes]) -> None:
    """From dark images the ranges are too narrow, and bright ones are cut off."""
    whole, eight = files
    dark = int8_bytes(whole, 0.02 * images_of(40))
    images = images_of(64, seed=3)
    expected, good, bad = (logits_of(content, images) for content in (whole, eight, dark))
    assert np.abs(bad - expected).mean() > 5 * np.abs(good - expected).mean()


@pytest.mark.parametrize("batch_size", [2, 7, 1000])
def test_hits_are_those_of_onnx_runtime(files: tuple[bytes, bytes], batch_size: int) -> None:
    data = builders.parts().validation
    logits = logits_of(files[1], data.scaled())
    expected = logits.argmax(1) == data.labels.numpy()
    assert 0 < expected.sum() <= len(data)
    assert np.array_equal(hits_of_onnx(files[1], data, batch_size=batch_size), expected)


def test_the_parameter_first_models_have_eight_bit_files_where_params_ask_for_them() -> None:
    asked = params_of(("select.int8", {"calibration_images": 8}))
    found = int8_models(Path("runs/tiny"), 3, None, asked.select)
    assert found == {"parameter_first_int8": Path("runs/tiny/select/3/pushed/parameter_first.int8.onnx")}
    assert int8_models(Path("runs/tiny"), 3, None, params_of(("select.int8", None)).select) == {}
