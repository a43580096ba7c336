"""What a job is doing right now, told to whoever watches it; where nobody does, nothing happens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_watcher: ContextVar[Callable[[str], None] | None] = ContextVar("watcher", default=None)


def tell(what: str) -> None:
    """A few words such as `epoch 3 of 20`; cheap enough for every epoch or batch."""
    watcher = _watcher.get()
    if watcher is not None:
        watcher(what)


@contextmanager
def watched_by(watcher: Callable[[str], None]) -> Iterator[None]:
    """Inside the block `watcher` gets what is told."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
