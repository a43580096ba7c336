"""Two processes: the loss and the gradients of one, one artefact of each kind, and an end when one is lost.

All with whole nets in each (DDP) and with shares of one (FSDP).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
import torch
import torch.distributed as dist
from builders import NUMERICS, lda_weights, parts, rms_prop, schedule
from conftest import ROOT, RUN_STAGES, Workspace, jobs_run
from safetensors.torch import load_file, save_file
from tiny_params import edited, params_of
from torch import Tensor, nn

from pipeline.compare.magnitude import magnitude_masks, masked
from pipeline.distributed.collectives import (
    agree_on,
    gather,
    mean_over_processes,
    n_processes,
    own_share,
    rank,
)
from pipeline.distributed.sharding import trained_copy, whole
from pipeline.errors import InputError
from pipeline.images.parts import Images
from pipeline.jobs.job import Job
from pipeline.jobs.run import JobKeys
from pipeline.jobs.store import Store
from pipeline.jobs.together import run_together
from pipeline.models import build_model
from pipeline.models.classifier import Classifier
from pipeline.training.batches import shuffled_batches
from pipeline.training.fit import fit
from pipeline.training.objectives import Objective
from pipeline.training.push_objective import PushObjective
from pipeline.training.resume import ResumePoint
from pipeline.training.step import training_step

Strategy = Literal["ddp", "fsdp"]
CPU = torch.device("cpu")
# One process for all that share a workspace, beside the other group, which is the longer one.
pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.processes]

_TIMEOUT = 120
_ENDED_BY = (
    60  # seconds on a machine whose cores and disk are busy; a collective alone would wait for half an hour
)
N_IMAGES = 24


def classifier(name: str, **options: Any) -> Classifier:
    """In float64, so that the order of a sum does not blur what is compared."""
    torch.manual_seed(0)
    net = build_model(name, 3, in_channels=1, **options) if name != "fc" else build_model(name, 3, **options)
    return Classifier(net, image_shape=(1, 8, 8), mean=(0.5,), std=(0.25,), classes=("a", "b", "c")).double()


CASES: dict[str, Callable[[], tuple[Classifier, Objective]]] = {
    "push, fully connected": lambda: (
        classifier("fc", in_features=64, hidden=(10, 6)),
        PushObjective(lda_weights()),
    ),
    "push, log_det, convolutions": lambda: (
        classifier("vgg16", width=0.0625, hidden=(9,), stem="small", dropout=0.0),
        PushObjective(lda_weights(separation="log_det"), label_smoothing=0.1),
    ),
    "plain": lambda: (classifier("fc", in_features=64, hidden=(10, 6)), Objective(label_smoothing=0.1)),
}


def step_of(name: str, share: Tensor, strategy: Strategy = "ddp") -> dict[str, Tensor]:
    """The terms and every parameter's gradient of one step of training on a share of the batch."""
    model, objective = CASES[name]()
    random = torch.Generator().manual_seed(1)
    images = torch.rand(N_IMAGES, 1, 8, 8, generator=random).double()
    labels = torch.arange(N_IMAGES) % 3
    machine = NUMERICS.model_copy(update={"strategy": strategy})
    both = nn.ModuleDict({"model": model.train(), "objective": objective})
    with trained_copy(both, machine, CPU) as trained:
        step = training_step(trained["model"], trained["objective"], machine, CPU)  # type: ignore[arg-type]
        terms = step(images[share], labels[share])
        terms["total"].backward()  # type: ignore[no-untyped-call]
        means = mean_over_processes({term: float(value.detach()) for term, value in terms.items()})
        result = {f"term.{term}": torch.tensor(mean, dtype=torch.float64) for term, mean in means.items()}
        for parameter, value in trained["model"].named_parameters():
            assert value.grad is not None
            result[f"gradient.{parameter}"] = whole(value.grad).contiguous()
            result[f"n_held.{parameter}"] = torch.tensor(n_held(value))
    return result


def n_held(parameter: Tensor) -> int:
    """How many of a parameter's numbers this process holds."""
    return int((parameter.to_local() if hasattr(parameter, "to_local") else parameter).numel())


