"""How long a forward pass takes, where in the net the time goes, what memory it needs, and bytes on disk.

Times are measured: a second run gives others. So nothing but the report reads them, and `MEASURED` names their columns;
everything else here repeats bit for bit on the CPU.
"""

from __future__ import annotations

import copy
import json
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.benchmark import Timer

from pipeline.machine.processor import processor_name

if TYPE_CHECKING:
    from pipeline.models.classifier import Classifier

# Columns of `latency.csv` and `kernels.csv` that another measurement of the same models on the same machine changes.
MEASURED = ("median_ms", "p10_ms", "p90_ms", "weights_ms", "others_ms", "between_ms")

# Passes of which the fastest counts where ONNX Runtime tells of its kernels: one that nothing has interrupted.
_PROFILED_RUNS = 21
# ONNX Runtime's kernels that have weights: those of convolutions and linear layers, with what is fused into them.
_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")

Call = Callable[[], object]


@dataclass(frozen=True)
class Runtime:
    """Who computes a forward pass of PyTorch's, and how; `layout`: of weights and images, `own` is the model's."""

    device: torch.device
    precision: str
    layout: str


def pytorch_runtimes(device: torch.device) -> list[Runtime]:
    """The CPU; and on a CUDA device both layouts in float32 and bfloat16."""
    found = [Runtime(torch.device("cpu"), "float32", "own")]
    if device.type == "cuda":
        found += [
            Runtime(device, precision, layout)
            for precision in ("float32", "bfloat16")
            for layout in ("contiguous", "channels_last")
        ]
    return found


def measure_latency(
    models: Mapping[str, Classifier],
    exported: Mapping[str, bytes],
    device: torch.device,
    *,
    batches: Sequence[int],
    runs: int,
    threads: int,
) -> Iterator[dict[str, Any]]:
    """A row for each model, runtime and batch: times in milliseconds, and of PyTorch's the peak memory in bytes.

    Args:
        models: on the CPU.
        exported: the same models' ONNX files.
        device: beside the CPU, if it is another one.
        batches: images at a time.
        runs: timed ones of each model at each batch, after two untimed ones each.
        threads: of the CPU, also for ONNX Runtime.
    """
    for runtime in pytorch_runtimes(device):
        moved = {name: move(model, runtime) for name, model in models.items()}
        on_cpu = runtime.device.type == "cpu"
        shared = {
            "runtime": f"PyTorch {torch.__version__}",
            "device": processor_name() if on_cpu else torch.cuda.get_device_name(runtime.device),
            "precision": runtime.precision,
            "layout": runtime.layout,
        }
        for batch in batches:
            inputs = {name: _images(model, batch) for name, model in moved.items()}
            with _as_users_run_it(threads):
                calls = {name: _forward(model, inputs[name]) for name, model in moved.items()}
                seconds = time_in_turn(calls, runs=runs, threads=threads)
            for name, model in moved.items():
                peak = peak_memory(model, inputs[name])
                yield _row(name, shared, batch, threads, seconds[name], peak)
    shared = {"runtime": f"ONNX Runtime {onnxruntime.__version__}", "device": processor_name()}
    shared |= {"precision": "float32", "layout": "contiguous"}
    sessions = {name: onnx_session(content, threads) for name, content in exported.items()}
    for batch in batches:
        calls = {name: _run(sessions[name], _images(model, batch)) for name, model in models.items()}
        for name, times in time_in_turn(calls, runs=runs, threads=threads).items():
            yield _row(name, shared, batch, threads, times, None)


def move(model: Classifier, runtime: Runtime) -> Classifier:
    """The model as a runtime has it, in evaluation mode: a copy, unless it is the model's own runtime."""
    if runtime.layout == "own":
        return model.eval()
    layout = torch.channels_last if runtime.layout == "channels_last" else torch.contiguous_format
    moved = (
        copy.deepcopy(model).to(runtime.device, getattr(torch, runtime.precision)).to(memory_format=layout)
    )
    moved.layout = layout
    return moved.eval()


