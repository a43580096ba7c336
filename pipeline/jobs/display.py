"""One display of a stage's progress: a live bar in a terminal, lines in a log."""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from tqdm import tqdm

# A log gets a line after every job, and one after so long without any.
_SILENCE_SECONDS = 60.0
_REFRESH_SECONDS = 1.0
# A short bar: what runs now needs the room.
_BAR = "{desc}: {n_fmt}/{total_fmt} |{bar:10}| {elapsed}<{remaining}, {rate_fmt}{postfix}"


class Display:
    """Jobs done of all, what runs now, the rate and the time left.

    Args:
        stage: its name.
        total: how many jobs the stage has.
        running: gives, for every job that runs now, its name and what it says it is doing.
    """

    def __init__(self, stage: str, total: int, running: Callable[[], Mapping[str, str]]) -> None:
        self._stage, self._total, self._running = stage, total, running
        self._stored, self._ran, self._began, self._spoke = 0, 0, time.monotonic(), time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                desc=stage,
                unit="job",
                leave=False,
                dynamic_ncols=True,
                smoothing=0,
                bar_format=_BAR,
            )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.close()

    def stored(self) -> None:
        """A job was found in the store: no line of its own."""
        self._stored += 1
        if self._bar is not None:
            self._bar.initial += 1
            self._bar.update()

    def ended(self, name: str, line: str, seconds: float) -> None:
        """A job has run: its line, and how far the stage is."""
        self._ran += 1
        if self._bar is not None:
            self._bar.update()
        done = f"[{self._stored + self._ran}/{self._total}]"
        self.say(
            f"{done} {': '.join(filter(None, (self._named(name), line)))} ({_duration(seconds)}{self._left()})"
        )

    def failed(self, name: str, line: str) -> None:
        """A job has failed: every line of why, each with the job's name."""
        for each in line.splitlines():
            self.say(f"{self._named(name)}: {each}")

    def say(self, text: str) -> None:
        """A line that stays, its end in the same write: workers write to the same place."""
        self._spoke = time.monotonic()
        tqdm.write(f"{text}\n", file=sys.stderr, end="")

    def _named(self, name: str) -> str:
        return f"{self._stage}, {name}" if name else self._stage

    def _left(self) -> str:
        left = self._total - self._stored - self._ran
        if not left or not self._ran:
            return ""
        each = (time.monotonic() - self._began) / self._ran
        rate = 60 / each
        return f"; {rate:.{1 if rate < 10 else 0}f} jobs a minute, about {_duration(left * each)} left"

    def _refresh(self) -> None:
        while not self._over.wait(_REFRESH_SECONDS):
            running = "; ".join(
                f"{name} ({what})" if what else name for name, what in self._running().items()
            )
            if self._bar is not None:
                self._bar.set_postfix_str(running)
            elif running and time.monotonic() - self._spoke > _SILENCE_SECONDS:
                done = f"[{self._stored + self._ran}/{self._total}]"
                self.say(f"{done} {self._stage}, running: {running}{self._left()}")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
