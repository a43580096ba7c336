"""Attack every model with its own gradients: a diagnostic beside the transferred attacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.compared import attacked_models
from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics
    from pipeline.params.perturbations import Attack
    from pipeline.params.pruning import AfterTheFact, Compare
    from pipeline.params.robustness import Lineup, Source


def jobs(
    runs: Path,
    *,
    seeds: list[int],
    numerics: Numerics,
    after_the_fact: AfterTheFact | None,
    compare: Compare | None,
    lineup: Lineup | None,
    sources: Mapping[str, Source],
    attacks: Mapping[str, Attack],
    white_box: list[str],
) -> Iterator[Job]:
    """One for each seed and attack."""
    for name in white_box:
        for seed in seeds:
            models = attacked_models(runs, seed, after_the_fact, lineup, compare, [*sources])
            yield Job(
                {"seed": seed, "attack": name},
                {"seed": seed, "name": name, "numerics": numerics, "attack": attacks[name]},
                {"prepared": runs / "prepare", "models": models},
            )


def work(
    place: Workplace,
    *,
    seed: int,
    name: str,
    numerics: Numerics,
    attack: Attack,
    prepared: Path,
    models: Mapping[str, Path],
) -> str:
    """Writes `white_box.csv`: hits of each model on images that one attack crafted on that model, how many of the
    images the attack left as they were, and, of an attack that looks for the smallest perturbation, how far it moved
    each image (`robustness.strengths`)."""
    import torch

    from pipeline.attacks import craft
    from pipeline.checkpoint import load_classifier
    from pipeline.files import write_csv
    from pipeline.images.parts import load_parts
    from pipeline.machine.device import configure_torch
    from pipeline.machine.seeding import seed_torch
    from pipeline.robustness.outcomes import perturbation_norms, predict
    from pipeline.robustness.strengths import norm_and_budget, pack_distances, past_the_border
    from pipeline.robustness.untouched import count_untouched
    from pipeline.uncertainty import counts_of

    device, batch_size = configure_torch(numerics), numerics.eval_batch_size
    test = load_parts(prepared, device, workers=place.workers).perturbed
    clean, labels = test.scaled(), test.labels.cpu()
    norm, budget = norm_and_budget(attack)
    rows = []
    for model_name, path in models.items():
        model = load_classifier(path).to(device)
        seed_torch(seed, "white_box", name)  # the same random starts for every model
        found = craft(attack, model, clean, test.labels, batch_size=batch_size)
        # As stored images are: what half precision rounds away is no attack. It would round the smallest perturbation
        # back over the border.
        crafted = past_the_border(clean, found) if budget is None else found.to(torch.float16).float()
        right, still_right = (
            predict(model, each, batch_size=batch_size).hits(labels) for each in (clean, crafted)
        )
        masks = {"right": right, "still_right": still_right}
        rows.append(
            {"model": model_name, "n_correct_clean": int(right.sum())}
            | counts_of(still_right.numpy())
            | count_untouched(model, test.labels, clean, crafted, **masks, batch_size=batch_size)
            | perturbation_norms(clean, crafted)
            | {"distances": pack_distances(clean, crafted, norm) if norm and budget is None else ""}
        )
    write_csv(place.out / "white_box.csv", rows)
    return ", ".join(f"{row['model']} {row['n_correct']}" for row in rows[:2]) + f" of {len(labels)} correct"


if __name__ == "__main__":
    run_stage("stages.white_box")
