"""Growing a base net module by module (CVIU Algorithm 2, thesis Algorithm 3)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pipeline.cost import Cost
from pipeline.machine.seeding import seed_torch
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, blueprint_of


@dataclass(frozen=True)
class Candidate:
    """A net that was trained and scored: which stages it has, how large it is, how well it does."""

    name: str
    stages: tuple[int, ...]
    iteration: int
    grown_stage: int | None
    params: int
    flops: int
    memory_bytes: int
    n: int
    n_correct: int
    chosen: bool = False

    @property
    def accuracy(self) -> float:
        """Validation accuracy."""
        return self.n_correct / self.n


@dataclass(frozen=True)
class GrowthRules:
    """When to stop: after N modules, past a size, or without noticeable gain `patience` times in a row."""

    max_modules: int
    noticeable_gain: float
    patience: int
    max_params: int | None = None
    max_flops: int | None = None
    max_memory_bytes: float | None = None

    def allow(self, cost: Cost) -> bool:
        """Whether a net is within every bound."""
        bounds = (
            (self.max_params, cost.params),
            (self.max_flops, cost.flops),
            (self.max_memory_bytes, cost.memory_bytes),
        )
        return all(bound is None or size <= bound for bound, size in bounds)

    def bounds(self) -> str:
        """The bounds in words."""
        named = (
            (self.max_params, "parameters"),
            (self.max_flops, "FLOPs"),
            (self.max_memory_bytes, "bytes of memory"),
        )
        return ", ".join(f"{bound:,.0f} {unit}" for bound, unit in named if bound is not None)


TrainAndScore = Callable[[Classifier, int, int], tuple[Classifier, Candidate]]
MeasureCost = Callable[[Classifier], Cost]


def extend(model: Classifier, stage: int, *, inherit: bool) -> Classifier:
    """`extend(net, stage)` of Algorithm 2: one more module at the end of a stage.

    Args:
        model: a `Classifier` around an Inception net; left untouched.
        stage: which stage gets the module, from 0.
        inherit: start from the parent's weights, all but the new module's (and those of a layer that reads
            it, where it is wider than the module underneath); else everything is fresh. Fresh weights come
            from torch's global generator.

    Raises:
        ValueError: if the model has no stages to grow.
    """
    blueprint = blueprint_of(model)
    stages = list(blueprint.options.get("stages", ()))
    if not 0 <= stage < len(stages):
        raise ValueError(f"expected an Inception classifier with a stage {stage}, got {blueprint}")
    stages[stage] += 1
    net = build_model(
        blueprint.architecture, blueprint.num_classes, **(blueprint.options | {"stages": tuple(stages)})
    )
    if inherit:
        # Modules are numbered within their stage and the new one comes last, so the parent's names still fit.
        fresh = net.state_dict()
        inherited = {n: t for n, t in model.net.state_dict().items() if t.shape == fresh[n].shape}
        net.load_state_dict(inherited, strict=False)
    return Classifier(
        net,
        image_shape=model.image_shape,
        mean=model.mean.flatten().tolist(),
        std=model.std.flatten().tolist(),
        classes=model.classes,
    )


def grow(
    base: Classifier,
    base_candidate: Candidate,
    rules: GrowthRules,
    *,
    inherit: bool,
    seed: int,
    train_and_score: TrainAndScore,
    measure: MeasureCost,
) -> tuple[Classifier, list[Candidate], str]:
    """Algorithm 2: in each iteration try a module in every stage, go on from the best one on validation.

    As in CVIU Table 1, an iteration goes on from its own best candidate even where that one is a little under
    the best so far; what is returned is the best of all that were seen, the base included (the smaller one
    where two are equal).

    Args:
        base: the trained net to start from.
        base_candidate: its size and score.
        rules: the stop rules.
        inherit: see `extend`.
        seed: of the new modules' initial weights.
        train_and_score: from (candidate net, iteration from 1, stage) to the trained net and its record.
        measure: the cost that the rules bound, known before training.

    Returns:
        The best net, a record of every candidate in the order of training, and why growing stopped.
    """
    best, best_record = base, base_candidate
    current, history, idle = base, [base_candidate], 0
    reason = f"the {rules.max_modules} modules allowed are added"
    for iteration in range(1, rules.max_modules + 1):
        tried: list[tuple[Classifier, Candidate]] = []
        for stage in range(len(best_record.stages)):
            seed_torch(seed, "extend", iteration, stage)  # not the state that earlier training left
            candidate = extend(current, stage, inherit=inherit)
            if not rules.allow(measure(candidate)):
                continue
            tried.append(train_and_score(candidate, iteration, stage))
        if not tried:
            reason = f"every candidate is larger than {rules.bounds()}"
            break
        current, record = max(tried, key=lambda pair: (pair[1].n_correct, -pair[1].params))
        history += [replace(each, chosen=each is record) for _, each in tried]
        gain = record.n_correct - best_record.n_correct
        # Compared as counts; the tolerance forgives the float product only.
        noticeable = gain > 0 and gain >= rules.noticeable_gain * record.n - 1e-9 * record.n
        if (record.n_correct, -record.params) > (best_record.n_correct, -best_record.params):
            best, best_record = current, record
        idle = 0 if noticeable else idle + 1
        if idle >= rules.patience:
            reason = f"no gain of {rules.noticeable_gain:.2%} in {idle} iterations in a row"
            break
    return best, history, reason


def describe_candidate(candidate: Candidate) -> dict[str, Any]:
    """A row of the growth history."""
    return {
        "name": candidate.name,
        "iteration": candidate.iteration,
        "grown_stage": "" if candidate.grown_stage is None else candidate.grown_stage + 1,
        "stages": "-".join(str(n) for n in candidate.stages),
        "params": candidate.params,
        "flops": candidate.flops,
        "memory_bytes": candidate.memory_bytes,
        "n": candidate.n,
        "n_correct": candidate.n_correct,
        "chosen": int(candidate.chosen),
    }
