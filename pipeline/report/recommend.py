"""Which model to take, in a few sentences and one table, by rule.

The validation images choose, as everywhere: parameter first is the smallest model within `select.max_drop` of the
original on them, and where a seed has none, the original is kept. The test images have a veto and no other say: a model
whose whole interval lies below that drop, or a net at chance in any seed, is passed over for the next larger one, and
at last for the original. Beside it stands what does as well or better at the compared size that is nearest to the
model's, by the verdicts of the claims.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.compared import AFTER_THE_FACT, ORIGINAL, OURS, PUSHED
from pipeline.report.claims.accuracy import nearest_step
from pipeline.report.claims.page import claims_table
from pipeline.report.claims.verdicts import EQUIVALENT, HAIR, NO_CLAIM, REFUTED, SUPPORTED
from pipeline.report.comparison import judged_contest
from pipeline.report.markdown import counted, percent, thousands
from pipeline.report.methods import label_of, method_rows, step_sizes
from pipeline.report.model_rows import difference, drops_of, main_row, method_row, spares_some

if TYPE_CHECKING:
    from pipeline.report.results import Results
    from pipeline.uncertainty import Interval

_PRUNED = ("parameter_first", "accuracy_first")
# By method and step the row of its claim: `effect` above zero where ours is better.
_Contest = dict[tuple[str, int], dict[Any, Any]]


def tables_of(results: Results) -> dict[str, pd.DataFrame]:
    """The tables `claims` and `recommendation`."""
    return {"claims": claims_table(results), "recommendation": recommendation_table(results)}


@dataclass(frozen=True)
class Choice:
    """The model to take, why smaller ones are not taken, and the size at which it is compared, None without any."""

    model: str
    passed_over: list[str]
    step: int | None


def choose(results: Results) -> Choice:
    """By the rule above."""
    most, passed_over, chosen = results.params.select.max_drop, list[str](), ORIGINAL
    within = () if _missed(results) else _PRUNED
    for model in sorted(within, key=lambda name: results.size(name, "params")):
        lost, n_collapsed = difference(results, model), results.collapsed(model)
        if n_collapsed:
            seeds = counted(len(results.params.seeds), "seed")
            passed_over.append(f"{results.labels[model]}, is at chance in {n_collapsed} of {seeds}")
        elif lost.high < -most:
            passed_over.append(
                f"{results.labels[model]}, loses more than {percent(most)} points ({_signed(lost)})"
            )
        else:
            chosen = model
            break
    sizes = step_sizes(results)
    of_size = chosen if chosen != ORIGINAL else _PRUNED[0]
    return Choice(
        chosen, passed_over, nearest_step(sizes, results.size(of_size, "params")) if sizes else None
    )


def recommendation_table(results: Results) -> pd.DataFrame:
    """A row for each model worth one: those of the main flow; ours and who does as well at the chosen model's size.

    Columns: `model`, `label`; `params` and `flops`, means over seeds; `bytes` (ONNX) and `milliseconds` (an image,
    where `timed_by` says) of the first seed's; `epochs`, of training in all, means over seeds; `test_accuracy` with its
    interval `low` and `high`; `difference` to the original on the same images, above zero better;
    `validation_accuracy` with its interval; `worst_noise` and `worst_attack`, transferred or on the model itself, with
    the accuracy under them less that when clean (`_drop`), of those that had a hold on it; `chosen`. What was not
    measured is empty.
    """
    choice = choose(results)
    models = [name for name in results.main_models() if name != "base"]
    rows = [main_row(results, model) | {"chosen": model == choice.model} for model in models]
    if choice.step is not None:
        worth = _worth_a_row(judged_contest(results), choice.step)
        rows += [method_row(results, method, choice.step) | {"chosen": False} for method in worth]
    table = pd.DataFrame(rows)
    # Whole numbers are written as such, beside what was not measured.
    whole = {
        each: [n if np.isnan(n) else round(n) for n in table[each]] for each in ("params", "flops", "bytes")
    }
    return table.assign(**{each: pd.Series(values, dtype=object) for each, values in whole.items()})


def metrics_of(models: pd.DataFrame) -> dict[str, Any]:
    """The recommendation's table for `dvc metrics diff`: which model to take, and the numbers of each."""
    taken = models[models["chosen"]]["model"]
    numbers = models.drop(columns=["label", "timed_by", "worst_noise", "worst_attack", "chosen"])
    return {
        "take": "".join(taken),
        "models": {
            row.pop("model"): {name: round(float(each), 6) for name, each in row.items() if not pd.isna(each)}
            for row in numbers.to_dict("records")
        },
    }


