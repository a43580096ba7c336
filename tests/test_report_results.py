"""A whole report from a run's folder: what it reads, what it writes, and what it leaves out with the params."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from report_builders import EPOCHS, latent_space, write_run
from tiny_params import TIMM, TINY, Change, params_of

from pipeline.errors import InputError
from pipeline.files import write_csv
from pipeline.params.params import Params
from pipeline.report.charts.chart import Figure as Chart
from pipeline.report.charts.sizes import growth_figure
from pipeline.report.latent import variants_section
from pipeline.report.results import Results, load_results
from pipeline.report.write import write_report

SEEDS: Change = ("seeds", [0, 1])
HEADLINE: Change = ("report.headline", ["gaussian", "fgsm"])
NO_ATTACKS: list[Change] = [
    ("attacks", {}),
    ("sources", {}),
    ("white_box", []),
    ("report.headline", ["gaussian"]),
]
NO_NOISE: list[Change] = [("noise", {}), ("report.headline", ["fgsm"])]
NO_COMPARISON: list[Change] = [("compare", None), ("lineup", None)]


def loaded(root: Path, *changes: Change, **options: Any) -> Results:
    params = params_of(SEEDS, HEADLINE, *changes)
    write_run(root, params, **options)
    return load_results(params, root)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures as empty files: rendering takes longer than all else."""
    monkeypatch.setattr(Figure, "savefig", lambda _self, path, **_: Path(path).touch())

    def touch(self: Chart, folder: Path, *, dpi: int) -> None:
        assert dpi
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in ("png", "svg"):
            (folder / f"{self.name}.{suffix}").touch()

    monkeypatch.setattr(Chart, "write", touch)


def pages(folder: Path) -> dict[str, str]:
    return {name: (folder / f"{name}.md").read_text(encoding="utf-8") for name in ("report", "summary")}


def headings(folder: Path) -> list[str]:
    return [line for page in pages(folder).values() for line in page.splitlines() if line.startswith("## ")]


def reported(folder: Path, *changes: Change) -> Path:
    """The folder of a report on a made-up run with these params."""
    write_report(loaded(folder / "runs", *changes), folder / "report")
    return folder / "report"


EVERY_HEADING = [
    "## Claims",
    "## Ours and others at the same sizes",
    "## Learning curves",
    "## Which part pays",
    "## How robustness is measured",
    "## Accuracy drop",
    "## Corruption error",
    "## Strength by strength",
    "## At the same size",
    "## White box, a diagnostic",
    "## Pair by pair, on the same images",
    "## Confidence and calibration",
    "## Who is fooled",
    "## Accuracy",
    "## Perturbations",
    "## Discriminants with and without the push",
    "## Collapse: the paper's separation term and ours",
    "## How many latent neurons are needed",
    "## Which layers are pruned",
    "## Layer by layer",
    "## Growth",
    "## Models, seed by seed",
    "## Accuracy against size",
    "## Selected models",
    "## Gallery",
    "## Data, machine, versions",
    "## Settings",
]


