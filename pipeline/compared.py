"""The models under comparison: their names, and where each lies below `runs/<name>`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.params.pruning import Compare
    from pipeline.params.robustness import Lineup

# The method of this project in the comparison's tables.
OURS = "ours"
# Before a variant's name: ours by another utility or other widths.
_VARIANT = "ours_"
# Our model at the size where it is compared with competitors.
OURS_AT_SIZE = "ours_at_size"

# The models of the main flow: the stage that each comes from, and its file below that stage's folder of the seed.
MODELS = {
    "base": ("train", "model"),
    "grown": ("grow", "model"),
    "control": ("push", "control/model"),
    "pushed": ("push", "main/model"),
    "accuracy_first": ("select", "accuracy_first"),
    "parameter_first": ("select", "parameter_first"),
}


def variant_name(variant: str) -> str:
    """The name of the method that a section of `compare.variants` describes."""
    return f"{_VARIANT}{variant}"


def is_ours(method: str) -> bool:
    """Whether a method starts from the pushed net, and retrains with the push."""
    return method == OURS or method.startswith(_VARIANT)


def main_models(runs: Path, seed: int) -> dict[str, Path]:
    """The models of the main flow by name."""
    return {name: runs / stage / str(seed) / file for name, (stage, file) in MODELS.items()}


def attacked_models(
    runs: Path, seed: int, lineup: Lineup | None, compare: Compare | None, sources: list[str]
) -> dict[str, Path]:
    """Those of the main flow; ours and its competitors at one size of the comparison; the sources themselves."""
    models = main_models(runs, seed)
    if lineup is not None and compare is not None:
        step = f"step{compare.fractions.index(lineup.fraction)}"
        models[OURS_AT_SIZE] = runs / "compare" / str(seed) / OURS / step
        for name in lineup.competitors:
            models[at_size(name)] = runs / "compare" / str(seed) / name / step
    return models | {source_name(name): runs / "source" / str(seed) / name / "model" for name in sources}


def pairs_of(lineup: Lineup | None) -> list[tuple[str, str]]:
    """Who is compared with whom: everyone with the base, and each competitor with ours at the same size."""
    against_base = [("base", name) for name in MODELS if name != "base"]
    competitors = lineup.competitors if lineup is not None else []
    return [*against_base, *((at_size(name), OURS_AT_SIZE) for name in competitors)]


def at_size(competitor: str) -> str:
    """The name of a competitor's model at the size where robustness is compared."""
    return f"{competitor}_at_size"


def source_name(source: str) -> str:
    """The name of a source among the compared models."""
    return f"source_{source}"
