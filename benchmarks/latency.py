"""`python -m benchmarks.latency`: FLOPs that pruning saves, and time that it saves in ONNX Runtime, by `round_to`.

Nets of 224 pixels with fresh weights, cut to shares of their FLOPs at uniform widths (`surgery.widths`): which filters
go makes no difference to time. All cuts of a net are run in turn, so that other programs slow them all; the best time
of each counts, as in the other benchmarks.
"""

import argparse
import time
from collections.abc import Sequence
from itertools import product

import torch
from torch import nn

from pipeline.cost import measure_cost
from pipeline.deconv import Utility
from pipeline.export import onnx_bytes
from pipeline.latency import onnx_session, random_images
from pipeline.models import build_model
from pipeline.models.classifier import Classifier, hidden_layers
from pipeline.prune.target_size import Target, prune_to_size

NETS = ("mobilenet_v2", "resnet18", "vgg16")
SHARES = (1 / 2, 1 / 3)
ROUND_TO = (1, 4, 8, 16)
SIDE_PX = 224
N_CLASSES = 1000


def fresh(name: str) -> Classifier:
    """torchvision's architecture with random weights."""
    torch.manual_seed(0)
    net = build_model(f"torchvision/{name}", N_CLASSES)
    classes = [str(idx) for idx in range(N_CLASSES)]
    shape = (3, SIDE_PX, SIDE_PX)
    return Classifier(net, image_shape=shape, mean=[0.5] * 3, std=[0.25] * 3, classes=classes).eval()


def random_utilities(model: nn.Module) -> dict[str, Utility]:
    """Of every layer that may be pruned."""
    draw = torch.Generator().manual_seed(0)
    return {
        name: Utility(torch.rand(len(layer.weight), 1, 1, generator=draw, dtype=torch.float64))
        for name, layer in hidden_layers(model).items()
    }


def compare(name: str, *, batch: int, runs: int, threads: int, round_to: Sequence[int]) -> None:
    """A line for each cut of one net."""
    whole = fresh(name)
    images, utilities = random_images(whole, batch), random_utilities(whole)
    examples = random_images(whole, 2)
    of_whole = measure_cost(whole, whole.image_shape).flops
    flops, sessions = {"whole": of_whole}, {"whole": onnx_session(onnx_bytes(whole, examples), threads)}
    for share, multiple in product(SHARES, round_to):
        target = Target("flops", share * of_whole)
        model, _, _, reached = prune_to_size(
            whole, utilities, target, examples, widths="uniform", round_to=multiple
        )
        cut = f"1/{round(1 / share)}, round_to {multiple}"
        flops[cut], sessions[cut] = int(reached), onnx_session(onnx_bytes(model, examples), threads)
    inputs, seconds = {"images": images.numpy()}, {cut: list[float]() for cut in sessions}
    for _ in range(runs + 1):
        for cut, session in sessions.items():
            started = time.perf_counter()
            session.run(None, inputs)
            seconds[cut].append(time.perf_counter() - started)
    best = {cut: min(times[1:]) for cut, times in seconds.items()}  # without the first go
    for cut in sessions:
        fewer, faster = of_whole / flops[cut], best["whole"] / best[cut]
        print(
            f"| {name} | {cut} | {fewer:.2f} | {1000 * best[cut]:.0f} | {faster:.2f} | {faster / fewer:.2f} |",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(NETS), help="of torchvision")
    parser.add_argument("--batch", type=int, default=32, help="images at a time")
    parser.add_argument("--runs", type=int, default=7, help="of which the best counts")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--round-to", type=int, nargs="+", default=list(ROUND_TO))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    print("| net | cut | FLOPs, times fewer | ms | times faster | of the FLOP ratio |")
    print("| :-- | :-- | --: | --: | --: | --: |")
    for name in chosen.nets:
        with torch.no_grad():
            compare(
                name,
                batch=chosen.batch,
                runs=chosen.runs,
                threads=chosen.threads,
                round_to=chosen.round_to,
            )


if __name__ == "__main__":
    main()
