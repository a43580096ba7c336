"""Craft attacks on the source models, once, and store the images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics
    from pipeline.params.perturbations import Attack
    from pipeline.params.robustness import Source


def jobs(
    runs: Path,
    *,
    seeds: list[int],
    numerics: Numerics,
    sources: Mapping[str, Source],
    attacks: Mapping[str, Attack],
) -> Iterator[Job]:
    """One for each seed, source and attack."""
    for seed in seeds:
        for source in sources:
            for name, attack in attacks.items():
                yield Job(
                    {"seed": seed, "source": source, "attack": name},
                    {"seed": seed, "name": f"{source}/{name}", "numerics": numerics, "attack": attack},
                    {"prepared": runs / "prepare", "source": runs / "source" / str(seed) / source / "model"},
                )


def work(
    place: Workplace,
    *,
    seed: int,
    name: str,
    numerics: Numerics,
    attack: Attack,
    prepared: Path,
    source: Path,
) -> str:
    """From a source and the test images to `images.safetensors` (float16 images in [0, 1], labels, settings) and
    `crafted.csv`, what the attack did on the source."""
    import json

    import torch

    from pipeline.attacks import craft
    from pipeline.checkpoint import load_classifier
    from pipeline.errors import InputError
    from pipeline.files import write_csv
    from pipeline.images.parts import load_parts
    from pipeline.machine.device import configure_torch
    from pipeline.machine.seeding import seed_torch
    from pipeline.robustness.outcomes import predict
    from pipeline.robustness.untouched import count_untouched
    from pipeline.tensors import save_tensors

    device = configure_torch(numerics)
    parts = load_parts(prepared, device, workers=place.workers)
    test, classes = parts.perturbed, parts.image_set.classes
    model, batch_size = load_classifier(source).to(device), numerics.eval_batch_size
    if model.classes != classes:
        expected, got = (", ".join(map(repr, each)) for each in (classes, model.classes))
        raise InputError(f"{name}: expected a source for the labels {expected} (got one for {got})")
    seed_torch(seed, "craft", name)
    crafted = craft(attack, model, test.scaled(), test.labels, batch_size=batch_size)
    stored = crafted.to(torch.float16)
    save_tensors(
        {"images": stored.cpu().contiguous(), "labels": test.labels.cpu()},
        place.out / "images.safetensors",
        # One key: with several, safetensors writes them in any order, and the file's hash varies.
        metadata={"crafted": json.dumps({"attack": attack.model_dump(mode="json"), "on": name})},
    )
    labels, clean, stored = test.labels.cpu(), test.scaled(), stored.float()
    right, still_right = (
        predict(model, each, batch_size=batch_size).hits(labels) for each in (clean, stored)
    )
    n_correct, masks = int(still_right.sum()), {"right": right, "still_right": still_right}
    untouched = count_untouched(model, test.labels, clean, stored, **masks, batch_size=batch_size)
    write_csv(place.out / "crafted.csv", [{"n": len(test), "n_correct": n_correct} | untouched])
    return f"the source falls from {int(right.sum())} to {n_correct} of {len(test)} correct"


if __name__ == "__main__":
    run_stage("stages.craft")
