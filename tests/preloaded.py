"""A process with the libraries loaded, which makes any folder's warm process by a fork: stages there start at once.

    python preloaded.py    reads folders, a line each; answers each with the warm process's number

That saves every stage of `dvc repro` its import of torch, which takes longer than most of the tiny preset's jobs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main() -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    sys.path[0] = str(ROOT)
    import_module("pipeline.jobs.warm").load_libraries()
    # A folder's code is its own.
    for name in [name for name in sys.modules if name.partition(".")[0] == "pipeline"]:
        del sys.modules[name]
    for folder in map(str.strip, sys.stdin):
        process = os.fork()
        if process == 0:
            os.chdir(folder)
            sys.path[0] = folder
            import_module("pipeline.jobs.warm").main(os.getppid())
        sys.stdout.write(f"{process}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
