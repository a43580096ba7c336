"""What a report reads: the tables of all seeds, and nothing that a GPU is needed for."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from safetensors.numpy import load_file

from pipeline.compared import (
    AFTER_THE_FACT,
    ORIGINAL,
    OURS_AT_SIZE,
    PUSHED,
    at_size,
    attacked_models,
    int8_models,
    int8_name,
    main_models,
    source_name,
)
from pipeline.errors import InputError
from pipeline.files import read_json
from pipeline.images.rare_classes import rare_classes_remark
from pipeline.params.nets.sections import is_looked_at
from pipeline.report.facts import Confidences, load_confidences, load_epochs
from pipeline.report.figures import LABELS
from pipeline.report.hits import hits_of, more_hits, with_accuracy
from pipeline.report.markdown import literal
from pipeline.robustness.conditions import CLEAN, Condition, list_conditions
from pipeline.uncertainty import Interval, Values, accuracy_interval, difference_interval

if TYPE_CHECKING:
    from pipeline.params.params import Params

Arrays = dict[str, npt.NDArray[Any]]

# The tables by the stage that writes them.
_TABLES = {
    "train": ("brought",),
    "evaluate": ("scores", "layers", "sensitivity"),
    "prune": ("samples", "latent"),
    "grow": ("growth",),
    "compare": ("comparison", "curves"),
    "ablate": ("ablation",),
    "robustness": ("accuracy", "reliability", "pairs", "perturbations", "outcomes"),
    "craft": ("crafted",),
    "white_box": ("white_box",),
    "latency": ("latency", "disk", "kernels"),
}


class Untouched(NamedTuple):
    """Of the images that a net got right, how an attack on it fared (`robustness.untouched`)."""

    n_attacked: int
    n_untouched: int
    n_vanished: int
    n_idle: int


@dataclass(frozen=True)
class Results:
    """All seeds' tables and files; the keys come from the params, never from a listing.

    Attributes:
        params: of the run.
        tables: by name. Those of the stages (each row begins with its job's labels), `pushing` (one row for each
            epoch of the main push) and `variants` (what the main push and the other ones ended with; NaN where one
            diverged). With `accuracy`, where there are counts, and hits as masks. Empty where the params leave out
            their stage.
        latent_spaces: by seed, the arrays of `lda.describe_latent` of the original, of the control and of the pushed
            net (CVIU Figures 3 and 4 hold training with and without the push, equally long, against each other).
        galleries: by attack, the first seed's gallery: what original and pruned said of its images, and the images.
        selections: by pipeline and seed, `selection.json`.
        stops: by pipeline and seed, the last round's `round.json`.
        dataset: `images.json`.
        environment: `environment.json` of the first seed.
        epochs: by model of the main flow and seed. confidences: by seed, condition and model (`facts`).
    """

    params: Params
    tables: dict[str, pd.DataFrame]
    latent_spaces: dict[int, Arrays]
    galleries: dict[str, tuple[pd.DataFrame, Arrays]]
    selections: dict[tuple[str, int], dict[str, Any]]
    stops: dict[tuple[str, int], dict[str, Any]]
    dataset: dict[str, Any]
    environment: dict[str, Any]
    epochs: dict[tuple[str, int], int]
    confidences: Confidences

    def rows(self, table: str, **values: object) -> pd.DataFrame:
        """The rows of a table that have these values, ordered by seed."""
        found = self.tables[table]
        mask = np.ones(len(found), dtype=np.bool_)
        for column, value in values.items():
            mask &= (found[column] == value).to_numpy()
        found = found[mask]
        return found if found["seed"].is_monotonic_increasing else found.sort_values("seed", kind="stable")

    def accuracy(self, rows: pd.DataFrame, part: str = "") -> Interval:
        """Of rows, one for each seed, that hold the hits on the same images; `part`: before the columns' names."""
        return accuracy_interval(hits_of(rows, part) > 0, confidence=self.params.report.confidence)

    def difference(self, values: Values) -> Interval:
        """Of differences of hits (seeds, images)."""
        return difference_interval(values, confidence=self.params.report.confidence)

    def estimates(self, table: str, *by: str) -> dict[tuple[Any, ...], Interval]:
        """A table's accuracy for each combination of what these columns hold."""
        return {key: self.accuracy(each) for key, each in self.rows(table).groupby([*by], sort=False)}

    def size(self, model: str, column: str) -> float:
        """Mean `params` or `flops` of a model of the main flow over seeds."""
        return float(self.rows("scores", model=model)[column].mean())

    @property
    def labels(self) -> dict[str, str]:
        """The names for readers of the main flow's models; a base that came trained, and stays as it is, is theirs."""
        return LABELS if self.params.train.training.epochs else LABELS | {ORIGINAL: "yours"}

    @property
    def notes(self) -> list[str]:
        """Sentences that the reports carry: those of the params, and what is odd about images or a user's weights."""
        data = self.dataset
        rare = rare_classes_remark(data["classes"], data["train_counts"], self.params.lda.samples_per_class)
        odd = [literal(f"{text[0].upper()}{text[1:]}.") for text in (*data["remarks"], rare) if text]
        brought = self.tables["brought"]
        found = brought.dropna(subset="suspicion")[["seed", "suspicion"]].values if len(brought) else ()
        doubts = dict.fromkeys(
            literal(f"The base as it came (seed {seed}): {doubt}.") for seed, doubt in found
        )
        return [*self.params.report.notes, *odd, *doubts]

    def main_models(self) -> dict[str, str]:
        """The models of the main flow by name, with their names for readers; one before growing if one was grown."""
        names = main_models(Path(), 0, self.params.after_the_fact)
        return {name: self.labels[name] for name in names if name != "base" or self.params.grow}

    def int8_models(self) -> dict[str, str]:
        """Those of them in eight bits, scored and not attacked; they have the parameters of the whole ones."""
        names = int8_models(Path(), 0, self.params.after_the_fact, self.params.select)
        return {int8_name(name): f"{LABELS[name]}, int8" for name in LABELS if int8_name(name) in names}

    def conditions(self) -> list[Condition]:
        """Every condition that the params name, clean first."""
        return [*list_conditions(self.params.noise, self.params.attacks, self.params.sources)]

    def headline(self) -> list[str]:
        """Names of the conditions that `report.headline` stands for, from every source, in its order."""
        conditions = self.conditions()
        return [each.name for key in self.params.report.headline for each in conditions if each.key == key]

    def models(self) -> dict[str, str]:
        """Every compared model by name, with its name for readers."""
        lineup, sources = self.params.lineup, self.params.sources
        labels = self.labels | {source_name(each): f"source {each}" for each in sources}
        if lineup is not None:
            labels[OURS_AT_SIZE] = f"ours at {lineup.fraction:g}"
            labels |= {at_size(each): f"{each} at {lineup.fraction:g}" for each in lineup.competitors}
        params = self.params
        models = attacked_models(Path(), 0, params.after_the_fact, lineup, params.compare, [*sources])
        return {name: labels[name] for name in models if name != "base" or params.grow}

    def changes(self, model: str, condition: str) -> Values:
        """Hits under a condition less hits on the same images when clean: -1, 0 or 1 (seeds, images)."""
        after, clean = (self.rows("accuracy", model=model, condition=each) for each in (condition, CLEAN))
        return more_hits(after, clean)

    def drop(self, model: str, condition: str, *, relative: bool = False) -> Interval:
        """Change of accuracy against the same images when clean; relative: as a share of the clean one."""
        changes, share, scale = self.changes(model, condition), 0.0, 1.0
        if relative:
            clean = hits_of(self.rows("accuracy", model=model, condition=CLEAN))
            scale = max(float(clean.mean()), 1 / clean.size)
            # The ratio of two means, linearised: what an image loses more than its part of the share.
            share = float(changes.mean()) / scale
            changes = (changes - share * clean) / scale
        found = self.difference(changes)
        mean, low, high = (min(1.0, max(-1.0, share + each)) for each in (found.mean, found.low, found.high))
        return Interval(mean, low, high, found.n, found.n_images)

    def confidence(self, model: str, condition: str) -> Values:
        """The softmax confidences (seeds, images) of a model, in the order of `rows`."""
        return np.stack([self.confidences[seed, condition, model] for seed in sorted(self.params.seeds)])

    def collapsed(self, model: str) -> int:
        """In how many seeds a compared model is no better than chance on clean images."""
        return int((self.rows("accuracy", model=model, condition=CLEAN)["collapsed"] > 0).sum())

    def untouched(self, condition: str) -> Untouched:
        """Of an attack's condition, over all seeds, on its source; zeros for noise."""
        found = next(each for each in self.conditions() if each.name == condition)
        if found.kind != "attack":
            return Untouched(0, 0, 0, 0)
        return counted_images(self.rows("crafted", source=found.source, attack=found.key))

    def is_idle(self, found: Untouched) -> bool:
        """Whether an attack had no hold on so many images that an accuracy under it shows no robustness."""
        return found.n_idle > self.params.report.max_untouched * found.n_attacked