class Spy(Objective):
    """Notes what each step of training saw, and what dropout would draw."""

    def __init__(self, stop_after: int | None) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []
        self.stop_after = stop_after

    def __deepcopy__(self, memo: dict[int, Any]) -> Spy:
        return self  # what a copy sees is seen here

    def forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if len(self.seen) == self.stop_after:
            raise KeyboardInterrupt
        self.seen.append(
            {
                "images": [round(float(image.double().sum()), 5) for image in images],
                "labels": labels.tolist(),
                "columns": [int(image.sum((0, 1)).argmax()) for image in images],
                "dropout": round(float(torch.rand(())), 6),
            }
        )
        return super().forward(model, images, labels)


def stripes(n: int) -> Images:
    """The same image `n` times: one bright column, so that a shift can be read from it."""
    image = torch.zeros(1, 8, 8, dtype=torch.uint8)
    image[:, :, 4] = 200
    return Images(image.repeat(n, 1, 1, 1), torch.arange(n) % 3)


def trained(
    folder: Path, *, same_images: bool = False, strategy: Strategy = "ddp", stop_after: int | None = None
) -> tuple[Spy, Classifier, list[dict[str, Any]]]:
    """Two epochs on 20 images in batches of 9, 9 and 2, with batch norm and, if they are all the same, shifts.

    With what a training can have in state: square averages, momentum, an average of the weights; gradients are clipped.
    """
    torch.manual_seed(rank())  # every process starts with other weights, which rank 0's replace
    net = build_model("resnet", 3, config="i64-c128", width=0.0625, stem="small", in_channels=1)
    model = Classifier(net, image_shape=(1, 8, 8), mean=(0.5,), std=(0.25,), classes=("a", "b", "c"))
    data = parts()
    if same_images:
        data = type(data)(**(vars(data) | {"train": stripes(20)}))
    spy = Spy(stop_after)
    outcome = fit(
        model,
        spy,
        data,
        schedule(
            epochs=2,
            shift_px=2 if same_images else 0,
            optimizer=rms_prop(clip_grad_norm=1.0, average_weights=0.5),
        ),
        batching=shuffled_batches(9),
        seed=3,
        resume=ResumePoint(folder / f"fit-{same_images}-{strategy}"),
        numerics=NUMERICS.model_copy(update={"strategy": strategy}),
    )
    return spy, model, outcome.history


def dense_state(model: nn.Module) -> dict[str, Tensor]:
    """Its weights and buffers as a file takes them."""
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def work_in_shares(folder: Path, own: Path) -> dict[str, Any]:
    """The same with FSDP, and once more with an interruption in the second epoch."""
    for name in CASES:
        save_file(step_of(name, own_share(torch.arange(N_IMAGES)), "fsdp"), own / f"{name}, fsdp.safetensors")
    _, model, history = trained(folder, strategy="fsdp")
    save_file(dense_state(model), own / "model-fsdp.safetensors")
    with pytest.raises(KeyboardInterrupt):
        trained(folder / "interrupted", strategy="fsdp", stop_after=3)
    spy, model, resumed = trained(folder / "interrupted", strategy="fsdp")
    save_file(dense_state(model), own / "model-fsdp-resumed.safetensors")
    return single_weights(folder) | {
        "history_fsdp": history,
        "history_resumed": resumed,
        "n_steps_resumed": len(spy.seen),
    }


def single_weights(folder: Path) -> dict[str, Any]:
    """How a net's largest 200 weights train with the others held at zero, either way."""
    found = {}
    for strategy in ("ddp", "fsdp"):
        model = classifier("fc", in_features=64, hidden=(10, 6)).float()
        n_params = 200 + 10 + 6 + 3  # biases stay
        with masked(model, magnitude_masks(model, n_params)):
            history = fit(
                model,
                Objective(),
                parts(),
                schedule(epochs=2),
                batching=shuffled_batches(10),
                seed=3,
                resume=ResumePoint(folder / f"masked-{strategy}"),
                numerics=NUMERICS.model_copy(update={"strategy": strategy}),
            ).history
        n_left = sum(int((parameter != 0).sum()) for parameter in model.parameters())
        found[f"masked_{strategy}"] = [n_left, [row["train_total"] for row in history]]
    return found


