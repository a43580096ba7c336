"""Which classifiers of torchvision can be pruned, by name: `python -m benchmarks.torchvision_nets` writes the table.

Every net is built with random weights at a small side, traced by deconvolution and by saliency, and each of its layers
cut to half. The smaller net's logits are held against those of the whole net in which the inputs that see a removed
channel have zero weights; which inputs those are is measured with "not a number" on the running net.
"""

from __future__ import annotations

import argparse
import gc
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import torchvision.models as zoo
from torch import Tensor, nn

from pipeline.cost import count_params
from pipeline.deconv import Utility, trace_utility
from pipeline.files import read_json, write_json
from pipeline.models import build_model
from pipeline.models.classifier import decision_layer, output_layer
from pipeline.prune.surgery import Surgery
from pipeline.prune.widths import rank_channels
from pipeline.saliency import trace_saliency

PAGE = Path("docs/torchvision.md")
# A row for each net, so that a run that was ended goes on; emptied by `make clean`.
ROWS = Path(".jobs/torchvision_nets")
N_CLASSES = 4
# Copies of a net that its surgery and the comparison hold at a time.
_COPIES = 6
_SIDES = {"alexnet": 64, "inception_v3": 75, "maxvit_t": 224}
_SIDE = 32
# Logits in float64, relative to the largest.
_TOLERANCE = 1e-6
_HEAD = """# torchvision's classifiers

Made by `python -m benchmarks.torchvision_nets`. Every net has random weights and {n_classes} classes; `side` is that
of its images in this table. A net is pruned where its layers were cut to half and the logits are those of the whole net
with the removed channels set to zero; the number is the share of parameters that is left. Otherwise the line says what
is refused. Layers left whole are those whose channels cannot go without a change of what others compute, or are read by
functions that the surgery does not follow (attention by windows); all others are pruned.

{summary}

| net | side | by deconvolution | by saliency | left whole |
| :-- | --: | :-- | :-- | :-- |
{rows}
"""


@dataclass(frozen=True)
class Row:
    """What became of one net."""

    name: str
    side: int
    found: Mapping[str, str]
    whole: str


def try_net(name: str) -> Row:
    """Build, trace, cut and compare."""
    side, options = _SIDES.get(name, _SIDE), dict[str, Any]()
    if vit := re.fullmatch(r"vit_\w_(\d+)", name):
        side = 2 * int(vit[1])
        options["image_size"] = side
    torch.manual_seed(0)
    model = build_model(f"torchvision/{name}", N_CLASSES, **options).eval()
    if isinstance(last := output_layer(model), nn.Linear):
        nn.init.normal_(
            last.weight
        )  # vision transformers start with zeros there, and have no logits to compare
    n_bytes = sum(each.nbytes for each in model.parameters())
    if (room := psutil.virtual_memory().available) < _COPIES * n_bytes:
        line = f"not tried: {_COPIES * n_bytes / 1e9:.0f} GB of memory are needed, {room / 1e9:.0f} GB were there"
        return Row(name, side, {"deconvolution": line, "saliency": line}, "")
    images = torch.rand(2, 3, side, side)
    found, whole = {}, ""
    for reading in ("deconvolution", "saliency"):
        try:
            surgery = Surgery(model, trace := _trace(model, images, reading), images[:1])
            found[reading] = _cut_to_half(model, surgery, trace, images)
            whole = _left_whole(surgery.plan.whole, len(trace))
        except ValueError as error:
            found[reading] = str(error)
        except Exception as error:  # the others are tried all the same; a test holds that there is none
            found[reading] = f"DEFECT: {type(error).__name__}: {error}"
    return Row(name, side, found, whole)


def _trace(model: nn.Module, images: Tensor, reading: str) -> dict[str, Utility]:
    kept = torch.ones(decision_layer(model).in_features, dtype=torch.bool)
    if reading == "deconvolution":
        return trace_utility(model, images, kept)
    labels = torch.arange(len(images))
    return trace_saliency(model, images, labels, kept, ridge=1.0, samples_per_class=1, seed=0, of="response")


