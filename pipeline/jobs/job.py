"""A job: the smallest piece of a stage that runs, is kept and is reused by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

# A file, a folder, a saved model by its path without an ending, an earlier job of the same stage, or several by name.
Input = Union[Path, "Job", Mapping[str, Path]]


@dataclass(frozen=True, eq=False)
class Job:
    """One call of a stage's `work`, which reads nothing but its settings and inputs.

    Attributes:
        labels: what tells the job from the others of its stage, for example seed and method. They name its folder,
            become columns of its tables and are what `--only` chooses by; they are no part of its key.
        settings: keyword arguments of `work`: sections of the params and plain values.
        inputs: keyword arguments of `work`: what it reads from disk. An earlier job comes as its folder.
    """

    labels: Mapping[str, int | str]
    settings: Mapping[str, Any]
    inputs: Mapping[str, Input]

    @property
    def name(self) -> str:
        """For people: `seed 0, method l1`."""
        return ", ".join(f"{key} {value}" for key, value in self.labels.items())

    @property
    def folder(self) -> Path:
        """Where the job's files lie below its stage's output: `0/l1`."""
        return Path(*(str(value) for value in self.labels.values()))

    @property
    def needs(self) -> Iterator[Job]:
        """Jobs of the same stage that have to be finished first."""
        return (found for found in self.inputs.values() if isinstance(found, Job))


@dataclass(frozen=True)
class Workplace:
    """What `work` gets beside its settings and inputs.

    Attributes:
        out: an empty folder for everything that the job makes.
        resume: a folder for resume points; it outlives a killed job and is gone after a finished one.
        workers: processes that may read image files ahead.
    """

    out: Path
    resume: Path
    workers: int = 0
