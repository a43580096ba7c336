"""Read the data set, split it, and record the machine that the results come from."""

from pipeline.data import SPLITS, save_image_set
from pipeline.datasets import read_dataset
from pipeline.environment import describe_environment
from pipeline.files import write_json
from pipeline.stage import StageRun, run_stage


def prepare(run: StageRun) -> str:
    """From the source to `images.safetensors`, `images.json` and `environment.json`."""
    data = read_dataset(run.params.data)
    save_image_set(data, run.out)
    write_json(run.out / "environment.json", describe_environment())
    counts = ", ".join(f"{len(data.split[name])} {name}" for name in SPLITS)
    return f"{len(data.images)} images of {len(data.classes)} classes: {counts}"


if __name__ == "__main__":
    run_stage(prepare, out="runs/{name}/prepare")
