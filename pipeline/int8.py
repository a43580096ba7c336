"""Eight-bit ONNX by ONNX Runtime's static quantisation: a quarter of the bytes, and other logits."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from pipeline.export import onnx_runner

if TYPE_CHECKING:
    from pipeline.images.parts import Images
    from pipeline.uncertainty import Hits

_AT_A_TIME = 32


class _Images(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images, some at a time, as the file takes them."""

    def __init__(self, images: Tensor) -> None:
        self._batches = iter(torch.split(images, _AT_A_TIME))

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        """The next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch.numpy()}


def int8_bytes(content: bytes, images: Tensor) -> bytes:
    """An ONNX file with weights (a scale for each channel) and activations in eight bits, between QDQ nodes.

    Input, output and the facts in its metadata are those of the float32 file.

    Args:
        content: from `export.onnx_bytes`.
        images: (n, channels, height, width) in [0, 1], from which the activations' ranges are taken.
    """
    with tempfile.TemporaryDirectory() as folder:  # the library works from file to file
        given, prepared, made = (Path(folder) / f"{name}.onnx" for name in ("given", "prepared", "made"))
        given.write_bytes(content)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)  # all shapes but the batch are known
        quantize_static(
            prepared,
            made,
            _Images(images.cpu()),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        proto = onnx.load(made)
    # Preparing declares every set of operators that ONNX Runtime knows; other runtimes know fewer.
    used = {node.domain for node in proto.graph.node}
    for operators in [each for each in proto.opset_import if each.domain not in used]:
        proto.opset_import.remove(operators)
    del proto.metadata_props[:]
    proto.metadata_props.extend(onnx.load_from_string(content).metadata_props)
    onnx.checker.check_model(proto)
    quantised: bytes = proto.SerializeToString(deterministic=True)
    return quantised


def hits_of_onnx(content: bytes, data: Images, *, batch_size: int) -> Hits:
    """Mask (n,) of the images whose label an ONNX file predicts, by ONNX Runtime on the CPU."""
    run = onnx_runner(content)
    logits = torch.cat([run(batch.cpu()) for batch in data.in_batches(batch_size)])
    found: Hits = (logits.argmax(1) == data.labels.cpu()).numpy()
    return found
