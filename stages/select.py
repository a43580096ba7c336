"""Select two pruned models: the most accurate sample, and the smallest one that is accurate enough."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.compared import AFTER_THE_FACT, PUSHED
from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics
    from pipeline.params.pruning import AfterTheFact, Select


def jobs(
    runs: Path, *, seeds: list[int], numerics: Numerics, after_the_fact: AfterTheFact | None, select: Select
) -> Iterator[Job]:
    """One for each seed and pipeline."""
    for pipeline in (PUSHED, AFTER_THE_FACT) if after_the_fact else (PUSHED,):
        for seed in seeds:
            yield Job(
                {"seed": seed, "pipeline": pipeline},
                {"seed": seed, "pipeline": pipeline, "numerics": numerics, "settings": select},
                {
                    "prepared": runs / "prepare",
                    "original": runs / "grow" / str(seed) / "model",
                    "pruned": runs / "prune" / str(seed) / pipeline,
                },
            )


def work(
    place: Workplace,
    *,
    seed: int,
    pipeline: str,
    numerics: Numerics,
    settings: Select,
    prepared: Path,
    original: Path,
    pruned: Path,
) -> str:
    """From all rounds' samples to two models (`.safetensors`, `.json`, and as `formats` say) and `selection.json`."""
    from dataclasses import asdict

    import torch

    from pipeline.checkpoint import load_classifier, save_model
    from pipeline.errors import InputError
    from pipeline.export import export_onnx, export_program, onnx_bytes
    from pipeline.files import write_atomically, write_json
    from pipeline.images.parts import load_parts
    from pipeline.int8 import int8_bytes
    from pipeline.machine.device import configure_torch
    from pipeline.machine.seeding import generator
    from pipeline.prune.selection import read_entries, select_models
    from pipeline.training.predict import evaluate

    device = configure_torch(numerics)
    parts = load_parts(prepared, device, workers=place.workers)
    score = evaluate(
        load_classifier(original).to(device), parts.validation, batch_size=numerics.eval_batch_size
    )
    entries = read_entries(pruned)
    if not entries:
        raise InputError("expected at least one pruned sample in the rounds, got none")
    selection = select_models(entries, original_n_correct=score.n_correct, max_drop=settings.max_drop)
    examples = parts.validation.first(16).cpu()
    for name in ("accuracy_first", "parameter_first"):
        entry = getattr(selection, name)
        model = load_classifier(pruned / entry.round / "samples" / entry.sample)
        about = {"stage": "select", "seed": seed, "pipeline": pipeline, "selected_as": name, **asdict(entry)}
        save_model(model, place.out / name, about=about)
        for ending, export in {"onnx": export_onnx, "pt2": export_program}.items():
            if ending in settings.formats:
                export(model, place.out / f"{name}.{ending}", examples=examples)
        if settings.int8 is not None and name == "parameter_first":
            random = generator(seed, "select", pipeline, "int8")
            idx = torch.randperm(len(parts.train), generator=random)[: settings.int8.calibration_images]
            quantised = int8_bytes(onnx_bytes(model, examples), parts.train.take(idx).scaled())
            write_atomically(place.out / f"{name}.int8.onnx", quantised)
    write_json(place.out / "selection.json", asdict(selection) | {"original": score.as_dict()})
    first, small = selection.accuracy_first, selection.parameter_first
    note = "" if selection.within_drop else " (none within the allowed drop)"
    return (
        f"accuracy first {first.n_correct / first.n:.2%} with {first.params:,} parameters, "
        f"parameter first {small.n_correct / small.n:.2%} with {small.params:,}{note}"
    )


if __name__ == "__main__":
    run_stage("stages.select")
