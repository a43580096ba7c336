"""When, from which commit and in what time a report was made: the one file of a report that differs from run to run."""

from __future__ import annotations

import hashlib
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pipeline.jobs.store import Store

FILE = "provenance.md"
# What a run itself writes or is told to do makes no tree unclean.
_OWN = (":!dvc.lock", ":!metrics", ":!reports", ":!params.yaml", ":!.dvc")


def provenance(experiment: str) -> str:
    """As Markdown; outside of a repository it says so."""
    commit, changed = (
        _git("rev-parse", "HEAD"),
        _git("status", "--porcelain", "--untracked-files=no", "--", ".", *_OWN),
    )
    trees = (
        [f"`{room}/` {_git('rev-parse', f'HEAD:{room}')}" for room in ("pipeline", "stages")]
        if commit
        else []
    )
    state = f"with changes that are not committed ({len(changed.splitlines())} files)" if changed else "clean"
    params = hashlib.sha256(Path("params.yaml").read_bytes()).hexdigest()
    lines = [
        f"* Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
        f"* Commit {commit}, the tree {state}." if commit else "* From no git repository.",
        *([f"* Code, as git's trees: {', '.join(trees)}."] if trees else []),
        f"* SHA-256 of params.yaml: {params}.",
        "* To make it again: check that commit out, put [params.yaml](params.yaml) in its place, `make repro`.",
        "",
        "Time in the jobs of each stage, several of which run at once; what the job store had took it before.",
        "",
        "| stage | jobs | seconds |",
        "| :-- | --: | --: |",
        *(f"| {stage} | {n} | {seconds:.1f} |" for stage, n, seconds in _durations(experiment)),
    ]
    return "\n".join(["# Provenance of this copy", "", *lines]) + "\n"


def _durations(experiment: str) -> Iterator[tuple[str, int, float]]:
    """By stage how many jobs there were, and their seconds; of a job that ran several times the last ones."""
    ended: dict[str, dict[str, float]] = defaultdict(dict)
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for line in Store().read_log():
        if line["event"] == "end":
            ended[line["stage"]][str(line["labels"])] = line["seconds"]
        elif line["event"] == "stage":
            jobs = ended.pop(line["stage"], {})
            if line["experiment"] == experiment:
                found[line["stage"]] |= jobs
    for stage, jobs in found.items():
        yield stage, len(jobs), sum(jobs.values())


def _git(*arguments: str) -> str:
    try:
        shown = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=60)
    except OSError:  # no git here
        return ""
    return shown.stdout.strip() if shown.returncode == 0 else ""
