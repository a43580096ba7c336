"""What every stage script shares: its flags, its signals, and how errors end it.

Nothing heavy is imported before they are set, so that `--help` answers at once and Ctrl-C ends with a line at any time.

A stage module has `jobs`, which lists its jobs and is light to import, and `work`, which does one of them. The sections
of the params that `jobs` takes are those that dvc.yaml names (a test compares). It may also have:

* `STORED = False`: its single job is run every time, because it reads what no key can see, and nothing is kept of it;
* `READS`, endings of the names of the files that it reads, where it takes all of `runs/<name>`;
* `TRAINS = True`: with `numerics.devices` or `num_nodes` above 1 its jobs are trained by several processes together;
* `OUT`, where its output goes, if not to `runs/<name>/<stage>`;
* `METRICS`, a file below `metrics/<name>`, and `metrics`, which makes its content from the output folder.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from pipeline.errors import InputError, line_of
from pipeline.jobs.flags import FlagError, read_flags

log = logging.getLogger("pipeline")


def run_stage(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run the jobs of a stage that have to be run, and put the stage's output together; ends the process if it fails.

    Args:
        name: the stage's module, for example `stages.train`.
        arguments: of the command line.
    """
    started = time.time()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)  # ours alone: exporters and plotters narrate
    stage = name.removeprefix("stages.")
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt)
        flags = read_flags(name, arguments)
        from pipeline.jobs.output import run_and_collect

        run_and_collect(name, flags, started=started)
    except (InputError, OSError, MemoryError, RuntimeError) as error:
        why = line_of(error)
        if why is None:
            raise
        for line in why.splitlines():
            log.error("%s: %s", stage, line)
        sys.exit(2 if isinstance(error, FlagError) else 1)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # impatience adds no traceback
        log.error(
            "%s: interrupted; finished jobs are kept, others go on from their last epoch: run it again", stage
        )
        sys.stderr.flush()
        os._exit(130)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