def _worth_a_row(found: _Contest, step: int) -> list[str]:
    """Ours, the best of the others by its mean, and all that are ahead of ours, level with it, or as good."""
    kept = {name: row for (name, at), row in found.items() if at == step and row["verdict"] != NO_CLAIM}
    ordered = sorted(kept, key=lambda name: kept[name]["effect"])
    good = [name for name in ordered if kept[name]["effect"] <= HAIR or kept[name]["verdict"] == EQUIVALENT]
    return [OURS, *(good or ordered[:1])]


def sentences(results: Results) -> list[str]:
    """The recommendation; the first is the answer."""
    choice = choose(results)
    row, keep = main_row(results, choice.model), choice.model == ORIGINAL
    n_seeds, share = len(results.params.seeds), percent(row["params"] / results.size(ORIGINAL, "params"))
    parts = [
        f"{'Keep the original' if keep else 'Take ' + row['label'] + _chosen_as(results, choice)}: "
        f"{thousands(row['params'])} parameters"
        f"{'' if keep else f' ({share} % of the original)'} and {thousands(row['flops'])} FLOPs, "
        f"{'one seed' if n_seeds == 1 else f'means over {n_seeds} seeds'}",
        f"it is right on {percent(row['test_accuracy'])} [{percent(row['low'])}, {percent(row['high'])}] % of the test "
        f"images{'' if keep else _against_original(results, choice.model)}",
        *_others(results, choice),
        *_losses(results, row),
        *choice.passed_over,
        *_missed(results),
        *_on_disk(results, row),
    ]
    return [f"{each[0].upper()}{each[1:]}." for each in parts]


def _chosen_as(results: Results, choice: Choice) -> str:
    """By which rule, in half a sentence."""
    if choice.model != _PRUNED[0]:
        return ""
    return f" (the smallest within {percent(results.params.select.max_drop)} points of the original on validation)"


def _on_disk(results: Results, row: dict[str, Any]) -> list[str]:
    """Of the first seed's file, whose size is not the seeds' mean."""
    if np.isnan(row["bytes"]):
        return []
    disk = results.tables["disk"]
    params = thousands(disk[disk["model"] == row["model"]]["params"].iloc[0])
    seed = results.params.seeds[0]
    folder = f"runs/{results.params.name}/select/{seed}/" if row["model"] in _PRUNED else ""
    file = f"seed {seed}'s file{f' in {folder}' if folder else ''}, of {params} parameters"
    time = f"{row['milliseconds']:.3g} ms an image ({row['timed_by']})"
    return [f"{file}: {thousands(row['bytes'])} bytes as ONNX, {time}"]


def _against_original(results: Results, model: str) -> str:
    found, most = difference(results, model), results.params.select.max_drop
    # A hair forgives the arithmetic, not an image.
    within = "at most" if found.low >= -most - 1e-9 else "undecided whether at most"
    few = ", of this seed's nets alone" if found.n == 1 else ""
    return f", {_signed(found)} points against the original ({within} {percent(most)} worse{few})"


def _losses(results: Results, row: dict[str, Any]) -> list[str]:
    """The worst under noise and under attack, and the original's under the same."""
    losses, original = [], {} if row["model"] == ORIGINAL else drops_of(results, ORIGINAL)
    for kind in ("noise", "attack"):
        name, drop = row[f"worst_{kind}"], row[f"worst_{kind}_drop"]
        if name:
            there = original.get(kind, {}).get(name)
            beside = "" if there is None else f", the original {percent(there, signed=True)}"
            losses.append(f"{percent(drop, signed=True)} points under {kind} ({name}{beside})")
    spared = (
        ", where the original stays right on at least half of the images," if spares_some(results) else ""
    )
    return [f"at worst{spared} {' and '.join(losses)}"] if losses else []


