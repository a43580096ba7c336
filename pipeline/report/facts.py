"""What a report reads beside the tables: how long models were trained, and how confident they were, image by image."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from pipeline.compared import AFTER_THE_FACT, ORIGINAL, PUSHED, main_models
from pipeline.files import read_json
from pipeline.robustness.conditions import CLEAN, list_conditions

if TYPE_CHECKING:
    from pipeline.params.params import Params

# By seed, condition and model.
Confidences = dict[tuple[int, str, str], npt.NDArray[np.float64]]


def load_epochs(params: Params, root: Path) -> dict[tuple[str, int], int]:
    """Epochs of training of the main flow's models by name and seed, the base's, growing and every round included.

    A pruned model has had those of the net that its rounds started from, and one retraining a round.
    """
    found: dict[tuple[str, int], int] = {}
    for seed in params.seeds:
        models = main_models(root, seed, params.after_the_fact)
        for name, path in models.items():
            if not name.endswith(("accuracy_first", "parameter_first")):
                found[name, seed] = int(read_json(path.with_name(f"{path.name}.json"))["about"]["epochs"])
        for name in models:
            if (name, seed) not in found:
                chapter_3 = name.startswith(AFTER_THE_FACT)
                pipeline, start = (AFTER_THE_FACT, ORIGINAL) if chapter_3 else (PUSHED, PUSHED)
                rounds = params.after_the_fact if chapter_3 and params.after_the_fact else params.prune
                selection = read_json(root / f"select/{seed}/{pipeline}/selection.json")
                entry = selection[name.removeprefix(f"{AFTER_THE_FACT}_")]
                n_rounds = int(entry["round"].removeprefix("round"))
                found[name, seed] = found[start, seed] + n_rounds * rounds.retraining.epochs
    return found


def load_confidences(params: Params, root: Path) -> Confidences:
    """The softmax confidences (n,) of the original and the pruned models, on clean images and under headline attacks.

    Raises:
        ValueError: naming a file that is damaged.
    """
    models = [name for name in main_models(root, 0, params.after_the_fact) if name.endswith("first")]
    found: Confidences = {}
    for seed, condition in product(params.seeds, _attacked(params)):
        path = root / "robustness" / str(seed) / condition / "predictions.safetensors"
        try:
            with safe_open(path, framework="numpy") as held:
                for model in (ORIGINAL, *models):
                    found[seed, condition, model] = held.get_tensor(f"{model}.confidence").astype(np.float64)
        except SafetensorError as error:
            raise ValueError(f"{path}: {error}") from None
    return found


def _attacked(params: Params) -> Iterator[str]:
    """Clean, and each attack of the headline; nothing where no attack is in it."""
    conditions = list_conditions(params.noise, params.attacks, params.sources)
    attacks = [
        each.name for each in conditions if each.kind == "attack" and each.key in params.report.headline
    ]
    return iter([CLEAN, *attacks] if attacks else [])
