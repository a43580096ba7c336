"""What tests of the reports start from: results in memory, and a run's folder as the stages leave it."""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from pipeline.compared import (
    AFTER_THE_FACT,
    OURS,
    PUSHED,
    attacked_models,
    int8_models,
    main_models,
    pairs_of,
)
from pipeline.files import write_csv, write_json
from pipeline.params.params import Params
from pipeline.report.hits import with_accuracy
from pipeline.report.results import Results
from pipeline.robustness.conditions import CLEAN, Condition, list_conditions
from pipeline.uncertainty import counts_of

Row = dict[str, Any]

_N = 100
_CLASSES = ["a", "b", "c"]
_TABLES = (
    "brought",
    "scores",
    "layers",
    "sensitivity",
    "samples",
    "latent",
    "growth",
    "pushing",
    "variants",
    "comparison",
    "curves",
    "ablation",
    "accuracy",
    "reliability",
    "pairs",
    "perturbations",
    "outcomes",
    "crafted",
    "white_box",
    "latency",
    "disk",
    "kernels",
)


# Tables whose counts come with the hits behind them.
_WITH_HITS = ("scores", "accuracy", "white_box", "comparison", "ablation")


def with_hits(name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """A table with what the stages write beside its counts, where it is not there: no net has collapsed, and of the
    images the first are hits, as many as were right."""
    if name not in _WITH_HITS or rows.empty:
        return rows
    rows = rows.assign(**{state: 0 for state in ("collapsed", "retried") if state not in rows})
    for counted in [column for column in map(str, rows.columns) if column.endswith("n_correct")]:
        part = counted.removesuffix("n_correct")
        if f"{part}hits" not in rows:
            counts = zip(rows[counted], rows[f"{part}n"], strict=True)
            hits = [counts_of(np.arange(n) < n_correct)["hits"] for n_correct, n in counts]
            rows = rows.assign(**{f"{part}hits": hits})
    return rows


def results_with(params: Params, tables: Mapping[str, pd.DataFrame], **others: Any) -> Results:
    """Results of these tables alone, with hits for their counts; every other one is empty."""
    fields = ("latent_spaces", "galleries", "selections", "stops", "dataset", "environment")
    fields += ("epochs", "confidences")
    empty: dict[str, Any] = {name: {} for name in fields}
    assert set(tables) <= set(_TABLES)
    filled = {name: with_accuracy(with_hits(name, tables.get(name, pd.DataFrame()))) for name in _TABLES}
    return Results(params=params, tables=filled, **empty | others)


def write_run(root: Path, params: Params, *, diverged: tuple[tuple[int, str], ...] = ()) -> None:
    """The tables and files that a report reads, as the stages write them for these params; every number is made up.

    Args:
        root: `runs/<name>`.
        params: what is null there has no table here.
        diverged: (seed, variant) of pushes that left nothing.
    """
    conditions = list(list_conditions(params.noise, params.attacks, params.sources))
    attacked = [
        *attacked_models(root, 0, params.after_the_fact, params.lineup, params.compare, [*params.sources])
    ]
    tables: dict[str, list[Row]] = {}
    for seed in params.seeds:
        for name, rows in (
            ("train/brought", _brought(params, seed)),
            ("evaluate/scores", _scores(params, seed)),
            ("evaluate/layers", _layers(params)),
            ("evaluate/sensitivity", _sensitivity()),
            ("prune/samples", _samples(params)),
            ("prune/latent", _latent(params)),
            ("grow/growth", _growth() if params.grow else ()),
            ("push/history", _history(params, seed, diverged)),
            ("compare/comparison", _comparison(params)),
            ("compare/curves", _curves(params)),
            ("craft/crafted", _crafted(params)),
            ("white_box/white_box", _white_box(params, attacked)),
            ("robustness/accuracy", _accuracy(attacked, conditions, seed)),
            ("robustness/reliability", _reliability(attacked, conditions)),
            ("robustness/pairs", _pairs(params, conditions)),
            ("robustness/perturbations", _perturbations(conditions)),
            ("robustness/outcomes", _outcomes(conditions)),
            *([] if params.latency is None or seed != params.seeds[0] else _latency(params, attacked)),
        ):
            tables.setdefault(name, []).extend({"seed": seed} | row for row in rows)
        _write_files(root, params, seed, conditions, diverged)
    for name, rows in tables.items():
        if rows:
            table = with_hits(Path(name).name, pd.DataFrame(rows))
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            table.to_csv(root / f"{name}.csv", index=False)
    counts = {"train": 60, "validation": 20, "test": 20}
    write_json(
        root / "prepare/images.json",
        {"classes": _CLASSES, "counts": counts, "image_shape": [1, 4, 4]}
        | {"train_counts": [20, 20, 20], "remarks": [], "sha256": "0123abcd"},
    )


def _brought(params: Params, seed: int) -> Iterator[Row]:
    if params.train.training.epochs == 0:
        yield {"n": _N, "n_correct": 90 - seed, "suspicion": "10 of 100 right" if seed else ""}


def _scores(params: Params, seed: int) -> Iterator[Row]:
    models = main_models(Path(), seed, params.after_the_fact)
    models |= int8_models(Path(), seed, params.after_the_fact, params.select)
    for idx, model in enumerate(models):
        for split in ("validation", "test"):
            counts = {"n": _N, "n_correct": 90 - idx - seed}
            yield {"model": model, "split": split, **counts, "params": 1000 - 100 * idx, "flops": 9000 - idx}


def _layers(params: Params) -> Iterator[Row]:
    for model in main_models(Path(), 0, params.after_the_fact):
        for layer in ("stem", "decision"):
            yield {
                "model": model,
                "layer": layer,
                "kind": "3x3",
                "in": 1,
                "out": 8,
                "params": 72,
                "flops": 720,
            }


def _samples(params: Params) -> Iterator[Row]:
    for pipeline, number in _rounds(params):
        for eta in params.prune.etas:
            counts = {"params": 800 - 100 * number, "flops": 500, "n": _N, "n_correct": 80 - number}
            yield (
                {
                    "pipeline": pipeline,
                    "round": f"round{number}",
                    "sample": f"eta{eta:g}",
                    "target": f"eta{eta:g}",
                    "eta": eta,
                    "latent_kept": 3,
                }
                | counts
                | {"collapsed": 0, "acceptable": 1, "chosen": int(eta == params.prune.etas[-1])}
            )


def _rounds(params: Params) -> Iterator[tuple[str, int]]:
    yield from ((PUSHED, number) for number in range(1, params.prune.rounds + 1))
    if params.after_the_fact is not None:
        yield from ((AFTER_THE_FACT, number) for number in range(1, params.after_the_fact.rounds + 1))


def _latent(params: Params) -> Iterator[Row]:
    for pipeline, number in _rounds(params):
        for rank in range(1, 5):
            counts = {"n": _N, "n_correct": 20 * rank, "n_correct_pca": 18 * rank}
            row = {"pipeline": pipeline, "round": f"round{number}", "rank": rank, "neuron": rank}
            yield row | {"v": 1.0, **counts, "kept": 1}


def _sensitivity() -> Iterator[Row]:
    for rank in range(1, 5):
        yield {
            "rank": rank,
            "n": _N,
            "n_correct": 21 * rank,
            "n_correct_pca": 19 * rank,
            "kept": int(rank < 3),
        }


def _growth() -> Iterator[Row]:
    for iteration in (0, 1):
        size = {"stages": "1-1-1", "params": 1000 + iteration, "flops": 9, "memory_bytes": 9}
        row = {"name": "Inception-13", "iteration": iteration, "grown_stage": "", **size}
        for training in ("full", "quick")[: 1 + iteration][::-1]:
            yield row | {"training": training, "n": _N, "n_correct": 90, "chosen": iteration}


def _history(params: Params, seed: int, diverged: tuple[tuple[int, str], ...]) -> Iterator[Row]:
    for idx, push in enumerate(("main", "control", *params.push.variants)):
        for epoch in () if (seed, push) in diverged else (1, 2):
            terms = ("l_lda", "l_cov", "l_align", "n_active", "top_share", "collapsed")
            pushed = {} if push == "control" else {f"train_{term}": 0.5 / epoch for term in terms}
            counts = {"validation_n": _N, "validation_n_correct": 80 + epoch - idx, "validation_loss": 0.5}
            yield {"push": push, "epoch": epoch, "train_total": 1.0} | pushed | counts


def _comparison(params: Params) -> Iterator[Row]:
    compare = params.compare
    if compare is None:
        return
    for method in (OURS, *compare.competitors, *compare.fixed_nets):
        for step in (
            range(len(compare.fractions))
            if method not in compare.fixed_nets
            else [len(compare.fractions) - 1]
        ):
            size = {"params": 500 - 100 * step, "flops": 400, "epochs": 7, "collapsed": 0, "retried": 0}
            counts = {
                "validation_n": _N,
                "validation_n_correct": 70,
                "test_n": _N,
                "test_n_correct": 71 - step,
            }
            yield {"method": method, "step": step, **size, **counts}


def _curves(params: Params) -> Iterator[Row]:
    """Of every net two epochs; those of the first competitor gain eleven points in the second."""
    rising = params.compare.competitors[:1] if params.compare else []
    for row in _comparison(params):
        for epoch in (1, 2):
            n_correct = row["validation_n_correct"] - (11 if row["method"] in rising and epoch == 1 else 0)
            counts = {"validation_n": _N, "validation_n_correct": n_correct, "validation_loss": 0.5}
            yield {"method": row["method"], "step": row["step"], "epoch": epoch, **counts}


UNTOUCHED = {"n_attacked": 80, "n_untouched": 0, "n_vanished": 0, "n_idle": 0}


def _crafted(params: Params) -> Iterator[Row]:
    for source, attack in product(params.sources, params.attacks):
        yield {"source": source, "attack": attack, "n": _N, "n_correct": 10, **UNTOUCHED}


def _white_box(params: Params, models: list[str]) -> Iterator[Row]:
    for attack in params.white_box:
        for model in models:
            counts = {"n": _N, "n_correct_clean": 90, "n_correct": 40, **UNTOUCHED}
            moved = {"l2": 1.0, "linf": 0.1, "distances": "x" + "00000041" * _N}  # 8.0, of every image
            yield {"attack": attack, "model": model, **counts, **moved}


def _accuracy(models: list[str], conditions: list[Condition], seed: int) -> Iterator[Row]:
    for condition in conditions:
        for idx, model in enumerate(models):
            n_correct = 90 - idx - seed - (0 if condition.kind == CLEAN else 20)
            confidences = {"confidence_of_hits": 0.75 * n_correct, "confidence_of_misses": 5.0}
            counts = {"n": _N, "n_correct": n_correct, "collapsed": 0}
            yield {"condition": condition.name, "model": model, **counts, "ece": 0.125, **confidences}


def _reliability(models: list[str], conditions: list[Condition]) -> Iterator[Row]:
    for condition in conditions:
        for model in models:
            counts = {"n": _N, "n_correct": 60, "confidence": 70.0}
            yield {"condition": condition.name, "model": model, "bin": 3, **counts}


def _pairs(params: Params, conditions: list[Condition]) -> Iterator[Row]:
    for condition in conditions[1:]:
        for first, second in pairs_of(params.after_the_fact, params.lineup):
            found = {"n": _N, "change": 0.01, "low": -0.01, "high": 0.03}
            found |= {"only_first": 3, "only_second": 8, "p_value": 0.2265625}
            yield {"condition": condition.name, "first": first, "second": second} | found


def _perturbations(conditions: list[Condition]) -> Iterator[Row]:
    for condition in conditions[1:]:
        yield {"condition": condition.name, "l2": 0.5, "linf": 0.1, "l2_max": 1.0, "linf_max": 0.2}


def _latency(params: Params, models: list[str]) -> Iterator[tuple[str, list[Row]]]:
    """The three tables; every model is as fast as every other."""
    assert params.latency is not None
    timed = [name for name in models if not name.startswith("source_")]
    sizes = {"params": 9, "flops": 90, "weights_bytes": 900, "onnx_bytes": 800}
    yield "latency/disk", [{"model": name, **sizes} for name in timed]
    yield (
        "latency/kernels",
        [{"model": name, "weights_ms": 1.0, "others_ms": 0.5, "between_ms": 0.1} for name in timed],
    )
    rows = []
    for (runtime, layout), batch, name in product(
        (("PyTorch 2", "own"), ("ONNX Runtime 1", "contiguous")), params.latency.batches, timed
    ):
        where = {"model": name, "runtime": runtime, "device": "a processor", "precision": "float32"}
        times = {"median_ms": 1.0, "p10_ms": 0.9, "p90_ms": 1.2, "peak_bytes": 5000}
        rows.append({**where, "layout": layout, "batch": batch, "threads": 1, "runs": 50, **times})
    yield "latency/latency", rows


def _outcomes(conditions: list[Condition]) -> Iterator[Row]:
    for condition in conditions:
        if condition.kind == "attack":
            yield {"condition": condition.name, "only_first": 1, "only_second": 0, "both": 2, "neither": 3}


def _write_files(
    root: Path,
    params: Params,
    seed: int,
    conditions: list[Condition],
    diverged: tuple[tuple[int, str], ...],
) -> None:
    for push in ("main", "control", *params.push.variants):
        if (seed, push) not in diverged:
            folder = root / "push" / str(seed) / push
            folder.mkdir(parents=True)
            save_file(latent_space(), folder / "latent.safetensors")
    for pipeline, number in _rounds(params):
        state = {"stopped": seed == 1, "reason": "no sample of round1 reached 80.00 %" if seed == 1 else ""}
        write_json(root / f"prune/{seed}/{pipeline}/round{number}/round.json", state)
    entry = {
        "round": "round1",
        "sample": "eta1",
        "eta": 1.0,
        "params": 700,
        "flops": 500,
        "n": _N,
        "n_correct": 79,
    }
    selection = {"accuracy_first": entry, "parameter_first": entry, "within_drop": True}
    for pipeline in dict(_rounds(params)):
        found = selection | {"original": {"n": _N, "n_correct": 90}}
        write_json(root / f"select/{seed}/{pipeline}/selection.json", found)
    models = main_models(root, seed, params.after_the_fact)
    for name, path in models.items():
        if "select" not in path.parts:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path.with_name(f"{path.name}.json"), {"about": {"epochs": EPOCHS[name]}})
    for condition in conditions:
        if condition.kind != "noise":
            folder = root / "robustness" / str(seed) / condition.name
            folder.mkdir(parents=True)
            sure = {f"{name}.confidence": np.full(_N, 0.75) for name in models}
            save_file(sure, folder / "predictions.safetensors")
    environment = {"python": "3.11", "cores": 2, "processor": "a processor", "packages": {"torch": "2.15.0"}}
    write_json(root / f"evaluate/{seed}/environment.json", environment)
    for condition in conditions:
        if condition.kind == "attack":
            _write_gallery(root / "robustness" / str(seed) / condition.name)


