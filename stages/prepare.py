"""Read the data set and split it."""

from pipeline.data.image_set import SPLITS, save_image_set
from pipeline.datasets import read_dataset
from pipeline.workflow.stage import StageRun, run_stage


def prepare(run: StageRun) -> str:
    """From the source to `images.safetensors` and `images.json`, `files.csv` for an index of files, and
    `unreadable.csv` if there are any."""
    data = read_dataset(run.params.data)
    save_image_set(data, run.out)
    counts = ", ".join(f"{len(data.split[name])} {name}" for name in SPLITS)
    summary = f"{len(data.images)} images of {len(data.classes)} classes: {counts}"
    if data.skipped:
        summary += f"; {len(data.skipped)} unreadable, see unreadable.csv"
    return summary


if __name__ == "__main__":
    run_stage(prepare, out="runs/{name}/prepare")
