"""Accuracy against strength: every noise, transferred and white-box attack, and the worst case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isnan
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.compared import source_name
from pipeline.report.hits import hits_of
from pipeline.report.markdown import grid, literal, section, table
from pipeline.report.summary import labelled, over_seeds
from pipeline.robustness.conditions import CLEAN, list_conditions
from pipeline.robustness.strengths import norm_and_budget, survivors, unpack_distances
from pipeline.uncertainty import Values, accuracy_interval

if TYPE_CHECKING:
    from pipeline.params.foolbox_attacks import Norm
    from pipeline.report.results import Results

# In the column `source`, of attacks on the model itself.
ITSELF = "itself"
WORST = "worst case"
_NO_AUTOATTACK = (
    "AutoAttack itself is not run, for want of a package that is kept up; docs/method.md says what the params may "
    "list in its place. Run here:"
)


@dataclass(frozen=True)
class Curve:
    """What changes its strength alone: of `kind` noise or attack, in the unit named; norm empty where there is none."""

    kind: str
    family: str
    source: str
    norm: str
    unit: str


def strengths_table(results: Results) -> pd.DataFrame:
    """A row for each curve, strength and model: hits over all seeds, the accuracy and its interval.

    Strength 0 is the clean images. `condition` is the entry of the params; attacks that look for the smallest
    perturbation, and the worst case, stand at every budget that white-box attacks in their norm have.
    """
    rows = []
    for curve, strength, condition, model, hits in _measured(results):
        found = accuracy_interval(hits > 0, confidence=results.params.report.confidence)
        row = asdict(curve) | {"strength": strength, "condition": condition, "model": model}
        row |= {"images": found.n_images, "seeds": found.n, "n": hits.size, "n_correct": int(hits.sum())}
        rows.append(row | {"accuracy": found.mean, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


def _measured(results: Results) -> Iterator[tuple[Curve, float, str, str, Values]]:
    """A curve, a strength, the entry, a model and its hits (seeds, images)."""
    clean = _hits_by_model(results, "accuracy", condition=CLEAN)
    by_curve: dict[Curve, dict[float, tuple[str, dict[str, Values]]]] = {}
    for each in results.conditions()[1:]:
        if not isnan(each.strength):
            norm = norm_and_budget(results.params.attacks[each.key])[0] if each.kind == "attack" else None
            curve = Curve(each.kind, each.family, each.source, norm or "", each.unit)
            hits = _hits_by_model(results, "accuracy", condition=each.name)
            by_curve.setdefault(curve, {})[each.strength] = (each.key, hits)
    for curve, strength, key, hits in white_box_curves(results):
        by_curve.setdefault(curve, {})[strength] = (key, hits)
    for curve, found in by_curve.items():
        for strength, (key, by_model) in sorted(({0.0: (CLEAN, clean)} | found).items()):
            for model in results.models():
                if model in by_model:
                    yield curve, strength, key, model, by_model[model]


def _hits_by_model(results: Results, table: str, **values: str) -> dict[str, Values]:
    return {str(model): hits_of(rows) for model, rows in results.rows(table, **values).groupby("model")}


def white_box_curves(results: Results) -> Iterator[tuple[Curve, float, str, dict[str, Values]]]:
    """Of attacks on the models themselves: a curve, a strength, the entry, and by model the hits (seeds, images)."""
    attacks = {name: results.params.attacks[name] for name in results.params.white_box}
    about = {each.key: each for each in list_conditions({}, attacks, [ITSELF])}
    budgets: dict[Norm, set[float]] = {}
    for attack in attacks.values():
        norm, budget = norm_and_budget(attack)
        if norm is not None and budget is not None:
            budgets.setdefault(norm, set()).add(budget)
    for name, attack in attacks.items():
        (norm, budget), each = norm_and_budget(attack), about[name]
        if budget is not None:
            curve = Curve("attack", each.family, ITSELF, norm or "", each.unit)
            yield curve, budget, name, _hits_by_model(results, "white_box", attack=name)
        elif norm is not None:
            curve = Curve("attack", name, ITSELF, norm, _unit(norm))
            for own in sorted(budgets.get(norm, ())):
                yield curve, own, name, _robust(results, own, [name])
    for norm, found in budgets.items():
        of_norm = [name for name, attack in attacks.items() if norm_and_budget(attack)[0] == norm]
        for budget in sorted(found):
            curve = Curve("attack", WORST, ITSELF, norm, _unit(norm))
            yield curve, budget, WORST, _robust(results, budget, of_norm)


def _unit(norm: Norm) -> str:
    return "epsilon, of 255" if norm == "Linf" else f"{norm} epsilon, 0-255 scale"


def _robust(results: Results, budget: float, names: list[str]) -> dict[str, Values]:
    """By model: who survives these attacks within a budget (seeds, images)."""
    found = {}
    for model in results.models():
        of_model = results.rows("white_box", model=model)
        if of_model.empty:
            continue
        clean = hits_of(results.rows("accuracy", model=model, condition=CLEAN)) > 0
        masks = []
        for seed, right in zip(sorted(results.params.seeds), clean, strict=True):
            within, smallest = [], []
            for _, row in of_model[(of_model["seed"] == seed) & of_model["attack"].isin(names)].iterrows():
                own = norm_and_budget(results.params.attacks[row["attack"]])[1]
                if own is None:
                    smallest.append((unpack_distances(row["distances"]), row["hits"]))
                else:
                    within.append((own, row["hits"]))
            masks.append(survivors(budget, right, within=within, smallest=smallest))
        found[model] = np.stack(masks).astype(np.float64)
    return found


def white_box_strengths_section(results: Results) -> str:
    """Accuracy of every model by white-box attack and budget, and the worst case, a table for each norm.

    Of a norm with one attack and budget the worst case is that row again, and left out if it says the same.
    """
    by_norm: dict[str, dict[str, dict[str, str]]] = {}
    confidence = results.params.report.confidence
    for curve, strength, key, hits in white_box_curves(results):
        name = f"{key} within {strength:g}" if key != WORST else f"**{WORST} within {strength:g}**"
        by_norm.setdefault(curve.norm, {})[name] = {
            model: accuracy_interval(each > 0, confidence=confidence).percent()
            for model, each in hits.items()
        }
    if not any(len(rows) > 2 for rows in by_norm.values()):  # one attack is its own worst case
        return ""
    models, blocks = labelled(results, results.models()), []
    for norm, rows in by_norm.items():
        attack, *more, worst = rows
        if not more and rows[attack] == rows[worst]:
            del rows[worst]
        shown = [[name, *(of_attack.get(model, "-") for model in models)] for name, of_attack in rows.items()]
        header = " | ".join(["attack", *models.values()])
        blocks += [f"{norm}, budgets on the 0-255 scale:", table(header, shown)]
    return section(
        "White box by strength",
        f"Accuracy in %, {over_seeds(results)}, when each attack is crafted on the model itself. In the worst case an "
        "image counts as right only if it is right when clean and under every one of these attacks whose budget, or "
        "whose smallest perturbation, lies within the one named. "
        f"{_NO_AUTOATTACK} {', '.join(literal(name) for name in results.params.white_box)}.",
        *blocks,
    )


def sources_section(results: Results) -> str:
    """Source against victim: the accuracy of every model under each attack from each source; with one source empty."""
    params = results.params
    if len(params.sources) < 2:
        return ""
    found, models = results.estimates("accuracy", "model", "condition"), labelled(results, results.models())
    blocks, conditions = [], results.conditions()
    source_of = {each.name: each.source for each in conditions}

    def cell(condition: str, model: str) -> str:
        itself = " (itself)" if model == source_name(source_of[condition]) else ""
        return f"{found[model, condition].percent()}{itself}"

    for key in params.attacks:
        names = {each.name: each.source for each in conditions if each.key == key}
        blocks += [f"{key}:", grid("source", names, models, cell)]
    return section(
        "Source against victim",
        f"Accuracy in %, {over_seeds(results)}, of every model under each attack from each source: whether what one "
        "source shows holds for another.",
        *blocks,
    )
