from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import NUMERICS, parts, schedule
from conftest import ROOT
from torch import Tensor, nn

from pipeline.cost import Cost, measure_cost
from pipeline.grow import Candidate, Growing, extend
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, blueprint_of
from pipeline.models.inception import Inception
from pipeline.params.file import read_params
from pipeline.params.training import Auxiliary, Bounds, Grow, ShuffledSchedule
from pipeline.training.objectives import Objective, heads_of, set_heads, with_auxiliary_heads
from pipeline.training.predict import Score, evaluate
from pipeline.training.resume import ResumePoint

Stages = tuple[int, ...]
N = 1000


def classifier(stages: Stages = (1, 1, 1), *, seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    options = {"stages": stages, "base": (1, 1, 1), "width": 1 / 32, "stem": "small", "in_channels": 1}
    net = build_model("inception", 3, **options)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.uniform_(-1, 1)
    return Classifier(net, image_shape=(1, 8, 8), mean=[0.4], std=[0.3], classes=("x", "y", "z"))


def stages_of(model: Classifier) -> Stages:
    return tuple(blueprint_of(model).options["stages"])


def params_of(stages: Stages) -> int:
    """A made-up size: the third stage's modules are the largest."""
    return 100 + 10 * stages[0] + 20 * stages[1] + 30 * stages[2]


def cost_of(stages: Stages) -> Cost:
    """Made-up FLOPs and bytes too: the first stage's modules cost most FLOPs, the second's most memory."""
    flops = 1000 + 50 * stages[0] + 40 * stages[1] + 10 * stages[2]
    memory = 5000 + 300 * stages[0] + 700 * stages[1] + 200 * stages[2]
    return Cost(params_of(stages), flops, memory, ())


def candidate(stages: Stages, n_correct: int, iteration: int = 0, stage: int | None = None) -> Candidate:
    return Candidate(classifier(stages), iteration, stage, cost_of(stages), Score(N, n_correct, 0.5))


def settings(**changes: Any) -> Grow:
    fields: dict[str, Any] = {"max_modules": 3, "noticeable_gain": 0.01, "patience": 2, "start": "parent"}
    fields |= {"bounds": {"params": 10**9, "flops": None, "memory_mib": 1.5}, "auxiliary": None}
    fields["training"] = ShuffledSchedule(**schedule(epochs=2).model_dump() | {"batch_size": 6})
    fields["full_training"] = fields["training"].model_copy(update={"epochs": 3})
    return Grow(**fields).model_copy(update=changes)


class FakeTraining(Growing):
    """Scores by a table of stages; unlisted ones get `otherwise`. Costs are made up."""

    def __init__(self, scores: dict[Stages, int], otherwise: int = 0) -> None:
        self.scores, self.otherwise, self.base_correct = scores, otherwise, 500
        self.full = 800  # what full training brings, whatever it is given
        self.tried: list[tuple[Stages, int, int]] = []
        self.trained_fully: list[Stages] = []
        self.models: dict[Stages, Classifier] = {}

    def measure(self, model: Classifier) -> Cost:
        return cost_of(stages_of(model))

    def score(self, model: Classifier) -> Score:
        return Score(N, self.base_correct, 0.5)

    def train(self, model: Classifier, iteration: int, stage: int) -> Score:
        stages = stages_of(model)
        self.tried.append((stages, iteration, stage))
        self.models[stages] = model
        torch.rand(len(self.tried))  # training moves the global generator
        return Score(N, self.scores.get(stages, self.otherwise), 0.5)

    def train_fully(self, model: Classifier) -> Score:
        self.trained_fully.append(stages_of(model))
        return Score(N, self.full, 0.5)


def grown(
    training: FakeTraining,
    *,
    base_correct: int = 500,
    max_modules: int = 2,
    noticeable_gain: float = 0.0,
    patience: int = 99,
    max_params: int | None = None,
    max_flops: int | None = None,
    max_memory_bytes: float | None = None,
    base: Classifier | None = None,
    seed: int = 0,
    inherit: bool = True,
) -> tuple[Classifier, list[dict[str, Any]], str]:
    rules = settings(
        max_modules=max_modules,
        noticeable_gain=noticeable_gain,
        patience=patience,
        bounds=Bounds(
            params=max_params,
            flops=max_flops,
            memory_mib=None if max_memory_bytes is None else max_memory_bytes / 2**20,
        ),
        start="parent" if inherit else "scratch",
    )
    training.base_correct = base_correct
    folder = ResumePoint(Path("nowhere"))
    Growing.__init__(training, rules, parts(), seed=seed, resume=folder, numerics=NUMERICS)
    best, history, reason = training.grow(base or classifier())
    return best.model, history, reason


def stages_in(row: dict[str, Any]) -> Stages:
    return tuple(int(n) for n in row["stages"].split("-"))


def test_each_iteration_tries_a_module_in_every_stage_and_goes_on_from_the_best() -> None:
    training = FakeTraining({(1, 2, 1): 600, (1, 3, 1): 550, (2, 2, 1): 700}, otherwise=510)
    best, history, reason = grown(training)
    assert training.tried == [
        ((2, 1, 1), 1, 0),
        ((1, 2, 1), 1, 1),
        ((1, 1, 2), 1, 2),
        ((2, 2, 1), 2, 0),
        ((1, 3, 1), 2, 1),
        ((1, 2, 2), 2, 2),
    ]
    assert stages_of(best) == (2, 2, 1)
    assert best is training.models[(2, 2, 1)]
    assert "2 modules allowed" in reason
    tried = [stages for stages, _, _ in training.tried]
    assert [stages_in(each) for each in history] == [(1, 1, 1), *tried, (2, 2, 1)]
    assert [stages_in(each) for each in history[:-1] if each["chosen"]] == [(1, 2, 1), (2, 2, 1)]
    assert (history[0]["iteration"], history[0]["grown_stage"]) == (0, "")


def test_growing_goes_on_from_an_iterations_best_even_under_the_best_so_far() -> None:
    training = FakeTraining({(1, 1, 2): 480, (2, 1, 2): 470}, otherwise=400)
    best, history, _ = grown(training, max_modules=3)
    assert (3, 1, 2) in [stages for stages, _, _ in training.tried]
    assert stages_of(best) == (1, 1, 2)
    chosen = [stages_in(each) for each in history if each["chosen"] and each["training"] == "quick"]
    assert chosen[:2] == [(1, 1, 2), (2, 1, 2)]


def test_the_best_of_all_is_returned_and_not_the_last() -> None:
    training = FakeTraining({(1, 2, 1): 700, (2, 2, 1): 690}, otherwise=400)
    assert stages_of(grown(training)[0]) == (1, 2, 1)


def test_a_base_that_was_trained_for_longer_does_not_stop_growth() -> None:
    """Algorithm 2: acc_max starts from 0, and candidates, quickly trained, are held against each other."""
    training = FakeTraining({(1, 2, 1): 520, (2, 2, 1): 560, (2, 2, 2): 590}, otherwise=400)
    best, _, reason = grown(training, base_correct=900, max_modules=3, noticeable_gain=0.001, patience=1)
    assert stages_of(best) == (2, 2, 2)
    assert "3 modules allowed" in reason


def test_the_best_candidate_alone_is_trained_in_full_and_has_the_last_row() -> None:
    training = FakeTraining({(1, 2, 1): 700}, otherwise=510)
    best, history, _ = grown(training)
    assert training.trained_fully == [(1, 2, 1)]
    assert best is training.models[(1, 2, 1)]
    full = [(stages_in(each), each["n_correct"]) for each in history if each["training"] == "full"]
    assert full == [((1, 1, 1), 500), ((1, 2, 1), training.full)]
    assert history[-1] == history[2] | {"training": "full", "n_correct": training.full, "chosen": 1}


def test_the_grown_net_is_returned_even_where_it_ends_below_the_base() -> None:
    """Algorithm 2 returns a grown net; the history says what growing cost."""
    training = FakeTraining({}, otherwise=400)
    training.full = 450
    best, history, _ = grown(training, base_correct=500, max_modules=1)
    assert stages_of(best) == (2, 1, 1)
    assert (history[0]["n_correct"], history[-1]["n_correct"]) == (500, 450)


# CVIU Table 1: modules of each stage, top-1 accuracy in hundredths of a percent; its first row is the base.
TABLE_1: dict[Stages, int] = {
    **{(3, 5, 2): 7112, (3, 5, 3): 7175, (4, 5, 3): 7197, (4, 6, 3): 7203, (4, 7, 3): 7345},
    **{(4, 7, 4): 7351, (4, 7, 5): 7369, (4, 8, 5): 7391, (5, 8, 5): 7427, (6, 8, 5): 7420},
    **{(7, 8, 5): 7442, (7, 8, 6): 7458, (7, 8, 7): 7454, (8, 8, 7): 7464, (8, 8, 8): 7460},
    **{(8, 8, 9): 7459, (9, 8, 9): 7477, (9, 8, 10): 7460, (10, 8, 10): 7501, (10, 8, 11): 7471},
}


class Replay(FakeTraining):
    """Table 1's own accuracies; every other candidate is a little worse than the base."""

    def train(self, model: Classifier, iteration: int, stage: int) -> Score:
        return Score(10_000, TABLE_1.get(stages_of(model), 7000), 0.5)


def test_the_imagenet_presets_rule_replays_table_1_to_inception_88() -> None:
    """The rule alone, which stops three modules further; the preset's number of modules ends at it, too."""
    rules = read_params(ROOT / "presets/imagenet.yaml").grow
    assert rules is not None
    best, history, reason = grown(
        Replay({}),
        base=classifier((2, 5, 2)),
        base_correct=7064,
        max_modules=99,
        noticeable_gain=rules.noticeable_gain,
        patience=rules.patience,
    )
    path = [stages_in(each) for each in history if each["chosen"] and each["training"] == "quick"]
    assert path[:20] == list(TABLE_1)
    assert path[rules.max_modules - 1] == stages_of(best) == (10, 8, 10)
    assert isinstance(best.net, Inception)
    assert best.net.title == "Inception-88"
    assert "3 iterations in a row" in reason


def test_equally_accurate_candidates_give_the_smaller() -> None:
    training = FakeTraining({}, otherwise=600)
    best, history, _ = grown(training, max_modules=1)
    assert stages_of(best) == (2, 1, 1)
    assert [stages_in(each) for each in history[:-1] if each["chosen"]] == [(2, 1, 1)]


def test_a_larger_net_as_accurate_as_the_best_so_far_does_not_replace_it() -> None:
    assert stages_of(grown(FakeTraining({}, otherwise=500))[0]) == (2, 1, 1)


def test_growing_stops_at_the_modules_allowed() -> None:
    for max_modules in (1, 3):
        training = FakeTraining({}, otherwise=510)
        _, history, reason = grown(training, max_modules=max_modules)
        assert len(training.tried) == 3 * max_modules
        assert len(history) == 1 + 3 * max_modules + 1
        assert f"{max_modules} modules allowed" in reason


def test_growing_stops_after_so_many_iterations_in_a_row_without_noticeable_gain() -> None:
    scores = {(2, 1, 1): 505, (3, 1, 1): 600, (4, 1, 1): 605, (5, 1, 1): 609, (6, 1, 1): 900}
    training = FakeTraining(scores, otherwise=100)
    best, _, reason = grown(training, max_modules=9, noticeable_gain=0.05, patience=2)
    # Gains in thousandths: 5 (idle), 95, 5 (idle), 4 on top of that (idle).
    assert max(iteration for _, iteration, _ in training.tried) == 4
    assert stages_of(best) == (5, 1, 1)
    assert "2 iterations in a row" in reason


@pytest.mark.parametrize("gain", [0.001, 0.01, 0.07, 0.29])
@pytest.mark.parametrize("before", [501, 699])
def test_exactly_the_noticeable_gain_is_noticeable_and_one_image_less_is_not(
    gain: float, before: int
) -> None:
    enough = before + round(gain * N)
    for n_correct, stopped in ((enough, False), (enough - 1, True)):
        training = FakeTraining({(2, 1, 1): before, (3, 1, 1): n_correct})
        _, _, reason = grown(training, max_modules=2, noticeable_gain=gain, patience=1)
        assert ("in a row" in reason) == stopped


def test_no_gain_at_all_is_not_noticeable_even_where_any_gain_is() -> None:
    _, _, reason = grown(FakeTraining({}, otherwise=500), noticeable_gain=0.0, patience=1)
    assert "in a row" in reason


def test_no_candidate_over_the_size_allowed_is_trained() -> None:
    training = FakeTraining({}, otherwise=600)
    limit = params_of((1, 2, 1))
    _, history, reason = grown(training, max_modules=5, max_params=limit)
    # In the second iteration, from (2, 1, 1), only (3, 1, 1) still fits.
    assert [stages for stages, _, _ in training.tried] == [(2, 1, 1), (1, 2, 1), (3, 1, 1)]
    assert max(each["params"] for each in history) == limit
    assert f"larger than {limit:,} parameters" in reason


@pytest.mark.parametrize(
    ("bound", "size", "words"),
    [
        ("max_params", cost_of((2, 1, 1)).params, "larger than 170 parameters"),
        ("max_flops", cost_of((1, 1, 2)).flops, "larger than 1,110 FLOPs"),
        ("max_memory_bytes", float(cost_of((1, 1, 2)).memory_bytes), "larger than 6,400 bytes of memory"),
    ],
)
def test_each_bound_stops_growth_with_a_reason_that_names_it(bound: str, size: float, words: str) -> None:
    training = FakeTraining({}, otherwise=600)
    _, history, reason = grown(training, max_modules=9, **{bound: size})  # type: ignore[arg-type]
    # Exactly one candidate of the first iteration is at the bound, none of the second is within it.
    assert len(training.tried) == 1
    assert len(history) == 1 + 1 + 1
    assert reason == f"every candidate is {words}"
    just_under = FakeTraining({}, otherwise=600)
    _, history, reason = grown(just_under, max_modules=9, **{bound: size - 1})  # type: ignore[arg-type]
    assert just_under.tried == []
    assert just_under.trained_fully == []
    assert [stages_in(each) for each in history] == [(1, 1, 1)]


def test_a_candidate_is_trained_only_within_every_bound() -> None:
    training = FakeTraining({}, otherwise=600)
    # The first stage's is too many FLOPs, the second's too much memory, the third's too many parameters.
    bounds = {
        "max_params": cost_of((1, 1, 2)).params - 1,
        "max_flops": cost_of((2, 1, 1)).flops - 1,
        "max_memory_bytes": cost_of((1, 2, 1)).memory_bytes - 1,
    }
    _, _, reason = grown(training, **bounds)  # type: ignore[arg-type]
    assert training.tried == []
    assert reason == "every candidate is larger than 189 parameters, 1,149 FLOPs, 6,899 bytes of memory"


def test_bounds_that_are_null_bound_nothing() -> None:
    class Huge(FakeTraining):
        def measure(self, model: Classifier) -> Cost:
            return Cost(10**13, 10**18, 10**14, ())

    def tried(**bounds: Any) -> int:
        training = Huge({}, otherwise=600)
        grown(training, max_modules=1, **bounds)
        return len(training.tried)

    assert tried() == 3
    assert tried(max_flops=10**18 - 1) == 0
    assert tried(max_params=10**13, max_flops=10**18, max_memory_bytes=1e14) == 3


def test_the_bounds_may_be_those_of_measured_nets() -> None:
    class Measured(FakeTraining):
        def measure(self, model: Classifier) -> Cost:
            return measure_cost(model, (1, 8, 8))

    base, training = classifier(), Measured({}, otherwise=600)
    sizes = [training.measure(extend(base, stage, inherit=True)) for stage in range(3)]
    smallest = min(cost.memory_bytes for cost in sizes)
    _, history, _ = grown(training, base=base, max_modules=1, max_memory_bytes=smallest)
    within = [stage for stage, cost in enumerate(sizes) if cost.memory_bytes <= smallest]
    assert [stage for _, _, stage in training.tried] == within
    assert len(history) == 1 + len(within) + 1
    assert 1 <= len(within) < 3


def test_grown_nets_are_named_after_their_layers() -> None:
    """CVIU Table 1: N = 4 + 3 x modules; the published one has a name of its own."""
    net = classifier((1, 1, 1)).net
    assert isinstance(net, Inception)
    assert net.title == "Inception-13"
    grown_once = extend(classifier((2, 5, 1)), 2, inherit=False).net
    assert isinstance(grown_once, Inception)
    assert grown_once.title == "InceptionV1"
    grown_twice = extend(classifier((2, 5, 2)), 0, inherit=False).net
    assert isinstance(grown_twice, Inception)
    assert grown_twice.title == "Inception-34"


def test_candidates_are_the_same_whatever_training_did_to_the_global_generator() -> None:
    class Noisy(FakeTraining):
        noise = 0

        def train(self, model: Classifier, iteration: int, stage: int) -> Score:
            torch.rand(self.noise + stage)
            return super().train(model, iteration, stage)

    def states(noise: int) -> dict[Stages, torch.Tensor]:
        training = Noisy({(1, 2, 1): 600}, otherwise=510)
        training.noise = noise
        grown(training, inherit=False)
        return {
            stages: torch.cat([p.flatten() for p in model.parameters()])
            for stages, model in training.models.items()
        }

    one, other = states(0), states(17)
    assert all(torch.equal(one[stages], other[stages]) for stages in one)


def test_another_seed_gives_other_new_modules() -> None:
    weights = []
    for seed in (0, 0, 1):
        training = FakeTraining({}, otherwise=510)
        grown(training, seed=seed, max_modules=1)
        weights.append(training.models[(1, 2, 1)].get_parameter("net.stages.1.1.branch1x1.conv.weight"))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_extending_inherits_every_weight_of_the_parent_and_adds_one_module(stage: int) -> None:
    parent = classifier((1, 2, 1))
    child = extend(parent, stage, inherit=True)
    expected = [1, 2, 1]
    expected[stage] += 1
    assert stages_of(child) == tuple(expected)
    inherited, found = parent.state_dict(), child.state_dict()
    new = f"net.stages.{stage}.{expected[stage] - 1}."
    assert set(inherited) <= set(found)
    assert all(key.startswith(new) for key in set(found) - set(inherited))
    assert all(torch.equal(found[key], tensor) for key, tensor in inherited.items())
    assert (child.image_shape, child.classes) == (parent.image_shape, parent.classes)
    assert torch.equal(child.mean, parent.mean)
    assert torch.equal(child.std, parent.std)


def test_extending_a_net_whose_copies_are_wider_than_their_input_inherits_what_fits() -> None:
    torch.manual_seed(0)
    options = {"stages": (1, 1, 1), "base": (2, 5, 2), "width": 1 / 32, "stem": "small", "in_channels": 1}
    net = build_model("inception", 3, **options)
    parent = Classifier(net, image_shape=(1, 8, 8), mean=[0.4], std=[0.3], classes=("x", "y", "z"))
    child = extend(parent, 0, inherit=True)  # module 3b is wider than 3a, which stage 2 reads
    images = torch.rand(2, 1, 8, 8)
    assert child.eval()(images).shape == (2, 3)
    key = "net.stages.0.0.branch1x1.conv.weight"
    assert torch.equal(child.state_dict()[key], parent.state_dict()[key])


def test_extending_from_scratch_inherits_nothing_but_the_normalisation() -> None:
    parent = classifier()
    child = extend(parent, 1, inherit=False)
    key = "net.stem.0.conv.weight"
    assert not torch.equal(child.state_dict()[key], parent.state_dict()[key])
    assert torch.equal(child.mean, parent.mean)


@pytest.mark.parametrize("inherit", [True, False])
def test_extending_leaves_the_parent_alone_and_shares_no_memory_with_it(inherit: bool) -> None:
    parent = classifier().train()
    before = {key: tensor.clone() for key, tensor in parent.state_dict().items()}
    child = extend(parent, 0, inherit=inherit)
    with torch.no_grad():
        for parameter in child.parameters():
            parameter.add_(1)
        for buffer in child.buffers():
            buffer.add_(1)
    assert parent.training
    assert stages_of(parent) == (1, 1, 1)
    assert all(torch.equal(tensor, before[key]) for key, tensor in parent.state_dict().items())


def test_extending_is_deterministic_under_a_seed() -> None:
    parent = classifier()
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(extend(parent, 1, inherit=True).state_dict())
    new = "net.stages.1.1.branch1x1.conv.weight"
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0][new], states[2][new])


