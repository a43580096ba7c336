"""`python -m pipeline.jobs ran | durations`: what the last run of each stage did, from the log of the job store."""

import argparse
import csv
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from pipeline.jobs.store import Store


def last_runs(log: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The log's last line of each stage that ended well, in the order of time."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for line in log:
        if line["event"] == "stage":
            key = line["experiment"], line["stage"]
            found.pop(key, None)
            found[key] = line
    return list(found.values())


def durations(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each stage of the last experiment: seconds of the stage, of its jobs together, and until the next one.

    `between` is DVC's own share: from the end of this stage to the start of the one that ran after it.
    """
    runs = last_runs(log)
    runs = [run for run in runs if run["experiment"] == runs[-1]["experiment"]]
    of_jobs: dict[str, float] = {}
    for line in log:
        if line["event"] == "end" and any(run["started"] <= line["time"] <= run["time"] for run in runs):
            of_jobs[line["stage"]] = of_jobs.get(line["stage"], 0.0) + line["seconds"]
    gaps = [after["started"] - before["time"] for before, after in pairwise(runs)]
    return [
        {
            "stage": run["stage"],
            "jobs": run["jobs"],
            "ran": len(run["ran"]),
            "seconds": round(run["time"] - run["started"], 1),
            "seconds_of_jobs": round(of_jobs.get(run["stage"], 0.0), 1),
            "between": round(gap, 1) if gap is not None else "",
        }
        for run, gap in zip(runs, [*gaps, None], strict=True)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.jobs", description=__doc__)
    parser.add_argument(
        "what", choices=["ran", "durations"], help="which jobs ran; or seconds of each stage as CSV"
    )
    options = parser.parse_args(arguments)
    log = Store().read_log()
    runs = last_runs(log)
    if not runs:
        sys.exit("python -m pipeline.jobs: no stage has run here yet")
    if options.what == "ran":
        for run in runs:
            when = datetime.fromtimestamp(run["time"]).astimezone().isoformat(sep=" ", timespec="seconds")
            ran = f"{len(run['ran'])} of {run['jobs']} jobs ran"
            sys.stdout.write(f"{when}  {run['experiment']}, {run['stage']}: {ran}\n")
            sys.stdout.writelines(f"    {name}\n" for name in run["ran"])
        return
    rows = durations(log)
    writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # `| head`
        os._exit(0)
