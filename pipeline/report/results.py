"""What a report reads: the tables of all seeds, and nothing that a GPU is needed for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import pandas as pd
from safetensors.numpy import load_file

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.params.params import Params

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Results:
    """All seeds' tables, one below the other; the keys come from the params, never from a listing.

    Attributes:
        scores: seed, model, split, n, n_correct, params, flops.
        layers: seed, model, layer, kind, in, out, params, flops.
        samples: one row for each pruned sample (`tables.SAMPLE_FIELDS`).
        latent: the choice of latent neurons in each round (`tables.LATENT_FIELDS`).
        growth: one row for each candidate.
        pushing: one row for each epoch of the push.
        variants: what other pushes ended with (`tables.VARIANT_FIELDS`).
        comparison: every method at every size (`tables.COMPARISON_FIELDS`).
        accuracy: seed, model, condition, n, n_correct, ece, confidence_of_hits, confidence_of_misses (sums).
        reliability: seed, model, condition, bin, n, n_correct, confidence (a sum).
        pairs: two models on the same images, within a seed (`paired.PairedComparison`).
        white_box: seed, model, attack, n, n_correct_clean, n_correct, l2, linf.
        perturbations: seed, condition, l2, linf.
        outcomes: seed, attack, and how many images fooled whom.
        gallery: what base and pruned said of the gallery's images.
        latent_spaces: by seed, the arrays of `lda.describe_latent` before and after the push.
        galleries: by seed, the gallery's images.
        selections: by seed, `selection.json`.
        stops: by seed and round, `round.json`.
        dataset: `images.json`.
        environment: `environment.json` of the first seed.
    """

    params: Params
    scores: pd.DataFrame
    layers: pd.DataFrame
    samples: pd.DataFrame
    latent: pd.DataFrame
    growth: pd.DataFrame
    pushing: pd.DataFrame
    variants: pd.DataFrame
    comparison: pd.DataFrame
    accuracy: pd.DataFrame
    reliability: pd.DataFrame
    pairs: pd.DataFrame
    white_box: pd.DataFrame
    perturbations: pd.DataFrame
    outcomes: pd.DataFrame
    gallery: pd.DataFrame
    latent_spaces: dict[int, Arrays]
    galleries: dict[int, Arrays]
    selections: dict[int, dict[str, Any]]
    stops: dict[tuple[int, str], dict[str, Any]]
    dataset: dict[str, Any]
    environment: dict[str, Any]


def load_results(params: Params, root: Path) -> Results:
    """Read the outputs of every seed below `root` (`runs/<name>`).

    Raises:
        InputError: naming the file that is missing or cannot be read.
    """
    seeds, rounds = params.seeds, [entry.name for entry in params.rounds]
    compared = ["shrink", *(f"compete/{name}" for name in params.competitors)]
    try:
        pushing = [pd.read_csv(root / str(seed) / "push" / "history.csv").assign(seed=seed) for seed in seeds]
        return Results(
            params=params,
            scores=_stack(root, seeds, "evaluate/scores.csv"),
            layers=_stack(root, seeds, "evaluate/layers.csv"),
            samples=_stack(root, seeds, *(f"prune/{name}/samples.csv" for name in rounds)),
            latent=_stack(root, seeds, *(f"prune/{name}/latent.csv" for name in rounds)),
            growth=_stack(root, seeds, "grow/growth.csv"),
            pushing=pd.concat(pushing, ignore_index=True),
            variants=_stack(root, seeds, *(f"variant/{name}/variant.csv" for name in params.variants)),
            comparison=_stack(root, seeds, *(f"{folder}/comparison.csv" for folder in compared)),
            accuracy=_stack(root, seeds, "robustness/accuracy.csv"),
            reliability=_stack(root, seeds, "robustness/reliability.csv"),
            pairs=_stack(root, seeds, "robustness/pairs.csv"),
            white_box=_stack(root, seeds, *(f"white_box/{name}/white_box.csv" for name in params.white_box)),
            perturbations=_stack(root, seeds, "robustness/perturbations.csv"),
            outcomes=_stack(root, seeds, "robustness/outcomes.csv"),
            gallery=_stack(root, seeds, "robustness/gallery.csv"),
            latent_spaces={s: load_file(root / str(s) / "push" / "latent.safetensors") for s in seeds},
            galleries={s: load_file(root / str(s) / "robustness" / "gallery.safetensors") for s in seeds},
            selections={s: _json(root / str(s) / "select" / "selection.json") for s in seeds},
            stops={(s, r): _json(root / str(s) / "prune" / r / "round.json") for s in seeds for r in rounds},
            dataset=_json(root / "prepare" / "images.json"),
            environment=_json(root / str(seeds[0]) / "evaluate" / "environment.json"),
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{root}: expected every stage's tables; run `dvc repro` ({error})") from None


def with_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `accuracy`, the one division of its counts."""
    return table.assign(accuracy=table["n_correct"] / table["n"])


def _stack(root: Path, seeds: list[int], *names: str) -> pd.DataFrame:
    tables = [pd.read_csv(root / str(seed) / name) for seed in seeds for name in names]
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else tables[0]


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
