"""Grow the base net (Algorithm 2): every stage tried, the best on validation kept."""

from pipeline.checkpoint import load_classifier, read_about, save_model
from pipeline.cost import Cost, measure_cost
from pipeline.data.images import load_parts
from pipeline.grow import Candidate, GrowthRules, describe_candidate, grow
from pipeline.machine.processes import connect
from pipeline.machine.seeding import configure_torch, derive_seed
from pipeline.models.classifier import Classifier, blueprint_of
from pipeline.models.inception import Inception
from pipeline.params import Grow
from pipeline.training.scratch import train_plainly
from pipeline.training.train import Score, evaluate
from pipeline.workflow.files import write_csv
from pipeline.workflow.resume import ResumePoint
from pipeline.workflow.stage import StageRun, run_stage


def grow_base(run: StageRun) -> str:
    """From the base to `model`, `growth.csv` and the reason why growing stopped."""
    runtime, settings = run.params.runtime, run.params.grow
    device = configure_torch(runtime)
    prepared, base_folder = run.artefact("prepare"), run.artefact(run.seed, "train")
    resume = ResumePoint(run.resume_folder([prepared, base_folder], [runtime, settings]))
    parts = load_parts(prepared, device, workers=runtime.workers)
    base = load_classifier(base_folder / "model").to(device)

    def measure(model: Classifier) -> Cost:
        return measure_cost(model, parts.source.image_shape)

    def record(model: Classifier, iteration: int, stage: int | None, score: Score) -> Candidate:
        cost, net = measure(model), model.net
        return Candidate(
            name=net.title if isinstance(net, Inception) else blueprint_of(model).architecture,
            stages=tuple(blueprint_of(model).options.get("stages", ())),
            iteration=iteration,
            grown_stage=stage,
            params=cost.params,
            flops=cost.flops,
            memory_bytes=cost.memory_bytes,
            n=score.n,
            n_correct=score.n_correct,
        )

    def train_and_score(model: Classifier, iteration: int, stage: int) -> tuple[Classifier, Candidate]:
        outcome = train_plainly(
            model,
            settings.training,
            parts,
            auxiliary=settings.auxiliary,
            seed=derive_seed(run.seed, f"grow/{iteration}/{stage}"),
            resume=resume.child(iteration, stage),
            runtime=runtime,
            description=f"grow, iteration {iteration}, stage {stage + 1}, seed {run.seed}",
        )
        return model, record(model, iteration, stage, outcome.validation)

    score = evaluate(base, parts.validation, batch_size=runtime.eval_batch_size)
    best, history, reason = grow(
        base,
        record(base, 0, None, score),
        _rules(settings),
        inherit=settings.start == "parent",
        seed=derive_seed(run.seed, "grow"),
        train_and_score=train_and_score,
        measure=measure,
    )
    name = record(best, 0, None, score).name
    epochs = _epochs(settings, history, best, before=read_about(base_folder / "model")["epochs"])
    about = {"stage": "grow", "seed": run.seed, "epochs": epochs, "stopped": reason}
    save_model(best, run.out / "model", about=about)
    write_csv(run.out / "growth.csv", [{"seed": run.seed} | describe_candidate(each) for each in history])
    return f"{name} kept of {len(history) - 1} candidates; {reason}"


def _rules(settings: Grow) -> GrowthRules:
    memory = settings.max_memory_mib
    return GrowthRules(
        max_modules=settings.max_modules,
        noticeable_gain=settings.noticeable_gain,
        patience=settings.patience,
        max_params=settings.max_params,
        max_flops=settings.max_flops,
        max_memory_bytes=None if memory is None else memory * 2**20,
    )


def _epochs(settings: Grow, history: list[Candidate], best: Classifier, *, before: int) -> int:
    """The epochs of training behind the kept net: its own, and where it inherited, its ancestors'."""
    n_added = int(sum(blueprint_of(best).options.get("stages", ()))) - sum(history[0].stages)
    if settings.start == "scratch" and n_added > 0:
        return settings.training.epochs
    return before + n_added * settings.training.epochs


if __name__ == "__main__":
    run_stage(grow_base, out="runs/{name}/{seed}/grow", keys=["seed"], connect=connect)
