"""A stage for tests of the job frame: small tables, made in epochs; a file `acts/<seed>-<name>` has it misbehave."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError
from pipeline.files import write_csv
from pipeline.jobs.job import Input, Job, Workplace
from pipeline.jobs.stage import run_stage
from pipeline.progress import tell
from stages import room

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics
    from pipeline.params.perturbations import Noise
    from stages import typed  # noqa: F401

EPOCHS = 4
ACTS = Path("acts")


def jobs(_runs: Path, *, seeds: list[int], numerics: Numerics, noise: Mapping[str, Noise]) -> Iterator[Job]:
    """For each seed a base, and one for each noise that reads the base."""
    for seed in seeds:
        shared = {"seed": seed, "numerics": numerics}
        data: dict[str, Input] = {"data": Path("data.txt")}
        base = Job({"seed": seed, "name": "base"}, shared | {"name": "base", "noise": None}, data)
        yield base
        for name, each in noise.items():
            settings = shared | {"name": name, "noise": each}
            yield Job({"seed": seed, "name": name}, settings, data | {"base": base})


def work(
    place: Workplace,
    *,
    seed: int,
    name: str,
    numerics: Numerics,
    noise: Noise | None,
    data: Path,
    base: Path | None = None,
) -> str:
    """From a text and the base's table to `table.csv` and `weights/last.bin`."""
    job, point = f"{seed}-{name}", place.resume / "epochs"
    n_done = len(point.read_text().splitlines()) if point.exists() else 0
    for epoch in range(n_done, EPOCHS):
        tell(f"epoch {epoch + 1} of {EPOCHS}")
        _obey(job, epoch)
        for file in (point, ACTS / "epochs.log"):
            with file.open("a") as opened:
                opened.write(f"{job} {epoch}\n")
    before = (base / "table.csv").read_text() if base else ""
    value = room.value(f"{data.read_text()}{before}{noise}", seed)
    row: dict[str, object] = {"epoch": EPOCHS, "value": value}
    if noise is not None:
        row["kind"] = noise.kind
    write_csv(place.out / "table.csv", [row])
    (place.out / "weights").mkdir()
    (place.out / "weights/last.bin").write_bytes(value.to_bytes(8, "big"))
    return f"value {value}"


def _obey(job: str, epoch: int) -> None:
    """`fail ...`, `defect`, `die`, or `wait EPOCH`: until the file is gone."""
    act = ACTS / job
    command, _, rest = (act.read_text() if act.exists() else "").partition(" ")
    if command == "fail":
        raise InputError(rest)
    if command == "defect":
        raise ZeroDivisionError("a defect of the program\nwith a second line")
    if command == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if command == "wait" and int(rest) == epoch:
        act.with_suffix(".here").write_text(str(os.getpid()))
        while act.exists():
            time.sleep(0.01)


if __name__ == "__main__":
    run_stage("stages.toy")
