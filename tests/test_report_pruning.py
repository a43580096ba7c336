"""The pruning report's pieces that a run seldom meets."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from pipeline.params.file import read_params
from pipeline.report.latent import variants_section
from pipeline.report.pruning_figures import draw_layers, layerwise
from pipeline.report.results import Results

FIELDS = ["seed", "model", "layer", "kind", "in", "out", "params", "flops"]


def results(layers: list[list[Any]]) -> Results:
    """Layers alone; every other table is empty."""
    empty: dict[str, Any] = {field.name: pd.DataFrame() for field in dataclasses.fields(Results)}
    table = pd.DataFrame(layers, columns=FIELDS)
    return Results(**empty | {"params": read_params(ROOT / "presets/tiny.yaml"), "layers": table})


def pushes(rows: list[list[Any]]) -> Results:
    """The variants of the tiny preset's seeds 0 and 1, and a main push that went well."""
    found = results([])
    names = ["seed", "variant", *NUMBERS]
    space = {"after.spectrum": np.array([3.0, 1.0]), "after.active": np.array([True, False])}
    pushing = [[seed, 4, 100, 90, 0.25] for seed in (0, 1)]
    return dataclasses.replace(
        found,
        variants=pd.DataFrame(rows, columns=names),
        latent_spaces={0: space, 1: space},
        pushing=pd.DataFrame(
            pushing, columns=["seed", "epoch", "validation_n", "validation_n_correct", "train_collapsed"]
        ),
    )


NUMBERS = ["n", "n_correct", "n_active", "v_sum", "v_top", "collapsed"]
GONE = [100, *[math.nan] * 5]


@pytest.mark.parametrize(
    ("rows", "cells"),
    [
        (
            [[100, 80, 7, 4.0, 1.0, 0.5], GONE],
            "7, - | 4, - | 25.00, - | 50.00, - | 80.00 (1 of 2 seeds diverged)",
        ),
        ([GONE, GONE], "-, - | -, - | -, - | -, - | diverged"),
    ],
)
def test_a_push_that_diverged_is_said_to_have(rows: list[list[Any]], cells: str) -> None:
    found = pushes([[seed, "ours", *row] for seed, row in enumerate(rows)])
    (line,) = [line for line in variants_section(found).splitlines() if line.startswith("| ours ")]
    assert line.endswith(f" | {cells} |")


LAYERS: list[list[Any]] = [
    [0, "pushed", "stem", "3x3", 1, 8, 72, 720],
    [0, "pushed", "branch", "1x1", 8, 4, 32, 320],
    [0, "pushed", "decision", "linear", 4, 10, 50, 80],
    [0, "parameter_first", "stem", "3x3", 1, 6, 54, 540],
    [0, "parameter_first", "decision", "linear", 2, 10, 30, 40],
    [1, "parameter_first", "branch", "1x1", 8, 2, 16, 160],
]


def test_a_layer_that_went_with_its_branch_is_left_with_nothing() -> None:
    before, after = layerwise(results(LAYERS), seed=0)
    assert before.index.tolist() == after.index.tolist() == ["stem", "branch", "decision"]
    assert after.to_numpy().tolist() == [[6, 54, 540], [0, 0, 0], [10, 30, 40]]
    assert before["kind"].tolist() == ["3x3", "1x1", "linear"]


def test_layers_are_drawn_with_one_gone(tmp_path: Path) -> None:
    draw_layers(results(LAYERS), tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {"layers.png", "layers.svg"}
