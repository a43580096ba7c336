"""Add one kind of noise to the test images, once, for every model."""

import numpy as np
import torch
from safetensors.numpy import save_file

from pipeline.data.images import load_parts
from pipeline.robustness.noise import add_noise
from pipeline.workflow.stage import StageRun, run_stage


def noise(run: StageRun) -> str:
    """From the test images to `images.safetensors`: float16 images in [0, 1] and their labels."""
    settings = run.params.noise[run.keys["noise"]]
    test = load_parts(run.artefact("prepare"), torch.device("cpu")).perturbed
    images = (test.scaled() * 255).round().to(torch.uint8).numpy()
    noisy = add_noise(images, settings)
    arrays = {"images": noisy.astype(np.float16), "labels": test.labels.numpy()}
    save_file(arrays, run.out / "images.safetensors")
    distance = np.abs(noisy - images / 255).mean() * 255
    return f"{len(images)} images, mean change {distance:.2f} of 255"


if __name__ == "__main__":
    run_stage(noise, out="runs/{name}/noise/{noise}", keys=["noise"])
