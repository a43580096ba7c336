"""Stages one after another without DVC, some of which are killed in the middle and run again.

    python killed_run.py '{"train": 3}' prepare train ...    in a project's folder

Of a killed stage the last line says how both runs of it ended, and how many epochs each of them kept. Stages up to the
last one that is killed have processes of their own, which find the libraries imported; the others are run by this one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path.cwd())

from pipeline.jobs.stage import run_stage  # noqa: E402
from pipeline.jobs.warm import load_libraries  # noqa: E402
from pipeline.training.resume import ResumePoint  # noqa: E402

_save = ResumePoint.save


def in_own_process(stage: str, kill_at: int | None = None) -> tuple[int, int]:
    """The exit code and how many epochs were kept; killed when it has trained an epoch that it has not kept."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        n = 0

        def save(point: ResumePoint, *kept: Any) -> None:
            nonlocal n
            n += 1
            if n == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            _save(point, *kept)
            os.write(write, b".")

        ResumePoint.save = save  # type: ignore[method-assign]
        run_stage(f"stages.{stage}", [])
        os._exit(0)
    os.close(write)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with os.fdopen(read, "rb") as pipe:
        return code, len(pipe.read())


def main(kills: dict[str, int], stages: list[str]) -> dict[str, Any]:
    """How each killed stage ended, what was there then, and how it ended when it was run again."""
    load_libraries()
    n_apart = max(stages.index(stage) for stage in kills) + 1
    found: dict[str, Any] = {}
    for stage in stages[:n_apart]:
        if stage in kills:
            killed = in_own_process(stage, kills[stage])
            there = [*Path("runs").glob(f"*/{stage}")]
            points = [*Path(".jobs/work").rglob("*.safetensors")]
            found[stage] = [killed, len(there), len(points)]
        ended = in_own_process(stage)
        assert ended[0] == 0, stage
        if stage in kills:
            found[stage].append(ended)
    for stage in stages[n_apart:]:
        run_stage(f"stages.{stage}", [])
    return found


if __name__ == "__main__":
    sys.stdout.write(f"\n{json.dumps(main(json.loads(sys.argv[1]), sys.argv[2:]))}\n")
