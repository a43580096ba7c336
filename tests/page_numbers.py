"""Numbers of a page of prose: each stands in a sentence that is made anew from a table, or is no measurement."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from ruamel.yaml import YAML
from scipy import stats

WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
# "One" and "first" are pronouns more often than numbers.
_WRITTEN = rf"\d[\d.,]*|\b(?:{'|'.join(WORDS[2:])}|dozens?|hundreds?|twice|quarter|fifth|sixth|tenth)\b"
# Numbers that name something: places in the papers, nets, data sets, norms, types, a formula, and commits.
_PLACE = r"\d[\d.]*(?:-\d[\d.]*)?"
NAMES = (
    rf"(?:Eqs?\.|thesis|CVIU|chapters?|Tables?|Figs?\.|Algorithm) {_PLACE}(?:(?:,| to| and) {_PLACE})*"
    r"|ResNet-\d+|CIFAR-100?|\bL1\b|\bint8\b|\bC:\d+|log\(1 \+ v\)|code of [0-9a-f]{7}"
)

Row = dict[Any, Any]


def prose(page: str) -> str:
    """The page without code, comments, links' targets and what is copied between marks; one line."""
    page = re.sub(r"<!-- (answer|summary): .*?<!-- /\1 -->", " ", page, flags=re.DOTALL)
    for away in (r"^```.*?^```", r"<!--.*?-->", r"`[^`]*`", r"(?<=\])\([^)]*\)"):
        page = re.sub(away, " ", page, flags=re.DOTALL | re.MULTILINE)
    return " ".join(page.split())


def from_nowhere(text: str, sentences: Iterable[str], no_measurements: str = NAMES) -> list[str]:
    """What is wrong with the numbers of `text`: made sentences that it lacks, and numbers in no sentence.

    A number with its surroundings. `no_measurements` is a pattern of those that need no source.
    """
    wrong = []
    for sentence in sorted(sentences, key=len, reverse=True):
        if sentence not in text:
            wrong.append(f"not on the page: {sentence}")
        text = text.replace(sentence, "#")
    text = re.sub(no_measurements, "#", text)
    left = re.finditer(_WRITTEN, text, flags=re.IGNORECASE)
    return wrong + [f"in no table: {text[max(each.start() - 40, 0) : each.end() + 40]}" for each in left]


def assert_sourced(text: str, sentences: Iterable[str], no_measurements: str = NAMES) -> None:
    """As `from_nowhere`, a line for each."""
    if wrong := from_nowhere(text, sentences, no_measurements):
        pytest.fail("\n".join(wrong), pytrace=False)


def folder_of(report: str) -> str:
    """Of a report, or of the tables that are kept of a run in which nets were retrained otherwise."""
    kept = f"benchmarks/retraining/{report}"
    return kept if (ROOT / kept).is_dir() else f"reports/{report}"


@cache
def csv_of(report: str, table: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / folder_of(report) / f"tables/{table}.csv")


def rows_of(report: str, table: str, **values: Any) -> pd.DataFrame:
    found = csv_of(report, table)
    for column, value in values.items():
        found = found[found[column] == value]
    assert len(found), (report, table, values)
    return found


def row_of(report: str, table: str, **values: Any) -> Row:
    (row,) = rows_of(report, table, **values).to_dict("records")
    return row


def text_of(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


@cache
def settings(file: str) -> Any:
    return YAML(typ="safe").load(text_of(file))


def percent(rate: float, *, signed: bool = False, places: int = 2) -> str:
    # A zero is never below zero.
    rounded = round(100 * rate, places) + 0.0
    return f"{rounded:+.{places}f}" if signed else f"{rounded:.{places}f}"


def interval(row: Row, mean: str, low: str, high: str, *, signed: bool = False) -> str:
    first, *ends = (percent(row[each], signed=signed) for each in (mean, low, high))
    return f"{first} [{', '.join(ends)}]"


def accuracies(rows: pd.DataFrame, part: str = "") -> list[float]:
    """One for each row, from its counts."""
    return [*(rows[f"{part}n_correct"] / rows[f"{part}n"])]


def plus_minus(by_seed: Iterable[float], *, signed: bool = False) -> str:
    """The mean over seeds with half of its 95% Student's t interval, in percent."""
    values = np.array([*by_seed])
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{percent(values.mean(), signed=signed)} ± {percent(half)}"


def settings_of(report: str) -> Any:
    """The params of the run that the report is of."""
    return settings(f"{folder_of(report)}/params.yaml")


def minutes_of(durations: str) -> str:
    """Of all stages of a run, begun minutes, in words."""
    return WORDS[math.ceil(pd.read_csv(ROOT / "benchmarks" / durations)["seconds"].sum() / 60)]


def job_seconds(report: str, stage: str = r"\w+") -> float:
    """Of all jobs of a run, or of one of its stages, as if one had run after another."""
    rows = re.findall(
        rf"^\| {stage} \| \d+ \| ([\d.]+) \|$",
        text_of(f"{folder_of(report)}/provenance.md"),
        flags=re.MULTILINE,
    )
    assert rows, (report, stage)
    return sum(map(float, rows))


def cores_of(report: str) -> str:
    (cores,) = re.findall(
        r"^Computed with Python \S+ on (\d+) cores", text_of(f"reports/{report}"), flags=re.MULTILINE
    )
    return WORDS[int(cores)]


def seeds_of(report: str) -> str:
    """Of the run that the report is of, in words."""
    n_seeds = len(settings_of(report)["seeds"])
    return f"{WORDS[n_seeds]} seed{'' if n_seeds == 1 else 's'}"


def method_mean(report: str, method: str, step: int) -> float:
    """Mean test accuracy over seeds at a size of the comparison."""
    rows = rows_of(report, "comparison", method=method, step=step)
    return float(rows["test_n_correct"].sum() / rows["test_n"].sum())  # as the report rounds it


def size_at(report: str, step: int) -> str:
    return f"{rows_of(report, 'comparison', method='ours', step=step)['params'].mean():,.0f}"
