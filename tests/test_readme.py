"""The README says what is: its table is the report's, and what it names exists."""

import ast
import csv
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ROOT
from page_numbers import (
    WORDS,
    accuracies,
    assert_sourced,
    cores_of,
    csv_of,
    from_nowhere,
    job_seconds,
    method_mean,
    minutes_of,
    percent,
    plus_minus,
    prose,
    rows_of,
    seeds_of,
    settings,
    size_at,
    text_of,
)

from pipeline.params.file import read_params
from pipeline.report.published import SCORES

README = text_of("README.md")
_PAPERS_OTHER = (*("cifar10", "cifar100", "lfwa", "adience_age", "imagenet", "imagenet_mobilenet_v2"),)
_SHOWN = ("mnist", "image_folder_small", "image_folder", *_PAPERS_OTHER)


def test_the_first_screens_answer_and_the_table_are_the_reports_summary() -> None:
    blocks = [
        re.findall(rf"<!-- {name}: .*? -->\n(.*)<!-- /{name} -->", README, flags=re.DOTALL)
        for name in ("answer", "summary")
    ]
    copied = "\n\n".join(block.strip() for (block,) in blocks)
    assert copied == text_of("reports/digits/summary.md").strip()


def test_equation_table_names_functions_and_tests_that_exist() -> None:
    tables = README + (ROOT / "docs/method.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (.+?) \| `(pipeline/\S+\.py)` `(\w+)` \| `(tests/\S+\.py)` \|$", tables, flags=re.M
    )
    assert len(rows) >= 30
    for source, module, name, test in rows:
        tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
        defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assert name in defined, f"{source}: {module} has no {name}"
        assert (ROOT / test).is_file(), f"{source}: {test} is missing"


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10_32", "cifar10_inception", "cifar100_32"])
def test_report_holds_the_settings_of_its_preset(name: str) -> None:
    """All but `runtime`, which changes no result."""
    preset = read_params(ROOT / f"presets/{name}.yaml")
    used = settings(f"reports/{name}/params.yaml")
    assert used == preset.model_dump(mode="json", by_alias=True, exclude={"runtime"})


def test_every_number_comes_from_a_table_a_preset_or_the_project_file() -> None:
    sentences = {
        *_setup_and_durations(),
        *_presets(),
        *_cifar(),
        *_standings(),
    }
    assert_sourced(prose(README), sentences)


def test_a_number_that_was_typed_is_found() -> None:
    """A changed digit, a changed word, a new number in prose, and one in a table."""
    text, sourced = "It takes nine minutes for 1,797 images.", ["takes nine minutes", "1,797 images"]
    assert from_nowhere(text, sourced) == []
    for changed, n_wrong in (
        (text.replace("1,797", "1,798"), 2),
        (text.replace("nine", "ten"), 2),
        (text + " Three runs failed.", 1),
        (text + " | 3 |", 1),
        (text + " Eq. 3.13 with ResNet-18 on CIFAR-10 (thesis 3.3, 4.3; CVIU 5.3).", 0),
    ):
        assert len(from_nowhere(changed, sourced)) == n_wrong, changed
    assert prose("a `x1` [b](c2.md)\n```\n3\n```\n<!-- 4 --> d") == "a [b] d"


def _setup_and_durations() -> Iterator[str]:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    yield f"Python {project['requires-python'].removeprefix('>=')} or newer"
    time = f"{minutes_of('digits_durations.csv')} minutes on {cores_of('digits/report.md')} cores"
    yield f"{seeds_of('digits')} each: {time} without a GPU"
    yield f"[{seeds_of('digits')}] , {time}"
    # The run on the slower one had the earlier stages from its store.
    fast, slow = (job_seconds(report, "compare") for report in ("digits", "digits_other_processor"))
    yield f"slow ones take {WORDS[round(slow / fast)]} times as long"
    time = f"{minutes_of('walk_durations.csv')} minutes on {cores_of('photographs/report.md')} cores"
    yield f"[photographs] , {time}"
    drills = list(csv.reader(text_of("benchmarks/drill.csv").splitlines()))[1:]
    yield f"in {WORDS[len(drills)]} ways ([the last table]"


def _presets() -> Iterator[str]:
    """What the table of presets says of them, and of what was measured with MNIST's."""
    of = {name: settings(f"presets/{name}.yaml") for name in _SHOWN}
    small, large = (of[name]["data"]["crop_px"] for name in ("image_folder_small", "image_folder"))
    # What it was made for stands in its first line.
    assert text_of("presets/image_folder_small.yaml").startswith("# Your own images on two cores:")
    yield f"your own images at {small} pixels on two cores, at {large} on a GPU"
    (side,) = {of[name]["data"]["crop_px"] or of[name]["data"]["resize_px"] for name in _PAPERS_OTHER}
    yield f"the papers' other experiments at {side} pixels"
    published = {row.accuracy for row in SCORES["mnist"] if row.model == "ours"}
    ours, saliency = (
        plus_minus(accuracies(rows_of("mnist", "comparison", method=method, step=2), "test_"))
        for method in ("ours", "ours_saliency")
    )
    yield f"[{seeds_of('mnist')}] , {job_seconds('mnist') / 3600:.1f} hours of jobs, taken apart in [its crossing]"
    yield (
        f"{ours} % at {size_at('mnist', 2)} parameters the papers' way (published: {published.pop()} %), "
        f"{saliency} % by saliency"
    )


