"""Add noise to the test images, once for every model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.params.perturbations import Noise


def jobs(runs: Path, *, noise_seed: int, noise: Mapping[str, Noise]) -> Iterator[Job]:
    """One for each noise."""
    for name, settings in noise.items():
        yield Job({"noise": name}, {"seed": noise_seed, "settings": settings}, {"prepared": runs / "prepare"})


def work(place: Workplace, *, seed: int, settings: Noise, prepared: Path) -> str:
    """From the test images to `images.safetensors`: float16 images in [0, 1] and their labels."""
    import numpy as np
    import torch

    from pipeline.images.parts import load_parts
    from pipeline.robustness.noise import add_noise
    from pipeline.tensors import save_tensors

    test = load_parts(prepared, torch.device("cpu"), workers=place.workers).perturbed
    images = (test.scaled() * 255).round().to(torch.uint8).numpy()
    noisy = add_noise(images, settings, seed=seed)
    arrays = {"images": noisy.astype(np.float16), "labels": test.labels.numpy()}
    save_tensors(arrays, place.out / "images.safetensors")
    distance = np.abs(noisy - images / 255).mean() * 255
    return f"{len(images)} images, mean change {distance:.2f} of 255"


if __name__ == "__main__":
    run_stage("stages.noise")