def load_results(params: Params, root: Path) -> Results:
    """Read the outputs of every stage below `root` (`runs/<name>`).

    Raises:
        InputError: naming the file that is missing or cannot be read.
    """
    seeds, first = params.seeds, root / "robustness" / str(params.seeds[0])
    pictures = "gallery.safetensors"
    pipelines = {PUSHED: params.prune.rounds}
    if params.after_the_fact is not None:
        pipelines[AFTER_THE_FACT] = params.after_the_fact.rounds
    # What the params leave out nothing has written, and no weights were brought where the base was fresh.
    absent = {"growth": not params.grow, "ablation": not params.ablate}
    absent |= dict.fromkeys(_TABLES["compare"], not params.compare)
    absent["brought"] = not is_looked_at(params.model, params.train.training.epochs)
    absent |= dict.fromkeys(_TABLES["latency"], not params.latency)
    absent |= dict.fromkeys(("outcomes", "crafted"), not params.attacks)
    absent["white_box"] = not params.white_box
    try:
        tables = {
            name: pd.DataFrame() if absent.get(name) else _read(root / stage / f"{name}.csv")
            for stage, names in _TABLES.items()
            for name in names
        }
        history = _read(root / "push" / "history.csv")
        tables["pushing"] = history[history["push"] == "main"].drop(columns="push")
        tables["variants"] = _variants(params, root / "push", history)
        return Results(
            params=params,
            tables={name: with_accuracy(table) for name, table in tables.items()},
            latent_spaces={seed: _latent_spaces(root / "push" / str(seed)) for seed in seeds},
            galleries={
                each.name: (_read(first / each.name / "gallery.csv"), load_file(first / each.name / pictures))
                for each in list_conditions(params.noise, params.attacks, params.sources)
                if each.kind == "attack"
            },
            selections={
                (name, seed): read_json(root / f"select/{seed}/{name}/selection.json")
                for name, seed in product(pipelines, seeds)
            },
            stops={
                (name, seed): read_json(root / f"prune/{seed}/{name}/round{rounds}/round.json")
                for (name, rounds), seed in product(pipelines.items(), seeds)
            },
            dataset=read_json(root / "prepare" / "images.json"),
            environment=read_json(root / f"evaluate/{seeds[0]}/environment.json"),
            epochs=load_epochs(params, root),
            confidences=load_confidences(params, root),
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{root}: expected every stage's tables; run `dvc repro` ({error})") from None


def _read(path: Path) -> pd.DataFrame:
    """A table; a noise or an attack may be called `nan` or `null`, which pandas would take for a gap."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def counted_images(rows: pd.DataFrame) -> Untouched:
    """The sums over rows."""
    return Untouched(*(int(rows[name].sum()) for name in Untouched._fields))


def _latent_spaces(folder: Path) -> Arrays:
    """What a seed's pushes wrote: the original, the control and the pushed net, by `original.v` and so on."""
    pushed, control = (load_file(folder / push / "latent.safetensors") for push in ("main", "control"))
    states = {"original": (pushed, "before"), "control": (control, "after"), "pushed": (pushed, "after")}
    return {
        f"{name}.{key.removeprefix(f'{state}.')}": array
        for name, (arrays, state) in states.items()
        for key, array in arrays.items()
        if key.startswith(f"{state}.")
    }


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
