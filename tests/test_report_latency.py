"""The report's section on time and bytes, from hand-made tables: ratios, verdicts, what holds a net, the figure."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_builders import results_with, write_run
from tiny_params import LATENCY, Change, params_of

from pipeline.report.charts.robustness import latency_figure
from pipeline.report.latency import latency_section, measured, speedups
from pipeline.report.results import Results, load_results

NAMES = (
    "original",
    "base",
    "control",
    "pushed",
    "accuracy_first",
    "parameter_first",
    "l1_at_size",
    "ours_at_size",
)
# FLOPs: a half of the original's, and a quarter.
FLOPS = dict.fromkeys(NAMES, 8000) | {"accuracy_first": 4000, "parameter_first": 2000}
# Milliseconds of 4 images: as many times faster as the FLOPs are fewer, and twice as fast with a quarter of them.
TIMES = dict.fromkeys(NAMES, 12.0) | {"accuracy_first": 6.0, "parameter_first": 6.0}
CPU = ("PyTorch 2", "a processor", "float32", "own")
ONNX = ("ONNX Runtime 1", "a processor", "float32", "contiguous")
GPU = ("PyTorch 2", "a GPU", "float32", "contiguous")
# Of 12 ms in all: with weights, without, between.
KERNELS = dict.fromkeys(NAMES, (9.0, 2.0, 1.0)) | {"parameter_first": (4.5, 1.0, 0.5)}


def results(
    *changes: Change,
    runtimes: tuple[tuple[str, str, str, str], ...] = (CPU, ONNX),
    kernels: dict[str, tuple[float, float, float]] = KERNELS,
    times: dict[str, float] = TIMES,
) -> Results:
    """One image takes a quarter of the time of four, but 5 ms where it is the parameter-first model."""
    rows: list[dict[str, Any]] = []
    for runtime, device, precision, layout in runtimes:
        where = {"runtime": runtime, "device": device, "precision": precision, "layout": layout}
        for batch in (1, 4):
            for name in NAMES:
                ms = times[name] if batch == 4 else 3.0 if name == "parameter_first" else times[name] / 4
                spread = {"median_ms": ms, "p10_ms": 0.9 * ms, "p90_ms": 1.5 * ms}
                peak = 1000 * batch + FLOPS[name] if layout == "own" else None
                rows.append({"seed": 0, "model": name, **where, "batch": batch, **spread, "peak_bytes": peak})
    disk = [
        {"model": name, "params": 5000, "flops": FLOPS[name], "weights_bytes": 20_480, "onnx_bytes": 20_123}
        for name in NAMES
    ]
    found = [
        {"model": name, **dict(zip(("weights_ms", "others_ms", "between_ms"), each, strict=True))}
        for name, each in kernels.items()
    ]
    tables = {"latency": pd.DataFrame(rows), "disk": pd.DataFrame(disk), "kernels": pd.DataFrame(found)}
    return results_with(params_of(("latency", LATENCY), *changes), tables)


def cells(page: str, label: str) -> list[list[str]]:
    """The rows of a model, table by table."""
    found = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [row for row in found if row[0] == label]


def verdicts(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("* ")]


def test_a_model_is_as_many_times_faster_as_its_median_is_under_the_originals() -> None:
    mine = results()
    first, second = measured(mine)
    assert (first.runtime, second.runtime) == ("PyTorch 2", "ONNX Runtime 1")
    found = speedups(mine, first.timings[4])
    assert (found["accuracy_first"].flops, found["accuracy_first"].time) == (2, 2)
    assert (found["parameter_first"].flops, found["parameter_first"].time) == (4, 2)
    assert found["parameter_first"].share == 0.5
    assert speedups(mine, first.timings[1])["parameter_first"].time == 1


def test_tables_have_sizes_times_with_their_spread_and_both_ratios() -> None:
    page = latency_section(results())
    files, of_torch, of_onnx = cells(page, "pruned, parameter first")
    # The peak is that of the larger batch.
    assert files[1:] == ["5,000", "2,000", "20,480", "20,123", "6,000"]
    expected = ["4.00", "3 [2.7, 4.5]", "1.00", "0.25", "6 [5.4, 9]", "2.00", "0.50"]
    assert of_torch[1:] == of_onnx[1:] == expected
    assert "PyTorch 2 on a processor:" in page
    assert "1 thread of the CPU" in page
    assert "50 runs of each" in page
    assert [row[0] for row in cells(page, "l1 at 0.5")] == 3 * ["l1 at 0.5"]


def test_where_nothing_is_grown_the_base_is_the_original_and_has_no_row() -> None:
    assert cells(latency_section(results()), "before growing")
    assert not cells(latency_section(results(("grow", None))), "before growing")


def test_a_verdict_for_each_runtime_says_what_share_of_the_flops_became_time() -> None:
    said = verdicts(latency_section(results()))
    assert len(said) == 4
    good, bad = said[0], said[1]
    assert good == (
        "* pruned, accuracy first, PyTorch 2 on a processor, 4 images: 2.00 times fewer FLOPs, 2.00 times faster, "
        "1.00 of the FLOP ratio."
    )
    assert bad.endswith("0.50 of the FLOP ratio. 1 image alone: 50.00 % of the time of 4.")


@pytest.mark.parametrize(
    ("kernels", "said"),
    [
        # Layers with weights twice as fast at a quarter of the FLOPs.
        ((4.5, 1.0, 0.5), r"in convolutions and linear layers, where a FLOP takes 2\.00 times as long"),
        # Four times as fast, but what has no FLOPs takes as long as before, or the calls between.
        ((2.25, 2.5, 1.25), r"in pooling, other layers and changes of layout\."),
        ((2.25, 0.5, 3.25), r"in what lies between layers\."),
    ],
)
def test_what_holds_a_net_is_told_by_its_kernels(kernels: tuple[float, float, float], said: str) -> None:
    page = latency_section(results(kernels=KERNELS | {"parameter_first": kernels}))
    sentence = verdicts(page)[3]
    assert "ONNX Runtime 1" in sentence
    assert re.search(f"Most of what it lacks is {said}", sentence), sentence
    assert f"linear layers {kernels[0]:.3g} (9)" in sentence
    assert f"changes of layout {kernels[1]:.3g} (2)" in sentence
    assert f"between layers {kernels[2]:.3g} (1)" in sentence
    assert "`surgery.round_to` is 1;" in sentence


@pytest.mark.parametrize(("ms", "held"), [(4.2, False), (4.4, True)])
def test_seven_tenths_of_the_flop_ratio_need_no_reason(ms: float, held: bool) -> None:
    """12 / 4.2 is 2.86, 0.71 of four."""
    sentence = verdicts(latency_section(results(times=TIMES | {"parameter_first": ms})))[3]
    assert ("Most of what it lacks" in sentence) == held


@pytest.mark.parametrize(("runtimes", "ours"), [((CPU, ONNX), "not in this run"), ((CPU, GPU, ONNX), "1.00")])
def test_the_published_ratios_stand_beside_ours(
    runtimes: tuple[tuple[str, str, str, str], ...], ours: str
) -> None:
    """CVIU Table 2: 10.7 and 5.1 GFLOPs, 432.4 and 189.0 ms on the CPU, 53.5 and 39.8 ms on the GPU."""
    page = latency_section(results(("report.published", "imagenet"), runtimes=runtimes))
    ((_, *published),) = cells(page, "Inception-88, CVIU Table 2")
    assert published == ["2.10", "2.29", "1.34"]
    ((_, *mine),) = cells(page, "parameter first, PyTorch")
    assert mine == ["4.00", "1.00", ours]
    assert "CVIU" not in latency_section(results(("report.published", "mnist")))


def test_a_gpus_runtimes_are_told_apart_by_precision_and_layout() -> None:
    last = ("PyTorch 2", "a GPU", "bfloat16", "channels_last")
    page = latency_section(results(runtimes=(CPU, GPU, last, ONNX)))
    assert "PyTorch 2 on a GPU, float32, contiguous:" in page
    assert "PyTorch 2 on a GPU, bfloat16, channels last:" in page


@pytest.mark.parametrize("runtimes", [(CPU, ONNX), (CPU, GPU, ONNX)])
def test_the_figure_has_a_panel_for_each_runtime_and_batch_and_every_model_at_its_ratios(
    runtimes: tuple[tuple[str, str, str, str], ...],
) -> None:
    figure = latency_figure(results(runtimes=runtimes))
    assert figure is not None
    points = set()
    for spec in figure.specs():
        rows = [row for rows in spec["datasets"].values() for row in rows if "who" in row]
        assert len(rows) == len(NAMES)
        points |= {(row["flops"], row["faster"]) for row in rows}
    assert len(figure.specs()) == 2 * len(runtimes)
    assert points == {(2, 2), (4, 2), (4, 1), (1, 1)}


def test_without_the_section_nothing_is_said_or_drawn() -> None:
    mine = results_with(params_of(), {})
    assert latency_section(mine) == ""
    assert latency_figure(mine) is None


def test_the_tables_that_the_stage_leaves_are_read(tmp_path: Path) -> None:
    params = params_of(("latency", LATENCY), ("seeds", [0, 1]))
    write_run(tmp_path, params)
    page = latency_section(load_results(params, tmp_path))
    assert len(verdicts(page)) == 4
    assert "The models of seed 0" in page