def _missed(results: Results) -> list[str]:
    """In how many seeds validation found nothing within the drop, where the most accurate sample stands in."""
    found = [each["within_drop"] for (way, _), each in results.selections.items() if way == PUSHED]
    most = percent(results.params.select.max_drop)
    words = f"of {counted(len(found), 'seed')} no pruned model came within {most} points on validation"
    return [] if all(found) else [f"in {len(found) - sum(found)} {words}"]


def _signed(interval: Interval) -> str:
    return interval.percent(signed=True)


def _others(results: Results, choice: Choice) -> list[str]:
    """What does as well or better at the nearest compared size, and chapter 3's model where it was made."""
    parts = []
    if choice.step is not None and (found := judged_contest(results)):
        parts.append(_at_size(results, choice, found))
    if results.params.after_the_fact is not None:
        name = f"{AFTER_THE_FACT}_{_PRUNED[0]}"
        accuracy = results.estimates("scores", "model", "split")[name, "test"].percent()
        parts.append(
            f"{results.labels[name]}: {thousands(results.size(name, 'params'))} parameters, {accuracy} %"
        )
    return parts


def _at_size(results: Results, choice: Choice, found: _Contest) -> str:
    step = choice.step or 0
    nearest = "it" if choice.model != ORIGINAL else "the smallest pruned model"
    size = (
        f"at {thousands(step_sizes(results)[step])} parameters, the compared size nearest to {nearest}, ours"
    )
    ours = method_rows(results, OURS, step)
    if ours["collapsed"].any():
        return f"{size} collapsed and nothing is compared"
    rows = {name: row for (name, at), row in found.items() if at == step}
    lists: dict[str, list[str]] = {}
    for name in sorted(rows, key=lambda each: np.nan_to_num(rows[each]["effect"])):
        lists.setdefault(_standing(rows[name]), []).append(name)
    words = [
        f"{_foremost(lists[standing], step, found)} {'is' if len(lists[standing]) == 1 else 'are'} {what}"
        for standing, what in _STANDINGS.items()
        if standing in lists
    ]
    if not words:
        words = ["nothing does as well"]
    behind, beaten = (len(lists.get(each, ())) for each in ("behind", "beaten"))
    surely = f", {beaten} of them surely" if behind + beaten else ""
    words.append(f"{behind + beaten or 'none'} of {len(rows)} others behind{surely}")
    if "collapsed" in lists:
        words.append(f"collapsed and not compared {' and '.join(map(label_of, lists['collapsed']))}")
    return f"{size} has {results.accuracy(ours, 'test_').percent()} %: {', '.join(words)}"


# How others that do as well or better stand to ours.
_STANDINGS = {
    "better": "surely better",
    "as good": "as good",
    "ahead": "ahead by the mean (undecided)",
    "level": "level by the mean (undecided)",
}


def _standing(row: dict[Any, Any]) -> str:
    """One of `_STANDINGS`, or behind, beaten or collapsed."""
    sure = {NO_CLAIM: "collapsed", REFUTED: "better", SUPPORTED: "beaten", EQUIVALENT: "as good"}
    if row["verdict"] in sure:
        return sure[row["verdict"]]
    return "ahead" if row["effect"] < -HAIR else "level" if row["effect"] <= HAIR else "behind"


def _foremost(names: list[str], step: int, found: _Contest) -> str:
    """Up to three by name, of more the two that are farthest ahead; the table beside it has them all."""
    more = [f"{len(names) - 2} more"] if len(names) > 3 else []
    return " and ".join([*(_named(name, step, found) for name in names[: 2 if more else 3]), *more])


def _named(name: str, step: int, found: _Contest) -> str:
    """A method with what ours has more than it, and whether it is ahead at every size."""
    effects = [row["effect"] for (each, _), row in found.items() if each == name]
    always = len(effects) > 1 and bool(np.max(effects) < -HAIR)  # NaN, of a net that collapsed, is not
    sizes = f", ahead at all {len(effects)} sizes" if always else ""
    less = percent(found[name, step]["effect"], signed=True)
    return f"{label_of(name)} (ours less it {less} points{sizes})"
