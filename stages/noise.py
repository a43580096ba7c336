"""Add one kind of noise to the test images, once, for every model."""

import numpy as np
from safetensors.numpy import save_file

from pipeline.data import load_image_set
from pipeline.noise import add_noise
from pipeline.stage import StageRun, run_stage


def noise(run: StageRun) -> str:
    """From the test images to `images.safetensors`: float16 images in [0, 1] and their labels."""
    settings = run.params.noise[run.keys["noise"]]
    images, labels = load_image_set(run.artefact("prepare")).part("test")
    noisy = add_noise(images, settings)
    save_file({"images": noisy.astype(np.float16), "labels": labels}, run.out / "images.safetensors")
    distance = np.abs(noisy - images / 255).mean() * 255
    return f"{len(images)} images, mean change {distance:.2f} of 255"


if __name__ == "__main__":
    run_stage(noise, out="runs/{name}/noise/{noise}", keys=["noise"])
