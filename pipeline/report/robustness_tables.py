"""What the sections of the robustness report share: models, conditions, labels, intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.report.figures import LABELS
from pipeline.report.statistics import Interval, mean_interval
from pipeline.robustness.conditions import (
    CLEAN,
    OURS_AT_SIZE,
    Condition,
    at_size,
    list_conditions,
    list_models,
    source_name,
)

if TYPE_CHECKING:
    from pipeline.report.results import Results


def conditions_of(results: Results) -> list[Condition]:
    """Every condition that the params name, clean first."""
    params = results.params
    return list(list_conditions(params.noise, params.attacks, params.sources))


def headline_of(results: Results) -> list[str]:
    """Names of the conditions that `report.headline` stands for, from every source, in its order."""
    return [
        each.name
        for key in results.params.report.headline
        for each in conditions_of(results)
        if each.key == key
    ]


def models_of(results: Results) -> list[str]:
    """Every compared model by name."""
    lineup = results.params.lineup
    return list(list_models(lineup.size, lineup.competitors, results.params.sources))


def label_of(results: Results, name: str) -> str:
    """A model's name for readers."""
    size = results.params.shrink.sizes[results.params.lineup.size]
    named = {
        OURS_AT_SIZE: f"ours at {size:g}",
        **{at_size(each): f"{each} at {size:g}" for each in results.params.lineup.competitors},
        **{source_name(each): f"source {each}" for each in results.params.sources},
    }
    return LABELS[name] if name in LABELS else named[name]


def drop_values(results: Results, name: str, condition: str, *, relative: bool = False) -> list[float]:
    """Change of accuracy against clean images, a value for each seed; relative: as a share of the clean one."""
    of_model = results.accuracy[results.accuracy["model"] == name].set_index("seed").sort_index()
    after = of_model[of_model["condition"] == condition]
    before = of_model[of_model["condition"] == CLEAN].loc[after.index]
    # In counts, divided once: equal losses of two models are equal numbers.
    lost = after["n_correct"] - before["n_correct"]
    return [float(value) for value in lost / (before["n_correct"] if relative else after["n"])]


def drop_interval(results: Results, name: str, condition: str, *, relative: bool = False) -> Interval:
    """Mean and interval over seeds of `drop_values`."""
    return mean_interval(
        drop_values(results, name, condition, relative=relative),
        confidence=results.params.report.confidence,
    )