def time_in_turn(calls: Mapping[str, Call], *, runs: int, threads: int) -> dict[str, list[float]]:
    """Seconds of each call, `runs` of them: round by round, so that the machine's bad moments are everyone's.

    `Timer` makes two untimed calls before each timed one, so that none finds the caches that another has left.
    """
    timers = {
        name: Timer("call()", globals={"call": call}, num_threads=threads) for name, call in calls.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, timer in timers.items():
            seconds[name].append(timer.timeit(1).mean)
    return seconds


def peak_memory(model: nn.Module, images: Tensor) -> int:
    """Bytes of the weights, the images, and all that is alive at once in a forward pass.

    On CUDA by the allocator's own count. On the CPU by the tensors that the operations return: what an operation needs
    within itself is not seen there.
    """
    own = [*model.parameters(), *model.buffers(), images]
    n_own = sum(tensor.untyped_storage().nbytes() for tensor in own)
    with torch.no_grad():
        if images.device.type == "cuda":
            model(images)  # libraries take their workspaces once
            torch.cuda.reset_peak_memory_stats(images.device)
            before = torch.cuda.memory_allocated(images.device)
            model(images)
            peak: int = torch.cuda.max_memory_allocated(images.device)
            return n_own + peak - before
        with _LiveTensors(own) as live:
            model(images)
    return int(n_own + live.peak)


def profile_kernels(
    exported: Mapping[str, bytes], images: Mapping[str, Tensor], *, threads: int
) -> Iterator[dict[str, Any]]:
    """A row for each model: milliseconds in ONNX Runtime by who takes them, in the fastest of passes in turn.

    `weights_ms` in convolutions and linear layers, `others_ms` in all other kernels, `between_ms` outside of both.
    """
    with TemporaryDirectory() as folder:
        sessions = {
            name: onnx_session(content, threads, Path(folder, name)) for name, content in exported.items()
        }
        for _ in range(_PROFILED_RUNS):
            for name, session in sessions.items():
                for _again in range(2):  # the first finds the caches that another model has left
                    session.run(None, {"images": images[name].numpy()})
        for name, session in sessions.items():
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            found = [_rounded(us / 1000) for us in min([*_passes(events)][1::2], key=sum)]
            times = dict(zip(("weights_ms", "others_ms", "between_ms"), found, strict=True))
            yield {"model": name, "batch": len(images[name]), "threads": threads, **times}


def random_images(model: Classifier, n: int) -> Tensor:
    """Pixels in [0, 1], float32 (n, channels, height, width), the same every time."""
    return torch.rand(n, *model.image_shape, generator=torch.Generator().manual_seed(n))


@cache
def _share_arena() -> None:
    """One memory for the activations of all sessions, of which one runs at a time: VGG-16's are 2 GB for 32 images."""
    kind, default = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", kind, 0, default), None)


def onnx_session(content: bytes, threads: int, profile: Path | None = None) -> onnxruntime.InferenceSession:
    """On so many threads of the CPU; with a file name's beginning for its profile, if it is to write one."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    _share_arena()
    options.add_session_config_entry("session.use_env_allocators", "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, os.fspath(profile)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages of tensors that operations return, as long as somebody holds them; views count once."""

    def __init__(self, own: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._own = {tensor.untyped_storage().data_ptr() for tensor in own}
        self._live: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in self._own:
                storage = tensor.untyped_storage()  # the same object as long as somebody holds the memory
                if id(storage) not in self._live:
                    self._live[id(storage)] = storage.nbytes()
                    weakref.finalize(storage, self._live.pop, id(storage))
        self.peak = max(self.peak, sum(self._live.values()))
        return result


@contextmanager
def _as_users_run_it(threads: int) -> Iterator[None]:
    """Without gradients, and without the determinism that stages ask for, which forbids the faster algorithms."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    n_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(n_threads)
        torch.set_deterministic_debug_mode(before)


def _images(model: Classifier, batch: int) -> Tensor:
    return random_images(model, batch).to(model.mean.device, model.mean.dtype)


def _forward(model: nn.Module, images: Tensor) -> Call:
    return lambda: model(images)


def _run(session: onnxruntime.InferenceSession, images: Tensor) -> Call:
    inputs = {"images": images.numpy()}
    return lambda: session.run(None, inputs)


def _passes(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, float, float]]:
    """Microseconds of each pass in a profile: with weights, other kernels, between."""
    kernels = [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    for whole in (event for event in events if event["name"] == "model_run"):
        mine = [each for each in kernels if 0 <= each["ts"] - whole["ts"] < whole["dur"]]
        weights = sum(each["dur"] for each in mine if each["args"]["op_name"].endswith(_WITH_WEIGHTS))
        others = sum(each["dur"] for each in mine) - weights
        yield weights, others, max(0.0, whole["dur"] - weights - others)


def _row(
    name: str,
    shared: Mapping[str, str],
    batch: int,
    threads: int,
    seconds: Sequence[float],
    peak: int | None,
) -> dict[str, Any]:
    p10, p50, p90 = (_rounded(1000 * value) for value in np.percentile(seconds, [10, 50, 90]))
    times = {"runs": len(seconds), "median_ms": p50, "p10_ms": p10, "p90_ms": p90}
    return {"model": name, **shared, "batch": batch, "threads": threads, **times, "peak_bytes": peak}


def _rounded(milliseconds: float) -> float:
    """To microseconds, which is what the clock can tell."""
    return round(float(milliseconds), 3)
