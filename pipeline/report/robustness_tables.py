"""What the sections of the robustness report share: models, conditions, labels, intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.compared import OURS_AT_SIZE, at_size, attacked_models, source_name
from pipeline.report.figures import LABELS
from pipeline.robustness.conditions import CLEAN, Condition, list_conditions

if TYPE_CHECKING:
    from pipeline.report.results import Results
    from pipeline.report.statistics import Interval


def conditions_of(results: Results) -> list[Condition]:
    """Every condition that the params name, clean first."""
    params = results.params
    return list(list_conditions(params.noise, params.attacks, params.sources))


def headline_of(results: Results) -> list[str]:
    """Names of the conditions that `report.headline` stands for, from every source, in its order."""
    conditions = conditions_of(results)
    return [each.name for key in results.params.report.headline for each in conditions if each.key == key]


def models_of(results: Results) -> list[str]:
    """Every compared model by name."""
    params = results.params
    return [*attacked_models(Path(), 0, params.lineup, params.compare, [*params.sources])]


def label_of(results: Results, name: str) -> str:
    """A model's name for readers."""
    labels = LABELS | {source_name(each): f"source {each}" for each in results.params.sources}
    if (lineup := results.params.lineup) is not None:
        labels |= {at_size(each): f"{each} at {lineup.fraction:g}" for each in lineup.competitors}
        labels[OURS_AT_SIZE] = f"ours at {lineup.fraction:g}"
    return labels[name]


def drop_values(results: Results, name: str, condition: str, *, relative: bool = False) -> list[float]:
    """Change of accuracy against clean images, a value for each seed; relative: as a share of the clean one."""
    after = results.rows("accuracy", model=name, condition=condition).set_index("seed")
    before = results.rows("accuracy", model=name, condition=CLEAN).set_index("seed").loc[after.index]
    # In counts, divided once: equal losses of two models are equal numbers.
    lost = after["n_correct"] - before["n_correct"]
    return [float(value) for value in lost / (before["n_correct"] if relative else after["n"])]


def drop_interval(results: Results, name: str, condition: str, *, relative: bool = False) -> Interval:
    """Mean and interval over seeds of `drop_values`."""
    return results.interval(drop_values(results, name, condition, relative=relative))