# A stage whose job needs every process, or refuses its settings in all of them.
_TOGETHER = """
import torch
import torch.distributed as dist
from pipeline.errors import InputError

def work(place, *, seed):
    if seed < 0:
        raise InputError(f"expected a seed of at least 0 (got {seed})")
    total = torch.tensor([seed + dist.get_rank()])
    dist.all_reduce(total)
    (place.out / "total.txt").write_text(str(int(total)))
    return f"total {int(total)}"
"""


def jobs_together(folder: Path) -> dict[str, Any]:
    """Which jobs two processes ran together, at first and when asked for more, and what came of them."""
    project = folder / "project"
    os.chdir(project)
    sys.path.insert(0, str(project))
    store, keys = Store(), JobKeys("together")
    jobs = [Job({"seed": seed}, {"seed": seed}, {}) for seed in (5, 6, 7)]

    def run(chosen: list[Job]) -> list[str]:
        return [job.name for job in run_together(chosen, keys=keys, store=store, params=params_of()).ran]

    found: dict[str, Any] = {"ran": [run(jobs[:2]), run(jobs), run(jobs)]}
    found["totals"] = sorted(file.read_text() for file in store.root.glob("done/*/out/total.txt"))
    with pytest.raises(InputError, match="expected a seed of at least 0") as refused:
        run([Job({"seed": -1}, {"seed": -1}, {})])
    return found | {"refused": str(refused.value)}


