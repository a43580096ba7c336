"""Craft one attack on one source model, once, and store the images."""

import json

import torch
from safetensors.torch import save_file

from pipeline.attacks import craft
from pipeline.checkpoint import load_classifier
from pipeline.data.images import load_parts
from pipeline.errors import InputError
from pipeline.machine.seeding import configure_torch, seed_torch
from pipeline.training.train import predict_logits
from pipeline.workflow.stage import StageRun, run_stage


def craft_attack(run: StageRun) -> str:
    """From a source and the test images to `images.safetensors`: float16 images in [0, 1], labels, settings."""
    name, source_name = run.keys["attack"], run.keys["source"]
    runtime, attack = run.params.runtime, run.params.attacks[name]
    device = configure_torch(runtime)
    parts = load_parts(run.artefact("prepare"), device, workers=runtime.workers)
    test = parts.perturbed
    source = load_classifier(run.artefact(run.seed, "source", source_name) / "model").to(device)
    if source.classes != parts.source.classes:
        expected, got = (", ".join(map(repr, each)) for each in (parts.source.classes, source.classes))
        raise InputError(
            f"source {source_name}: expected a model for the labels {expected}, got one for {got}"
        )
    batch_size = runtime.eval_batch_size
    seed_torch(run.seed, "craft", source_name, name)
    crafted = craft(attack, source, test.scaled(), test.labels, batch_size=batch_size)
    stored = crafted.to(torch.float16)
    save_file(
        {"images": stored.cpu().contiguous(), "labels": test.labels.cpu()},
        run.out / "images.safetensors",
        # One key: with several, safetensors writes them in any order, and the file's hash varies.
        metadata={"crafted": json.dumps({"attack": attack.model_dump(mode="json"), "source": source_name})},
    )
    clean = predict_logits(source, test.scaled(), batch_size=batch_size).argmax(1) == test.labels
    attacked = predict_logits(source, stored.float(), batch_size=batch_size).argmax(1) == test.labels
    return f"the source falls from {int(clean.sum())} to {int(attacked.sum())} of {len(test)} correct"


if __name__ == "__main__":
    run_stage(
        craft_attack, out="runs/{name}/{seed}/craft/{source}/{attack}", keys=["seed", "source", "attack"]
    )
