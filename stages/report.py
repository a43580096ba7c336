"""Write the reports, from tables only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.params.params import Params

# It takes seconds, and its folder is committed, not cached.
STORED = False
OUT = "reports/{name}"
# What it reads below runs/: neither weights nor images.
READS = (".csv", ".json", "latent.safetensors", "gallery.safetensors", "predictions.safetensors")


def jobs(runs: Path, *, params: Params) -> Iterator[Job]:
    """One job."""
    yield Job({}, {"params": params}, {"runs": runs})


def work(place: Workplace, *, params: Params, runs: Path) -> str:
    """From every stage's tables to `reports/<name>`."""
    from pipeline.files import write_atomically
    from pipeline.jobs.provenance import FILE, provenance
    from pipeline.report.results import load_results
    from pipeline.report.write import write_report

    write_report(load_results(params, runs), place.out)
    write_atomically(place.out / FILE, provenance(params.name).encode())
    return f"open reports/{params.name}/index.html"


if __name__ == "__main__":
    run_stage("stages.report")