def work(number: int, folder: Path) -> None:
    """What each of the two processes does; results go to files."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if number >= 0:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    own = folder / f"rank{number}"
    own.mkdir()
    for name in CASES:
        save_file(step_of(name, own_share(torch.arange(N_IMAGES))), own / f"{name}.safetensors")
    facts: dict[str, Any] = {"rank": rank(), "n_processes": n_processes()}
    facts["shares"] = [own_share(torch.arange(n)).tolist() for n in (0, 1, 2, 3, 4, 7, 8)]
    facts["gathered"] = gather(torch.tensor([[rank(), 0], [rank(), 1]])).tolist()
    facts["mean"] = mean_over_processes({"a": 1.0 + rank(), "b": 3.0 - 2 * rank()})
    if number >= 0:
        with pytest.raises(InputError, match="no batch has two images for each of 2 processes"):
            mean_over_processes({})
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    for tensor in module.state_dict().values():
        tensor.fill_(7 + rank())
    agree_on(module.state_dict().values())
    facts["agreed"] = [tensor.unique().tolist() for tensor in module.state_dict().values()]
    spy, model, history = trained(folder)
    facts |= {"seen": spy.seen, "history": history}
    save_file(dense_state(model), own / "model.safetensors")
    facts["seen_same"] = trained(folder, same_images=True)[0].seen
    if number >= 0:
        facts |= work_in_shares(folder, own)
        facts["together"] = jobs_together(folder)
    (own / "facts.json").write_text(json.dumps(facts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of two processes, `rank0` and `rank1`, and of one alone, `rank-1`."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "alone").mkdir()
    (folder / "project").mkdir()
    (folder / "project/together.py").write_text(_TOGETHER)
    program = (
        f"import sys, pathlib; sys.path[:0] = {[str(ROOT), str(ROOT / 'tests')]!r}; import test_distributed\n"
        "test_distributed.work(int(sys.argv[1]), pathlib.Path(sys.argv[2]))"
    )
    outputs = {}
    with ExitStack() as stack:
        started = {}
        for number in (0, 1):
            command = [sys.executable, "-c", program, str(number), str(folder)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            started[number] = stack.enter_context(process)
            stack.callback(process.kill)
        try:
            work(-1, folder / "alone")
        finally:
            torch.use_deterministic_algorithms(False)
        for number, process in started.items():
            outputs[number], _ = process.communicate(timeout=_TIMEOUT)
    assert all(process.returncode == 0 for process in started.values()), outputs
    (folder / "alone/rank-1").rename(folder / "rank-1")
    return folder


@pytest.fixture(scope="module")
def facts(folder: Path) -> list[dict[str, Any]]:
    """What rank 0, rank 1, and a process alone (at -1) wrote down."""
    return [json.loads((folder / f"rank{number}/facts.json").read_text()) for number in (0, 1, -1)]


def results_of(file: Path) -> dict[str, Tensor]:
    """What `step_of` gave, but for how much each process held."""
    return {key: value for key, value in load_file(file).items() if not key.startswith("n_held.")}


@pytest.mark.parametrize("strategy", ["", ", fsdp"])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_those_of_one_process_on_the_whole_batch(
    folder: Path, name: str, strategy: str
) -> None:
    expected = results_of(folder / f"rank-1/{name}.safetensors")
    assert any(
        float(value.abs().max()) > 1e-3 for key, value in expected.items() if key.startswith("gradient")
    )
    for number in (0, 1):
        values = results_of(folder / f"rank{number}/{name}{strategy}.safetensors")
        assert values.keys() == expected.keys()
        for key, value in values.items():
            assert (value - expected[key]).abs().max() <= 1e-6, (number, key)


@pytest.mark.parametrize("name", CASES)
def test_with_fsdp_each_process_holds_a_share_of_every_parameter(folder: Path, name: str) -> None:
    def held(file: str) -> dict[str, int]:
        tensors = load_file(folder / file).items()
        return {key: int(value) for key, value in tensors if key.startswith("n_held.")}

    of_net = held(f"rank-1/{name}.safetensors")
    first, second = (held(f"rank{number}/{name}, fsdp.safetensors") for number in (0, 1))
    assert held(f"rank0/{name}.safetensors") == of_net
    assert {key: first[key] + second[key] for key in first} == of_net
    assert 0.4 < sum(first.values()) / sum(of_net.values()) < 0.6


def test_a_share_alone_has_other_gradients(folder: Path) -> None:
    """The comparison above could fail: half of the batch by itself is far off."""
    name = "push, fully connected"
    expected = load_file(folder / f"rank-1/{name}.safetensors")
    half = step_of(name, torch.arange(N_IMAGES)[::2])
    assert max(float((half[key] - expected[key]).abs().max()) for key in expected) > 1e-3


def test_processes_know_their_number(facts: list[dict[str, Any]]) -> None:
    assert [(each["rank"], each["n_processes"]) for each in facts] == [(0, 2), (1, 2), (0, 1)]


def test_shares_are_equally_long_and_drop_what_is_left_over(facts: list[dict[str, Any]]) -> None:
    assert facts[0]["shares"] == [[], [], [], [], [0, 2], [0, 2, 4], [0, 2, 4, 6]]
    assert facts[1]["shares"] == [[], [], [], [], [1, 3], [1, 3, 5], [1, 3, 5, 7]]
    assert facts[-1]["shares"] == [list(range(n)) for n in (0, 1, 2, 3, 4, 7, 8)]


def test_gathered_rows_are_in_the_order_of_the_processes(facts: list[dict[str, Any]]) -> None:
    assert facts[0]["gathered"] == facts[1]["gathered"] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert facts[-1]["gathered"] == [[0, 0], [0, 1]]


def test_means_and_rank_0s_values_reach_every_process(facts: list[dict[str, Any]]) -> None:
    assert facts[0]["mean"] == facts[1]["mean"] == {"a": 1.5, "b": 2.0}
    assert facts[-1]["mean"] == {"a": 1.0, "b": 3.0}
    assert all(each["agreed"] == [[7]] * 7 for each in facts)


def test_processes_share_each_batch_of_one_process(facts: list[dict[str, Any]]) -> None:
    first, second, alone = (each["seen"] for each in facts)
    assert [len(step["images"]) for step in alone] == [9, 9, 2] * 2
    assert [len(step["images"]) for step in first] == [len(step["images"]) for step in second] == [4, 4] * 2
    whole = [step for step in alone if len(step["images"]) == 9]
    for one, other, both in zip(first, second, whole, strict=True):
        interleaved = [each for pair in zip(one["images"], other["images"], strict=True) for each in pair]
        assert interleaved == both["images"][:8]


def test_processes_draw_dropout_and_shifts_of_their_own(facts: list[dict[str, Any]]) -> None:
    first, second, _ = (each["seen_same"] for each in facts)
    for one, other in zip(first, second, strict=True):
        assert one["dropout"] != other["dropout"]
    columns = [[column for step in steps for column in step["columns"]] for steps in (first, second)]
    assert columns[0] != columns[1]
    assert all(set(each) <= {2, 3, 4, 5, 6} and len(set(each)) > 1 for each in columns)


def test_processes_end_with_one_model_and_one_history(folder: Path, facts: list[dict[str, Any]]) -> None:
    assert facts[0]["history"] == facts[1]["history"]
    assert len(facts[0]["history"]) == 2
    first, second = (load_file(folder / f"rank{number}/model.safetensors") for number in (0, 1))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert any("running_var" in name for name in first)


def test_fsdp_ends_where_ddp_does_and_resumes_to_the_same_bits(
    folder: Path, facts: list[dict[str, Any]]
) -> None:
    assert facts[0]["history_fsdp"] == facts[1]["history_fsdp"]
    assert facts[0]["history_resumed"] == facts[0]["history_fsdp"]
    assert facts[0]["n_steps_resumed"] == 2  # of the second epoch alone
    expected = load_file(folder / "rank0/model.safetensors")
    for number in (0, 1):
        found = load_file(folder / f"rank{number}/model-fsdp.safetensors")
        resumed = load_file(folder / f"rank{number}/model-fsdp-resumed.safetensors")
        assert found.keys() == resumed.keys() == expected.keys()
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-5)
            assert torch.equal(tensor, resumed[name])


def test_fsdp_leaves_masked_weights_at_zero(facts: list[dict[str, Any]]) -> None:
    n_left, totals = facts[0]["masked_fsdp"]
    assert n_left == 200 + 10 + 6 + 3
    assert totals == pytest.approx(facts[0]["masked_ddp"][1], rel=1e-6)
    assert totals[1] < totals[0]


def test_jobs_run_in_all_processes_once(facts: list[dict[str, Any]]) -> None:
    for each in facts[:2]:
        assert each["together"]["ran"] == [["seed 5", "seed 6"], ["seed 7"], []]
        assert each["together"]["totals"] == ["11", "13", "15"]
    assert facts[0]["together"]["refused"] == "seed -1: expected a seed of at least 0 (got -1)"
    assert facts[1]["together"]["refused"] == "expected a seed of at least 0 (got -1)"


TRAIN = [sys.executable, "-m", "stages.train"]
_ONE_PROCESS = f"""{RUN_STAGES}
import torch
print("lightning_fabric" in sys.modules, torch.distributed.is_initialized())
"""
# Enough epochs to be killed twice on the way.
N_EPOCHS = 8


@pytest.fixture(scope="module")
def one(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Prepared, and trained by one process."""
    made = workspace.copy(tmp_path_factory.mktemp("processes") / "one")
    made.write_params(edited(("train.training.epochs", N_EPOCHS)))
    result = made.must(sys.executable, "-c", _ONE_PROCESS, "prepare", "train")
    assert result.output.splitlines()[-1] == "False False", "one process pays for several"
    return made


