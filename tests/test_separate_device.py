"""The device path without a GPU: whole stages on tensors that refuse to meet the CPU's, with the CPU's results."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Workspace
from safetensors.torch import load_file
from separate_device import DEVICE, Held, SeparateDevice
from test_objectives import lda_weights
from torch import Tensor, nn

import pipeline.machine.float64
from pipeline.attacks import craft
from pipeline.compare.criteria import score_filters
from pipeline.compare.magnitude import magnitude_masks, masked
from pipeline.deconv import trace_utility
from pipeline.lda import describe_latent, discriminants_decorrelated, push_loss
from pipeline.machine.float64 import float64, float64_device
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, decision_layer, latent_and_logits
from pipeline.params.pruning import SensitivityChoice
from pipeline.params.perturbations import FgsmAttack, NewtonFoolAttack
from pipeline.prune import prune_model
from pipeline.prune.latent import choose_latent

pytestmark = pytest.mark.xdist_group("processes")
torch.set_num_threads(1)  # on nets this small two threads spend their time waiting

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
    terms = push_loss(latent, labels, lda_weights())
    terms.loss.backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [terms.loss, torch.tensor(terms.top_share), *gradients]


def latent_space(model: Classifier, images: Tensor, labels: Tensor) -> list[Tensor]:
    features, _ = latent_and_logits(model, images)
    features = features.detach()
    v = discriminants_decorrelated(features, labels, ridge=1e-3)
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


_STAGES = (
    "train --seed 0",
    "prune --seed 0 --round round1 --previous push",
)


@pytest.fixture(scope="module")
def on_cpu(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Prepared, and every stage of `_STAGES` run on the CPU; the base stands in for the pushed net."""
    made = workspace.copy(tmp_path_factory.mktemp("devices") / "cpu")
    # Lazy layers, which the auxiliary heads have, get their weights where this device cannot see it.
    made.edit_params(after="train:", old="weight: 0.3", new="weight: 0")
    for section in ("train:", "prune:"):
        made.edit_params(after=section, old="epochs: ", new="epochs: 1  # instead of ")
    made.edit_params(after="  etas:", old="    - 1.0\n", new="")
    made.must("python", "-m", "stages.prepare")
    for command in _STAGES:
        stage, *flags = command.split()
        made.must("python", "-m", f"stages.{stage}", *flags)
        if stage == "train":
            shutil.copytree(made.path("runs/tiny/0/train"), made.path("runs/tiny/0/push"))
    return made


def test_stages_end_with_the_cpus_models_and_images(on_cpu: Workspace, tmp_path: Path) -> None:
    made = on_cpu.copy(tmp_path / "device")
    for stage in ("train", "prune"):
        shutil.rmtree(made.path(f"runs/tiny/0/{stage}"))
    program = str(ROOT / "tests" / "on_separate_device.py")
    result = made.must("python", program, *_STAGES)
    assert "Traceback" not in result.output
    wrote = sorted(made.path("runs/tiny/0").rglob("*.safetensors"))
    expected = sorted(on_cpu.path("runs/tiny/0").rglob("*.safetensors"))
    assert [file.name for file in wrote] == [file.name for file in expected]
    assert len(wrote) == 4
    for one, other in zip(wrote, expected, strict=True):
        tensors, wanted = load_file(one), load_file(other)
        assert tensors.keys() == wanted.keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, wanted[name]), f"{one.name}: {name}"


def test_a_module_moved_to_the_device_is_there(without_float64: None) -> None:
    """Or the comparisons above would compare the CPU with itself."""
    moved = classifier().to(DEVICE)
    assert all(isinstance(tensor, Held) for tensor in moved.state_dict().values())
    assert all(isinstance(parameter, nn.Parameter) for parameter in moved.parameters())
