"""The device path without a GPU: whole stages on tensors that refuse to meet the CPU's, with the CPU's results."""

import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from builders import lda_weights
from safetensors.torch import load_file
from separate_device import DEVICE, Held, SeparateDevice, stages_on_device
from tiny_params import params_of
from torch import Tensor, nn

import pipeline.machine.device
import pipeline.machine.float64
from pipeline.attacks import craft
from pipeline.compare.criteria import score_filters
from pipeline.compare.magnitude import magnitude_masks, masked
from pipeline.deconv import trace_utility
from pipeline.jobs.job import Workplace
from pipeline.jobs.output import sections_of
from pipeline.lda import describe_latent, discriminants_decorrelated, push_loss
from pipeline.machine.float64 import float64, float64_device
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, decision_layer, latent_and_logits
from pipeline.params.perturbations import FgsmAttack, NewtonFoolAttack
from pipeline.params.pruning import SensitivityChoice
from pipeline.prune import prune_model
from pipeline.prune.latent import choose_latent

CPU = torch.device("cpu")


@pytest.fixture
def without_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside the test, `DEVICE` is there and has no float64, and the pipeline knows."""
    monkeypatch.setattr(pipeline.machine.float64, "_WITHOUT_FLOAT64", frozenset({DEVICE.type}))
    with SeparateDevice(forbid_float64=True):
        yield


def test_the_device_refuses_what_a_gpu_refuses(without_float64: None) -> None:
    held = torch.arange(4.0).to(DEVICE)
    assert isinstance(held, Held)
    assert held.device == DEVICE
    assert (held + 1).sum().item() == 10
    assert held[torch.tensor([1, 3])].tolist() == held[[1, 3]].tolist() == [1, 3]
    with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
        held + torch.ones(4)
    with pytest.raises(RuntimeError, match="is not supported for tensor subclasses"):
        held.numpy()
    with pytest.raises(TypeError, match="this device has no float64"):
        held.double()
    assert held.cpu().double().dtype == torch.float64


def test_float64_is_found_where_it_is(without_float64: None) -> None:
    assert float64_device(DEVICE) == float64_device(CPU) == CPU
    values = torch.tensor([0.5, 2.0], requires_grad=True)
    on_device = values.to(DEVICE)
    assert float64(on_device).device == CPU
    assert float64(on_device).dtype == torch.float64
    float64(on_device).square().sum().backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert values.grad.tolist() == [1, 4]


def classifier() -> Classifier:
    torch.manual_seed(0)
    net = build_model(
        "inception", 3, stages=(1, 1, 1), base=(1, 1, 1), width=0.0625, stem="small", in_channels=1
    )
    return Classifier(net, image_shape=(1, 8, 8), mean=(0.5,), std=(0.25,), classes=("a", "b", "c")).eval()


def push(model: Classifier, images: Tensor, labels: Tensor) -> list[Tensor]:
    latent, _ = latent_and_logits(model.train(), images)
    # Of few images S_w is nearly singular: a small ridge would let the last bits through, a thousandfold.
    terms = push_loss(latent, labels, lda_weights(ridge=1.0))
    terms.loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [terms.loss, torch.tensor(terms.top_share), *gradients]


def latent_space(model: Classifier, images: Tensor, labels: Tensor) -> list[Tensor]:
    features, _ = latent_and_logits(model, images)
    features = features.detach()
    v = discriminants_decorrelated(features, labels)
    rule = SensitivityChoice(method="sensitivity", max_drop=0.1)
    choice = choose_latent(model, v, float64(features).var(0), features, labels, rule)
    return [v, choice.kept, choice.n_correct, *describe_latent(features, labels, lda_weights()).values()]


def traced_and_pruned(model: Classifier, images: Tensor, labels: Tensor) -> list[Tensor]:
    kept = torch.arange(decision_layer(model).in_features) % 3 > 0
    utilities = trace_utility(model, images, kept, batch_size=7)
    smaller, rows = prune_model(model, utilities, 0.5, images[:2])
    assert 0 < sum(row.n_after for row in rows) < sum(row.n_before for row in rows)
    return [*(utility.map for utility in utilities.values()), smaller(images)]


def criteria(model: Classifier, images: Tensor, labels: Tensor) -> list[Tensor]:
    names = ("l1", "fpgm", "activation_mean", "activation_variance", "apoz", "taylor")
    return [
        score
        for name in names
        for score in score_filters(
            model, name, images, labels, random=torch.Generator(), batch_size=7
        ).values()
    ]


def single_weights(model: Classifier, images: Tensor, labels: Tensor) -> list[Tensor]:
    with masked(model, magnitude_masks(model, 2_000)):
        inside = model(images)
    return [inside, model(images)]


def attacks(model: Classifier, images: Tensor, labels: Tensor) -> list[Tensor]:
    fgsm = FgsmAttack(method="fgsm", epsilon=8.0)
    newton_fool = NewtonFoolAttack(method="newton_fool", steps=5, eta=0.01)
    return [craft(attack, model, images, labels, batch_size=7) for attack in (fgsm, newton_fool)]


@pytest.mark.parametrize(
    "compute", [push, latent_space, traced_and_pruned, criteria, single_weights, attacks]
)
@pytest.mark.parametrize("has_float64", [True, False])
def test_results_are_those_of_the_cpu(
    compute: Callable[[Classifier, Tensor, Tensor], list[Tensor]],
    has_float64: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(20) % 3
    expected = compute(classifier(), images, labels)
    if not has_float64:
        monkeypatch.setattr(pipeline.machine.float64, "_WITHOUT_FLOAT64", frozenset({DEVICE.type}))
    with SeparateDevice(forbid_float64=not has_float64):
        model = classifier().to(DEVICE)
        found = [each.cpu() for each in compute(model, images.to(DEVICE), labels.to(DEVICE))]
    assert len(found) == len(expected) > 1
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, check_stride=False)


# Lazy layers, which auxiliary heads have, get their weights where this device cannot see it.
PARAMS = params_of(
    ("data.images_per_class", {"train": 20, "validation": 20, "test": 20, "perturbed": None, "seed": 0}),
    ("train.auxiliary", None),
    ("train.training.epochs", 2),
    ("prune.retraining.epochs", 2),
    ("prune.etas", [0.5]),
)


@pytest.fixture
def _torch_as_it_was() -> Iterator[None]:
    """Stages set determinism and denormals for the whole process."""
    yield
    torch.set_deterministic_debug_mode("default")
    torch.set_flush_denormal(False)


def first_job(stage: str, runs: Path) -> Path:
    """Do the first job of a stage in this process; its folder below `runs`."""
    module = import_module(f"stages.{stage}")
    job = next(iter(module.jobs(runs, **sections_of(module, PARAMS))))
    out = runs / stage / job.folder
    out.mkdir(parents=True)
    (runs / "resume" / stage).mkdir(parents=True)
    module.work(Workplace(out, runs / "resume" / stage), **job.settings, **job.inputs)
    return out


@pytest.mark.usefixtures("_torch_as_it_was")
def test_stages_end_with_the_cpus_models_and_images(tmp_path: Path) -> None:
    """The base stands in for the grown and the pushed net and for the source, which take longer."""
    first_job("prepare", tmp_path / "cpu")
    shutil.copytree(tmp_path / "cpu/prepare", tmp_path / "device/prepare")

    def train_prune_and_craft(runs: Path) -> None:
        base = first_job("train", runs)
        shutil.copytree(base, runs / "grow/0")
        shutil.copytree(base, runs / "push/0/main")
        shutil.copytree(base, runs / "source/0/resnet")
        first_job("prune", runs)
        first_job("craft", runs)

    train_prune_and_craft(tmp_path / "cpu")
    with stages_on_device(forbid_float64=False):
        assert pipeline.machine.device.configure_torch(PARAMS.numerics) == DEVICE
        train_prune_and_craft(tmp_path / "device")
    wrote = sorted((tmp_path / "device").rglob("*.safetensors"))
    expected = sorted((tmp_path / "cpu").rglob("*.safetensors"))
    names = [file.relative_to(tmp_path / "device") for file in wrote]
    assert names == [file.relative_to(tmp_path / "cpu") for file in expected]
    assert {"train", "prune", "craft"} <= {name.parts[0] for name in names}
    for name, one, other in zip(names, wrote, expected, strict=True):
        tensors, wanted = load_file(one), load_file(other)
        assert tensors.keys() == wanted.keys()
        for key, tensor in tensors.items():
            assert torch.equal(tensor, wanted[key]), f"{name}: {key}"


def test_a_module_moved_to_the_device_is_there(without_float64: None) -> None:
    """Or the comparisons above would compare the CPU with itself."""
    moved = classifier().to(DEVICE)
    assert all(isinstance(tensor, Held) for tensor in moved.state_dict().values())
    assert all(isinstance(parameter, nn.Parameter) for parameter in moved.parameters())
