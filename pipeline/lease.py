"""Moves a long experiment on by one short lease of a machine.

    python -m pipeline.lease --minutes 25 --state state.tar -- dvc repro

unpacks what the last lease left in `state.tar`, runs the command, stops it when the minutes are over, and packs what
it has reached: resume points, DVC's cache and lock, metrics and reports. A stopped stage goes on from its last
finished epoch, candidate or sample. Exit code 0: the command has ended well; 75: the time was up, more is to do;
anything else is the command's own.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger("pipeline")

# What a run on another machine needs in order to go on; `runs/` is checked out from the cache.
STATE = (".resume", ".dvc/cache", "dvc.lock", "metrics", "reports")
TIME_IS_UP = 75  # EX_TEMPFAIL of sysexits.h
_GRACE_SECONDS = 20


def run_for(command: Sequence[str], *, seconds: float) -> int:
    """Run a command for so long at most; its exit code, or `TIME_IS_UP`.

    The command and all that it has started are asked to end, and killed if they have not after 20 seconds.
    """
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        for step in (signal.SIGTERM, signal.SIGKILL):
            os.killpg(process.pid, step)
            try:
                process.wait(_GRACE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                continue
        _kill_group(process.pid)
    return TIME_IS_UP


def pack(state: Path, *, root: Path) -> int:
    """Write `STATE` of a checkout into a tar file, whole or not at all; its size in bytes."""
    temporary = state.with_name(f"{state.name}.new")
    with tarfile.open(temporary, "w") as tar:
        for name in STATE:
            if (root / name).exists():
                tar.add(root / name, arcname=name)
    temporary.replace(state)
    return state.stat().st_size


def unpack(state: Path, *, root: Path) -> None:
    """Put what `pack` wrote into a checkout, over what is there."""
    with tarfile.open(state) as tar:
        # Nothing outside of `root`; Python knows the filter from 3.11.4 on.
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        tar.extractall(root)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.lease", description="Run a command for one lease."
    )
    parser.add_argument("--minutes", type=float, required=True, help="stop the command after so long")
    parser.add_argument("--state", type=Path, help="tar file to go on from, and to leave the state in")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command (default: dvc repro)")
    options = parser.parse_args(arguments)
    command = [part for part in options.command if part != "--"] or ["dvc", "repro"]
    if options.minutes <= 0:
        parser.error(f"--minutes: expected more than 0 (got {options.minutes:g})")
    root = Path.cwd()
    if options.state and options.state.exists():
        unpack(options.state, root=root)
        subprocess.run(
            ["dvc", "checkout", "--quiet"], check=False
        )  # what the cache has; the rest is to be run
    code = run_for(command, seconds=60 * options.minutes)
    if options.state:
        size = pack(options.state, root=root)
        log.info("%s: %.1f MB to go on from", options.state, size / 1e6)
    log.info("time is up, more is to do" if code == TIME_IS_UP else f"the command has ended with {code}")
    sys.exit(code)


def _kill_group(group: int) -> None:
    """Whoever outlived the command itself."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


if __name__ == "__main__":
    main()
