"""Score every model on validation and, once, on the test part."""

from pipeline.checkpoint import load_classifier
from pipeline.cost import measure_cost
from pipeline.data.images import load_parts
from pipeline.machine.environment import describe_environment
from pipeline.machine.seeding import configure_torch
from pipeline.training.train import evaluate
from pipeline.workflow.files import write_csv, write_json
from pipeline.workflow.stage import StageRun, run_stage
from pipeline.workflow.tables import MODELS


def evaluate_models(run: StageRun) -> str:
    """Writes `scores.csv`, `layers.csv`, `environment.json` and the metrics that DVC shows."""
    runtime = run.params.runtime
    device = configure_torch(runtime)
    parts = load_parts(run.artefact("prepare"), device, workers=runtime.workers)
    scores, layers = [], []
    metrics: dict[str, dict[str, float]] = {}
    for name, (folder, file) in MODELS.items():
        model = load_classifier(run.artefact(run.seed, folder) / file).to(device)
        cost = measure_cost(model, parts.source.image_shape)
        metrics[name] = {"params": cost.params, "flops": cost.flops}
        key = {"seed": run.seed, "model": name}
        for split, images in (("validation", parts.validation), ("test", parts.test)):
            score = evaluate(model, images, batch_size=runtime.eval_batch_size)
            metrics[name][f"{split}_accuracy"] = round(score.accuracy, 6)
            scores.append(
                key
                | {"split": split, "n": score.n, "n_correct": score.n_correct}
                | {"params": cost.params, "flops": cost.flops}
            )
        layers += [
            key
            | {"layer": layer.name, "kind": layer.kind, "in": layer.in_channels, "out": layer.out_channels}
            | {"params": layer.params, "flops": layer.flops}
            for layer in cost.layers
        ]
    write_csv(run.out / "scores.csv", scores)
    write_csv(run.out / "layers.csv", layers)
    # Here and not in `prepare`: nothing that is computed from the images depends on it.
    write_json(run.out / "environment.json", describe_environment(device))
    write_json(run.metrics(run.seed, "accuracy.json"), metrics)
    return ", ".join(f"{name} {each['test_accuracy']:.2%}" for name, each in metrics.items()) + " on test"


if __name__ == "__main__":
    run_stage(evaluate_models, out="runs/{name}/{seed}/evaluate", keys=["seed"])
