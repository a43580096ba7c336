"""The published numbers: whole tables, names that exist, and what the reports make of them."""

from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from conftest import ROOT
from report_builders import results_with

from pipeline.compared import OURS, main_models
from pipeline.params.file import read_params
from pipeline.params.params import Params, PublishedName
from pipeline.report.hits import without_hits
from pipeline.report.published import DROPS, PERTURBATIONS, SCORES, published_drops, published_scores
from pipeline.report.results import Results

NAMES: tuple[PublishedName, ...] = get_args(PublishedName)


def preset_of(name: PublishedName) -> Params:
    """The preset that repeats an experiment; LFWA's has both of its attributes, gender by itself."""
    if name != "lfwa_smile":
        return read_params(ROOT / f"presets/{name.removesuffix('_gender')}.yaml")
    params = read_params(ROOT / "presets/lfwa.yaml")
    return params.model_copy(update={"report": params.report.model_copy(update={"published": name})})


def test_every_experiment_of_the_params_has_numbers() -> None:
    assert set(SCORES) == set(NAMES)
    assert set(DROPS) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_published_row_stands_for_a_model_of_the_preset(name: PublishedName) -> None:
    params = preset_of(name)
    assert params.report.published == name
    fixed = params.compare.fixed_nets if params.compare else {}
    known = {
        *main_models(Path(), 0, params.after_the_fact),
        OURS,
        *(params.compare.competitors if params.compare else ()),
        *fixed,
    }
    assert {row.model for row in SCORES[name]} <= known
    for row in SCORES[name]:
        assert 50 < row.accuracy < 100 or row.accuracy in (43, 46)  # Adience's competitors at small sizes
        assert row.params is None or 1e4 < row.params < 2e8
        assert row.model not in fixed or row.params is not None


@pytest.mark.parametrize("name", sorted(DROPS))
def test_drops_are_whole_tables_over_the_headline(name: PublishedName) -> None:
    params = preset_of(name)
    drops = DROPS[name]
    assert set(drops) <= set(main_models(Path(), 0, params.after_the_fact))
    assert sorted(PERTURBATIONS) == sorted(params.report.headline)
    assert {len(values) for values in drops.values()} == {len(PERTURBATIONS)}
    assert all(-10 < drop <= 0 for values in drops.values() for drop in values)


def results(name: PublishedName | None) -> Results:
    settings = read_params(ROOT / "presets/mnist.yaml")
    report = settings.report.model_copy(update={"published": name})
    # Of the papers' perturbations this run has Gaussian noise alone.
    noise = {"gaussian": settings.noise["gaussian"]}
    params: Params = settings.model_copy(
        update={"report": report, "seeds": [0], "noise": noise, "attacks": {}}
    )
    models = [
        {"seed": 0, "model": model, "split": split, "n": 100, "n_correct": hits, "params": n, "flops": 1}
        for model, hits, n in (
            ("original", 98, 4_000_000),
            ("pushed", 97, 4_000_000),
            ("parameter_first", 95, 30_000),
        )
        for split in ("validation", "test")
    ]
    key = {"seed": 0, "flops": 1, "epochs": 1, "validation_n": 100, "validation_n_correct": 1, "test_n": 1000}
    sizes = [
        key | {"method": method, "step": step, "params": n, "test_n_correct": hits}
        for method, shift in ((OURS, 0), ("han", -10))
        for step, (n, hits) in enumerate(
            ((400_000, 980 + shift), (40_000, 970 + shift), (10_000, 950 + shift))
        )
    ]
    conditions = [
        {"seed": 0, "model": model, "condition": condition, "n": 100, "n_correct": hits}
        for model in ("original", "after_the_fact_parameter_first")
        for condition, hits in (("clean", 90), ("gaussian", 88))
    ]
    tables = {
        "scores": pd.DataFrame(models),
        "comparison": pd.DataFrame(sizes),
        "accuracy": pd.DataFrame(conditions),
    }
    return results_with(params, tables)


def test_competitors_stand_at_the_size_nearest_to_the_published_one() -> None:
    lines = published_scores(results("mnist")).splitlines()
    (han,) = (line for line in lines if "Han et al." in line)
    assert "| 96.9 | 38,600 | han, in the comparison | 96.00 [94.60, 97.05] | 40,000 |" in han
    (ours,) = (line for line in lines if "ours, in the comparison" in line)
    assert "| 97.6 | 38,600 | ours, in the comparison | 97.00 [95.75, 97.89] | 40,000 |" in ours


def test_competitors_of_a_run_that_compares_nothing_are_not_in_it() -> None:
    found = results("mnist")
    without = found.params.model_copy(update={"compare": None, "lineup": None})
    lines = published_scores(
        results_with(without, {"scores": without_hits(found.tables["scores"])})
    ).splitlines()
    (han,) = (line for line in lines if "Han et al." in line)
    assert "| 96.9 | 38,600 | han | not in this run |" in han
    assert any("| base | thesis Table 4-2 | test | 98.1 | 4,000,000 | original | 98.00 [" in x for x in lines)


def test_published_and_own_scores_keep_to_their_part_of_the_split() -> None:
    lines = published_scores(results("mnist")).splitlines()
    assert any(
        "| base | thesis 4.3.1 | validation | 97.9 | 4,000,000 | original | 98.00 [" in x for x in lines
    )
    assert any("| base | thesis Table 4-2 | test | 98.1 | 4,000,000 | original | 98.00 [" in x for x in lines)


def test_a_perturbation_that_the_run_lacks_is_said() -> None:
    lines = published_drops(results("cifar100")).splitlines()
    assert any("| gaussian | original | thesis Table 5-1 | -2.5 | -2.00 [" in line for line in lines)
    assert any("| speckle |" in line and "not in this run" in line for line in lines)


def test_nothing_is_said_where_nothing_is_published() -> None:
    assert published_scores(results(None)) == ""
    assert published_drops(results(None)) == ""
    assert published_drops(results("mnist")) == ""
