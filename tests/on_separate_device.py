"""`python tests/on_separate_device.py train push ...`: stages on a device that is not the CPU, without a GPU.

They run in the current folder, one after another, each job in this process, as `dvc repro` would have them run;
`--without-float64` before them makes the device one of Apple's kind. See separate_device.py.
"""

import sys

sys.path.insert(0, "")

from separate_device import stages_on_device

import pipeline.jobs.run
from pipeline.jobs.stage import run_stage
from pipeline.params.machine import Runtime


def _one_at_a_time(_runtime: Runtime, **_: int) -> int:
    return 1  # a process of its own would know nothing of the device


def main() -> None:
    stages = sys.argv[1:]
    forbid_float64 = "--without-float64" in stages
    pipeline.jobs.run.count_jobs = _one_at_a_time
    with stages_on_device(forbid_float64=forbid_float64):
        for stage in stages:
            if not stage.startswith("--"):
                run_stage(f"stages.{stage}", [])


if __name__ == "__main__":
    main()
