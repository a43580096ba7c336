"""Progress with rates: a live line in a terminal, a line every half minute in a log."""

import sys
from typing import NoReturn

from tqdm import tqdm


def progress_bar(
    *, total: int, description: str, unit: str, done: int = 0, quiet: bool = False
) -> "tqdm[NoReturn]":
    """A bar that leaves nothing behind; `done` units count as finished before it starts; `quiet` shows none."""
    return tqdm(
        total=total,
        initial=done,
        desc=description,
        unit=unit,
        leave=False,
        disable=quiet,
        mininterval=0.2 if sys.stderr.isatty() else 30,
    )
