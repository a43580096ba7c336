"""Take ours through the sizes of the comparison, and every competitor after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compared import OURS
from pipeline.jobs.job import Input, Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics
    from pipeline.params.pruning import Compare, FixedNet, Surgery
    from pipeline.params.training import Lda, Schedule, Train

TRAINS = True

# What fills the most time comes first, so that the last jobs are short.
_LONGEST_FIRST = ("scratch", "han")


def jobs(
    runs: Path,
    *,
    seeds: list[int],
    numerics: Numerics,
    lda: Lda,
    surgery: Surgery,
    train: Train,
    compare: Compare | None,
) -> Iterator[Job]:
    """One for each seed and method: ours, which the others follow, the competitors, the fixed nets."""
    if compare is None:
        return
    shared: dict[str, Any] = {"numerics": numerics, "lda": lda, "surgery": surgery}
    shared |= {"sizes": compare.sizes, "retraining": compare.retraining, "training": None, "net": None}
    ours = {}
    for seed in seeds:
        pushed = runs / "push" / str(seed)
        ours[seed] = Job(
            {"seed": seed, "method": OURS},
            shared | {"seed": seed, "method": OURS},
            {
                "prepared": runs / "prepare",
                "base": runs / "train" / str(seed) / "model",
                "start": pushed / "main" / "model",
            },
        )
        yield ours[seed]
    others = sorted(compare.competitors, key=lambda name: name not in _LONGEST_FIRST)
    for name in [*compare.fixed_nets, *others]:
        for seed in seeds:
            own: dict[str, Any] = {"seed": seed, "method": name}
            inputs: dict[str, Input] = {
                "prepared": runs / "prepare",
                "start": runs / "push" / str(seed) / "control" / "model",
            }
            if name in compare.fixed_nets:
                own |= {"training": train, "net": compare.fixed_nets[name]}
            else:
                own["training"] = train if name == "scratch" else None
                inputs["ours"] = ours[seed]
            yield Job({"seed": seed, "method": name}, shared | own, inputs)


def work(
    place: Workplace,
    *,
    seed: int,
    method: str,
    numerics: Numerics,
    lda: Lda,
    surgery: Surgery,
    sizes: list[float],
    retraining: Schedule,
    training: Train | None,
    net: FixedNet | None,
    prepared: Path,
    start: Path,
    base: Path | None = None,
    ours: Path | None = None,
) -> str:
    """From the net that a method starts from to `step0`, `step1`, ... and `comparison.csv`."""
    from pipeline.checkpoint import load_classifier, read_about, save_model
    from pipeline.compare.competitors import Contest, comparison_row, entrants
    from pipeline.cost import count_params
    from pipeline.files import write_csv
    from pipeline.images.parts import load_parts
    from pipeline.machine.device import configure_torch
    from pipeline.training.resume import ResumePoint

    device = configure_torch(numerics)
    contest = Contest(
        parts=load_parts(prepared, device, workers=place.workers),
        retraining=retraining,
        lda=lda,
        surgery=surgery,
        epochs_before=read_about(start)["epochs"],
        seed=seed,
        method=method,
        resume=ResumePoint(place.resume / "fit"),
        numerics=numerics,
    )
    rows = []
    for entrant in entrants(
        contest,
        load_classifier(start).to(device),
        n_params=[round(size * count_params(load_classifier(base))) for size in sizes] if base else [],
        ours=[load_classifier(ours / f"step{step}").to(device) for step in range(len(sizes))] if ours else [],
        training=training,
        net=net,
        n_steps=len(sizes),
    ):
        rows.append(comparison_row(contest, entrant))
        save_model(entrant.model, place.out / f"step{entrant.step}")
    write_csv(place.out / "comparison.csv", rows)
    return ", ".join(f"{row['params']:,} parameters" for row in rows)


if __name__ == "__main__":
    run_stage("stages.compare")
