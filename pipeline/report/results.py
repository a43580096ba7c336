"""What a report reads: the tables of all seeds, and nothing that a GPU is needed for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors.numpy import load_file

from pipeline.errors import InputError
from pipeline.files import read_json
from pipeline.report.statistics import Interval, mean_interval
from pipeline.robustness.conditions import list_conditions

if TYPE_CHECKING:
    from pipeline.params.params import Params

Arrays = dict[str, npt.NDArray[Any]]

# The tables by the stage that writes them.
_TABLES = {
    "evaluate": ("scores", "layers"),
    "prune": ("samples", "latent"),
    "grow": ("growth",),
    "compare": ("comparison",),
    "robustness": ("accuracy", "reliability", "pairs", "perturbations", "outcomes"),
    "white_box": ("white_box",),
}


@dataclass(frozen=True)
class Results:
    """All seeds' tables and files; the keys come from the params, never from a listing.

    Attributes:
        params: of the run.
        tables: by name. Those of the stages (each row begins with its job's labels), `pushing` (one row for each
            epoch of the main push) and `variants` (what the main push and the other ones ended with; NaN where one
            diverged). With `accuracy`, where there are counts. Empty where the params leave out their stage.
        latent_spaces: by seed, the arrays of `lda.describe_latent` before and after the main push.
        galleries: by attack, the first seed's gallery: what base and pruned said of its images, and the images.
        selections: by seed, `selection.json`.
        stops: by seed, the last round's `round.json`.
        dataset: `images.json`.
        environment: `environment.json` of the first seed.
    """

    params: Params
    tables: dict[str, pd.DataFrame]
    latent_spaces: dict[int, Arrays]
    galleries: dict[str, tuple[pd.DataFrame, Arrays]]
    selections: dict[int, dict[str, Any]]
    stops: dict[int, dict[str, Any]]
    dataset: dict[str, Any]
    environment: dict[str, Any]

    def rows(self, table: str, **values: object) -> pd.DataFrame:
        """The rows of a table that have these values, ordered by seed."""
        found = self.tables[table]
        wanted = np.ones(len(found), dtype=np.bool_)
        for column, value in values.items():
            wanted &= (found[column] == value).to_numpy()
        return found[wanted].sort_values("seed", kind="stable")

    def interval(self, values: Iterable[float]) -> Interval:
        """The mean of values, one for each seed, and its interval at `report.confidence`."""
        return mean_interval([*values], confidence=self.params.report.confidence)


def load_results(params: Params, root: Path) -> Results:
    """Read the outputs of every stage below `root` (`runs/<name>`).

    Raises:
        InputError: naming the file that is missing or cannot be read.
    """
    seeds, first = params.seeds, root / "robustness" / str(params.seeds[0])
    left_out = _left_out(params)
    try:
        tables = {
            name: pd.DataFrame() if name in left_out else _read(root / stage / f"{name}.csv")
            for stage, names in _TABLES.items()
            for name in names
        }
        history = _read(root / "push" / "history.csv")
        tables["pushing"] = history[history["push"] == "main"].drop(columns="push")
        tables["variants"] = _variants(params, root / "push", history)
        return Results(
            params=params,
            tables={name: with_accuracy(table) for name, table in tables.items()},
            latent_spaces={s: load_file(root / f"push/{s}/main/latent.safetensors") for s in seeds},
            galleries={
                each.name: (
                    _read(first / each.name / "gallery.csv"),
                    load_file(first / each.name / "gallery.safetensors"),
                )
                for each in list_conditions(params.noise, params.attacks, params.sources)
                if each.kind == "attack"
            },
            selections={s: read_json(root / f"select/{s}/selection.json") for s in seeds},
            stops={s: read_json(root / f"prune/{s}/round{params.prune.rounds}/round.json") for s in seeds},
            dataset=read_json(root / "prepare" / "images.json"),
            environment=read_json(root / f"evaluate/{seeds[0]}/environment.json"),
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{root}: expected every stage's tables; run `dvc repro` ({error})") from None


def _read(path: Path) -> pd.DataFrame:
    """A table; a noise or an attack may be called `nan` or `null`, which pandas would take for a gap."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def with_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `accuracy`, the one division of its counts; one without counts as it is."""
    return table.assign(accuracy=table["n_correct"] / table["n"]) if "n_correct" in table else table


def _left_out(params: Params) -> set[str]:
    """The tables that nothing has written, because the params leave out what they hold."""
    absent = {
        "growth": params.grow is None,
        "comparison": params.compare is None,
        "outcomes": not params.attacks,
        "white_box": not params.white_box,
    }
    return {name for name, is_absent in absent.items() if is_absent}


def _variants(params: Params, folder: Path, history: pd.DataFrame) -> pd.DataFrame:
    """What the pushes ended with: hits on validation, active neurons, eigenvalues of Eq. 6, collapsed batches."""
    rows = []
    for push in ("main", *params.push.variants):
        for seed in params.seeds:
            row: dict[str, object] = {"seed": seed, "variant": push}
            epochs = history[(history["push"] == push) & (history["seed"] == seed)]
            if len(epochs):  # it did not diverge
                last, space = epochs.iloc[-1], load_file(folder / str(seed) / push / "latent.safetensors")
                spectrum = np.maximum(space["after.spectrum"], 0)
                row |= {"n": last["validation_n"], "n_correct": last["validation_n_correct"]}
                row |= {"n_active": space["after.active"].sum(), "v_sum": spectrum.sum()}
                row |= {"v_top": spectrum.max(), "collapsed": last["train_collapsed"]}
            rows.append(row)
    return pd.DataFrame(rows)
