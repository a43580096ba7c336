"""Select the accuracy-first and the parameter-first model on validation, and export them."""

import csv
from dataclasses import asdict

from pipeline.checkpoint import load_classifier, save_model
from pipeline.data.images import load_parts
from pipeline.errors import InputError
from pipeline.export import export_onnx
from pipeline.machine.seeding import configure_torch
from pipeline.pruning.select import Entry, Selection, select_models
from pipeline.training.train import evaluate
from pipeline.workflow.files import write_json
from pipeline.workflow.stage import StageRun, run_stage


def select(run: StageRun) -> str:
    """From all rounds' samples to two models (`.safetensors`, `.json`, `.onnx`) and `selection.json`."""
    runtime, settings = run.params.runtime, run.params.select
    device = configure_torch(runtime)
    parts = load_parts(run.artefact("prepare"), device, workers=runtime.workers)
    base = load_classifier(run.artefact(run.seed, "train") / "model").to(device)
    score = evaluate(base, parts.validation, batch_size=runtime.eval_batch_size)
    entries = [entry for each in run.params.rounds for entry in _read_samples(run, each.name)]
    if not entries:
        raise InputError("expected at least one pruned sample in the rounds, got none")
    selection = select_models(entries, base_n_correct=score.n_correct, max_drop=settings.max_drop)
    chosen = {"accuracy_first": selection.accuracy_first, "parameter_first": selection.parameter_first}
    examples = parts.validation.first(16).cpu()
    for name, entry in chosen.items():
        sample = run.artefact(run.seed, "prune", entry.round, "samples")
        model = load_classifier(sample / entry.sample)
        about = {"stage": "select", "seed": run.seed, "selected_as": name, **asdict(entry)}
        save_model(model, run.out / name, about=about)
        export_onnx(model, run.out / f"{name}.onnx", examples=examples)
    write_json(run.out / "selection.json", asdict(selection) | {"base": score.as_dict()})
    return _describe(selection)


def _read_samples(run: StageRun, name: str) -> list[Entry]:
    table = run.artefact(run.seed, "prune", name) / "samples.csv"
    with table.open(newline="", encoding="utf-8") as file:
        return [
            Entry(
                round=row["round"],
                sample=row["sample"],
                eta=float(row["eta"]),
                params=int(row["params"]),
                flops=int(row["flops"]),
                n=int(row["n"]),
                n_correct=int(row["n_correct"]),
            )
            for row in csv.DictReader(file)
        ]


def _describe(selection: Selection) -> str:
    first, small = selection.accuracy_first, selection.parameter_first
    note = "" if selection.within_drop else " (none within the allowed drop)"
    return (
        f"accuracy first {first.n_correct / first.n:.2%} with {first.params:,} parameters, "
        f"parameter first {small.n_correct / small.n:.2%} with {small.params:,}{note}"
    )


if __name__ == "__main__":
    run_stage(select, out="runs/{name}/{seed}/select", keys=["seed"])
