"""Time the models of the first seed, and weigh their files: does a small net pay where it runs?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.compared import ORIGINAL, attacked_models
from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.stage import run_stage
from pipeline.machine.processor import processor_name

if TYPE_CHECKING:
    from pipeline.params.machine import Latency, Numerics
    from pipeline.params.pruning import AfterTheFact, Compare
    from pipeline.params.robustness import Lineup


def jobs(
    runs: Path,
    *,
    seeds: list[int],
    numerics: Numerics,
    after_the_fact: AfterTheFact | None,
    compare: Compare | None,
    lineup: Lineup | None,
    latency: Latency | None,
) -> Iterator[Job]:
    """One: all models in turn, and none of this stage's work beside them.

    The processor is in its key, as the GPU is in every job's: another machine, asked for its times, takes its own.
    """
    if latency is None:
        return
    seed = seeds[0]
    models = attacked_models(runs, seed, after_the_fact, lineup, compare, [])
    settings = {"seed": seed, "numerics": numerics, "settings": latency, "processor": processor_name()}
    yield Job({}, settings, {"models": models})


def work(
    place: Workplace,
    *,
    seed: int,
    numerics: Numerics,
    settings: Latency,
    processor: str,
    models: Mapping[str, Path],
) -> str:
    """Writes `disk.csv` (bytes of files), `latency.csv` (times) and `kernels.csv` (where ONNX Runtime spends them)."""
    from pipeline.checkpoint import load_classifier
    from pipeline.cost import measure_cost
    from pipeline.export import onnx_bytes
    from pipeline.files import write_csv
    from pipeline.latency import measure_latency, profile_kernels, random_images
    from pipeline.machine.device import configure_torch

    device = configure_torch(numerics)
    loaded = {name: load_classifier(path) for name, path in models.items()}
    exported = {name: onnx_bytes(model, random_images(model, 2)) for name, model in loaded.items()}
    disk = []
    for name, model in loaded.items():
        cost, weights = measure_cost(model, model.image_shape), models[name]
        sizes = {"weights_bytes": weights.with_name(f"{weights.name}.safetensors").stat().st_size}
        sizes["onnx_bytes"] = len(exported[name])
        disk.append({"seed": seed, "model": name, "params": cost.params, "flops": cost.flops, **sizes})
    write_csv(place.out / "disk.csv", disk)
    n_threads, largest = settings.threads, max(settings.batches)
    rows = [
        {"seed": seed, **row}
        for row in measure_latency(
            loaded, exported, device, batches=settings.batches, runs=settings.runs, threads=n_threads
        )
    ]
    write_csv(place.out / "latency.csv", rows)
    images = {name: random_images(model, largest) for name, model in loaded.items()}
    kernels = [{"seed": seed, **row} for row in profile_kernels(exported, images, threads=n_threads)]
    write_csv(place.out / "kernels.csv", kernels)
    took = {row["model"]: row["median_ms"] for row in rows if row["batch"] == largest}  # the last runtime's
    small = "parameter_first"
    return (
        f"{len(loaded)} models on {rows[0]['device']}; {largest} images in ONNX Runtime: "
        f"original {took[ORIGINAL]:.3g} ms, parameter first {took[small]:.3g} ms"
    )


if __name__ == "__main__":
    run_stage("stages.latency")
