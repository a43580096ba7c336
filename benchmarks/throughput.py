"""`python -m benchmarks.throughput`: images a second on this machine's device, and peak memory.

Training is the pipeline's own (`train.fit` with augmentation, batches drawn anew, the push's class-balanced ones too);
its peer is the same net, optimiser and batch size in a bare loop over random images that lie on the device already.
With `--prepared runs/<name>/prepare` it also trains twice on that set, in float32 and bfloat16, and scores both.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.attacks import craft
from pipeline.deconv import trace_utility
from pipeline.images.image_set import ImageSet
from pipeline.images.parts import Images, Parts, load_parts
from pipeline.machine.device import configure_torch
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, decision_layer
from pipeline.params.file import read_params
from pipeline.params.machine import Numerics
from pipeline.params.perturbations import FgsmAttack, NewtonFoolAttack
from pipeline.params.training import Schedule
from pipeline.training.batches import Batching, balanced_batches, shuffled_batches
from pipeline.training.fit import Outcome, fit
from pipeline.training.objectives import Objective
from pipeline.training.push_objective import PushObjective
from pipeline.training.resume import ResumePoint

NETS: dict[str, tuple[str, dict[str, object]]] = {
    "VGG-16-BN": ("vgg16", {"batch_norm": True, "stem": "small", "pool": 1, "hidden": (512,)}),
    "Inception-22": ("inception", {"stages": (2, 3, 2), "base": (2, 3, 2), "stem": "small"}),
}
SIDE_PX = 32
N_CLASSES = 10
EPOCHS = 2
# The push's weights, and what a training run is, come from the preset that is nearest to these images.
PRESET = read_params(Path(__file__).parents[1] / "presets" / "cifar10_32.yaml")


def numerics(device: str, precision: str) -> Numerics:
    """One process; as many threads as torch has chosen."""
    changes = {"device": device, "precision": precision, "threads": torch.get_num_threads()}
    return PRESET.numerics.model_copy(update=changes)


def schedule(epochs: int) -> Schedule:
    """SGD with shifts and mirror images."""
    return PRESET.push.training.model_copy(update={"epochs": epochs, "shift_px": 2, "mirror": True})


def random_parts(n: int, device: torch.device) -> Parts:
    """`n` random images for training, a batch of them for validation."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (n, 3, SIDE_PX, SIDE_PX), dtype=np.uint8)
    labels = np.arange(n, dtype=np.int64) % N_CLASSES
    idx = np.arange(n)
    split = {"train": idx, "validation": idx[:N_CLASSES], "test": idx[:N_CLASSES]}
    source = ImageSet(pixels, labels, tuple(map(str, range(N_CLASSES))), split)  # type: ignore[arg-type]

    def part(of: slice) -> Images:
        return Images(torch.from_numpy(pixels[of]).to(device), torch.from_numpy(labels[of]).to(device))

    return Parts(part(slice(None)), part(slice(N_CLASSES)), part(slice(N_CLASSES)), source)


def classifier(name: str, parts: Parts, device: torch.device, width: float) -> Classifier:
    """A fresh net for a set, on the device."""
    torch.manual_seed(0)
    architecture, options = NETS[name]
    mean, std = parts.image_set.normalization()
    net = build_model(architecture, len(parts.image_set.classes), **options, width=width)
    shape = parts.image_set.image_shape
    return Classifier(net, image_shape=shape, mean=mean, std=std, classes=parts.image_set.classes).to(device)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time, with the device's queue empty before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def train(
    model: nn.Module, objective: Objective, parts: Parts, batching: Batching, machine: Numerics, epochs: int
) -> Outcome:
    """The pipeline's training, resume points and all."""
    with tempfile.TemporaryDirectory() as folder:
        return fit(
            model,
            objective.to(parts.train.device),
            parts,
            schedule(epochs),
            batching=batching,
            seed=0,
            resume=ResumePoint(Path(folder) / "fit"),
            numerics=machine,
        )


