"""What growing adds beyond training: `python -m benchmarks.growth`, after `grow` of a run of params.yaml.

The base goes through every training that lies behind the grown net (the quick one of each module, then the full one, on
the same batches) without a module being added. Base, grown net and this control are scored on the test part; rows, hits
and all, go to benchmarks/growth/<name>.csv.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed
from safetensors.torch import load_file

from pipeline.checkpoint import load_classifier, read_about
from pipeline.grow import Growing
from pipeline.images.parts import load_parts
from pipeline.machine.device import configure_torch
from pipeline.params.file import read_params
from pipeline.params.params import Params
from pipeline.report.hits import more_hits, with_accuracy
from pipeline.training.objectives import set_heads
from pipeline.training.predict import hits_on
from pipeline.training.resume import ResumePoint
from pipeline.uncertainty import counts_of, difference_interval

BASE, CONTROL, GROWN = "base", "base, trained on", "grown"


def score_seed(params: Params, seed: int) -> list[dict[str, Any]]:
    """A row for each of the three nets.

    Raises:
        ValueError: if nothing is grown under these params, or candidates start from scratch, not from their parent.
    """
    settings = params.grow
    if settings is None or settings.start != "parent":
        raise ValueError("grow: expected a section with start: parent, where candidates go on from the base")
    runs, numerics = Path("runs", params.name), params.numerics
    device = configure_torch(numerics)
    parts = load_parts(runs / "prepare", device, workers=0)
    growth = pd.read_csv(runs / "grow" / str(seed) / "growth.csv")
    quick = growth[(growth["training"] == "quick") & (growth["chosen"] == 1)]
    behind = quick[quick["iteration"] <= growth["iteration"].iloc[-1]]
    before = {BASE: runs / "train" / str(seed) / "model", GROWN: runs / "grow" / str(seed) / "model"}
    nets = {name: load_classifier(path).to(device) for name, path in before.items()}
    epochs = {name: read_about(path)["epochs"] for name, path in before.items()}
    control = load_classifier(before[BASE]).to(device)
    set_heads(control, load_file(runs / "train" / str(seed) / "heads.safetensors"))
    with tempfile.TemporaryDirectory() as folder:
        growing = Growing(settings, parts, seed=seed, resume=ResumePoint(Path(folder)), numerics=numerics)
        for iteration, stage in zip(behind["iteration"], behind["grown_stage"], strict=True):
            growing.train(control, int(iteration), int(stage) - 1)
        growing.train_fully(control)
    trainings = [settings.training] * len(behind) + [settings.full_training]
    nets[CONTROL], epochs[CONTROL] = control, epochs[BASE] + sum(each.epochs for each in trainings)
    rows = []
    for name, net in nets.items():
        cost, score = growing.measure(net), growing.score(net)
        correct = counts_of(hits_on(net, parts.test, batch_size=numerics.eval_batch_size))
        validation = {"validation_n": score.n, "validation_n_correct": score.n_correct}
        size = {"params": cost.params, "flops": cost.flops, "epochs": epochs[name]}
        rows.append({"seed": seed, "net": name} | size | validation | correct)
    return rows


def main() -> None:
    """All seeds, as many at a time as there are cores; what the grown nets gain on each of the others, in points."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    params = read_params()
    if not (grown := Path("runs", params.name, "grow")).exists():
        sys.exit(f"{grown}: expected what `grow` leaves; run it first")
    found = Parallel(n_jobs=-1)(delayed(score_seed)(params, seed) for seed in params.seeds)
    table = pd.DataFrame([row for rows in found for row in rows])
    path = Path("benchmarks/growth", f"{params.name}.csv")
    path.parent.mkdir(exist_ok=True)
    print(table.drop(columns="hits").to_string(index=False))
    table.to_csv(path, index=False, lineterminator="\n")
    nets = dict(iter(with_accuracy(table).groupby("net")))
    for name in (BASE, CONTROL):
        gain = difference_interval(more_hits(nets[GROWN], nets[name]), confidence=params.report.confidence)
        print(f"grown, less {name}: {gain.percent(signed=True)} points")


if __name__ == "__main__":
    main()