def _cut_to_half(
    model: nn.Module, surgery: Surgery[nn.Module], trace: Mapping[str, Utility], images: Tensor
) -> str:
    plan = surgery.plan
    latent = decision_layer(model).in_features // 2
    ranking = rank_channels(plan, trace, widths="uniform", latent_kept=latent)
    selection = plan.select(ranking.score, ranking.removed(0.5))
    removed: dict[str, list[int]] = {}
    for group, at in zip(plan.groups, plan.slices, strict=True):
        for writer in group.writers:
            gone = selection.removed[at][writer.root_idx].tolist()
            removed.setdefault(writer.name, []).extend(
                own for own, goes in zip(writer.own_idx, gone, strict=True) if goes
            )
    smaller = surgery.cut(selection)
    left = count_params(smaller) / count_params(model)
    if left == 1:
        raise ValueError("every layer is left whole")
    difference = _difference(model, smaller, removed, images)
    return f"{left:.0%}" if difference < _TOLERANCE else f"WRONG: logits differ by {difference:.1e}"


@torch.no_grad()
def _difference(
    model: nn.Module, smaller: nn.Module, removed: Mapping[str, list[int]], images: Tensor
) -> float:
    """The largest difference of logits between the smaller net and the masked one, relative to their largest."""
    layers = {name: each for name, each in model.named_modules() if isinstance(each, nn.Conv2d | nn.Linear)}
    seen: dict[str, Tensor] = {}

    def replace(name: str, x: Tensor, output: Tensor) -> Tensor:
        dim = 1 if isinstance(layers[name], nn.Conv2d) else -1
        seen[name] = x.isnan().movedim(dim, 0).flatten(1).any(1)
        noise = torch.rand_like(output)
        noise.movedim(dim, 0)[removed.get(name, [])] = torch.nan
        return noise

    hooks = [
        layer.register_forward_hook(lambda _, args, output, name=name: replace(name, args[0], output))
        for name, layer in layers.items()
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    saved = {name: layers[name].weight.clone() for name, silent in seen.items() if silent.any()}
    for name in saved:
        layer, silent = layers[name], seen[name]
        n_parts = layer.groups if isinstance(layer, nn.Conv2d) else 1
        weight = layer.weight.view(n_parts, -1, *layer.weight.shape[1:])
        for part, inputs in enumerate(silent.view(n_parts, -1)):
            weight[part, :, inputs] = 0
    model.double()
    expected, found = model(images.double()), smaller.double()(images.double())
    model.float()
    for name, weight in saved.items():
        layers[name].weight.copy_(weight)
    return float((found - expected).abs().max() / expected.abs().max())


def _left_whole(whole: Mapping[str, str], n_layers: int) -> str:
    reasons = Counter(reason.partition(" (")[0] for reason in whole.values())
    said = ", ".join(f"{reason}: {n}" for reason, n in reasons.most_common())
    return f"{len(whole)} of {n_layers} ({said})" if whole else ""


def write_page(rows: list[Row]) -> None:
    """The table, under a sentence that counts it."""
    pruned = {reading: sum(row.found[reading].endswith("%") for row in rows) for reading in rows[0].found}
    n_everywhere = sum(row.found["saliency"].endswith("%") and not row.whole for row in rows)
    summary = (
        f"Of {len(rows)} nets {pruned['saliency']} are pruned by saliency and {pruned['deconvolution']} by "
        f"deconvolution; {n_everywhere} lose channels in every layer."
    )
    lines = [
        f"| {row.name} | {row.side} | {row.found['deconvolution']} | {row.found['saliency']} | {row.whole} |"
        for row in rows
    ]
    text = _HEAD.format(n_classes=N_CLASSES, summary=summary, rows="\n".join(lines))
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Try those nets of which there is no row yet, all or those that are named; the page is made when all are there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torchvision_nets", description=__doc__)
    parser.add_argument("names", nargs="*")
    everyone = zoo.list_models(module=zoo)
    places = {name: ROWS / f"{name}.json" for name in everyone}
    for name in parser.parse_args().names or everyone:
        if not places[name].exists():
            start = time.monotonic()
            row = try_net(name)
            write_json(places[name], asdict(row))
            sys.stderr.write(f"{row} in {time.monotonic() - start:.0f} s\n")
            gc.collect()
    if all(place.exists() for place in places.values()):
        write_page([Row(**read_json(place)) for place in places.values()])


if __name__ == "__main__":
    main()
