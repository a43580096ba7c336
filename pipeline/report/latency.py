"""The page's section on time and bytes: whether fewer FLOPs are less time where a net runs (CVIU 5.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from pipeline.compared import ORIGINAL
from pipeline.report.markdown import bullets, counted, image, percent, section, table, thousands
from pipeline.report.published import LATENCIES

if TYPE_CHECKING:
    from pipeline.report.results import Results

# Less of the FLOP ratio than this has to be explained.
EXPECTED_SHARE = 0.7
# The kernels are those of this runtime.
_PROFILED = "ONNX Runtime"
_PARTS = {
    "weights_ms": "convolutions and linear layers",
    "others_ms": "pooling, other layers and changes of layout",
    "between_ms": "what lies between layers",
}


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a model's pass over a batch."""

    median: float
    p10: float
    p90: float


@dataclass(frozen=True)
class Speedup:
    """How many times fewer FLOPs than the original a model needs, and how many times faster it is."""

    flops: float
    time: float

    @property
    def share(self) -> float:
        """Of the FLOP ratio, what became time."""
        return self.time / self.flops


@dataclass(frozen=True)
class Measured:
    """What one runtime took: by batch and model."""

    runtime: str
    device: str
    precision: str
    layout: str
    timings: Mapping[int, Mapping[str, Timing]]

    @property
    def words(self) -> str:
        """`PyTorch 2.15.0 on a processor`; on a GPU with precision and layout."""
        where = f"{self.runtime} on {self.device}"
        told = self.profiled or self.layout == "own"
        return where if told else f"{where}, {self.precision}, {self.layout.replace('_', ' ')}"

    @property
    def profiled(self) -> bool:
        """Whether the table of kernels is this runtime's."""
        return self.runtime.startswith(_PROFILED)


def measured(results: Results) -> list[Measured]:
    """Every runtime, in the order of the table."""
    found: dict[tuple[str, str, str, str], dict[int, dict[str, Timing]]] = {}
    for row in results.tables["latency"].to_dict("records"):
        key = (str(row["runtime"]), str(row["device"]), str(row["precision"]), str(row["layout"]))
        timing = Timing(*(float(row[f"{each}_ms"]) for each in ("median", "p10", "p90")))
        found.setdefault(key, {}).setdefault(int(row["batch"]), {})[str(row["model"])] = timing
    return [Measured(*key, timings) for key, timings in found.items()]


def speedups(results: Results, timings: Mapping[str, Timing]) -> dict[str, Speedup]:
    """Of one runtime at one batch, by model."""
    flops = _disk(results, "flops")
    original = timings[ORIGINAL].median
    return {
        name: Speedup(flops[ORIGINAL] / flops[name], original / timing.median)
        for name, timing in timings.items()
    }


def latency_section(results: Results) -> str:
    """Files, times of every runtime, whether FLOPs saved are time saved, and what holds it; empty without times."""
    latency = results.params.latency
    if latency is None:
        return ""
    blocks = [
        image(
            "latency", "Times faster against times fewer FLOPs, beside lines of equal gain and of 0.7 of it"
        ),
        f"The models of seed {results.params.seeds[0]}; {latency.runs} runs of each, all models in turn, two untimed "
        f"runs before each timed one; {counted(latency.threads, 'thread')} of the CPU; random images. Times are "
        "medians, in brackets (in the figure as bars) the 10th and 90th percentile. Unlike everything else here they "
        "are measured: another run gives others. Peak memory: weights, "
        f"{counted(max(latency.batches), 'image')} and what is alive at once in a pass of PyTorch on the CPU.",
        _files(results),
    ]
    for each in measured(results):
        blocks += [f"{each.words}:", _times(results, each)]
    blocks += ["Are fewer FLOPs less time?", bullets(_verdicts(results)), *_published(results)]
    return section("Latency and size on disk", *blocks)


def _files(results: Results) -> str:
    peaks = {
        (str(row["model"]), int(row["batch"])): row["peak_bytes"]
        for row in results.tables["latency"].to_dict("records")
        if row["layout"] == "own"
    }
    largest = max(batch for _, batch in peaks)
    columns = [_disk(results, column) for column in ("params", "flops", "weights_bytes", "onnx_bytes")]
    rows = [
        [label, *(thousands(column[name]) for column in columns), thousands(peaks[name, largest])]
        for name, label in timed_models(results).items()
    ]
    return table(
        "model | parameters | FLOPs | safetensors, bytes | ONNX, bytes | peak memory, bytes",
        rows,
    )