def latent_space() -> dict[str, np.ndarray]:
    """Of four neurons, three of them active; the largest eigenvalue is half of the sum."""
    v = np.array([3.0, 2.0, 1.0, 0.0], dtype=np.float32)
    arrays = {"S_a": np.diag(v + 1) + 0.1, "v": v, "spectrum": v, "active": v > 0}
    return {f"{state}.{name}": array for state in ("before", "after") for name, array in arrays.items()}


# Of the nets that pruning starts from, growing and pushing included.
EPOCHS = {"base": 5, "original": 7, "control": 9, "pushed": 9}


def _write_gallery(folder: Path) -> None:
    """One image that fooled the original alone, none for the reverse."""
    rows, images = gallery(1)
    write_csv(folder / "gallery.csv", rows.to_dict("records"))  # type: ignore[arg-type]
    save_file(images, folder / "gallery.safetensors")


def gallery(n: int) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Images that fooled the original alone, none for the reverse: what both said, and the pixels."""
    said = {
        f"{model}_{state}_{what}": value
        for model in ("first", "second")
        for state in ("clean", "attacked")
        for what, value in (("class", 1), ("confidence", 0.5))
    }
    rows = pd.DataFrame([{"fooled": "only_original", "image": idx, "label": idx, **said} for idx in range(n)])
    images = {
        f"{fooled}.{state}": np.full((count, 1, 4, 4), level, dtype=np.float32)
        for fooled, count in (("only_original", n), ("only_pruned", 0))
        for state, level in (("clean", 0.25), ("attacked", 0.5))
    }
    return rows, images
