"""Growing a base net module by module (CVIU Algorithm 2, thesis Algorithm 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pipeline.cost import Cost, measure_cost
from pipeline.machine.seeding import derive_seed, seed_torch
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, blueprint_of
from pipeline.models.inception import Inception
from pipeline.training.fresh import train_plainly
from pipeline.training.objectives import heads_of, set_heads
from pipeline.training.predict import Score, evaluate

if TYPE_CHECKING:
    from pipeline.images.parts import Parts
    from pipeline.params.machine import Numerics
    from pipeline.params.training import Grow, ShuffledSchedule
    from pipeline.training.resume import ResumePoint


@dataclass(frozen=True)
class Candidate:
    """A net that was trained, its cost and its score on validation; `grown_stage`, from 0, is None for the base."""

    model: Classifier
    iteration: int
    grown_stage: int | None
    cost: Cost
    score: Score

    @property
    def name(self) -> str:
        """`Inception-37`, or the architecture's name."""
        net = self.model.net
        return net.title if isinstance(net, Inception) else blueprint_of(net).architecture

    @property
    def stages(self) -> tuple[int, ...]:
        """Modules in each stage; of no other net than Inception."""
        return tuple(blueprint_of(self.model).options.get("stages", ()))

    @property
    def rank(self) -> tuple[int, int]:
        """The higher the better: hits and, where they are equal, a smaller size."""
        return self.score.n_correct, -self.cost.params

    def row(self, training: Literal["quick", "full"], *, chosen: bool = False) -> dict[str, Any]:
        """A row of the growth history; only nets of the same `training` can be compared."""
        return {
            "name": self.name,
            "iteration": self.iteration,
            "grown_stage": "" if self.grown_stage is None else self.grown_stage + 1,
            "stages": "-".join(str(n) for n in self.stages),
            "params": self.cost.params,
            "flops": self.cost.flops,
            "memory_bytes": self.cost.memory_bytes,
            "training": training,
            "n": self.score.n,
            "n_correct": self.score.n_correct,
            "chosen": int(chosen),
        }