@pytest.mark.usefixtures("unrendered")
def test_a_model_in_eight_bits_is_a_row_of_the_models_and_of_no_other_table(tmp_path: Path) -> None:
    """For each pipeline's parameter-first model; the made-up counts fall from model to model, and by seed."""
    page = pages(reported(tmp_path, ("select.int8", {"calibration_images": 8})))["report"]
    rows = [line for line in page.splitlines() if "parameter first, int8" in line]
    assert [row.split(" | ")[0] for row in rows] == ["| pruned, parameter first, int8"] * 3
    mean, first, second = ([cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows)
    assert mean[-1].startswith("83.50 ")  # 84 and 83 of 100
    assert [each[1:3] + each[-1:] for each in (first, second)] == [
        ["0", "400", "84.00"],
        ["1", "400", "83.00"],
    ]
    without = pages(reported(tmp_path / "none", ("select.int8", None)))["report"]
    assert "int8" not in without


@pytest.mark.usefixtures("unrendered")
def test_a_whole_report_has_every_section_and_every_table(tmp_path: Path) -> None:
    folder = reported(tmp_path)
    assert headings(folder) == EVERY_HEADING
    tables = {file.stem: pd.read_csv(file) for file in (folder / "tables").glob("*.csv")}
    assert set(tables) == {
        *("scores", "layers", "samples", "latent", "growth", "pushing", "variants", "comparison", "accuracy"),
        *("accuracy_means", "reliability", "pairs", "perturbations", "outcomes", "crafted", "white_box"),
        *("claims", "recommendation", "curves", "sensitivity", "headline"),
        "strengths",
    }
    with_hits = {name for name, table in tables.items() if "hits" in table or "test_hits" in table}
    assert with_hits == {"scores", "accuracy"}
    written, read = (
        pd.read_csv(each / "scores.csv") for each in (folder / "tables", tmp_path / "runs/evaluate")
    )
    assert written["hits"].tolist() == read["hits"].tolist()
    for name, table in tables.items():
        if {"n", "n_correct"} <= set(table):
            shares = (table["n_correct"] / table["n"]).tolist()
            assert table["accuracy"].tolist() == pytest.approx(shares, abs=1e-6), name
    means = tables["accuracy_means"].set_index("what")["accuracy"]
    assert means["clean, original"] == pytest.approx(0.895)  # 90 and 89 of 100
    assert len(tables["pushing"]) == 2 * 2  # epochs of the main push; the control has none there
    stopped = (
        "* grow, push, prune, seed 0: every round ran; more could follow\n"
        "* grow, push, prune, seed 1: no sample of round1 reached 80.00 %\n"
    )
    assert stopped in pages(folder)["report"]
    # The params without those that change nothing but the time.
    written = (folder / "params.yaml").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^(\w+):", written) == [name for name in Params.model_fields if name != "runtime"]
    assert "lambda: " in written


def test_the_recommendation_and_the_claims_stand_in_tables_and_lead_the_summary(tmp_path: Path) -> None:
    """Made-up models have 1000, 800, 700, 600 ... parameters, in their order, and ever fewer hits."""
    rounds = {each: TINY["prune"][each] for each in ("rounds", "etas", "sizes", "max_drop")}
    retraining = TINY["prune"]["retraining"] | {"push": "none", "epochs": 3}
    folder = reported(tmp_path, ("after_the_fact", {**rounds, "retraining": retraining}))
    found = pd.read_csv(folder / "tables/recommendation.csv").set_index("model")
    # Two retrainings of two epochs where the first round's sample is taken, three in chapter 3's.
    pruned = {"accuracy_first": 9 + 2, "parameter_first": 9 + 2}
    pruned |= {f"after_the_fact_{name}": 7 + 3 for name in pruned}
    assert found["epochs"].to_dict() == {
        **{name: EPOCHS[name] for name in ("original", "control", "pushed")},
        **pruned,
        **{f"{name}_step0": 7 for name in ("ours", "l1", "han", "scratch")},
    }
    assert found.index[found["chosen"]].tolist() == ["parameter_first"]
    claims = pd.read_csv(folder / "tables/claims.csv")
    assert claims["verdict"].isin(["supported", "refuted", "undecided", "equivalent", "no claim"]).all()
    against = claims[claims["family"] == "proactive against after the fact"]
    assert against["effect"].tolist() == pytest.approx([0.02] * 2)  # two models further down the list
    assert against["note"].str.contains("at 600 against 400 parameters|at 500 against 300").all()
    assert "confidence when fooled" in set(claims["family"])
    first = pages(folder)["summary"].splitlines()[0]
    assert first.startswith("**Take pruned, parameter first (the smallest within 90.00 points")
    assert ". After the fact, parameter first: 300 parameters, 82.50 " in first


NULLS: list[tuple[str, list[Change], set[str], set[str]]] = [
    (
        "compare",
        NO_COMPARISON,
        {"## Ours and others at the same sizes", "## Learning curves", "## At the same size"},
        {"comparison"},
    ),
    ("lineup, grow", [("lineup", None), ("grow", None)], {"## At the same size"}, {"growth"}),
    (
        "lineup-of-ours, white-box",
        [("lineup.competitors", []), ("white_box", [])],
        {"## At the same size", "## White box, a diagnostic"},
        {"white_box"},
    ),
    (
        "attacks",
        NO_ATTACKS,
        {"## White box, a diagnostic", "## Who is fooled", "## Gallery"},
        {"white_box", "outcomes", "crafted"},
    ),
    (
        "noise, variants",
        [*NO_NOISE, ("push.variants", {})],
        {"## Corruption error", "## Collapse: the paper's separation term and ours"},
        set(),
    ),
    (
        "competitors, fixed-nets",
        [("compare.competitors", []), ("lineup", None), ("compare.fixed_nets", {})],
        {"## At the same size"},
        set(),
    ),
    (
        "everything",
        [*NO_COMPARISON, *NO_ATTACKS, ("grow", None), ("push.variants", {}), ("train.auxiliary", None)],
        {
            "## Ours and others at the same sizes",
            "## Learning curves",
            "## At the same size",
            "## Collapse: the paper's separation term and ours",
            "## White box, a diagnostic",
            "## Who is fooled",
            "## Gallery",
        },
        {"growth", "comparison", "curves", "white_box", "outcomes", "crafted"},
    ),
]


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    ("changes", "gone", "tables"), [case[1:] for case in NULLS], ids=[case[0] for case in NULLS]
)
def test_what_the_params_leave_out_is_left_out(
    tmp_path: Path, changes: list[Change], gone: set[str], tables: set[str]
) -> None:
    folder = reported(tmp_path, *changes)
    assert headings(folder) == [heading for heading in EVERY_HEADING if heading not in gone]
    text = "\n".join(pages(folder).values())
    assert not re.search(r"\bnan\b|\binf\b|None", text)
    # Every figure that a page shows is there, and nothing else is.
    shown = set(re.findall(r"figures/(\w+)\.(?:png|svg)", text))
    assert {file.stem for file in (folder / "figures").iterdir()} == shown
    written = {file.stem for file in (folder / "tables").iterdir()}
    assert not written & tables
    assert all(len(pd.read_csv(file)) for file in (folder / "tables").iterdir())
    # Sentences and columns go with what they speak of.
    params = params_of(*changes)
    competitors = params.compare.competitors if params.compare else []
    assert ("Attacks are crafted once on a third model" in text) == bool(params.attacks)
    assert ("a white-box column stands beside it" in text) == bool(params.white_box)
    assert ("(`grow` is null): the original is the base." in text) == (params.grow is None)
    assert (
        ("Ours less theirs, in points" in text) == ("comparisons ours is better" in text) == bool(competitors)
    )
    assert ("Fixed nets, trained" in text) == bool(params.compare and params.compare.fixed_nets)
    calibration = text.partition("## Confidence and calibration")[2].partition("\n## ")[0]
    kinds = re.findall(r"^(\w+) images:\n\n\| model \| ECE", calibration, re.MULTILINE)
    assert kinds == ["Clean", *["Noisy"] * bool(params.noise), *["Attacked"] * bool(params.attacks)]


