"""The pruning report's pieces that a run seldom meets."""

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
from conftest import ROOT

from pipeline.params.file import read_params
from pipeline.report.pruning_figures import draw_layers, layerwise
from pipeline.report.results import Results

FIELDS = ["seed", "model", "layer", "kind", "in", "out", "params", "flops"]


def results(layers: list[list[Any]]) -> Results:
    """Layers alone; every other table is empty."""
    empty: dict[str, Any] = {field.name: pd.DataFrame() for field in dataclasses.fields(Results)}
    table = pd.DataFrame(layers, columns=FIELDS)
    return Results(**empty | {"params": read_params(ROOT / "presets/tiny.yaml"), "layers": table})


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
