"""Take ours through the sizes of the comparison, and every competitor after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compared import OURS, is_ours, variant_name
from pipeline.jobs.job import Input, Job, Workplace
from pipeline.jobs.stage import run_stage

if TYPE_CHECKING:
    from pipeline.params.machine import Numerics
    from pipeline.params.pruning import Compare, FixedNet, Sizes, Surgery
    from pipeline.params.training import Auxiliary, Lda, Retraining, Train

TRAINS = True

# What fills the most time comes first, so that the last jobs are short.
_LONGEST_FIRST = ("scratch", "han")
# Of every epoch of the training that counts: objectives, which differ by method, are no matter here.
_CURVE = ("epoch", "validation_n", "validation_n_correct", "validation_loss")


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
    shared: dict[str, Any] = {"numerics": numerics, "lda": lda, "auxiliary": train.auxiliary}
    shared |= {name: getattr(compare, name) for name in ("sizes", "retraining", "rate_factors")}
    variants = {variant_name(name): each for name, each in compare.variants.items()}
    surgeries = {name: surgery.varied(each) for name, each in variants.items()}
    others = sorted(compare.competitors, key=lambda name: name not in _LONGEST_FIRST)
    ours: dict[int, Job] = {}
    for name in [OURS, *variants, *compare.fixed_nets, *others]:
        net = compare.fixed_nets.get(name)
        shared |= {"net": net, "training": train if net or name == "scratch" else None}
        shared |= {"surgery": surgeries.get(name, surgery)}
        for seed in seeds:
            pushed = runs / "push" / str(seed) / ("main" if is_ours(name) else "control")
            inputs: dict[str, Input] = {"prepared": runs / "prepare", "start": pushed / "model"}
            if is_ours(name):
                inputs["original"] = runs / "grow" / str(seed) / "model"
            elif net is None:
                inputs["ours"] = ours[seed]
            job = Job({"seed": seed, "method": name}, shared | {"seed": seed, "method": name}, inputs)
            if name == OURS:
                ours[seed] = job
            yield job


def work(
    place: Workplace,
    *,
    seed: int,
    method: str,
    numerics: Numerics,
    lda: Lda,
    surgery: Surgery,
    sizes: Sizes,
    retraining: Retraining,
    rate_factors: list[float],
    auxiliary: Auxiliary | None,
    training: Train | None,
    net: FixedNet | None,
    prepared: Path,
    start: Path,
    original: Path | None = None,
    ours: Path | None = None,
) -> str:
    """From the net that a method starts from to `step0`, `step1`, ..., `comparison.csv` and `curves.csv`."""
    from pipeline.checkpoint import load_classifier, read_about, save_model
    from pipeline.compare.competitors import entrants
    from pipeline.compare.contest import Contest, comparison_row
    from pipeline.files import write_csv
    from pipeline.images.parts import load_parts
    from pipeline.machine.device import configure_torch
    from pipeline.prune.target_size import Target, measure_size
    from pipeline.training.resume import ResumePoint

    device = configure_torch(numerics)
    contest = Contest(
        parts=load_parts(prepared, device, workers=place.workers),
        retraining=retraining,
        rate_factors=rate_factors,
        auxiliary=auxiliary,
        lda=lda,
        surgery=surgery,
        epochs_before=read_about(start)["epochs"],
        seed=seed,
        method=method,
        resume=ResumePoint(place.resume / "fit"),
        numerics=numerics,
    )
    ((unit, fractions),) = sizes.items()
    whole = 0.0
    if original:
        model = load_classifier(original).to(device)
        whole = measure_size(model, unit, contest.parts.image_set.image_shape)
    rows, curves = [], []
    for entrant in entrants(
        contest,
        load_classifier(start).to(device),
        targets=[Target(unit, fraction * whole) for fraction in fractions],
        ours=[load_classifier(ours / f"step{step}").to(device) for step in range(len(fractions))]
        if ours
        else [],
        training=training,
        net=net,
        n_steps=len(fractions),
    ):
        rows.append(comparison_row(contest, entrant))
        curves += [
            {"step": entrant.step, **{each: row[each] for each in _CURVE}} for row in entrant.tried.history
        ]
        save_model(entrant.model, place.out / f"step{entrant.step}")
    write_csv(place.out / "comparison.csv", rows)
    write_csv(place.out / "curves.csv", curves)
    return ", ".join(f"{row['params']:,} parameters" for row in rows)


if __name__ == "__main__":
    run_stage("stages.compare")