@pytest.mark.usefixtures("unrendered")
def test_an_attack_that_looks_for_the_smallest_perturbation_alone_has_no_axis_to_stand_on(
    tmp_path: Path,
) -> None:
    minimising = {"method": "foolbox", "attack": "L2DeepFoolAttack", "epsilon": None, "options": {"steps": 5}}
    changes = [*NO_NOISE, ("attacks", {"fgsm": minimising}), ("white_box", [])]
    folder = reported(tmp_path, *changes)
    assert "## Strength by strength" not in headings(folder)
    assert not (folder / "figures/severities.png").exists()


def test_the_same_tables_give_the_same_figure_byte_for_byte(tmp_path: Path) -> None:
    results = loaded(tmp_path / "runs")
    for name in ("first", "second"):
        figure = growth_figure(results)
        assert figure is not None
        figure.write(tmp_path / name, dpi=60)
    png, svg = (tmp_path / f"first/growth.{kind}" for kind in ("png", "svg"))
    assert png.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in svg.read_bytes()[:1000]
    assert {file.read_bytes() for file in tmp_path.glob("*/growth.[ps]*")} == {
        png.read_bytes(),
        svg.read_bytes(),
    }


OPTIONAL = [
    *("grow/growth", "compare/comparison", "compare/curves", "craft/crafted", "white_box/white_box"),
    "robustness/outcomes",
]


