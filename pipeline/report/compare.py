"""Two reports side by side: `python -m pipeline.report.compare A B`, each a report's folder or a git revision.

Of a revision it is the report that params.yaml names. Where both are of the same test images, differences are paired:
seed by seed and image by image, with an interval.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from pipeline.errors import InputError
from pipeline.params.file import read_params
from pipeline.report.figures import LABELS
from pipeline.report.hits import more_hits, with_accuracy
from pipeline.report.markdown import bullets, percent, table, thousands
from pipeline.robustness.conditions import CLEAN
from pipeline.uncertainty import difference_interval

# The tables that keep their hits, image by image.
PAIRED = ("scores", "accuracy")
_MODELS = "model | parameters, A | B | FLOPs, A | B | test accuracy, %, A | B | B less A, points"
_COSTS = (
    "model | bytes, A | B | ms an image, A | B | worst noise, points, A | B | worst attack, points, A | B"
)
_ROBUSTNESS = "perturbation | accuracy, %, A | B | B less A, points"
# Whose accuracies under noise and attacks stand side by side.
_ATTACKED = ("original", "parameter_first")


def main(arguments: Sequence[str]) -> None:
    """Write the comparison as Markdown to the standard output."""
    try:
        if len(arguments) != 2:
            raise InputError(f"make compare: expected A=... B=..., got {len(arguments)} of them")
        sys.stdout.write(compared(*arguments))
    except InputError as error:
        sys.exit(str(error))


def compared(first: str, second: str) -> str:
    """What both recommend, their models, what these cost, how robust they are; and the settings that differ.

    Raises:
        InputError: if one is no report, and no revision that has one.
    """
    places = (first, second)
    params = [YAML(typ="safe").load(_read(each, "params.yaml")) for each in places]
    scores = [_table(each, "scores") for each in places]
    tests = [each[each["split"] == "test"] for each in scores]
    same_images = all(
        each["data"] == params[0]["data"] and each["name"] == params[0]["name"] for each in params
    )
    both = [model for model in dict.fromkeys(tests[0]["model"]) if model in set(tests[1]["model"])]
    confidence = params[0]["report"]["confidence"] if same_images else None
    rows = []
    for model in both:
        mine = [each[each["model"] == model] for each in tests]
        sizes = [thousands(each[column].mean()) for column in ("params", "flops") for each in mine]
        rows.append([_label(model), *sizes, *_accuracies(*mine, confidence=confidence)])
    how = (
        "B less A: above zero B is better; the interval is of the seeds that both have and of their images together, "
        "image by image."
        if same_images
        else "B less A: above zero B is better; there is no interval, as the reports are not of the same test images."
    )
    changes = [f"`{key}`: {old} in A, {new} in B" for key, old, new in _changes(*params)]
    blocks = (
        *(f"{letter}: {each}{_recommendation(each)}" for letter, each in zip("AB", places, strict=True)),
        table(_MODELS, rows),
        how,
        *_costs(places, both),
        *_robustness(places, confidence=confidence),
        bullets(changes) or "The settings are the same.",
    )
    return "\n\n".join(blocks) + "\n"


def _label(model: str) -> str:
    whole = model.removesuffix("_int8")
    return f"{LABELS.get(whole, whole)}{', int8' if model != whole else ''}"


def _recommendation(place: str) -> str:
    """The report's first sentence, in a paragraph of its own; empty where it has none."""
    said = _read(place, "summary.md", missing="").partition("\n")[0]
    return f"\n\n{said}" if said.startswith("**") else ""


def _accuracies(first: pd.DataFrame, second: pd.DataFrame, *, confidence: float | None) -> list[str]:
    """Of both, and their difference: with an interval where hits on the same images are there."""
    means = [each["accuracy"].mean() for each in (first, second)]
    cells = [percent(each) for each in means]
    seeds = sorted({*first["seed"]} & {*second["seed"]})
    if confidence is None or not seeds or not all("hits" in each for each in (first, second)):
        return [*cells, percent(means[1] - means[0], signed=True)]
    new, old = (each[each["seed"].isin(seeds)].sort_values("seed") for each in (second, first))
    found = difference_interval(more_hits(new, old), confidence=confidence)
    return [*cells, found.percent(signed=True)]


def _costs(places: Sequence[str], models: Sequence[str]) -> list[str]:
    """The recommendation's tables side by side; nothing where a report has none."""
    found = [_table(each, "recommendation") for each in places]
    if any(each.empty for each in found):
        return []
    columns: dict[str, Callable[[float], str]] = {"bytes": thousands, "milliseconds": "{:.3g}".format}
    columns |= dict.fromkeys(("worst_noise_drop", "worst_attack_drop"), _points)
    rows = []
    for model in models:
        mine = [each[each["model"] == model] for each in found]
        if all(len(each) for each in mine):
            cells = [
                "-" if each[column].isna().any() else written(float(each[column].iloc[0]))
                for column, written in columns.items()
                for each in mine
            ]
            rows.append([LABELS.get(model, model), *cells])
    return [table(_COSTS, rows), "Bytes and ms: of the first seed's file."]


def _robustness(places: Sequence[str], *, confidence: float | None) -> Iterator[str]:
    """Accuracy under every noise and attack that both have, transferred and on the model itself."""
    perturbed = [_table(each, "accuracy") for each in places]
    if any(each.empty for each in perturbed):
        return
    for model in _ATTACKED:
        mine = [each[each["model"] == model] for each in perturbed]
        conditions = [each for each in mine[0]["condition"].unique() if each in {*mine[1]["condition"]}]
        rows = [
            [
                each,
                *_accuracies(*(table[table["condition"] == each] for table in mine), confidence=confidence),
            ]
            for each in conditions
            if each != CLEAN
        ]
        if rows:
            yield f"Under noise and transferred attacks, {LABELS[model]}:"
            yield table(_ROBUSTNESS, rows)


def _points(value: float) -> str:
    return percent(value, signed=True)


def _changes(first: Any, second: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(first, dict) and isinstance(second, dict):
        for name in dict.fromkeys([*first, *second]):
            yield from _changes(first.get(name), second.get(name), f"{key}.{name}".lstrip("."))
    elif first != second:
        yield key, first, second


def _table(place: str, name: str) -> pd.DataFrame:
    """A report's table; empty where it has none of that name, which only `scores` has to be."""
    text = _read(place, f"tables/{name}.csv", missing=None if name == "scores" else "")
    if not text:
        return pd.DataFrame()
    return with_accuracy(pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""]))


def _read(place: str, file: str, *, missing: str | None = None) -> str:
    """A file of a report, from its folder or as a revision has it; `missing` where it may be missing and is."""
    if Path(place).is_dir():
        try:
            return (Path(place) / file).read_text(encoding="utf-8")
        except OSError as error:
            if missing is not None:
                return missing
            raise InputError(f"{place}: expected a report's folder, with {file} ({error.strerror})") from None
    path = f"reports/{read_params().name}/{file}"
    shown = subprocess.run(["git", "show", f"{place}:{path}"], capture_output=True, text=True, check=False)
    if shown.returncode and missing is not None:
        return missing
    if shown.returncode:
        raise InputError(
            f"{place}: expected a report's folder, or a git revision with {path}: {shown.stderr.strip()}"
        )
    return shown.stdout


if __name__ == "__main__":
    main(sys.argv[1:])