def extend(model: Classifier, stage: int, *, inherit: bool) -> Classifier:
    """`extend(net, stage)` of Algorithm 2: one more module at the end of a stage.

    Args:
        model: a `Classifier` around an Inception net; left untouched.
        stage: which stage gets the module, from 0.
        inherit: start from the parent's weights, all but the new module's (and those of a layer that reads
            it, where it is wider than the module underneath), and from its auxiliary heads; else everything is
            fresh. Fresh weights come from torch's global generator.

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
    extended = Classifier(
        net,
        image_shape=model.image_shape,
        mean=model.mean.flatten().tolist(),
        std=model.std.flatten().tolist(),
        classes=model.classes,
    )
    set_heads(extended, heads_of(model) if inherit else {})
    return extended


class Growing:
    """Algorithm 2 under the params' section `grow`.

    Args:
        settings: the section: when to stop, how large a net may be, how candidates and the winner are trained.
        resume: where finished epochs of each training are kept.
    """

    def __init__(
        self, settings: Grow, parts: Parts, *, seed: int, resume: ResumePoint, numerics: Numerics
    ) -> None:
        self._settings, self._parts, self._seed = settings, parts, seed
        self._resume, self._numerics = resume, numerics

    def grow(self, base: Classifier) -> tuple[Candidate, list[dict[str, Any]], str]:
        """Search for the best extension of the base by quick training, then train it in full.

        As in Algorithm 2, what is returned is a grown net even where it ends below the base on validation: the
        base is the start and no candidate. The history has both scores. Only where no extension is within the
        bounds is the base itself returned.

        Args:
            base: the trained net to start from.

        Returns:
            The grown net, a row for each one in the order of training (the base first, the grown net again at
            the end), and why growing stopped.
        """
        start = Candidate(base, 0, None, self.measure(base), self.score(base))
        best, history, reason = self._search(start)
        history.insert(0, start.row("full"))
        if best is None:
            return start, history, reason
        grown = replace(best, score=self.train_fully(best.model))
        return grown, [*history, grown.row("full", chosen=True)], reason

    def _search(self, start: Candidate) -> tuple[Candidate | None, list[dict[str, Any]], str]:
        """In each iteration try a module in every stage, and go on from the best one on validation.

        Like is compared with like: candidates with each other, all trained by the same quick schedule, from
        acc_max = 0. The base, which was trained for longer, would stop growth at once. As in CVIU Table 1, an
        iteration goes on from its own best candidate even where that one is a little under the best so far.
        """
        rules, seed = self._settings, derive_seed(self._seed, "grow")
        best, current, idle = None, start, 0
        history: list[dict[str, Any]] = []
        for iteration in range(1, rules.max_modules + 1):
            tried: list[Candidate] = []
            for stage in range(len(start.stages)):
                seed_torch(seed, "extend", iteration, stage)  # not the state that earlier training left
                model = extend(current.model, stage, inherit=rules.start == "parent")
                cost = self.measure(model)  # known before training
                if all(size <= bound for bound, size, _ in self._bounds(cost)):
                    score = self.train(model, iteration, stage)
                    tried.append(Candidate(model, iteration, stage, cost, score))
            if not tried:
                bounds = ", ".join(f"{bound:,.0f} {unit}" for bound, _, unit in self._bounds(current.cost))
                return best, history, f"every candidate is larger than {bounds}"
            current = max(tried, key=lambda candidate: candidate.rank)
            history += [candidate.row("quick", chosen=candidate is current) for candidate in tried]
            gain, n = current.score.n_correct - (best.score.n_correct if best else 0), current.score.n
            # Compared as counts; the tolerance forgives the float product only.
            noticeable = gain > 0 and gain >= rules.noticeable_gain * n - 1e-9 * n
            # The first one, where they are equal.
            best = max(best or current, current, key=lambda candidate: candidate.rank)
            idle = 0 if noticeable else idle + 1
            if idle >= rules.patience:
                return best, history, f"no gain of {rules.noticeable_gain:.2%} in {idle} iterations in a row"
        return best, history, f"the {rules.max_modules} modules allowed are added"

    def measure(self, model: Classifier) -> Cost:
        """Its cost on an image of the data."""
        return measure_cost(model, self._parts.image_set.image_shape)

    def score(self, model: Classifier) -> Score:
        """Its score on validation, without training."""
        return evaluate(model, self._parts.validation, batch_size=self._numerics.eval_batch_size)

    def train(self, model: Classifier, iteration: int, stage: int) -> Score:
        """Train a candidate quickly, in place; its score on validation."""
        return self._train(model, self._settings.training, iteration, stage)

    def train_fully(self, model: Classifier) -> Score:
        """Train the best candidate on, in full and in place; its score on validation."""
        return self._train(model, self._settings.full_training, "full")

    def _train(self, model: Classifier, schedule: ShuffledSchedule, *names: object) -> Score:
        outcome = train_plainly(
            model,
            schedule,
            self._parts,
            auxiliary=self._settings.auxiliary,
            seed=derive_seed(self._seed, "/".join(["grow", *map(str, names)])),
            resume=self._resume.child(*names),
            numerics=self._numerics,
        )
        return outcome.validation

    def epochs_behind(self, grown: Candidate, *, before: int) -> int:
        """The epochs of training behind the grown net: its own, and where it inherited, its ancestors'."""
        if grown.iteration == 0:
            return before
        quick, full = self._settings.training.epochs, self._settings.full_training.epochs
        inherits = self._settings.start == "parent"
        return (before + grown.iteration * quick if inherits else quick) + full

    def _bounds(self, cost: Cost) -> list[tuple[float, int, str]]:
        """Each bound that is set, this cost's size in its unit, and the unit."""
        bounds, mib = self._settings.bounds, self._settings.bounds.memory_mib
        sizes = (
            (bounds.params, cost.params, "parameters"),
            (bounds.flops, cost.flops, "FLOPs"),
            (None if mib is None else mib * 2**20, cost.memory_bytes, "bytes of memory"),
        )
        return [(bound, size, unit) for bound, size, unit in sizes if bound is not None]
