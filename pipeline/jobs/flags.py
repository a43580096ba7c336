"""The command line of a stage, and which of its jobs `--only` chooses."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.jobs.job import Job


class FlagError(InputError):
    """A flag of the command line that names no job."""


@dataclass(frozen=True)
class Flags:
    """What the command line says.

    Attributes:
        only: the values of each label that jobs are chosen by; empty for all jobs.
        listing: whether to list the jobs and run none.
    """

    only: Mapping[str, Collection[str]]
    listing: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage."""
        self.exit(2, f"{self.prog}: {message}\n")


def read_flags(name: str, arguments: Sequence[str] | None) -> Flags:
    """The flags of a stage's command line; wrong ones end the process with a line."""
    parser = _Parser(
        prog=f"python -m {name}", description=f"The stage {name.partition('.')[2]}; `dvc repro` calls it."
    )
    parser.add_argument(
        "--only",
        metavar="LABEL=VALUE",
        action="append",
        default=[],
        help="run chosen jobs into the store and leave the stage's output as it is; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="list the jobs, and whether the store has them")
    options = parser.parse_args(arguments)
    only: dict[str, list[str]] = {}
    for pair in options.only:
        label, equals, value = pair.partition("=")
        if not (label and equals and value):
            parser.error(f"--only: expected LABEL=VALUE, such as seed=0 (got {pair!r})")
        only.setdefault(label, []).append(value)
    return Flags(only, options.list)


def chosen_jobs(jobs: Sequence[Job], only: Mapping[str, Collection[str]]) -> list[Job]:
    """The jobs whose labels `--only` names, in their order, and those that they need.

    Raises:
        FlagError: for a label that no job has, or labels that no job has together.
    """
    labels = sorted({name for job in jobs for name in job.labels})
    for label, values in only.items():
        known = sorted({str(job.labels[label]) for job in jobs if label in job.labels})
        for value in values:
            if value not in known:
                expected = f"one of {', '.join(known)}" if known else f"a label of {', '.join(labels)}"
                raise FlagError(
                    f"--only {label}={value}: expected {expected if labels else 'none, as no job has a label'}"
                )
    wanted = {job for job in jobs if all(str(job.labels.get(k)) in v for k, v in only.items())}
    if only and not wanted:
        raise FlagError(f"--only: expected labels of one job (got {', '.join(only)} of different ones)")
    pending = list(wanted)
    while pending:
        for needed in pending.pop().needs:
            if needed not in wanted:
                wanted.add(needed)
                pending.append(needed)
    return [job for job in jobs if job in wanted]