def _for_two(one: Workspace, name: str) -> Workspace:
    """The same, prepared, to be trained by two processes."""
    made = one.copy(one.root.with_name(name), without=[".jobs", ".git"])
    shutil.rmtree(made.path("runs/tiny/train"))
    made.write_params(edited(("train.training.epochs", N_EPOCHS), ("numerics.devices", 2)))
    return made


@pytest.fixture(scope="module")
def two(one: Workspace) -> Workspace:
    """Prepared, and trained by two processes that torchrun has started, into the store."""
    made = _for_two(one, "two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    result = made.must(*torchrun, "-m", "stages.train", "--only", "seed=0")
    assert result.output.count("seed 0: validation accuracy") == 1, result.output
    assert "train: 1 jobs in the store, 1 of them ran" in result.output
    return made


def _accuracy(folder: Path) -> float:
    score = json.loads((folder / "model.json").read_text(encoding="utf-8"))["about"]["validation"]
    return float(score["n_correct"] / score["n"])


def test_torchruns_processes_fill_the_store(two: Workspace) -> None:
    assert two.must(*TRAIN, "--list").output == "seed 0: stored\n"
    assert jobs_run(two.log()) == ["train 0"]
    assert not two.path("runs/tiny/train").exists()
    left = [*two.path(".jobs/work").iterdir(), *two.path(".jobs/new").iterdir()]
    assert left == []


def test_two_processes_train_as_well_as_one(two: Workspace, one: Workspace) -> None:
    """Batch norm counts half a batch in each, so the bits differ; the accuracy is the same within noise."""
    (made,) = two.path(".jobs/done").glob("*/out")
    alone = one.path("runs/tiny/train/0")
    assert sorted(file.name for file in made.iterdir()) == sorted(file.name for file in alone.iterdir())
    assert (made / "model.safetensors").read_bytes() != (alone / "model.safetensors").read_bytes()
    accuracy, of_one = _accuracy(made), _accuracy(alone)
    assert accuracy > 0.6
    assert abs(accuracy - of_one) < 0.1


# Fabric's own watch looks as often as it can, not every five seconds, and would always be first.
_HASTY_WATCH = """
import threading

start = threading.Thread.start

def hasten(self):
    if self.name == "child-process-observer":
        self._sleep_period = 0.001
    start(self)

threading.Thread.start = hasten
"""


def _train_until_lost(workspace: Workspace, lost: int) -> tuple[int, str, float]:
    """Train with two processes, kill one after the next epoch; the exit code, the output and the seconds until."""
    started = time.time()
    deadline = time.monotonic() + _TIMEOUT
    with workspace.start("env", f"PYTHONPATH={workspace.root}", *TRAIN) as process:
        try:
            while not any(
                file.stat().st_mtime > started
                for file in workspace.path(".jobs/work").glob("*/resume/fit.safetensors")
            ):
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.005)
            killed = time.monotonic()
            of_rank = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
            of_rank[lost].kill()
            output, _ = process.communicate(timeout=_TIMEOUT)  # to the end of both, which share the pipe
        finally:
            process.kill()
        return process.returncode, output, time.monotonic() - killed


