"""Attack every model with its own gradients: a diagnostic beside the transferred attacks."""

import torch

from pipeline.attacks import craft
from pipeline.checkpoint import load_classifier
from pipeline.data.images import load_parts
from pipeline.machine.seeding import configure_torch, seed_torch
from pipeline.robustness.conditions import list_models
from pipeline.robustness.outcomes import perturbation_norms, predict
from pipeline.workflow.files import write_csv
from pipeline.workflow.stage import StageRun, run_stage


def white_box(run: StageRun) -> str:
    """Writes `white_box.csv`: hits of each model on images that one attack crafted on that model."""
    name, runtime, lineup = run.keys["attack"], run.params.runtime, run.params.lineup
    attack = run.params.white_box[name]
    device = configure_torch(runtime)
    test = load_parts(run.artefact("prepare"), device, workers=runtime.workers).perturbed
    clean, labels, batch_size = test.scaled(), test.labels.cpu(), runtime.eval_batch_size
    rows = []
    for model_name, (folder, file) in list_models(
        lineup.size, lineup.competitors, run.params.sources
    ).items():
        model = load_classifier(run.artefact(run.seed, folder) / file).to(device)
        seed_torch(run.seed, "white_box", name)  # the same random starts for every model
        # As stored images are: what half precision rounds away is no attack.
        crafted = craft(attack, model, clean, test.labels, batch_size=batch_size).to(torch.float16).float()
        rows.append(
            {"seed": run.seed, "model": model_name, "attack": name, "n": len(labels)}
            | {"n_correct_clean": predict(model, clean, batch_size=batch_size).n_correct(labels)}
            | {"n_correct": predict(model, crafted, batch_size=batch_size).n_correct(labels)}
            | perturbation_norms(clean, crafted)
        )
    write_csv(run.out / "white_box.csv", rows)
    return ", ".join(f"{row['model']} {row['n_correct']}" for row in rows[:2]) + f" of {len(labels)} correct"


if __name__ == "__main__":
    run_stage(white_box, out="runs/{name}/{seed}/white_box/{attack}", keys=["seed", "attack"])