def _cifar() -> Iterator[str]:
    """Images as they are, so as many pixels as CIFAR's have."""
    of = {
        name: settings(f"presets/{name}.yaml") for name in ("cifar10_32", "cifar10_inception", "cifar100_32")
    }
    for preset in of.values():
        assert preset["data"]["resize_px"] is preset["data"]["crop_px"] is None
    yield f"narrow residual net at 32 pixels, {_training_images(of, 'cifar10_32')} training images"
    share = of["cifar10_inception"]["compare"]["sizes"]["params"][2]
    for report, at in (
        ("cifar10_32", f", other runs beside them: at {size_at('cifar10_32', 2)} parameters"),
        # Its seeds have grown nets of different sizes.
        ("cifar10_inception", f": at {100 * share:g} % of its parameters"),
    ):
        names = ("ours", "ours_saliency", "taylor_own", "han")
        ours, saliency, taylor, single = (percent(method_mean(report, name, 2)) for name in names)
        yield (
            f"[{seeds_of(report)}] , {job_seconds(report) / 3600:.1f} hours of jobs{at} "
            f"{ours} % the papers' way, {saliency} by saliency, {taylor} Taylor, {single} single weights"
        )
    scores = rows_of("cifar100_32", "scores", split="test").set_index("model")
    original, pruned, after = (
        float(scores.loc[model, "accuracy"])
        for model in ("original", "parameter_first", "after_the_fact_parameter_first")
    )
    yield (
        f"[{seeds_of('cifar100_32')}] , {job_seconds('cifar100_32') / 60:.0f} minutes of jobs: half of the parameters "
        f"cost {percent(original - pruned)} points, {percent(original - after)} after the fact"
    )


def _training_images(of: dict[str, Any], preset: str) -> str:
    """Of a set of ten classes, as the decision layer of its report has outputs."""
    (n_classes,) = {
        row["out"]
        for row in rows_of(preset, "layers", model="base").to_dict("records")
        if row["layer"].endswith("decision")
    }
    return f"{of[preset]['data']['images_per_class']['train'] * n_classes:,}"


def _standings() -> Iterator[str]:
    """The table of the first screen: Taylor at its own widths; who is ahead, by the means."""
    ahead = {}
    for report, ours, papers, what in (
        ("digits", "ours", "ours_papers", "the default on digits ({}), every difference undecided"),
        (
            "digits_other_processor",
            "ours",
            "ours_papers",
            "the same on another processor ({}), likewise",
        ),
        (
            "mnist_longer",
            "ours_saliency",
            "ours",
            "MNIST, cut in one go ({}); decided: the papers' way behind the last two",
        ),
        (
            "cifar10_longer",
            "ours_saliency",
            "ours",
            "a residual net on CIFAR-10, cut in one go ({}), undecided",
        ),
    ):
        step = csv_of(report, "comparison")["step"].max()
        means = {name: method_mean(report, name, step) for name in (ours, papers, *_OTHERS)}
        yield f"| {what.format(size_at(report, step))} | {' | '.join(map(percent, means.values()))} |"
        claims = csv_of(report, "claims")
        verdicts = {*claims[claims["family"].str.contains("against others at ")]["verdict"]}
        assert (verdicts == {"undecided"}) == (report != "mnist_longer"), "every difference undecided"
        ahead[report] = {name: means[name] - means[ours] for name in _OTHERS}
    scratch = {report: less["scratch"] for report, less in ahead.items()}
    assert abs(scratch.pop("cifar10_longer")) < 0.0015, "level on CIFAR-10"
    assert min(scratch.values()) > 0, "ahead of ours on the digits and MNIST"
    for report in ("mnist_longer", "cifar10_longer"):
        assert ahead[report]["han"] > 0, "single weights are ahead on MNIST and on the residual net"
        assert ahead[report]["taylor_own"] > 0, "as good as ours or better"
    for report in ("digits", "digits_other_processor"):
        assert all(
            method_mean(report, "scratch", step) > method_mean(report, "ours", step) for step in (1, 2)
        )
    yield "at the digits' two smaller sizes and level on CIFAR-10 at the one size tried"
    for step in range(4):
        means = {
            name: method_mean("cifar10_32", name, step) for name in ("ours_saliency", "taylor_own", "han")
        }
        assert means["han"] > means["ours_saliency"]
        assert means["taylor_own"] > means["ours_saliency"] - 0.0015
    gained = {
        (name, row["claim"])
        for name in ("digits", "mnist", "cifar10_32", "cifar10_inception", "cifar100_32", "photographs")
        for row in csv_of(name, "claims").to_dict("records")
        if row["verdict"] == "supported"
        and re.search(r"loses less|is right more often|gains more|fools", row["claim"])
    }
    assert gained == set(), "no gain in robustness was decided"


_OTHERS = ("taylor_own", "scratch", "han")
