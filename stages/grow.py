"""Grow the base net (Algorithm 2): every stage tried, the best on validation kept."""

from pipeline.batches import shuffled_batches
from pipeline.checkpoint import load_classifier, save_model
from pipeline.cost import measure_cost
from pipeline.files import write_csv
from pipeline.grow import Candidate, GrowthRules, describe_candidate, grow
from pipeline.images import load_parts
from pipeline.models.classifier import Classifier, blueprint_of
from pipeline.objectives import training_objective
from pipeline.resume import ResumePoint
from pipeline.seeding import configure_torch, derive_seed
from pipeline.stage import StageRun, run_stage
from pipeline.train import Score, evaluate, fit


def grow_base(run: StageRun) -> str:
    """From the base to `model`, `growth.csv` and the reason why growing stopped."""
    runtime, settings = run.params.runtime, run.params.grow
    device = configure_torch(runtime)
    prepared, base_folder = run.artefact("prepare"), run.artefact(run.seed, "train")
    resume = ResumePoint(run.resume_folder([prepared, base_folder], [runtime, settings]))
    parts = load_parts(prepared, device)
    base = load_classifier(base_folder / "model").to(device)

    def record(model: Classifier, iteration: int, stage: int | None, score: Score) -> Candidate:
        cost = measure_cost(model, parts.source.image_shape)
        stages = tuple(blueprint_of(model).options["stages"])
        return Candidate(stages, iteration, stage, cost.params, cost.flops, score.n, score.n_correct)

    def train_and_score(model: Classifier, iteration: int, stage: int) -> tuple[Classifier, Candidate]:
        purpose = f"grow/{iteration}/{stage}"
        model = model.to(device)
        outcome = fit(
            model,
            training_objective(
                model,
                parts.train.scaled()[:2],
                auxiliary_weight=settings.auxiliary_weight,
                label_smoothing=settings.training.label_smoothing,
            ),
            parts,
            settings.training,
            batching=shuffled_batches(settings.training.batch_size),
            seed=derive_seed(run.seed, purpose),
            resume=resume.child(iteration, stage),
            eval_batch_size=runtime.eval_batch_size,
            description=f"grow, iteration {iteration}, stage {stage + 1}, seed {run.seed}",
        )
        return model, record(model, iteration, stage, outcome.validation)

    score = evaluate(base, parts.validation, batch_size=runtime.eval_batch_size)
    rules = GrowthRules(
        settings.max_modules, settings.noticeable_gain, settings.patience, settings.max_params
    )
    best, history, reason = grow(
        base,
        record(base, 0, None, score),
        rules,
        inherit=settings.start == "parent",
        seed=derive_seed(run.seed, "grow"),
        train_and_score=train_and_score,
        measure_params=lambda model: measure_cost(model, parts.source.image_shape).params,
    )
    stages = "-".join(str(n) for n in blueprint_of(best).options["stages"])
    save_model(best, run.out / "model", about={"stage": "grow", "seed": run.seed, "stopped": reason})
    write_csv(run.out / "growth.csv", [{"seed": run.seed} | describe_candidate(each) for each in history])
    return f"stages {stages} kept of {len(history) - 1} candidates; {reason}"


if __name__ == "__main__":
    run_stage(grow_base, out="runs/{name}/{seed}/grow", keys=["seed"])
