"""The models under comparison: their names, and where each lies below `runs/<name>`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.params.pruning import AfterTheFact, Compare, Select
    from pipeline.params.robustness import Lineup

# The method of this project in the comparison's tables.
OURS = "ours"
# Before a variant's name: ours by another utility or other widths.
_VARIANT = "ours_"
# Our model at the size where it is compared with competitors.
OURS_AT_SIZE = "ours_at_size"

# The net that pushing starts from (the grown one, where a net was grown): what accuracies, sizes and drops refer to.
ORIGINAL = "original"
# The two ways to a pruned model, each with rounds and selected models of its own: grow-push-prune (CVIU, thesis
# chapter 4), and chapter 3's, which prunes the original after the fact.
PUSHED, AFTER_THE_FACT = "pushed", "after_the_fact"

# The models of the main flow: the stage that each comes from, and its file below that stage's folder of the seed.
MODELS = {
    ORIGINAL: ("grow", "model"),
    "base": ("train", "model"),
    "control": ("push", "control/model"),
    "pushed": ("push", "main/model"),
    "accuracy_first": ("select", f"{PUSHED}/accuracy_first"),
    "parameter_first": ("select", f"{PUSHED}/parameter_first"),
}
# Those of chapter 3, where it is run.
MODELS_AFTER_THE_FACT = {
    f"{AFTER_THE_FACT}_{name}": ("select", f"{AFTER_THE_FACT}/{name}")
    for name in ("accuracy_first", "parameter_first")
}


def variant_name(variant: str) -> str:
    """The name of the method that a section of `compare.variants` describes."""
    return f"{_VARIANT}{variant}"


def is_ours(method: str) -> bool:
    """Whether a method starts from the pushed net, and retrains with the push."""
    return method == OURS or is_variant(method)


def is_variant(method: str) -> bool:
    """Whether a method is one of `compare.variants`."""
    return method.startswith(_VARIANT) and method != OURS_AT_SIZE


def main_models(runs: Path, seed: int, after_the_fact: AfterTheFact | None) -> dict[str, Path]:
    """The models of the main flow by name, and those of chapter 3 where the params have it."""
    models = MODELS | (MODELS_AFTER_THE_FACT if after_the_fact is not None else {})
    return {name: runs / stage / str(seed) / file for name, (stage, file) in models.items()}


def int8_models(
    runs: Path, seed: int, after_the_fact: AfterTheFact | None, select: Select
) -> dict[str, Path]:
    """The ONNX files of the parameter-first models in eight bits by name, where the params have them."""
    if select.int8 is None:
        return {}
    found = main_models(runs, seed, after_the_fact).items()
    return {
        int8_name(name): path.with_name(f"{path.name}.int8.onnx")
        for name, path in found
        if name.endswith("parameter_first")
    }


def int8_name(model: str) -> str:
    """The name of a model in eight bits."""
    return f"{model}_int8"


def attacked_models(
    runs: Path,
    seed: int,
    after_the_fact: AfterTheFact | None,
    lineup: Lineup | None,
    compare: Compare | None,
    sources: list[str],
) -> dict[str, Path]:
    """Those of the main flow; ours and its competitors at one size of the comparison; the sources themselves."""
    models = main_models(runs, seed, after_the_fact)
    if lineup is not None and compare is not None:
        step = f"step{compare.fractions.index(lineup.fraction)}"
        models[OURS_AT_SIZE] = runs / "compare" / str(seed) / OURS / step
        for name in lineup.competitors:
            models[at_size(name)] = runs / "compare" / str(seed) / name / step
    return models | {source_name(name): runs / "source" / str(seed) / name / "model" for name in sources}


def pairs_of(after_the_fact: AfterTheFact | None, lineup: Lineup | None) -> list[tuple[str, str]]:
    """Who is compared with whom: everyone with the original, and each competitor with ours at the same size."""
    against_original = [
        (ORIGINAL, name) for name in main_models(Path(), 0, after_the_fact) if name != ORIGINAL
    ]
    competitors = lineup.competitors if lineup is not None else []
    return [*against_original, *((at_size(name), OURS_AT_SIZE) for name in competitors)]


def at_size(competitor: str) -> str:
    """The name of a competitor's model at the size where robustness is compared."""
    return f"{competitor}_at_size"


def source_name(source: str) -> str:
    """The name of a source among the compared models."""
    return f"source_{source}"
