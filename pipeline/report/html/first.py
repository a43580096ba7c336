"""The first screen's table of models: it says what a CSV beside the page holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.compared import ORIGINAL
from pipeline.report.markdown import counted, literal, percent, table, thousands
from pipeline.report.model_rows import ON_ITSELF
from pipeline.report.robustness.page import describe

if TYPE_CHECKING:
    from pipeline.report.results import Results

_MODELS = (
    "model | parameters (of original) | FLOPs | bytes, first seed | ms, an image | epochs in all | test accuracy, % | "
    "less the original, points | worst noise, points | worst attack, points"
)


def models_table(results: Results, models: pd.DataFrame) -> str:
    """The models worth a row, those to choose in bold; a dash where nothing was measured."""
    original = float(models[models["model"] == ORIGINAL]["params"].iloc[0])
    rows = []
    for row in models.to_dict("records"):
        name = f"**{literal(str(row['label']))}**" if row["chosen"] else literal(str(row["label"]))
        accuracy = _interval(row, "test_accuracy", "low", "high")
        difference = _interval(row, "difference", "difference_low", "difference_high", signed=True)
        size = f"{thousands(row['params'])} ({percent(row['params'] / original)}\u00a0%)"
        numbers = [_number(row, each) for each in ("flops", "bytes")]
        ms = f"{row['milliseconds']:.3g}" if _has(row, "milliseconds") else "-"
        worst = [_worst(row, each) for each in ("worst_noise", "worst_attack")]
        rows.append([name, size, *numbers, ms, _number(row, "epochs"), accuracy, difference, *worst])
    return (
        table(_MODELS, rows)
        + "\n\n"
        + (
            f"In bold: the recommended model. Epochs in all: every epoch of training behind a model, growing "
            f"and pushing included. Less the original: paired, image by image and seed by seed, "
            f"{counted(len(results.params.seeds), 'seed')}. Worst: the largest loss of accuracy against clean images, "
            f"but for what leaves the original right on fewer than half of the images. "
            f"Bytes and ms: of seed {results.params.seeds[0]}'s file, which has parameters of its own, not the mean."
        )
        + _named_here(results, models)
    )


def _named_here(results: Results, models: pd.DataFrame) -> str:
    """What the names of the worst noises and attacks stand for, and of methods at widths of their own."""
    named = {
        str(each).removesuffix(ON_ITSELF) for name in ("worst_noise", "worst_attack") for each in models[name]
    }
    found = {
        each.key: describe(results, each) for each in results.conditions() if {each.name, each.key} & named
    }
    said = "".join(f" {literal(key)}: {literal(words)}." for key, words in found.items())
    if models["label"].str.contains("own widths").any():
        said += " Own widths: as wide, layer by layer, as is best for that criterion; all else has ours."
    if models["model"].str.startswith("scratch").any():
        said += " Trained from scratch: our architecture with fresh weights, trained as long in all."
    return said


def _interval(row: Mapping[Any, Any], mean: str, low: str, high: str, *, signed: bool = False) -> str:
    if not _has(row, mean):
        return "-"
    cells = [percent(float(row[each]), signed=signed) for each in (mean, low, high)]
    return f"{cells[0]} [{cells[1]},\u00a0{cells[2]}]"  # bounds stay on one line


def _worst(row: Mapping[Any, Any], name: str) -> str:
    if not _has(row, f"{name}_drop"):
        return "-"
    return f"{percent(float(row[f'{name}_drop']), signed=True)} ({literal(str(row[name]))})"


def _number(row: Mapping[Any, Any], name: str) -> str:
    return thousands(float(row[name])) if _has(row, name) else "-"


def _has(row: Mapping[Any, Any], name: str) -> bool:
    return name in row and not pd.isna(row[name]) and bool(row[name] != "")
