"""ONNX beside the weights: what other runtimes load, held against the PyTorch model's own output."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from pipeline.files import write_atomically

if TYPE_CHECKING:
    from pipeline.models.classifier import Classifier

_TOLERANCE = 1e-4


def export_onnx(model: Classifier, path: Path, *, examples: Tensor) -> None:
    """Write an ONNX file: input `images` (batch, channels, height, width) in [0, 1], output `logits`.

    The batch size is free. Before anything is written, the exported model is run on `examples` (at least 2
    images) and compared with the original.

    Raises:
        RuntimeError: if the logits differ by more than 1e-4 of their largest magnitude.
    """
    model = model.cpu().eval()
    with redirect_stdout(io.StringIO()):  # the exporter narrates
        program = torch.onnx.export(
            model,
            (examples[:2],),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("the exporter returned no ONNX program")
    proto = program.model_proto
    _drop_provenance(proto)
    onnx.checker.check_model(proto)
    content = proto.SerializeToString(deterministic=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (exported,) = session.run(["logits"], {"images": examples.numpy()})
    with torch.no_grad():
        expected = model(examples).numpy()
    difference = float(np.abs(exported - expected).max())
    if difference > _TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise RuntimeError(f"expected ONNX logits equal to PyTorch's, got a difference of {difference:.3g}")
    write_atomically(path, content)


def onnx_bytes(model: Classifier, examples: Tensor) -> bytes:
    """The model as an ONNX file's content: input `images` of any batch size, output `logits`; no subnormal in it.

    By the exporter of TorchScript, which takes a tenth of the time of `torch.export`'s.
    """
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says of itself that there is a newer one
        torch.onnx.export(
            model.cpu().eval(),
            (examples,),
            content,  # type: ignore[arg-type]
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": {0: "batch"}, "logits": {0: "batch"}},
            dynamo=False,
        )
    proto = onnx.load_model_from_string(content.getvalue())
    _drop_provenance(proto)
    _flush_subnormals(proto)
    return bytes(proto.SerializeToString(deterministic=True))


def _flush_subnormals(proto: onnx.ModelProto) -> None:
    """Where batch norm is folded into its convolution two small numbers make one that processors crawl over."""
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.raw_data:
            values = np.frombuffer(tensor.raw_data, dtype="<f4")
            tiny = np.abs(values) < np.finfo(np.float32).tiny
            tensor.raw_data = np.where(tiny, np.float32(0), values).astype("<f4").tobytes()


def _drop_provenance(proto: onnx.ModelProto) -> None:
    """Remove stack traces and file paths, which differ from checkout to checkout."""
    holders = [proto.graph, *proto.graph.node, *proto.graph.initializer, *proto.graph.value_info]
    holders += [*proto.graph.input, *proto.graph.output, *proto.functions]
    for function in proto.functions:
        holders += list(function.node)
    for holder in holders:
        del holder.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string = ""