@pytest.mark.parametrize(
    "name",
    [
        *(f"{name}.csv" for name in OPTIONAL),
        *("evaluate/scores.csv", "prune/samples.csv", "push/history.csv", "robustness/pairs.csv"),
        *(
            "push/1/main/latent.safetensors",
            "push/0/ours/latent.safetensors",
            "prune/1/pushed/round2/round.json",
        ),
        *("select/1/pushed/selection.json", "evaluate/0/environment.json", "prepare/images.json"),
        *("robustness/0/pgd/gallery.csv", "robustness/0/pgd/gallery.safetensors"),
        *("robustness/1/fgsm/predictions.safetensors", "push/1/main/model.json"),
    ],
)
def test_a_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    params = params_of(SEEDS)
    write_run(tmp_path, params)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=rf"(?s)dvc repro.*{re.escape(Path(name).name)}"):
        load_results(params, tmp_path)


def test_tables_that_lie_there_of_other_params_are_not_read(tmp_path: Path) -> None:
    write_run(tmp_path, params_of(SEEDS))
    write_csv(tmp_path / "ablate/ablation.csv", [{"seed": 0}])
    everything_null = params_of(SEEDS, *NO_COMPARISON, *NO_ATTACKS, ("grow", None))
    found = load_results(everything_null, tmp_path)
    assert {name for name, table in found.tables.items() if table.empty} == {
        Path(name).name
        for name in (
            *OPTIONAL,
            "ablate/ablation",
            "train/brought",
            "latency/latency",
            "latency/disk",
            "latency/kernels",
        )
    }
    assert found.galleries == {}


def test_what_pushes_ended_with_is_their_last_epoch_and_their_latent_space(tmp_path: Path) -> None:
    found = loaded(tmp_path).rows("variants", variant="ours")
    spectrum = latent_space()["after.spectrum"]
    assert found["seed"].tolist() == [0, 1]
    assert found["accuracy"].tolist() == [0.8, 0.8]  # 80 + epoch 2 - 2 of 100
    assert found["n_active"].tolist() == [3, 3]
    assert found["v_sum"].tolist() == [float(spectrum.sum())] * 2
    assert found["v_top"].tolist() == [3.0, 3.0]
    assert found["collapsed"].tolist() == [0.25, 0.25]


def test_a_variant_that_diverged_has_no_numbers_and_the_report_says_so(tmp_path: Path) -> None:
    results = loaded(tmp_path, diverged=((1, "ours"),))
    found = results.rows("variants", variant="ours")
    assert found["seed"].tolist() == [0, 1]
    assert np.isnan(found["accuracy"].tolist()[1])
    assert len(results.rows("variants", variant="main")["accuracy"].dropna()) == 2
    (line,) = [line for line in variants_section(results).splitlines() if line.startswith("| ours ")]
    assert line.endswith("| 3, - | 6, - | 50.00, - | 25.00, - | 80.00, - |")


def test_the_main_push_alone_is_followed_epoch_by_epoch(tmp_path: Path) -> None:
    pushing = loaded(tmp_path).tables["pushing"]
    assert pushing["validation_n_correct"].tolist() == [81, 82, 81, 82]
    assert "push" not in pushing


def test_rows_are_those_with_the_values_in_the_order_of_the_seeds(tmp_path: Path) -> None:
    results = loaded(tmp_path)
    shuffled = results.tables["scores"].sample(frac=1, random_state=3)
    results.tables["scores"] = shuffled
    found = results.rows("scores", model="original", split="test")
    assert shuffled["seed"].tolist() != sorted(shuffled["seed"])
    assert found[["seed", "n_correct"]].to_numpy().tolist() == [[0, 90], [1, 89]]


def test_a_base_that_was_not_trained_here_is_yours_and_doubts_about_it_are_notes(
    tmp_path: Path, unrendered: None
) -> None:
    weights = {"weights": "mine.pt", "sha256": "0" * 64}
    untrained: list[Change] = [
        ("train.training.epochs", 0),
        ("train.training.warmup_epochs", 0),
        ("grow", None),
    ]
    folder = reported(tmp_path, *untrained, ("model", {**TIMM, **weights}))
    page = pages(folder)
    for text in (page["summary"], page["report"]):
        assert "\n| yours | 1,000 (100.00 %)" in text
    assert "| original |" not in page["summary"]
    assert "*Yours* is the original" in page["summary"]
    for text in (page["report"],):
        assert "* The base as it came (seed 1): 10 of 100 right." in text
        assert "(seed 0)" not in text
    assert (folder / "tables/brought.csv").exists()
