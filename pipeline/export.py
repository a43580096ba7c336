"""Files for other runtimes, ONNX and `torch.export`: they need nothing of this project, and give PyTorch's logits.

Both take `images`, float32 (batch, channels, height, width) in [0, 1] with any batch size, and give `logits`
(batch, classes); both carry the facts of `facts_of`. The same model gives the same bytes in every folder.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.files import write_atomically
from pipeline.models.classifier import is_foreign

if TYPE_CHECKING:
    from pipeline.models.classifier import Classifier

_TOLERANCE = 1e-4
# Held besides all examples at once: exporters that take a batch for a constant show it at these.
_BATCHES = (1, 2, 7)


def facts_of(model: Classifier) -> dict[str, str]:
    """What a file says besides its net: `classes`, a JSON list in the order of the logits, and `input`, a sentence.

    ONNX has them in its metadata, a `.pt2` archive as extra files.
    """
    shape = " x ".join(str(n) for n in model.image_shape)
    return {
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "input": f"images: float32, batch x {shape} (channels, height, width), in [0, 1]; normalisation is inside",
    }


def export_onnx(model: Classifier, path: Path, *, examples: Tensor) -> None:
    """Write `onnx_bytes` to a file, whole or not at all; errors name it."""
    _write(path, onnx_bytes, model, examples)


def export_program(model: Classifier, path: Path, *, examples: Tensor) -> None:
    """Write `program_bytes` to a file, whole or not at all; errors name it."""
    _write(path, program_bytes, model, examples)


def _write(
    path: Path, bytes_of: Callable[[Classifier, Tensor], bytes], model: Classifier, examples: Tensor
) -> None:
    try:
        write_atomically(path, bytes_of(model, examples))
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None


def onnx_bytes(model: Classifier, examples: Tensor) -> bytes:
    """A model as ONNX.

    The TorchScript-based exporter needs a tenth of the other one's seconds, and comes first for as long as torch
    has it; nets that it cannot export or exports wrongly (AlexNet at 64 pixels) go by `dynamo=True`.

    Args:
        model: left untouched.
        examples: (n, channels, height, width) in [0, 1], at least one real image to hold the logits on.

    Raises:
        InputError: if the model's own logits are not finite, or no export gives them to 1e-4 of their largest
            magnitude.
    """
    return _exported(model, examples, "ONNX", (_by_torchscript, _by_dynamo), onnx_runner)


def program_bytes(model: Classifier, examples: Tensor) -> bytes:
    """A model as a `.pt2` archive: `torch.export.load(file).module()(images)`.

    Args, Raises: as for `onnx_bytes`.
    """
    return _exported(model, examples, "torch.export", (_by_torch_export,), _program_runner)


def onnx_runner(content: bytes) -> Callable[[Tensor], Tensor]:
    """From images to logits by ONNX Runtime on the CPU, with as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what it says of errors comes with the exception
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _program_runner(content: bytes) -> Callable[[Tensor], Tensor]:
    return torch.export.load(io.BytesIO(content)).module()


@torch.no_grad()
def _exported(
    model: Classifier,
    examples: Tensor,
    kind: str,
    exporters: tuple[Callable[[Classifier, Tensor], bytes], ...],
    runner: Callable[[bytes], Callable[[Tensor], Tensor]],
) -> bytes:
    """What the first exporter makes whose logits are the model's."""
    found = getattr(model.net, "blueprint", None)
    architecture = found.architecture if found else type(model.net).__name__
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    examples = examples.cpu()
    repeated = examples.repeat(-(-max(_BATCHES) // len(examples)), 1, 1, 1)
    held = [(images, model(images)) for images in (*(repeated[:n] for n in _BATCHES), examples)]
    finite = held[-1][1].isfinite().all(1)
    if not finite.all():
        n_bad = int((~finite).sum())
        raise InputError(
            f"{architecture}: expected finite logits, got NaN or infinity on {n_bad} of {len(examples)} images"
        )
    for exporter in exporters:
        try:
            # A batch of one would be taken for a constant.
            with _silence():
                content = exporter(model, repeated[:2])
            _hold(runner(content), held)
        except Exception as error:  # exporters and runtimes raise whatever they run into
            error = (
                error.__cause__ if isinstance(error.__cause__, Exception) else error
            )  # not how to report it
            reason = " ".join(str(error).split())[:200] or type(error).__name__
        else:
            return content
    raise InputError(f"{architecture}: expected a net that {kind} can hold, got: {reason}")


@contextmanager
def _silence() -> Iterator[None]:
    """Exporters narrate, and log pages where they fail; what counts comes with the exception."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _hold(run: Callable[[Tensor], Tensor], held: list[tuple[Tensor, Tensor]]) -> None:
    """Compare the logits of every batch; a NaN is no smaller than the tolerance."""
    for images, expected in held:
        difference = (run(images) - expected).abs()
        # Each class by its own magnitude: one that is masked by a large number would hide the others.
        if not bool((difference <= _TOLERANCE * expected.abs().amax(0).clamp_min(1.0)).all()):
            raise ValueError(
                f"expected PyTorch's logits for {len(images)} images, got a difference of {float(difference.max()):.3g}"
            )


def _by_torchscript(model: Classifier, images: Tensor) -> bytes:
    buffer, batch = io.BytesIO(), {0: "batch"}
    # On failure it would print the whole graph: torch turns that log on, whatever it is told.
    with warnings.catch_warnings(), patch.object(torch._C, "_jit_set_onnx_log_enabled"):
        # Deprecated since torch 2.9, without a date; once it is gone `_by_dynamo` is what is left.
        warnings.filterwarnings(
            "ignore", "You are using the legacy TorchScript-based ONNX", DeprecationWarning
        )
        warnings.filterwarnings("ignore", "The feature will be removed", DeprecationWarning)
        # What depends on the traced batch shows in the logits of other ones, a branch on what images show may not:
        # such nets of a user's go by the other exporter, which knows it from one on their shape.
        warnings.simplefilter("error" if is_foreign(model) else "ignore", torch.jit._trace.TracerWarning)
        torch.onnx.export(
            model,
            (images,),
            buffer,  # type: ignore[arg-type]
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes={"images": batch, "logits": batch},
            opset_version=18,
            dynamo=False,
        )
    return _finished(onnx.load_from_string(buffer.getvalue()), model)


def _by_dynamo(model: Classifier, images: Tensor) -> bytes:
    program = torch.onnx.export(
        model,
        (images,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    if program is None:
        raise RuntimeError("the exporter returned no ONNX program")
    return _finished(program.model_proto, model)


def _finished(proto: onnx.ModelProto, model: Classifier) -> bytes:
    """Without provenance and subnormals, with the facts, and valid."""
    _drop_provenance(proto)
    _flush_subnormals(proto)
    onnx.helper.set_model_props(proto, facts_of(model))
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


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


def _by_torch_export(model: Classifier, images: Tensor) -> bytes:
    """In memory: an archive's inner folder has the name of the file that it is written to."""
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # with the checkout's paths
    program.example_inputs = None  # the user's own images
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A filter that is laid out channels last is taken for a part of something larger; it is saved whole.
        warnings.filterwarnings("ignore", "No complete tensor found in the group", UserWarning)
        torch.export.save(program, buffer, extra_files=facts_of(model))
    return buffer.getvalue()
