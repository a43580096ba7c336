"""The compared models: their names and files, with and without a lineup, and who is held against whom."""

from pathlib import Path

import pytest
from conftest import ROOT

from pipeline.compared import (
    MODELS,
    MODELS_AFTER_THE_FACT,
    ORIGINAL,
    OURS_AT_SIZE,
    at_size,
    attacked_models,
    main_models,
    pairs_of,
    source_name,
)
from pipeline.params.file import read_params
from pipeline.params.pruning import AfterTheFact, Compare
from pipeline.params.robustness import Lineup

RUNS = Path("runs/tiny")
LINEUP = Lineup(fraction=0.25, competitors=["l1", "random"])


def after_the_fact() -> AfterTheFact:
    rounds = read_params(ROOT / "presets/tiny.yaml").prune.model_dump(by_alias=True)
    return AfterTheFact(**rounds | {"retraining": rounds["retraining"] | {"push": "none"}})


def compare() -> Compare:
    found = read_params(ROOT / "presets/tiny.yaml").compare
    assert found is not None
    return found.model_copy(
        update={"sizes": {"params": [0.5, 0.25]}, "competitors": ["l1", "random", "scratch"]}
    )


def test_the_main_flows_models_lie_where_its_stages_save_them() -> None:
    found = main_models(RUNS, 3, None)
    assert list(found) == list(MODELS)
    assert found["base"] == Path("runs/tiny/train/3/model")
    assert found["control"] == Path("runs/tiny/push/3/control/model")
    assert found["pushed"] == Path("runs/tiny/push/3/main/model")
    assert found[ORIGINAL] == Path("runs/tiny/grow/3/model")
    assert found["parameter_first"] == Path("runs/tiny/select/3/pushed/parameter_first")


def test_chapter_3_has_two_selected_models_of_its_own() -> None:
    found = main_models(RUNS, 3, after_the_fact())
    assert list(found) == [*MODELS, *MODELS_AFTER_THE_FACT]
    own = Path("runs/tiny/select/3/after_the_fact/parameter_first")
    assert found["after_the_fact_parameter_first"] == own
    assert (ORIGINAL, "after_the_fact_accuracy_first") in pairs_of(after_the_fact(), None)


def test_attacked_are_the_main_flow_ours_and_competitors_at_one_size_and_the_sources() -> None:
    found = attacked_models(RUNS, 3, None, LINEUP, compare(), ["resnet", "vgg"])
    assert list(found)[: len(MODELS)] == list(MODELS)
    assert {name: path.as_posix() for name, path in found.items() if name not in MODELS} == {
        OURS_AT_SIZE: "runs/tiny/compare/3/ours/step1",
        at_size("l1"): "runs/tiny/compare/3/l1/step1",
        at_size("random"): "runs/tiny/compare/3/random/step1",
        source_name("resnet"): "runs/tiny/source/3/resnet/model",
        source_name("vgg"): "runs/tiny/source/3/vgg/model",
    }


@pytest.mark.parametrize("compared", [compare(), None])
def test_without_a_lineup_the_main_flow_and_the_sources_are_left(compared: Compare | None) -> None:
    assert list(attacked_models(RUNS, 0, None, None, compared, ["resnet"])) == [
        *MODELS,
        source_name("resnet"),
    ]
    assert list(attacked_models(RUNS, 0, None, None, compared, [])) == list(MODELS)


def test_everyone_is_paired_with_the_original_and_each_competitor_with_ours_at_its_size() -> None:
    pairs = pairs_of(None, LINEUP)
    assert pairs == [
        *((ORIGINAL, name) for name in MODELS if name != ORIGINAL),
        (at_size("l1"), OURS_AT_SIZE),
        (at_size("random"), OURS_AT_SIZE),
    ]
    attacked = attacked_models(RUNS, 0, None, LINEUP, compare(), [])
    assert all(first in attacked and second in attacked for first, second in pairs)


@pytest.mark.parametrize("lineup", [None, Lineup(fraction=0.25, competitors=[])])
def test_without_competitors_only_the_comparisons_with_the_original_are_left(lineup: Lineup | None) -> None:
    assert pairs_of(None, lineup) == [(ORIGINAL, name) for name in MODELS if name != ORIGINAL]


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda file: file.stem)
def test_no_two_models_of_a_preset_share_a_file(preset: Path) -> None:
    params = read_params(preset)
    found = attacked_models(RUNS, 0, params.after_the_fact, params.lineup, params.compare, [*params.sources])
    n_lineup = 0 if params.lineup is None else 1 + len(params.lineup.competitors)
    n_chapter_3 = 0 if params.after_the_fact is None else len(MODELS_AFTER_THE_FACT)
    assert len(found) == len(MODELS) + n_chapter_3 + n_lineup + len(params.sources)
    assert len(set(found.values())) == len(found)
