"""`make bench`: each row times ours and a named peer in turn and prints the ratio of their best times."""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import product

import torch
import torchvision
from foolbox import Misclassification, PyTorchModel
from foolbox.attacks import LinfFastGradientAttack, NewtonFoolAttack
from sklearn.datasets import load_digits
from torch import Tensor, nn

from pipeline.attacks import Fgsm, NewtonFool
from pipeline.deconv import trace_utility
from pipeline.models import build_model
from pipeline.models.classifier import decision_layer, lay_out

REPEATS = 7
REPEATS_OF_ART = 2  # it takes seconds
N_IMAGES = 120
STEPS = 20
TRACED: dict[str, dict[str, bool]] = {
    "resnet18": {},
    "googlenet": {"aux_logits": False, "init_weights": False},
    "vgg11_bn": {},
}


def compare(
    name: str,
    ours: Callable[[], object],
    peer_name: str,
    peer: Callable[[], object],
    *,
    repeats: int = REPEATS,
) -> None:
    """Print the best of several alternating timings of both, and peer / ours (above 1: ours is faster)."""
    ours(), peer()
    best = [float("inf"), float("inf")]
    for _ in range(repeats):
        for idx, call in enumerate((ours, peer)):
            started = time.perf_counter()
            call()
            best[idx] = min(best[idx], time.perf_counter() - started)
    mine, theirs = (1000 * seconds for seconds in best)
    print(f"{name:<40} {mine:9.1f} ms   {peer_name:<36} {theirs:9.1f} ms   ratio {theirs / mine:6.2f}")


def digits_inception() -> nn.Module:
    """The digits preset's base."""
    torch.manual_seed(0)
    options = {"stages": (1, 2, 1), "base": (1, 2, 1), "width": 0.25, "stem": "small", "in_channels": 1}
    return build_model("inception", 10, **options)


def digit_images() -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits, float32 (n, 1, 8, 8) in [0, 1], and their labels (n,), shuffled."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    return images[order], torch.from_numpy(digits.target)[order]


def train_briefly(model: nn.Module, images: Tensor, labels: Tensor, *, epochs: int = 6) -> nn.Module:
    """The model after a few epochs of Adam, in evaluation mode."""
    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=random).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def compare_traces() -> None:
    """Of nets of 64 and 224 pixels: medians of a trace and of a forward and backward pass to the input, and
    trace / forward+backward (below 1: the trace is faster).
    """
    for name, (side_px, n) in product(TRACED, ((64, 16), (224, 2))):
        torch.manual_seed(0)
        net = lay_out(getattr(torchvision.models, name)(weights=None, **TRACED[name]).eval())
        kept = torch.ones(decision_layer(net).in_features, dtype=torch.bool)
        images = torch.rand(n, 3, side_px, side_px)
        seconds: list[list[float]] = [[], []]
        for _ in range(REPEATS + 1):
            for idx, call in enumerate((partial(trace_utility, net, images, kept), to_input(net, images))):
                started = time.perf_counter()
                call()
                seconds[idx].append(time.perf_counter() - started)
        trace, passes = (1000 * statistics.median(each[1:]) for each in seconds)  # without the first go
        print(
            f"{f'{name}, {side_px} pixels, {n} images':<40} {trace:9.1f} ms   "
            f"{'forward and backward to the input':<36} {passes:9.1f} ms   "
            f"trace / forward+backward {trace / passes:5.2f}"
        )


def to_input(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """One forward and backward pass to the images."""
    wanted = images.clone().requires_grad_(True)
    return lambda: torch.autograd.grad(model(wanted).sum(), wanted)


def compare_newton_fool(name: str, model: nn.Module, images: Tensor, *, eta: float) -> None:
    """Ours against foolbox's; the row says how many images ours fooled, which are those that leave the batch."""
    source = PyTorchModel(model, bounds=(0, 1), device="cpu")
    with torch.no_grad():
        criterion = Misclassification(model(images).argmax(1))
    ours, foolboxs = NewtonFool(steps=STEPS, eta=eta), NewtonFoolAttack(steps=STEPS, stepsize=eta)
    n_fooled = int(ours(source, images, criterion, epsilons=None)[2].sum())
    compare(
        f"Newton Fool, {name}: {n_fooled} fooled",
        lambda: ours(source, images, criterion, epsilons=None),
        "foolbox's NewtonFoolAttack",
        lambda: foolboxs(source, images, criterion, epsilons=None),
    )


def compare_art(name: str, model: nn.Module, images: Tensor) -> None:
    """Ours against ART's Newton Fool."""
    source = PyTorchModel(model, bounds=(0, 1), device="cpu")
    with torch.no_grad():
        criterion = Misclassification(model(images).argmax(1))
    compare(
        f"Newton Fool, {name}, {len(images)} images",
        lambda: NewtonFool(steps=STEPS, eta=0.01)(source, images, criterion, epsilons=None),
        "ART's NewtonFool, its batch size",
        art_newton_fool(model, images),
        repeats=REPEATS_OF_ART,
    )


def art_newton_fool(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """The Adversarial Robustness Toolbox's Newton Fool, with its default batch size."""
    from art.attacks.evasion import NewtonFool as ArtNewtonFool  # seconds to import, for one row
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=10,
        clip_values=(0, 1),
        device_type="cpu",
    )
    attack = ArtNewtonFool(classifier, max_iter=STEPS, eta=0.01, verbose=False)

    def run() -> None:
        attack.generate(images.numpy())

    return run


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """One forward and backward pass."""

    def step() -> None:
        model.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()

    return step


def main() -> None:
    """Time everything on one thread of the CPU."""
    argparse.ArgumentParser(prog="make bench", description=__doc__).parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    images, labels = digit_images()
    model = train_briefly(digits_inception(), images[N_IMAGES:], labels[N_IMAGES:])
    images, labels = images[:N_IMAGES], labels[:N_IMAGES]
    n_correct = int((model(images).argmax(1) == labels).sum())
    print(
        f"torch {torch.__version__}, one thread, best of {REPEATS} ({REPEATS_OF_ART} against ART), "
        f"{N_IMAGES} images of 8x8; the trained net is right on {n_correct} of them"
    )
    plain = digits_inception().to(memory_format=torch.contiguous_format)
    compare(
        "training step",
        training_step(digits_inception(), images, labels),
        "channels first (torch's default)",
        training_step(plain, images, labels),
    )
    compare_traces()
    untrained = digits_inception().eval()
    compare_newton_fool("untrained net", untrained, images, eta=0.01)
    compare_newton_fool("trained net", model, images, eta=0.01)
    compare_newton_fool("small eta", model, images, eta=1e-5)
    compare_art("untrained", untrained, images[:32])
    compare_art("trained", model, images[:32])
    source, criterion = PyTorchModel(model, bounds=(0, 1), device="cpu"), Misclassification(labels)
    compare(
        "FGSM",
        lambda: Fgsm()(source, images, criterion, epsilons=0.06),
        "foolbox's LinfFastGradientAttack",
        lambda: LinfFastGradientAttack()(source, images, criterion, epsilons=0.06),
    )


if __name__ == "__main__":
    main()
