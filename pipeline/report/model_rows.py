"""A model's row in the recommendation's table: size, time, training, accuracy, and what it loses at worst."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.compared import ORIGINAL, OURS, OURS_AT_SIZE, at_size
from pipeline.report.hits import more_hits
from pipeline.report.latency import measured
from pipeline.report.methods import label_of, method_rows
from pipeline.report.results import counted_images
from pipeline.robustness.conditions import CLEAN
from pipeline.uncertainty import NOTHING

if TYPE_CHECKING:
    from pipeline.report.results import Results
    from pipeline.uncertainty import Interval

# Behind the name of an attack that was not transferred.
ON_ITSELF = " on the model itself"
_HALF = 0.5
# By kind, noise and attack, and by name: how accuracy changes.
Drops = dict[str, dict[str, float]]


def main_row(results: Results, model: str) -> dict[str, Any]:
    """Of a model of the main flow; its columns: see `recommend.recommendation_table`."""
    rows = results.rows("scores", model=model, split="test")
    epochs = [n for (name, _), n in results.epochs.items() if name == model]
    row: dict[str, Any] = {"model": model, "label": results.labels[model]}
    row |= {each: results.size(model, each) for each in ("params", "flops")} | file_of(results, model)
    row |= {"epochs": float(np.mean(epochs)) if epochs else np.nan}
    less = NOTHING if model == ORIGINAL else difference(results, model)
    row |= _accuracy(results.accuracy(rows), less)
    validation = results.accuracy(results.rows("scores", model=model, split="validation"))
    row |= _on_validation(validation) | _worst(drops_of(results, model))
    return row


def method_row(results: Results, method: str, step: int) -> dict[str, Any]:
    """The same of a method's model in the comparison; attacked and timed where the lineup is at that size."""
    rows, original = method_rows(results, method, step), results.rows("scores", model=ORIGINAL, split="test")
    less = results.difference(more_hits(rows, original, "test_", other_part=""))
    known = attacked_name(results, method, step)
    row: dict[str, Any] = {
        "model": f"{method}_step{step}",
        "label": f"{label_of(method)}, at the compared size",
    }
    row |= {each: float(rows[each].mean()) for each in ("params", "flops")} | file_of(results, known)
    row |= {"epochs": float(rows["epochs"].mean())}
    row |= _accuracy(results.accuracy(rows, "test_"), less)
    return row | _on_validation(results.accuracy(rows, "validation_")) | _worst(drops_of(results, known))


def attacked_name(results: Results, method: str, step: int) -> str:
    """What a method's model in the comparison is called where it was attacked and timed, too; else empty."""
    compare, lineup = results.params.compare, results.params.lineup
    name = OURS_AT_SIZE if method == OURS else at_size(method)
    same_size = (
        lineup is not None and compare is not None and compare.fractions.index(lineup.fraction) == step
    )
    return name if same_size and name in results.models() else ""


def difference(results: Results, model: str) -> Interval:
    """Of test accuracy, to the original on the same images."""
    mine, original = (results.rows("scores", model=each, split="test") for each in (model, ORIGINAL))
    return results.difference(more_hits(mine, original))


def _accuracy(found: Interval, less: Interval) -> dict[str, float]:
    row = {"test_accuracy": found.mean, "low": found.low, "high": found.high, "difference": less.mean}
    return row | {"difference_low": less.low, "difference_high": less.high}


def file_of(results: Results, model: str) -> dict[str, Any]:
    """Bytes as ONNX, and milliseconds an image at the smallest batch: in ONNX Runtime, where it was timed.

    `timed_by` says where; NaN of a model that has neither, or no name.
    """
    row: dict[str, Any] = {"bytes": np.nan, "milliseconds": np.nan, "timed_by": ""}
    disk, runtimes = results.tables["disk"], measured(results) if len(results.tables["latency"]) else []
    if not runtimes or model not in set(disk["model"]):
        return row
    of = next((each for each in runtimes if each.profiled), runtimes[0])
    batch = min(of.timings)
    row["bytes"] = float(disk[disk["model"] == model]["onnx_bytes"].iloc[0])
    return row | {"milliseconds": of.timings[batch][model].median / batch, "timed_by": of.words}


def _on_validation(found: Interval) -> dict[str, float]:
    return {
        "validation_accuracy": found.mean,
        "validation_low": found.low,
        "validation_high": found.high,
    }


def drops_of(results: Results, model: str) -> Drops:
    """By kind and name, how accuracy changes under every noise and attack that had a hold on it.

    Without those that leave the original right on fewer than half of the images: they do so to every net, and tell few
    apart. Where a kind has no other, all of it counts.
    """
    if not model or results.tables["accuracy"].empty:
        return {"noise": {}, "attack": {}}
    drops, telling = _all_drops(results, model), _all_drops(results, ORIGINAL)
    clean = float(results.rows("accuracy", model=ORIGINAL, condition=CLEAN)["accuracy"].mean())
    for kind, found in telling.items():
        mild = {name for name, drop in found.items() if clean + drop >= _HALF - 1e-9}
        drops[kind] = {name: drop for name, drop in drops[kind].items() if name in mild or not mild}
    return drops


def spares_some(results: Results) -> bool:
    """Whether `drops_of` leaves anything out."""
    return any(
        drops_of(results, ORIGINAL)[kind].keys() != found.keys()
        for kind, found in _all_drops(results, ORIGINAL).items()
    )


def _all_drops(results: Results, model: str) -> Drops:
    drops: Drops = {"noise": {}, "attack": {}}
    for each in results.conditions():
        if each.kind != CLEAN and not results.is_idle(results.untouched(each.name)):
            drops[each.kind][each.name] = float(results.changes(model, each.name).mean())
    clean = results.rows("accuracy", model=model, condition=CLEAN)
    for attack in results.params.white_box:
        rows = results.rows("white_box", model=model, attack=attack)
        if not results.is_idle(counted_images(rows)):
            drops["attack"][f"{attack}{ON_ITSELF}"] = float(more_hits(rows, clean).mean())
    return drops


def _worst(drops: Drops) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for kind, found in drops.items():
        name = min(found, key=lambda each: found[each]) if found else ""
        row |= {f"worst_{kind}": name, f"worst_{kind}_drop": found.get(name, np.nan)}
    return row
