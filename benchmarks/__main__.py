"""`make bench`: each row times ours and a named peer in turn and prints the ratio of their best times."""

import time
from collections.abc import Callable

import torch
from foolbox import Misclassification, PyTorchModel
from foolbox.attacks import LinfFastGradientAttack, NewtonFoolAttack
from torch import Tensor, nn

from pipeline.attacks import Fgsm, NewtonFool
from pipeline.deconv import trace_utility
from pipeline.models import build_model

REPEATS = 7
N_IMAGES = 120


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
    print(f"{name:<22} {mine:9.1f} ms   {peer_name:<38} {theirs:9.1f} ms   ratio {theirs / mine:5.2f}")


def digits_inception() -> nn.Module:
    """The digits preset's base."""
    torch.manual_seed(0)
    options = {"stages": (1, 2, 1), "base": (1, 2, 1), "width": 0.25, "stem": "small", "in_channels": 1}
    return build_model("inception", 10, **options)


def art_newton_fool(model: nn.Module, images: Tensor, *, steps: int) -> Callable[[], None]:
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
    attack = ArtNewtonFool(classifier, max_iter=steps, eta=0.01, verbose=False)

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
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    images, labels = torch.rand(N_IMAGES, 1, 8, 8), torch.arange(N_IMAGES) % 10
    print(f"torch {torch.__version__}, one thread, best of {REPEATS}, {N_IMAGES} images of 8x8")
    plain = digits_inception().to(memory_format=torch.contiguous_format)
    compare(
        "training step",
        training_step(digits_inception(), images, labels),
        "channels first (torch's default)",
        training_step(plain, images, labels),
    )
    model = digits_inception().eval()
    double = digits_inception().double()
    kept = torch.ones(208, dtype=torch.bool)
    compare(
        "utility tracing",
        lambda: trace_utility(model, images, kept),
        "float64 forward and backward pass",
        training_step(double, images.double(), labels),
    )
    source = PyTorchModel(model, bounds=(0, 1), device="cpu")
    predicted = model(images).argmax(1)
    criterion = Misclassification(predicted)
    compare(
        "Newton Fool, 20 steps",
        lambda: NewtonFool(steps=20, eta=0.01)(source, images, criterion, epsilons=None),
        "foolbox's NewtonFoolAttack",
        lambda: NewtonFoolAttack(steps=20, stepsize=0.01)(source, images, criterion, epsilons=None),
    )
    few = images[:32]
    compare(
        "Newton Fool, 32 images",
        lambda: NewtonFool(steps=20, eta=0.01)(source, few, Misclassification(predicted[:32]), epsilons=None),
        "ART's NewtonFool, its batch size",
        art_newton_fool(model, few, steps=20),
        repeats=2,
    )
    compare(
        "FGSM",
        lambda: Fgsm()(source, images, criterion, epsilons=0.06),
        "foolbox's LinfFastGradientAttack",
        lambda: LinfFastGradientAttack()(source, images, criterion, epsilons=0.06),
    )


if __name__ == "__main__":
    main()
