"""Read the data set and split it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.params.data import Data

# The images lie outside of the project: no key can see that they have changed.
STORED = False


def jobs(_runs: Path, *, data: Data) -> Iterator[Job]:
    """One job."""
    yield Job({}, {"settings": data}, {})


def work(place: Workplace, *, settings: Data) -> str:
    """From the source to `images.safetensors` and `images.json`, `files.csv` for an index of files, and
    `unreadable.csv`, `copies.csv` and `near_copies.csv` if there are any."""
    from pipeline.images.image_set import SPLITS, save_image_set
    from pipeline.readers import read_dataset

    data = read_dataset(settings, out=place.out)
    save_image_set(data, place.out)
    counts = ", ".join(f"{len(data.split[name])} {name}" for name in SPLITS)
    return "; ".join([f"{len(data.images)} images of {len(data.classes)} classes: {counts}", *data.remarks])


if __name__ == "__main__":
    run_stage("stages.prepare")
