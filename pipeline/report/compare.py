"""Two reports side by side: `python -m pipeline.report.compare A B`, each a report's folder or a git revision.

Of a revision it is the report that params.yaml names. Where both are of the same test images, differences are paired:
seed by seed and image by image, with an interval.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from pipeline.errors import InputError
from pipeline.params.file import read_params
from pipeline.report.figures import LABELS
from pipeline.report.hits import more_hits, with_accuracy
from pipeline.report.markdown import bullets, percent, table, thousands
from pipeline.uncertainty import difference_interval

_HEADER = "model | parameters, A | B | FLOPs, A | B | test accuracy, %, A | B | B less A, points"


def main(arguments: Sequence[str]) -> None:
    """Write the comparison as Markdown to the standard output."""
    try:
        if len(arguments) != 2:
            raise InputError(f"make compare: expected A=... B=..., got {len(arguments)} of them")
        sys.stdout.write(compared(*arguments))
    except InputError as error:
        sys.exit(str(error))


def compared(first: str, second: str) -> str:
    """Models that both reports have, and the settings in which they differ.

    Raises:
        InputError: if one is no report, and no revision that has one.
    """
    params = [YAML(typ="safe").load(_read(each, "params.yaml")) for each in (first, second)]
    scores = [pd.read_csv(io.StringIO(_read(each, "tables/scores.csv"))) for each in (first, second)]
    tests = [with_accuracy(each[each["split"] == "test"]) for each in scores]
    paired = all("hits" in each for each in tests) and all(
        each["data"] == params[0]["data"] and each["name"] == params[0]["name"] for each in params
    )
    rows = [
        _row(
            LABELS.get(model, model),
            *(each[each["model"] == model] for each in tests),
            paired=paired,
            params=params,
        )
        for model in dict.fromkeys(tests[0]["model"])
        if model in set(tests[1]["model"])
    ]
    how = (
        "B less A: above zero B is better; the interval is of the seeds that both have and of their images together, "
        "image by image."
        if paired
        else "B less A: above zero B is better; there is no interval, as the reports are not of the same test images."
    )
    changes = [f"`{key}`: {old} in A, {new} in B" for key, old, new in _changes(*params)]
    blocks = (
        f"A: {first}\nB: {second}",
        table(_HEADER, rows),
        how,
        bullets(changes) or "The settings are the same.",
    )
    return "\n\n".join(blocks) + "\n"


def _row(
    label: str, first: pd.DataFrame, second: pd.DataFrame, *, paired: bool, params: Sequence[dict[str, Any]]
) -> list[str]:
    cells = [label]
    for column in ("params", "flops"):
        cells += [thousands(each[column].mean()) for each in (first, second)]
    cells += [percent(each["accuracy"].mean()) for each in (first, second)]
    seeds = sorted({*first["seed"]} & {*second["seed"]})
    if not paired or not seeds:
        return [*cells, percent(second["accuracy"].mean() - first["accuracy"].mean(), signed=True)]
    new, old = (each[each["seed"].isin(seeds)].sort_values("seed") for each in (second, first))
    found = difference_interval(more_hits(new, old), confidence=params[0]["report"]["confidence"])
    return [*cells, found.percent(signed=True)]


def _changes(first: Any, second: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(first, dict) and isinstance(second, dict):
        for name in dict.fromkeys([*first, *second]):
            yield from _changes(first.get(name), second.get(name), f"{key}.{name}".lstrip("."))
    elif first != second:
        yield key, first, second


def _read(place: str, file: str) -> str:
    """A file of a report, from its folder or as a revision has it."""
    if Path(place).is_dir():
        try:
            return (Path(place) / file).read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{place}: expected a report's folder, with {file} ({error.strerror})") from None
    path = f"reports/{read_params().name}/{file}"
    shown = subprocess.run(["git", "show", f"{place}:{path}"], capture_output=True, text=True, check=False)
    if shown.returncode:
        raise InputError(
            f"{place}: expected a report's folder, or a git revision with {path}: {shown.stderr.strip()}"
        )
    return shown.stdout


if __name__ == "__main__":
    main(sys.argv[1:])