def test_frozen_batch_norm_scales_stay_frozen_in_the_child() -> None:
    child = extend(classifier(), 1, inherit=True)
    frozen = [name for name, parameter in child.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == 3 + 7 * 4
    assert all(name.endswith("bn.weight") for name in frozen)


@pytest.mark.parametrize("stage", [-1, 3])
def test_a_stage_that_is_not_there_is_refused(stage: int) -> None:
    with pytest.raises(ValueError, match=f"with a stage {stage}"):
        extend(classifier(), stage, inherit=True)


def test_a_net_without_stages_is_refused() -> None:
    net = build_model("fc", 3, in_features=64, hidden=(4,))
    model = Classifier(net, image_shape=(1, 8, 8), mean=[0.4], std=[0.3], classes=("x", "y", "z"))
    with pytest.raises(ValueError, match="expected an Inception classifier"):
        extend(model, 0, inherit=True)


def test_a_row_of_the_history_counts_stages_from_one() -> None:
    row = candidate((2, 1, 1), 510, 1, 0).row("quick", chosen=True)
    assert row == {
        "name": "Inception-16",
        "iteration": 1,
        "grown_stage": 1,
        "stages": "2-1-1",
        "params": params_of((2, 1, 1)),
        "flops": 1150,
        "memory_bytes": 6500,
        "training": "quick",
        "n": N,
        "n_correct": 510,
        "chosen": 1,
    }
    assert candidate((1, 1, 1), 500).row("full")["grown_stage"] == ""


def growing(folder: Path, *, seed: int = 0, **changes: Any) -> Growing:
    return Growing(settings(**changes), parts(), seed=seed, resume=ResumePoint(folder), numerics=NUMERICS)


def test_the_record_of_a_net_is_its_cost_and_its_score_on_validation(tmp_path: Path) -> None:
    model = classifier((1, 2, 1))
    cost = measure_cost(model, (1, 8, 8))
    score = evaluate(model, parts().validation, batch_size=NUMERICS.eval_batch_size)
    # With a bound that no candidate is within, the base is all there is.
    best, rows, _ = growing(tmp_path, bounds=Bounds(params=1, flops=None, memory_mib=None)).grow(model)
    assert best == Candidate(model, 0, None, cost, score)
    assert (score.n, best.name, best.stages) == (15, "Inception-16", (1, 2, 1))
    assert rows == [best.row("full")]
    fc = build_model("fc", 3, in_features=64, hidden=(4,))
    plain = Classifier(fc, image_shape=(1, 8, 8), mean=[0.4], std=[0.3], classes=("x", "y", "z"))
    named = Candidate(plain, 0, None, cost, score)
    assert (named.name, named.stages) == ("fc", ())


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("auxiliary", [None, Auxiliary(weight=0.3, batch_norm=False)])
def test_a_candidate_is_trained_by_the_params_and_resumes_by_itself(
    auxiliary: Auxiliary | None, tmp_path: Path
) -> None:
    before, trained = weights(classifier()), classifier()
    score = growing(tmp_path, auxiliary=auxiliary).train(trained, 2, 1)
    assert not torch.equal(weights(trained), before)
    assert score == evaluate(trained, parts().validation, batch_size=NUMERICS.eval_batch_size)
    loaded = ResumePoint(tmp_path).child(2, 1).load()
    assert loaded is not None
    rows = loaded[1]["history"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert ("train_auxiliary" in rows[0]) == (auxiliary is not None)
    again = classifier(seed=5)
    assert growing(tmp_path, auxiliary=auxiliary).train(again, 2, 1) == score
    assert torch.equal(weights(again), weights(trained))


def test_the_grown_net_goes_on_from_its_quick_training_and_is_trained_by_the_full_schedule(
    tmp_path: Path,
) -> None:
    schedules = growing(tmp_path, max_modules=1)
    best, history, _ = schedules.grow(classifier())
    loaded = ResumePoint(tmp_path).child("full").load()
    assert loaded is not None
    assert [row["epoch"] for row in loaded[1]["history"]] == [1, 2, 3]
    alone = extend(classifier(), best.grown_stage or 0, inherit=True)  # as if trained in full from the parent
    growing(tmp_path / "alone").train_fully(alone)
    assert not torch.equal(weights(best.model), weights(alone))
    assert history[-1] == best.row("full", chosen=True)
    assert best.score == evaluate(best.model, parts().validation, batch_size=NUMERICS.eval_batch_size)


def test_each_candidate_has_batches_of_its_own(tmp_path: Path) -> None:
    trained = []
    for idx, (seed, iteration, stage) in enumerate([(0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0)]):
        model = classifier()
        growing(tmp_path / str(idx), seed=seed).train(model, iteration, stage)
        trained.append(weights(model))
    assert not any(torch.equal(one, other) for one, other in combinations(trained, 2))


@pytest.mark.parametrize(
    ("start", "stages", "expected"),
    [
        ("parent", (1, 1, 1), 7),  # the base itself
        ("parent", (2, 1, 2), 7 + 2 * 2 + 3),  # a module an iteration, each from the one before; then in full
        ("scratch", (1, 1, 1), 7),
        ("scratch", (2, 1, 2), 2 + 3),  # of its own alone
    ],
)
def test_the_epochs_behind_the_kept_net_are_its_ancestors_too_where_it_inherits(
    start: str, stages: Stages, expected: int, tmp_path: Path
) -> None:
    kept = candidate(stages, 500, iteration=sum(stages) - 3)  # from three modules, one more an iteration
    assert growing(tmp_path, start=start).epochs_behind(kept, before=7) == expected


def test_an_extension_that_inherits_weights_goes_on_with_its_parents_auxiliary_heads() -> None:
    parent = classifier((1, 3, 1))
    heads = {"heads.0.decision.bias": torch.arange(3.0)}
    set_heads(parent, heads)
    assert heads_of(extend(parent, 1, inherit=True)) == heads
    assert heads_of(extend(parent, 1, inherit=False)) == {}


def test_a_grown_net_keeps_the_heads_that_it_was_trained_with_and_they_fit_the_next(tmp_path: Path) -> None:
    model = classifier((1, 2, 1))
    rules = settings(max_modules=1, auxiliary=Auxiliary(weight=0.3, batch_norm=False))
    best, _, _ = Growing(rules, parts(), seed=0, resume=ResumePoint(tmp_path), numerics=NUMERICS).grow(model)
    heads = heads_of(best.model)
    assert {name.split(".")[1] for name in heads} == ({"0", "1"} if best.stages[1] == 3 else {"0"})
    objective = with_auxiliary_heads(
        Objective(), best.model, parts().train.first(2), Auxiliary(weight=0.3, batch_norm=False)
    )
    assert all(torch.equal(objective.state_dict()[name], tensor) for name, tensor in heads.items())
