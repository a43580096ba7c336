"""What the sections of the robustness report share: models, conditions, labels, intervals."""

from pipeline.conditions import OURS_AT_SIZE, Condition, at_size, list_conditions, list_models, source_name
from pipeline.figures import LABELS
from pipeline.results import Results, accuracy_drops
from pipeline.statistics import Interval, mean_interval


def conditions_of(results: Results) -> list[Condition]:
    """Every condition that the params name, clean first."""
    params = results.params
    return list(list_conditions(params.noise, params.attacks, params.sources))


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
    drops = accuracy_drops(results.accuracy)
    rows = drops[(drops["model"] == name) & (drops["condition"] == condition)].sort_values("seed")
    values = rows["drop"] / (rows["accuracy"] - rows["drop"]) if relative else rows["drop"]
    return [float(value) for value in values]


def drop_interval(results: Results, name: str, condition: str, *, relative: bool = False) -> Interval:
    """Mean and interval over seeds of `drop_values`."""
    return mean_interval(
        drop_values(results, name, condition, relative=relative),
        confidence=results.params.report.confidence,
    )