def bare_loop(model: nn.Module, n: int, batch_size: int, device: torch.device, machine: Numerics) -> None:
    """As many steps on one random batch that lies on the device."""
    images = torch.rand(batch_size, 3, SIDE_PX, SIDE_PX, device=device)
    labels = torch.arange(batch_size, device=device) % N_CLASSES
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.001, momentum=0.9, nesterov=True, weight_decay=0.0005
    )
    low = machine.precision == "bfloat16"
    model.train()
    for _ in range(EPOCHS * n // batch_size):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=low):
            loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def measure(
    name: str, device: torch.device, precision: str, n: int, batch_size: int, width: float
) -> dict[str, float]:
    """Images a second of everything that the pipeline does with a net, each after a first go that is not timed."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    machine, parts = numerics(device.type, precision), random_parts(n, device)
    model = classifier(name, parts, device, width)
    batching, balanced = shuffled_batches(batch_size), balanced_batches(PRESET.lda.samples_per_class, None)
    train(model, Objective(), parts, batching, machine, 1)
    trained = EPOCHS * n
    rates = {
        "bare loop": trained / seconds(lambda: bare_loop(model, n, batch_size, device, machine), device),
        "training": trained
        / seconds(lambda: train(model, Objective(), parts, batching, machine, EPOCHS), device),
    }
    train(model, PushObjective(PRESET.lda), parts, balanced, machine, 1)
    rates["push"] = trained / seconds(
        lambda: train(model, PushObjective(PRESET.lda), parts, balanced, machine, EPOCHS),
        device,
    )
    images, labels = parts.train.first(batch_size), parts.train.labels[:batch_size]
    model.eval()
    kept = torch.ones(decision_layer(model).in_features, dtype=torch.bool)
    calls: dict[str, Callable[[], object]] = {
        "tracing": lambda: trace_utility(model, images, kept, batch_size=batch_size),
        "fgsm": lambda: craft(
            FgsmAttack(method="fgsm", epsilon=8.0), model, images, labels, batch_size=batch_size
        ),
        "newton_fool": lambda: craft(
            NewtonFoolAttack(method="newton_fool", steps=20, eta=1e-5),
            model,
            images,
            labels,
            batch_size=batch_size,
        ),
    }
    for what, call in calls.items():
        call()
        rates[what] = len(images) / seconds(call, device)
    return rates


def peak_gib(device: torch.device) -> float:
    """Peak memory of the device since `measure` began, or of this process so far on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def accuracy(
    prepared: Path, name: str, device: torch.device, precision: str, epochs: int, width: float
) -> float:
    """Validation accuracy after training a fresh net on a prepared set."""
    parts = load_parts(prepared, device)
    model = classifier(name, parts, device, width)
    machine = numerics(device.type, precision)
    return train(model, Objective(), parts, shuffled_batches(128), machine, epochs).validation.accuracy


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, and on request the numbers as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5120, help="images of an epoch")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument(
        "--width", type=float, default=1.0, help="multiplier of all channels, for a slow machine"
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--prepared", type=Path, help="a set of colour images that stage prepare wrote")
    parser.add_argument("--epochs", type=int, default=10, help="of training on that set")
    parser.add_argument(
        "--nondeterministic", action="store_true", help="let torch choose its fastest operations, for once"
    )
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    chosen = parser.parse_args(arguments)
    device = configure_torch(numerics("auto", "float32"))
    if chosen.nondeterministic:
        torch.set_deterministic_debug_mode("default")
        torch.backends.cudnn.benchmark = True
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(
        f"torch {torch.__version__}, {device.type} ({hardware}), {SIDE_PX}x{SIDE_PX}, batches of {chosen.batch_size}"
    )
    found = []
    for name in chosen.nets:
        for precision in chosen.precisions:
            rates = measure(name, device, precision, chosen.images, chosen.batch_size, chosen.width)
            row = (
                {"net": name, "width": chosen.width, "precision": precision}
                | rates
                | {"peak GiB": peak_gib(device)}
            )
            row["training / bare loop"] = rates["training"] / rates["bare loop"]
            if chosen.prepared is not None:
                row["validation accuracy"] = accuracy(
                    chosen.prepared, name, device, precision, chosen.epochs, chosen.width
                )
            found.append(row)
            print(
                ", ".join(f"{k} {v if isinstance(v, str) else f'{v:,.4g}'}" for k, v in row.items()),
                flush=True,
            )
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
