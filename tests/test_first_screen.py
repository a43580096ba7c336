"""The first screen of the digits' committed report: its sentence and its tables hold numbers of the CSVs alone."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

import numpy as np
from page_numbers import (
    NAMES,
    Row,
    accuracies,
    assert_sourced,
    csv_of,
    interval,
    percent,
    row_of,
    rows_of,
    settings,
    text_of,
)

REPORT = "reports/digits"
PARAMS = settings(f"{REPORT}/params.yaml")


def test_every_number_of_the_recommendation_is_in_a_table() -> None:
    (answer,) = re.findall(
        r'<div class="answer">(.*?)</div>', text_of(f"{REPORT}/index.html"), flags=re.DOTALL
    )
    page = " ".join(re.sub(r"</(?:p|li)>", "; ", answer).split())
    page = html.unescape(re.sub(r"<[^>]*>", "", page))
    (summary,) = re.findall(r"^\*\*(.*)\*\*$", text_of(f"{REPORT}/summary.md"), flags=re.MULTILINE)
    for text in (page, summary.replace("\\", "")):
        assert_sourced(text, {*_recommended(), *_losses(), *_others()}, NAMES)


def test_every_number_of_the_pages_first_table_is_in_a_table() -> None:
    page = text_of(f"{REPORT}/index.html").replace("\N{NO-BREAK SPACE}", " ")
    table = re.findall(r"<table>(.*?)</table>", page, flags=re.DOTALL)[0]
    shown = [
        [html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd] .*?</t[hd]>", row)]
        for row in table.split("</tr>")
    ]
    assert [row for row in shown if row][1:] == [[*_cells(row)] for row in _rows()]


def test_every_number_of_the_summarys_table_is_in_a_table() -> None:
    lines = [line for line in text_of(f"{REPORT}/summary.md").splitlines() if line.startswith("| ")]
    conditions = [each.strip() for each in lines[0].split("|")[5:-1]]
    assert conditions == PARAMS["report"]["headline"]
    scores = csv_of("digits", "scores").query("split == 'test'").groupby("model")
    sizes = scores[["params", "flops"]].mean()
    expected = []
    for model in ("original", "base", "control", "pushed", "accuracy_first", "parameter_first"):
        clean = row_of("digits", "strengths", condition="clean", family="gaussian", model=model)
        share = percent(sizes["params"][model] / sizes["params"]["original"])
        changes = [row_of("digits", "accuracy_means", condition=each, model=model) for each in conditions]
        expected.append(
            [
                f"{sizes['params'][model]:,.0f} ({share} %)",
                f"{sizes['flops'][model]:,.0f}",
                interval(clean, "accuracy", "low", "high"),
                *(interval(change, "drop", "drop_low", "drop_high", signed=True) for change in changes),
            ]
        )
    found = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines[2:]]
    assert found == expected


def test_every_number_below_the_summarys_table_is_in_a_table() -> None:
    report, original, small = PARAMS["report"], *map(_row, ("original", "parameter_first"))
    most = percent(PARAMS["select"]["max_drop"])
    rates = {
        model: np.array(accuracies(rows_of("digits", "scores", model=model, split="validation")))
        for model in ("original", "parameter_first")
    }
    sizes = [rows_of("digits", "scores", model=each, split="test")["params"].to_numpy() for each in rates]
    share = percent(float(np.mean(sizes[1] / sizes[0])))
    (n_images,) = set(rows_of("digits", "scores", split="test")["n"])
    (n_perturbed,) = set(csv_of("digits", "accuracy")["n"])
    lost = float(np.mean(rates["parameter_first"] - rates["original"]))
    sentences = {
        f"Mean and {report['confidence']:.0%} interval over {len(PARAMS['seeds'])} seeds",
        f"The accuracy is of {n_images} test images",
        f"on the same {n_perturbed} of them",
        f"Original: {_accuracy(original)} % test accuracy; "
        f"expected at least {percent(report['target_original_test_accuracy'])} %",
        f"On validation {percent(float(np.mean(rates['original'])))}",
        f"{share} % of the original's parameters (mean of the seeds' shares) at {_difference(small)} points of the "
        "original's",
        f"expected at most {percent(report['target_params_fraction'])} % in every seed, within {most} points",
        f"On the validation images that chose it {percent(lost, signed=True)}",
    }
    text = " ".join(text_of(f"{REPORT}/summary.md").rpartition(" |\n")[2].split())
    assert_sourced(text, sentences, r"(?<=#) \[[-+\d., ]+\]")


def _rows() -> list[Row]:
    return csv_of("digits", "recommendation").to_dict("records")


def _row(model: str) -> Row:
    return row_of("digits", "recommendation", model=model)


def _chosen() -> Row:
    return row_of("digits", "recommendation", chosen=True)


def _share(row: Row) -> str:
    return percent(row["params"] / _row("original")["params"])


def _cells(row: Row) -> Iterator[str]:
    """A row as the page shows it: a dash where the table has nothing."""
    yield row["label"]
    yield f"{row['params']:,} ({_share(row)} %)"
    yield f"{row['flops']:,}"
    yield "-" if np.isnan(row["bytes"]) else f"{row['bytes']:,.0f}"
    yield "-" if np.isnan(row["milliseconds"]) else f"{row['milliseconds']:.3g}"
    yield f"{row['epochs']:.0f}"
    yield _accuracy(row)
    yield "-" if np.isnan(row["difference"]) else _difference(row)
    for kind in ("noise", "attack"):
        drop, name = row[f"worst_{kind}_drop"], row[f"worst_{kind}"]
        yield "-" if np.isnan(drop) else f"{percent(drop, signed=True)} ({name})"


def _accuracy(row: Row) -> str:
    return interval(row, "test_accuracy", "low", "high")


def _difference(row: Row) -> str:
    return interval(row, "difference", "difference_low", "difference_high", signed=True)


def _recommended() -> Iterator[str]:
    row, (first, *others) = _chosen(), csv_of("digits", "scores")["seed"].unique()
    size = f"{row['params']:,} parameters ({_share(row)} % of the original) and {row['flops']:,} FLOPs"
    rule = f"the smallest within {percent(PARAMS['select']['max_drop'])} points of the original on validation"
    yield f"Take {row['label']} ({rule}): {size}, means over {1 + len(others)} seeds"
    (file,) = rows_of("digits", "disk", model=row["model"], seed=first).to_dict("records")
    assert file["onnx_bytes"] == row["bytes"]
    yield (
        f"Seed {first}'s file in runs/digits/select/{first}/, of {file['params']:,} parameters: "
        f"{row['bytes']:,.0f} bytes as ONNX, {row['milliseconds']:.3g} ms an image ({row['timed_by']})"
    )
    most = percent(PARAMS["select"]["max_drop"])
    within = (
        f"{'undecided whether ' if 100 * row['difference_low'] < -float(most) else ''}at most {most} worse"
    )
    right = f"It is right on {_accuracy(row)} % of the test images"
    yield f"{right}, {_difference(row)} points against the original ({within})"


def _losses() -> Iterator[str]:
    """What the original loses under the same is its own worst here, and so in its row."""
    row, original = _chosen(), _row("original")
    for kind in ("noise", "attack"):
        name = row[f"worst_{kind}"]
        assert original[f"worst_{kind}"] == name
        drop, there = (percent(each[f"worst_{kind}_drop"], signed=True) for each in (row, original))
        yield f"{drop} points under {kind} ({name}, the original {there})"


def _others() -> Iterator[str]:
    """What stands beside it at the compared size: differences from the claims, which are of ours less the other."""
    (ours,) = (each for each in _rows() if each["model"].startswith("ours_step"))
    size, claims = f"{ours['params']:,}", csv_of("digits", "claims")
    yield f"At {size} parameters, the compared size nearest to it, ours has {_accuracy(ours)} %"
    contest = claims[claims["family"].str.startswith("ours against others at ")]
    here = contest[contest["family"].str.endswith(f" at {size} parameters")]
    n_sizes = contest["family"].nunique()
    for row in here[here["effect"] <= 0].to_dict("records"):
        name = row["claim"].partition("more accurate than ")[2]
        ahead = (contest[contest["claim"].str.endswith(f"more accurate than {name}")]["effect"] < 0).all()
        always = f", ahead at all {n_sizes} sizes" if ahead else ""
        yield f"{name} (ours less it {percent(row['effect'], signed=True)} points{always})"
    behind, beaten = (here["effect"] > 0).sum(), (here["verdict"] == "supported").sum()
    yield f"{behind} of {len(here)} others behind, {beaten} of them surely"
