"""Ours by saliency with one thing changed, at every compared size: `python -m benchmarks.tries [NAME ...]`.

After `compare` of a run of params.yaml, where ours goes by saliency, or has a variant `saliency`. Each try cuts and
retrains with the same seeds and batches as that did, so that nothing differs but its change, and what follows from it.
Rows, hits and all, go to benchmarks/tries/<name>.csv beside those of the method as it is; a try that stands there is
run again where it is named. A competitor whose widths a try changes too goes after its nets, as after ours.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed

from pipeline.compared import OURS, variant_name
from pipeline.jobs.job import Job, Workplace
from pipeline.jobs.output import list_jobs
from pipeline.params.file import read_params
from pipeline.params.params import Params
from pipeline.params.pruning import SensitivityChoice
from pipeline.report.hits import more_hits, with_accuracy
from pipeline.uncertainty import difference_interval
from stages import compare

AS_IT_IS = "as it is"


def _with_surgery(job: Job, **changes: object) -> Job:
    surgery = job.settings["surgery"].model_copy(update=changes)
    return Job(job.labels, {**job.settings, "surgery": surgery}, job.inputs)


def _without_push(job: Job) -> Job:
    """From the control, which was trained as long without the push, and retrained by cross-entropy alone."""
    retraining = job.settings["retraining"].model_copy(update={"push": "none"})
    pushed = job.inputs["start"]
    assert isinstance(pushed, Path)
    start = pushed.parent.with_name("control") / pushed.name
    return Job(job.labels, {**job.settings, "retraining": retraining}, {**job.inputs, "start": start})


TRIES: dict[str, Callable[[Job], Job]] = {
    # M' gives the latent layer what the layers before it then lack.
    "latent neurons within 5 points": lambda job: _with_surgery(
        job, latent=SensitivityChoice(method="sensitivity", max_drop=0.05)
    ),
    "500 images of each class traced": lambda job: _with_surgery(job, trace_images_per_class=500),
    "without the push": _without_push,
    "score by parameter": lambda job: _with_surgery(job, per_cost="params"),
}
# Taylor's widths are its own but for the latent layer's, which is as wide as ours.
FOLLOWERS = {"latent neurons within 5 points": "taylor_own"}


def followed_by(name: str) -> str:
    """What the rows of a try's follower are named."""
    return f"{name}, {FOLLOWERS[name]}"


def run(name: str, job: Job, follower: Job | None) -> pd.DataFrame:
    """The rows of a try and of what follows it, one for each size."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [_run_job(TRIES[name](job), Path(folder, "ours")).assign(change=name)]
        if follower:
            after = Job(follower.labels, follower.settings, {**follower.inputs, "ours": Path(folder, "ours")})
            rows.append(_run_job(after, Path(folder, "follower")).assign(change=followed_by(name)))
        return pd.concat(rows).assign(seed=job.labels["seed"])


def _run_job(job: Job, out: Path) -> pd.DataFrame:
    place = Workplace(out, out.with_suffix(".resume"))
    place.out.mkdir()
    arguments: dict[str, Any] = {**job.settings, **job.inputs}
    compare.work(place, **arguments)
    return pd.read_csv(place.out / "comparison.csv")


def method_of(params: Params) -> str:
    """Ours by saliency, as `compare` names it.

    Raises:
        ValueError: if ours goes by saliency nowhere in these params.
    """
    if params.surgery.utility == "saliency":
        return OURS
    if params.compare and "saliency" in params.compare.variants:
        return variant_name("saliency")
    raise ValueError(f"{params.name}: expected surgery.utility or a variant of compare to be saliency")


def main() -> None:
    """As many at a time as there are cores; what each gains at each size, in points of the test images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help=", ".join(TRIES))
    names = parser.parse_args().names or [*TRIES]
    if unknown := {*names} - {*TRIES}:
        parser.error(f"expected some of {', '.join(TRIES)}, got {', '.join(sorted(unknown))}")
    params = read_params()
    try:
        method = method_of(params)
    except ValueError as error:
        parser.error(str(error))
    listed = {(job.labels["seed"], job.labels["method"]): job for job in list_jobs(compare, params)}
    runs = [
        (name, listed[seed, method], listed.get((seed, FOLLOWERS.get(name, ""))))
        for name, seed in product(names, params.seeds)
    ]
    path, compared = Path("benchmarks/tries", f"{params.name}.csv"), Path("runs", params.name, "compare")
    if not compared.exists():
        sys.exit(f"{compared}: expected what `compare` leaves; run it first")
    path.parent.mkdir(exist_ok=True)
    ours = pd.read_csv(compared / "comparison.csv")
    tables = [ours[ours["method"] == method].drop(columns="method").assign(change=AS_IT_IS)]
    if path.exists():
        before = pd.read_csv(path)
        again = [AS_IT_IS, *names, *(followed_by(name) for name in names if name in FOLLOWERS)]
        tables.append(before[~before["change"].isin(again)])
    tables += Parallel(n_jobs=-1, verbose=10)(delayed(run)(*each) for each in runs)
    table = pd.concat(tables)
    table.to_csv(path, index=False, lineterminator="\n")
    say(with_accuracy(table), params.report.confidence)


def say(table: pd.DataFrame, confidence: float) -> None:
    """Each change less the method as it is, and less its follower, on the test images."""
    compared = [(name, AS_IT_IS) for name in TRIES] + [(name, followed_by(name)) for name in FOLLOWERS]
    for step, rows in table.sort_values("seed").groupby("step"):
        changes = {str(name): of_one for name, of_one in rows.groupby("change")}
        for name, other in compared:
            if name in changes and other in changes:
                more = more_hits(changes[name], changes[other], "test_")
                gain = difference_interval(more, confidence=confidence)
                print(f"size {step}, {name} less {other}: {gain.percent(signed=True)} points")


if __name__ == "__main__":
    main()
