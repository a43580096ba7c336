"""Times in turn, peak memory, kernels, and the stage that measures them."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from builders import NUMERICS
from tiny_params import LATENCY, params_of
from torch import nn

from pipeline.checkpoint import save_model
from pipeline.compared import attacked_models
from pipeline.export import onnx_bytes
from pipeline.jobs.job import Workplace
from pipeline.latency import (
    MEASURED,
    Runtime,
    measure_latency,
    move,
    peak_memory,
    profile_kernels,
    pytorch_runtimes,
    random_images,
    time_in_turn,
)
from pipeline.models import build_model
from pipeline.models.classifier import Classifier
from pipeline.params.machine import Latency
from stages import latency

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    """Stages set determinism and denormals for the whole process."""
    yield
    torch.set_deterministic_debug_mode("default")
    torch.set_flush_denormal(False)
    torch.set_num_threads(1)


def classifier(net: nn.Module, shape: tuple[int, int, int] = SHAPE) -> Classifier:
    n = shape[0]
    return Classifier(net, image_shape=shape, mean=[0.5] * n, std=[0.25] * n, classes=("a", "b", "c")).eval()


def small(width: float) -> Classifier:
    torch.manual_seed(0)
    options: dict[str, Any] = {"config": "c16", "width": width, "stem": "small"}
    return classifier(build_model("resnet", 3, in_channels=1, **options))


def test_models_are_run_in_turn_with_two_untimed_runs_before_each_timed_one() -> None:
    order: list[str] = []
    n_threads: set[int] = set()

    def fast() -> None:
        order.append("fast")

    def slow() -> None:
        order.append("slow")
        n_threads.add(torch.get_num_threads())
        time.sleep(0.004)

    seconds = time_in_turn({"fast": fast, "slow": slow}, runs=3, threads=2)
    assert order == 3 * (3 * ["fast"] + 3 * ["slow"])
    assert n_threads == {2}
    assert torch.get_num_threads() == 1
    assert [len(each) for each in seconds.values()] == [3, 3]
    assert min(seconds["slow"]) >= 0.004
    assert max(seconds["fast"]) < 0.004


@pytest.mark.parametrize(("inplace", "alive"), [(False, 2), (True, 1)])
def test_peak_memory_is_the_weights_the_images_and_what_is_alive_at_once(inplace: bool, alive: int) -> None:
    """Of a layer that is followed by its rectifier: its output, and the rectifier's unless that is in place."""
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(100, 100, bias=False), nn.ReLU(inplace=inplace)]
    images = torch.rand(8, 100)
    weights, of_a_layer = 4 * 4 * 100 * 100, 4 * 8 * 100
    # A later layer reads the one before it while it writes: two outputs are alive either way.
    expected = weights + of_a_layer + max(alive, 2) * of_a_layer
    assert peak_memory(nn.Sequential(*layers), images) == expected
    assert peak_memory(nn.Sequential(*layers[:2]), images) == 4 * 100 * 100 + (1 + alive) * of_a_layer


def test_another_measurement_differs_in_the_measured_columns_alone() -> None:
    models = {"original": small(0.5), "parameter_first": small(0.25)}
    exported = {name: onnx_bytes(model, random_images(model, 2)) for name, model in models.items()}

    def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
        rows = measure_latency(models, exported, CPU, batches=[1, 4], runs=5, threads=1)
        images = {name: random_images(model, 4) for name, model in models.items()}
        return pd.DataFrame(rows), pd.DataFrame(profile_kernels(exported, images, threads=1))

    first, second = tables(), tables()
    for one, other in zip(first, second, strict=True):
        fixed = [column for column in one if column not in MEASURED]
        pd.testing.assert_frame_equal(one[fixed], other[fixed])
        assert not one.equals(other)
    times, kernels = first
    key = ["model", "runtime", "precision", "layout", "batch"]
    assert len(times[key].drop_duplicates()) == len(times) == 2 * 2 * 2
    assert [each.split()[0] for each in times["runtime"].drop_duplicates()] == ["PyTorch", "ONNX"]
    assert ((times["p10_ms"] <= times["median_ms"]) & (times["median_ms"] <= times["p90_ms"])).all()
    assert (times["p10_ms"] > 0).all()
    assert set(times["runs"]) == {5}
    assert [*kernels["model"]] == [*models]
    assert set(kernels["batch"]) == {4}


def test_determinism_and_threads_are_as_they_were_after_a_measurement() -> None:
    torch.set_deterministic_debug_mode("error")
    model = small(0.25)
    exported = {"a": onnx_bytes(model, random_images(model, 2))}
    rows = measure_latency({"a": model}, exported, CPU, batches=[1], runs=2, threads=2)
    assert [row["threads"] for row in rows] == [2, 2]
    assert torch.get_deterministic_debug_mode() == 2
    assert torch.get_num_threads() == 1
    assert not torch.is_inference_mode_enabled()


def _kernels(net: nn.Module) -> dict[str, float]:
    model = classifier(net, (8, 32, 32))
    exported = {"net": onnx_bytes(model, random_images(model, 2))}
    (row,) = profile_kernels(exported, {"net": random_images(model, 4)}, threads=1)
    return row


