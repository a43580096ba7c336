"""The tables of the digits' committed page, row by row, against the CSVs beside it."""

from __future__ import annotations

import html
import re
from functools import cache

import pandas as pd
import pytest
from page_numbers import accuracies, csv_of, interval, percent, rows_of, text_of

from pipeline.report.figures import LABELS

Cells = list[str]


@cache
def tables() -> list[list[Cells]]:
    """Of the page in its order, each with its header first."""
    page = text_of("reports/digits/index.html").replace("\N{NO-BREAK SPACE}", " ").partition("<script>\n")[0]
    found = []
    for table in re.findall(r"<table>(.*?)</table>", page, flags=re.DOTALL):
        rows = [
            [html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd] .*?</t[hd]>", row)]
            for row in table.split("</tr>")
        ]
        found.append([row for row in rows if row])
    return found


def table_with(*header: str, nth: int = 0) -> list[Cells]:
    """The rows of the n-th table whose header begins so."""
    return [table for table in tables() if tuple(table[0][: len(header)]) == header][nth][1:]


def count(n: float) -> str:
    return f"{n:,.0f}"


def test_claims() -> None:
    shown = [row for table in tables() if table[0][0] == "claim" for row in table[1:]]
    expected = []
    for row in csv_of("digits", "claims").to_dict("records"):
        known = not pd.isna(row["effect"])
        effect = interval(row, "effect", "low", "high", signed=True) if known else "-"
        verdict = (
            f"{row['verdict']} ({row['note']})"
            if isinstance(row["note"], str) and row["note"]
            else row["verdict"]
        )
        p = [f"{row[each]:.3g}" if known else "-" for each in ("p", "p_holm")]
        images = f"{row['n_seeds']} x {row['n_images']}"
        expected.append([row["claim"], effect, *p, verdict, images, row["source"]])
    assert shown == expected


def test_methods_at_every_size() -> None:
    rows = csv_of("digits", "comparison")
    means = rows.assign(accuracy=accuracies(rows, "test_")).pivot_table(
        index="method", columns="step", values="accuracy"
    )
    shown = [[cell.split(" ")[0] for cell in row[1:]] for row in table_with("method")]
    methods = [name for name in rows["method"].unique() if name != "ours_one_image"]
    assert sorted(shown) == sorted([percent(each) for each in means.loc[name]] for name in methods)


def test_changes_and_accuracies_under_every_condition() -> None:
    means = csv_of("digits", "accuracy_means")
    for table, column, signed in ((0, "drop", True), (2, "accuracy", False)):
        header = next(each for each in tables() if each[0][:2] == ["perturbation", "original"])[0]
        models = [name for label in header[1:] for name, known in LABELS.items() if known == label]
        shown = table_with("perturbation", "original", "before growing", nth=table)
        assert len(shown) == (5 if signed else means["condition"].nunique())
        for condition, *cells in shown:
            of = means[means["condition"] == condition].set_index("model")[column]
            assert [cell.split(" ")[0] for cell in cells[: len(models)]] == [
                percent(of[model], signed=signed) for model in models
            ]


def test_attacks_on_the_models_themselves() -> None:
    attacks = csv_of("digits", "white_box")["attack"].unique()
    shown = {row[0]: row[1::2] for row in table_with("model", "fgsm_4, white box")}
    for model, label in LABELS.items():
        if not model.startswith("after"):
            rows = (rows_of("digits", "white_box", model=model, attack=attack) for attack in attacks)
            means = [percent(sum(accuracies(each)) / len(each)) for each in rows]
            assert [cell.split(" ")[0] for cell in shown[label]] == means, label


def test_who_is_fooled() -> None:
    columns = ["condition", "seed", "only_first", "only_second", "both", "neither"]
    expected = csv_of("digits", "outcomes")[columns].astype(str).to_numpy().tolist()
    assert sorted(table_with("attack", "seed")) == sorted(expected)


@pytest.mark.parametrize("name", ["growth", "samples"])
def test_nets_that_were_tried(name: str) -> None:
    rows, expected = csv_of("digits", name), []
    for row in rows.to_dict("records"):
        sizes = [count(row["params"]), count(row["flops"]), percent(row["n_correct"] / row["n"])]
        if name == "growth":
            expected.append([str(row["iteration"]), str(row["seed"]), row["name"], row["stages"], *sizes])
        else:
            label = f"{row['round']}, {row['sample']}"
            expected.append([label, "grow, push, prune", str(row["seed"]), str(row["latent_kept"]), *sizes])
    shown = table_with("iteration" if name == "growth" else "sample")
    assert sorted(row[:-1] for row in shown) == sorted(expected)


def test_layers_of_the_first_seed() -> None:
    found = {
        model: rows_of("digits", "layers", seed=0, model=model).set_index("layer")[["out", "params", "flops"]]
        for model in ("pushed", "parameter_first")
    }
    before, after = found["pushed"], found["parameter_first"].reindex(found["pushed"].index, fill_value=0)
    pairs = [
        (each.loc[layer, column])
        for layer in before.index
        for column in ("out", "params", "flops")
        for each in (before, after)
    ]
    shown = table_with("layer")
    assert [row[0] for row in shown] == [*before.index]
    assert [cell for row in shown for cell in row[2:]] == [count(float(n)) for n in pairs]


def test_models_seed_by_seed() -> None:
    expected = []
    for row in rows_of("digits", "scores", split="test").to_dict("records"):
        (validation,) = accuracies(
            rows_of("digits", "scores", split="validation", seed=row["seed"], model=row["model"])
        )
        sizes = [count(row["params"]), count(row["flops"])]
        expected.append([str(row["seed"]), *sizes, percent(validation), percent(row["n_correct"] / row["n"])])
    assert sorted(row[1:] for row in table_with("model", "seed", "parameters")) == sorted(expected)


def test_files_and_times() -> None:
    columns = ["params", "flops", "weights_bytes", "onnx_bytes"]
    disk = [[count(n) for n in row] for row in csv_of("digits", "disk")[columns].to_numpy()]
    assert sorted(
        row[1:5] for row in table_with("model", "parameters", "FLOPs", "safetensors, bytes")
    ) == sorted(disk)
    timed = [
        cell.split(" ")[0]
        for table in tables()
        if table[0][:3] == ["model", "FLOPs, times fewer", "1 image, ms"]
        for row in table[1:]
        for cell in (row[2], row[5])
    ]
    assert sorted(timed) == sorted(f"{each:.3g}" for each in csv_of("digits", "latency")["median_ms"])
