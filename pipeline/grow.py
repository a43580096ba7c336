"""Growing a base net module by module (CVIU Algorithm 2, thesis Algorithm 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.cost import Cost, measure_cost
from pipeline.machine.seeding import derive_seed, seed_torch
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, blueprint_of
from pipeline.models.inception import Inception
from pipeline.training.fresh import train_plainly
from pipeline.training.predict import Score, evaluate

if TYPE_CHECKING:
    from pipeline.images.parts import Parts
    from pipeline.params.machine import Numerics
    from pipeline.params.training import Grow
    from pipeline.training.resume import ResumePoint


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


class Growing:
    """How candidates are trained, scored and measured under the params' section `grow`; what `grow` calls.

    Args:
        settings: the section of the params.
        parts: the data.
        seed: the run's seed.
        resume: where finished epochs of each candidate are kept.
        numerics: the section of the params.
    """

    def __init__(
        self, settings: Grow, parts: Parts, *, seed: int, resume: ResumePoint, numerics: Numerics
    ) -> None:
        self._settings, self._parts, self._seed = settings, parts, seed
        self._resume, self._numerics = resume, numerics

    @property
    def rules(self) -> GrowthRules:
        """The stop rules; MiB become bytes."""
        settings, memory = self._settings, self._settings.max_memory_mib
        return GrowthRules(
            max_modules=settings.max_modules,
            noticeable_gain=settings.noticeable_gain,
            patience=settings.patience,
            max_params=settings.max_params,
            max_flops=settings.max_flops,
            max_memory_bytes=None if memory is None else memory * 2**20,
        )

    def measure(self, model: Classifier) -> Cost:
        """Its cost on an image of the data."""
        return measure_cost(model, self._parts.image_set.image_shape)

    def name_of(self, model: Classifier) -> str:
        """`Inception-37`, or the architecture's name."""
        return model.net.title if isinstance(model.net, Inception) else blueprint_of(model).architecture

    def score(self, base: Classifier) -> Candidate:
        """The record of the net that growing starts from."""
        score = evaluate(base, self._parts.validation, batch_size=self._numerics.eval_batch_size)
        return self._record(base, 0, None, score)

    def train_and_score(self, model: Classifier, iteration: int, stage: int) -> tuple[Classifier, Candidate]:
        """Train a candidate; it and its record."""
        outcome = train_plainly(
            model,
            self._settings.training,
            self._parts,
            auxiliary=self._settings.auxiliary,
            seed=derive_seed(self._seed, f"grow/{iteration}/{stage}"),
            resume=self._resume.child(iteration, stage),
            numerics=self._numerics,
        )
        return model, self._record(model, iteration, stage, outcome.validation)

    def epochs_behind(self, best: Classifier, base: Candidate, *, before: int) -> int:
        """The epochs of training behind the kept net: its own, and where it inherited, its ancestors'."""
        n_added = int(sum(blueprint_of(best).options.get("stages", ()))) - sum(base.stages)
        if self._settings.start == "scratch" and n_added > 0:
            return self._settings.training.epochs
        return before + n_added * self._settings.training.epochs

    def _record(self, model: Classifier, iteration: int, stage: int | None, score: Score) -> Candidate:
        cost = self.measure(model)
        return Candidate(
            name=self.name_of(model),
            stages=tuple(blueprint_of(model).options.get("stages", ())),
            iteration=iteration,
            grown_stage=stage,
            params=cost.params,
            flops=cost.flops,
            memory_bytes=cost.memory_bytes,
            n=score.n,
            n_correct=score.n_correct,
        )


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
