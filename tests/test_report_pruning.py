"""Pieces of the page's sections on models that a run seldom meets."""

import math
from typing import Any

import pandas as pd
import pytest
from report_builders import results_with
from tiny_params import params_of

from pipeline.report.charts.nets import layers_figure
from pipeline.report.latent import variants_section
from pipeline.report.layers import layerwise, profile_section
from pipeline.report.pruning import samples_section
from pipeline.report.results import Results

FIELDS = ["seed", "model", "layer", "kind", "in", "out", "params", "flops"]


def results(layers: list[list[Any]], seeds: tuple[int, ...] = (0,)) -> Results:
    """Layers alone; every other table is empty."""
    return results_with(params_of(("seeds", [*seeds])), {"layers": pd.DataFrame(layers, columns=FIELDS)})


NUMBERS = ["n", "n_correct", "n_active", "v_sum", "v_top", "collapsed"]
ENDED = [100, 80, 7, 4.0, 1.0, 0.5]
GONE = [math.nan] * 6


def variants(first: list[Any], second: list[Any]) -> str:
    """The line of the tiny preset's variant of two seeds, beside a main push that went well."""
    rows = [[0, "main", *ENDED], [1, "main", *ENDED], [0, "ours", *first], [1, "ours", *second]]
    table = pd.DataFrame(rows, columns=["seed", "variant", *NUMBERS])
    section = variants_section(results_with(params_of(("seeds", [0, 1])), {"variants": table}))
    (line,) = [line for line in section.splitlines() if line.startswith("| ours ")]
    return line


@pytest.mark.parametrize(
    ("first", "second", "cells"),
    [
        (ENDED, GONE, "7, - | 4, - | 25.00, - | 50.00, - | 80.00, -"),
        (GONE, GONE, "-, - | -, - | -, - | -, - | -, -"),
        (ENDED, ENDED, "7, 7 | 4, 4 | 25.00, 25.00 | 50.00, 50.00 | 80.00, 80.00"),
    ],
)
def test_a_push_that_diverged_is_said_to_have(first: list[Any], second: list[Any], cells: str) -> None:
    assert variants(first, second).endswith(f" | {cells} |")


@pytest.mark.parametrize(
    ("acceptable", "chosen", "collapsed", "fate"),
    [
        (1, 0, 1, "acceptable, collapsed in retraining"),
        (0, 0, 1, "collapsed in retraining"),
        (1, 1, 0, "next round"),
        (0, 0, 0, ""),
    ],
)
def test_a_sample_is_said_to_be_acceptable_and_to_have_collapsed(
    acceptable: int, chosen: int, collapsed: int, fate: str
) -> None:
    sample = {"seed": 0, "pipeline": "pushed", "round": "round1", "sample": "eta0.5", "latent_kept": 7}
    counts = {"params": 500, "flops": 900, "n": 100, "n_correct": 80}
    marks = {"acceptable": acceptable, "chosen": chosen, "collapsed": collapsed}
    page = samples_section(results_with(params_of(), {"samples": pd.DataFrame([sample | counts | marks])}))
    (line,) = [line for line in page.splitlines() if line.startswith("| round1, eta0.5 ")]
    assert line.endswith(f"| 80.00 | {fate} |")


LAYERS: list[list[Any]] = [
    [0, "pushed", "stem", "3x3", 1, 8, 72, 720],
    [0, "pushed", "branch", "1x1", 8, 4, 32, 320],
    [0, "pushed", "decision", "linear", 4, 10, 50, 80],
    [0, "parameter_first", "stem", "3x3", 1, 6, 54, 540],
    [0, "parameter_first", "decision", "linear", 2, 10, 30, 40],
    [1, "parameter_first", "branch", "1x1", 8, 2, 16, 160],
]


def test_a_layer_that_went_with_its_branch_is_left_with_nothing() -> None:
    before, after = layerwise(results(LAYERS), "parameter_first", 0)
    assert before.index.tolist() == after.index.tolist() == ["stem", "branch", "decision"]
    assert after.to_numpy().tolist() == [[6, 54, 540], [0, 0, 0], [10, 30, 40]]
    assert before["kind"].tolist() == ["3x3", "1x1", "linear"]


@pytest.mark.parametrize(
    ("kept", "words"),
    [((8, 4, 1), "first layers keep more, as there"), ((1, 4, 8), "last layers keep more, unlike there")],
)
def test_the_profile_of_a_pruned_net_is_held_against_the_papers(kept: tuple[int, ...], words: str) -> None:
    layers = [
        [0, model, f"layer{idx}", "3x3", 8, n, 9, 9]
        for model in ("pushed", "accuracy_first", "parameter_first")
        for idx, n in enumerate([*((8, 8, 8) if model == "pushed" else kept), 10])
    ]
    lines = profile_section(results(layers)).splitlines()
    first, _, last = (f"{100 * n / 8:.2f}" for n in kept)
    assert f"| pruned, parameter first | {first} | {last} | {words} |" in lines


def test_thirds_of_the_profile_are_of_each_seeds_own_layers() -> None:
    """A layer that one seed has grown in the middle stands there, not behind the layers of all."""
    nets = {0: {"a": 8, "b": 4, "c": 2}, 1: {"a": 6, "b": 4, "grown": 0, "c": 4}}
    layers = [
        [seed, model, layer, "3x3", 8, 8 if model == "pushed" else n, 9, 9]
        for seed, kept in nets.items()
        for model in ("pushed", "accuracy_first", "parameter_first")
        for layer, n in {**kept, "decision": 10}.items()
    ]
    page = profile_section(results(layers, seeds=(0, 1))).splitlines()
    # Of four layers a third is two: (8 + (6 + 4) / 2) / 2 of 8 filters, and (2 + (0 + 4) / 2) / 2.
    assert "| pruned, parameter first | 81.25 | 25.00 | first layers keep more, as there |" in page


def test_layers_are_drawn_with_one_gone_and_convolutions_apart() -> None:
    shown = {}
    for spec in layers_figure(results(LAYERS)).specs():
        (rows,) = spec["datasets"].values()
        shown[spec["title"]] = [(row["layer"], row["was"], row["left"], row["who"]) for row in rows]
    kept, gone = "after: parameter first", "gone with its branch"
    assert shown == {
        "convolutions: parameters": [("stem", 72, 54, kept), ("branch", 32, 0, gone)],
        "convolutions: FLOPs per image": [("stem", 720, 540, kept), ("branch", 320, 0, gone)],
        "fully connected layers: parameters": [("decision", 50, 30, kept)],
        "fully connected layers: FLOPs per image": [("decision", 80, 40, kept)],
    }