def _times(results: Results, of: Measured) -> str:
    """A runtime's table: of each batch the time, how many times faster, and what share of the FLOP ratio that is."""
    header = "model | FLOPs, times fewer"
    cells = {name: [label] for name, label in timed_models(results).items()}
    for idx, (batch, timings) in enumerate(of.timings.items()):
        header += f" | {counted(batch, 'image')}, ms | times faster | of the FLOP ratio"
        shown = {name: ratio for name, ratio in speedups(results, timings).items() if name in cells}
        for name, ratio in shown.items():  # where nothing is grown, the base is the original
            time = timings[name]
            row = cells[name] if idx else [*cells[name], f"{ratio.flops:.2f}"]
            row += [f"{time.median:.3g} [{time.p10:.3g}, {time.p90:.3g}]", f"{ratio.time:.2f}"]
            cells[name] = [*row, f"{ratio.share:.2f}"]
    return table(header, cells.values())


def _verdicts(results: Results) -> Iterator[str]:
    """Of every pruned model of the main flow and every runtime, at the largest batch."""
    for of, (name, label) in product(measured(results), timed_models(results).items()):
        if not name.endswith(("accuracy_first", "parameter_first")):
            continue
        small, large = min(of.timings), max(of.timings)
        found = speedups(results, of.timings[large])[name]
        words = (
            f"{label}, {of.words}, {counted(large, 'image')}: {found.flops:.2f} times fewer FLOPs, "
            f"{_faster(found.time)}, {found.share:.2f} of the FLOP ratio."
        )
        if found.share >= EXPECTED_SHARE:
            yield words
        elif of.profiled:
            yield f"{words} {_what_holds(results, name, found)}"
        else:
            part = of.timings[small][name].median / of.timings[large][name].median
            alone = f" {counted(small, 'image')} alone: {percent(part)} % of the time of {large}."
            yield words + (alone if small < large else "")


def _faster(times: float) -> str:
    return f"{times:.2f} times faster" if times >= 1 else f"slower, {1 / times:.2f} times the original's time"


def _what_holds(results: Results, name: str, speedup: Speedup) -> str:
    """The kernels that are farthest above the original's time over the FLOP ratio, and all of them."""
    kernels = {str(row["model"]): row for row in results.tables["kernels"].to_dict("records")}
    mine, original = ({part: float(kernels[each][part]) for part in _PARTS} for each in (name, ORIGINAL))
    above = {part: mine[part] - original[part] / speedup.flops for part in _PARTS}
    most = max(above, key=lambda part: above[part])
    times = ", ".join(f"{words} {mine[part]:.3g} ({original[part]:.3g})" for part, words in _PARTS.items())
    per_flop = ""
    if most == "weights_ms":
        longer = mine[most] * speedup.flops / original[most]
        per_flop = f", where a FLOP takes {longer:.2f} times as long as in the original: they are narrower"
    return (
        f"Most of what it lacks is in {_PARTS[most]}{per_flop}. Milliseconds of the fastest profiled pass, in brackets "
        f"the original's: {times}. `surgery.round_to` is {results.params.surgery.round_to}; benchmarks/README.md has "
        "what others gave."
    )


def _published(results: Results) -> Iterator[str]:
    """The ratios of CVIU Table 2 beside those of this run, at its smallest batch."""
    name = results.params.report.published
    if name not in LATENCIES:
        return
    whole, pruned = LATENCIES[name]
    columns = ("flops", "cpu_ms", "gpu_ms")
    ratios = [f"{getattr(whole, column) / getattr(pruned, column):.2f}" for column in columns]
    ours = ["", "not in this run", "not in this run"]
    for of in measured(results):
        if of.layout in ("own", "contiguous") and of.precision == "float32" and not of.profiled:
            found = speedups(results, of.timings[min(of.timings)])["parameter_first"]
            ours[0], ours[1 if of.layout == "own" else 2] = f"{found.flops:.2f}", f"{found.time:.2f}"
    yield "Beside the published ratios, which another machine gave:"
    yield table(
        "original and pruned model | FLOPs, times fewer | CPU, times faster | GPU, times faster",
        [[f"{whole.what}, {whole.source}", *ratios], ["parameter first, PyTorch", *ours]],
    )


def timed_models(results: Results) -> dict[str, str]:
    """The timed models by name, with their names for readers."""
    timed = set(results.tables["disk"]["model"])
    return {name: label for name, label in results.models().items() if name in timed}


def _disk(results: Results, column: str) -> dict[str, float]:
    disk = results.tables["disk"]
    return dict(zip(map(str, disk["model"]), map(float, disk[column]), strict=True))