def test_a_lost_process_ends_the_run_which_then_goes_on_to_the_same_bytes(
    one: Workspace, two: Workspace
) -> None:
    made = _for_two(one, "lost")
    made.path("sitecustomize.py").write_text(_HASTY_WATCH, encoding="utf-8")
    code, output, seconds = _train_until_lost(made, lost=1)
    assert (code, seconds < _ENDED_BY) == (1, True), output
    assert "process 1 of 2 was killed (SIGKILL), which ends this run: run it again" in output
    assert "Traceback" not in output

    code, output, seconds = _train_until_lost(made, lost=0)
    assert (code, seconds < _ENDED_BY) == (-signal.SIGKILL, True), output
    assert "process 1: the process that started this one is gone, which ends this run" in output
    assert "Traceback" not in output

    assert not made.path("runs/tiny/train").exists()
    (point,) = made.path(".jobs/work").glob("*/resume/fit.safetensors")
    n_epochs = len(ResumePoint(point.with_suffix("")).load()[1]["history"])  # type: ignore[index]
    assert 2 <= n_epochs < N_EPOCHS, "the second run went on from the first one's point"
    made.must(*TRAIN)
    (undisturbed,) = two.path(".jobs/done").glob("*/out")
    for file in sorted(undisturbed.iterdir()):
        assert made.path("runs/tiny/train/0", file.name).read_bytes() == file.read_bytes(), file.name
    assert jobs_run(made.log()) == ["train 0"]
    assert [*made.path(".jobs/work").iterdir(), *made.path(".jobs/new").iterdir()] == []


def test_processes_that_were_not_asked_for_are_one_line(one: Workspace) -> None:
    """As in a SLURM job of one task, where somebody else is to start the processes."""
    copy = _for_two(one, "slurm")
    slurm = {"NTASKS": "1", "NTASKS_PER_NODE": "1", "NNODES": "1", "JOB_NAME": "train", "JOB_ID": "1"}
    slurm |= {"PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    settings = [f"SLURM_{name}={value}" for name, value in slurm.items()]
    result = copy.run("env", *settings, *TRAIN)
    assert result.code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("train: params.yaml: numerics.devices, numerics.num_nodes: ")