def test_kernels_with_weights_are_told_from_others() -> None:
    """A net that is all convolution, and one that is nearly all pooling."""
    convolution = nn.Sequential(nn.Conv2d(8, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 8, 3))
    pooling = nn.Sequential(*[nn.MaxPool2d(9, 1, 4) for _ in range(8)], nn.Conv2d(8, 3, 1))
    row = _kernels(convolution)
    assert row["weights_ms"] > row["others_ms"]
    row = _kernels(pooling)
    assert row["others_ms"] > row["weights_ms"] > 0
    assert row["between_ms"] >= 0


def test_a_gpu_is_measured_in_both_layouts_and_precisions_beside_the_cpu() -> None:
    gpu = torch.device("cuda", 0)
    assert [each.device.type for each in pytorch_runtimes(CPU)] == ["cpu"]
    found = [(each.precision, each.layout) for each in pytorch_runtimes(gpu) if each.device.type == "cuda"]
    layouts = ("contiguous", "channels_last")
    assert found == [(precision, layout) for precision in ("float32", "bfloat16") for layout in layouts]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_moved_model_has_the_layout_and_precision_and_says_the_same(precision: str, layout: str) -> None:
    model, images = small(0.5), torch.rand(3, *SHAPE)
    moved = move(model, Runtime(CPU, precision, layout))
    seen: list[torch.Tensor] = []
    weight = next(module.weight for module in moved.modules() if isinstance(module, nn.Conv2d))
    moved.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        expected, found = model(images), moved(images.to(moved.mean.dtype))
    assert weight.dtype == found.dtype == getattr(torch, precision)
    wide = next(
        module.weight
        for module in moved.modules()
        if isinstance(module, nn.Conv2d) and module.in_channels > 1
    )
    as_asked = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert wide.is_contiguous(memory_format=as_asked)
    assert seen[0].is_contiguous(memory_format=as_asked)
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    assert {each.dtype for each in model.parameters()} == {torch.float32}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path, str]:
    """What the stage wrote of the tiny preset's models, the main flow's and the lineup's."""
    root = tmp_path_factory.mktemp("latency")
    params = params_of(("latency", LATENCY))
    models = attacked_models(root, 0, None, params.lineup, params.compare, [])
    for name, path in models.items():
        save_model(small(0.25 if name == "parameter_first" else 0.5), path)
    settings = Latency(**LATENCY)
    (root / "out").mkdir()
    line = latency.work(
        Workplace(root / "out", root / "resume"),
        seed=0,
        numerics=NUMERICS,
        settings=settings,
        processor="of whoever listed the job",
        models=models,
    )
    return models, root / "out", line


def test_the_stage_times_every_model_and_weighs_its_files(
    measured: tuple[dict[str, Path], Path, str],
) -> None:
    models, out, line = measured
    assert {file.name for file in out.iterdir()} == {"disk.csv", "latency.csv", "kernels.csv"}
    disk, times, kernels = (pd.read_csv(out / f"{name}.csv") for name in ("disk", "latency", "kernels"))
    assert {"original", "base", "control", "pushed", "l1_at_size", "ours_at_size"} < set(models)
    for name, path in models.items():
        row = disk[disk["model"] == name].iloc[0]
        assert row["weights_bytes"] == path.with_name(f"{path.name}.safetensors").stat().st_size
        assert row["onnx_bytes"] > 4 * row["params"]
        assert len(times[times["model"] == name]) == 2 * len(LATENCY["batches"])
    assert [*disk["model"]] == [*kernels["model"]] == [*models]
    assert set(times["seed"]) == {0}
    assert set(times["threads"]) == {1}
    assert set(times["runs"]) == {50}
    assert set(kernels["batch"]) == {4}
    of_torch = times["runtime"].str.startswith("PyTorch")
    assert times["peak_bytes"].isna().tolist() == (~of_torch).tolist()
    assert "of whoever listed the job" not in line
    assert f"{len(models)} models on {times['device'].iloc[0]}" in line


def test_a_net_of_a_quarter_of_the_weights_is_smaller_on_disk_and_in_memory(
    measured: tuple[dict[str, Path], Path, str],
) -> None:
    _, out, _ = measured
    disk = pd.read_csv(out / "disk.csv").set_index("model")
    times = pd.read_csv(out / "latency.csv")
    for column in ("params", "flops", "weights_bytes", "onnx_bytes"):
        assert disk.loc["parameter_first", column] < disk.loc["original", column]
    peaks = times[times["layout"] == "own"].set_index(["model", "batch"])["peak_bytes"]
    for batch in LATENCY["batches"]:
        assert peaks["parameter_first", batch] < peaks["original", batch]
        assert peaks["original", batch] == peaks["control", batch]
    assert peaks["original", 4] > peaks["original", 1]


def test_without_the_section_there_is_no_job_and_with_it_one_whose_key_names_the_processor() -> None:
    sections = {name: getattr(params_of(), name) for name in ("seeds", "numerics", "after_the_fact")}
    sections |= {name: getattr(params_of(), name) for name in ("compare", "lineup")}
    assert [*latency.jobs(Path("runs/tiny"), **sections, latency=None)] == []
    (job,) = latency.jobs(Path("runs/tiny"), **sections, latency=Latency(**LATENCY))
    assert job.settings["processor"]
    assert job.folder == Path()
