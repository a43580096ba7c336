"""What pays, taken apart: every way reaches the same size, and has as much training as every other."""

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from builders import NUMERICS, lda_weights, parts, schedule
from safetensors.numpy import save_file
from tiny_params import ABLATE, params_of
from torch import Tensor

from pipeline.checkpoint import save_model
from pipeline.compare import ablation
from pipeline.compare.ablation import Way, cut, rows
from pipeline.cost import count_params, measure_cost
from pipeline.deconv import Utility
from pipeline.images.image_set import save_image_set
from pipeline.images.parts import Parts
from pipeline.jobs.job import Job, Workplace
from pipeline.models.classifier import Classifier
from pipeline.params.nets.sections import FcModel
from pipeline.params.perturbations import GaussianNoise
from pipeline.params.pruning import Ablate, Score, SensitivityChoice, Surgery, Widths
from pipeline.params.training import BalancedSchedule, FirstSchedule, Schedule, Train
from pipeline.prune.target_size import Target
from pipeline.training.classifiers import build_classifier
from pipeline.training.resume import ResumePoint
from stages import ablate

# Of the start, before the cut; of retraining.
BEFORE, AFTER = 3, 2
SCORES: tuple[Score, ...] = get_args(Score)
WIDTHS: tuple[Widths, ...] = get_args(Widths)
NOISE = GaussianNoise(kind="gaussian", std=60.0)
SURGERY = Surgery(
    utility="saliency",
    widths="layer",
    per_cost=None,
    latent=SensitivityChoice(method="sensitivity", max_drop=0.1),
    trace_images_per_class=10,
    round_to=1,
    remove_branches=False,
    keep=[],
    min_channels=1,
)
TRAIN = Train(training=FirstSchedule(**schedule(batch_size=20).model_dump()), auxiliary=None)


@cache
def images() -> Parts:
    return parts(120)


@cache
def start() -> Classifier:
    torch.manual_seed(0)
    net = FcModel(architecture="fc", hidden=[40, 30, 16])
    return build_classifier(net, images().image_set, wanted_for="model")


def retraining(plain: Schedule) -> BalancedSchedule:
    return BalancedSchedule(**plain.model_dump())


def way(folder: Path, **changes: Any) -> Way:
    settings: dict[str, Any] = {"score": "saliency", "widths": "global", "scratch": True, "noise": None}
    return Way(
        **settings | changes,
        parts=images(),
        retraining=retraining(schedule(epochs=AFTER)),
        training=TRAIN,
        lda=lda_weights(),
        surgery=SURGERY,
        epochs_before=BEFORE,
        seed=0,
        resume=ResumePoint(folder),
        numerics=NUMERICS.model_copy(update={"eval_batch_size": 64}),
    )


def size(fraction: float) -> Target:
    return Target("params", fraction * count_params(start()))


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("score", SCORES)
def test_every_score_and_widths_reach_each_size_from_a_start_that_stays(
    score: Score, widths: Widths, tmp_path: Path
) -> None:
    before = copy.deepcopy(start().state_dict())
    targets = [size(0.5), size(0.25)]
    for model, target in zip(
        cut(way(tmp_path, score=score, widths=widths, noise=NOISE), start(), targets), targets, strict=True
    ):
        assert count_params(model) == pytest.approx(target.value, rel=0.05)
    torch.testing.assert_close(start().state_dict(), before, rtol=0, atol=0)


def test_ways_have_latent_layers_of_one_width(tmp_path: Path) -> None:
    """How many neurons stay is the choice of M' for all of them."""
    found = set()
    for score in ("deconvolution", "saliency", "l1", "taylor", "random"):
        (model,) = cut(way(tmp_path, score=score), start(), [size(0.5)])
        found.add([*model.parameters()][-2].shape[1])
    assert len(found) == 1


def test_uniform_widths_are_those_of_every_score(tmp_path: Path) -> None:
    """So that their net from scratch is trained once."""
    shapes = set()
    for score in SCORES:
        (model,) = cut(way(tmp_path, score=score, widths="uniform", noise=NOISE), start(), [size(0.5)])
        shapes.add(tuple(tuple(each.shape) for each in model.parameters()))
    assert len(shapes) == 1


def _utilities(monkeypatch: pytest.MonkeyPatch, of: Way) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What a cut is made by."""
    seen: list[tuple[dict[str, Tensor], dict[str, Any]]] = []

    def keep(
        model: Classifier, utilities: Mapping[str, Utility], _target: Target, _example: Tensor, **options: Any
    ) -> tuple[Classifier]:
        seen.append(({name: each.channels for name, each in utilities.items()}, options))
        return (model,)

    monkeypatch.setattr(ablation, "prune_to_size", keep)
    assert len([*cut(of, start(), [size(0.5)])]) == 1
    return seen[0]


@pytest.mark.parametrize("score", ["deconvolution", "saliency"])
def test_tracing_on_noise_ranks_filters_otherwise_and_keeps_the_choice_of_neurons(
    score: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, options = _utilities(monkeypatch, way(tmp_path, score=score))
    noisy, noisy_options = _utilities(monkeypatch, way(tmp_path, score=f"{score}_noisy", noise=NOISE))
    again, _ = _utilities(monkeypatch, way(tmp_path, score=f"{score}_noisy", noise=NOISE))
    assert set(noisy) == set(clean)
    assert not any(torch.allclose(noisy[name], clean[name]) for name in clean)
    torch.testing.assert_close(again, noisy, rtol=0, atol=0)
    for name in ("latent_kept", "latent_order"):
        torch.testing.assert_close(noisy_options.pop(name), options.pop(name), rtol=0, atol=0)
    assert noisy_options == options


def test_a_row_for_each_size_and_training_has_as_many_epochs_as_every_other(tmp_path: Path) -> None:
    noisy_test = torch.rand(len(images().perturbed), 1, 8, 8)
    targets = [size(0.5), size(0.25)]
    found = [*rows(way(tmp_path), start(), targets, noisy_test)]
    assert [(row["step"], row["training"]) for row in found] == [
        (step, training) for step in (0, 1) for training in ("none", "ramped", "scratch")
    ]
    assert {row["epochs"] for row in found} == {BEFORE + AFTER}
    for step in (0, 1):
        same = [row for row in found if row["step"] == step]
        assert len({(row["params"], row["flops"]) for row in same}) == 1
    for part in ("validation", "test"):
        assert {row[f"{part}_n"] for row in found} == {len(getattr(images(), part))}
        assert all(0 <= row[f"{part}_n_correct"] <= row[f"{part}_n"] for row in found)
    assert {row["noisy_n"] for row in found} == {len(images().perturbed)}
    # What was trained for so long is what the resume points say.
    for training, epochs in {"none": AFTER, "ramped": AFTER, "scratch": BEFORE + AFTER}.items():
        loaded = ResumePoint(tmp_path).child(0, training).load()
        assert loaded is not None
        assert len(loaded[1]["history"]) == epochs


def test_without_scratch_and_noise_there_are_two_trainings_and_clean_images(tmp_path: Path) -> None:
    found = [*rows(way(tmp_path, scratch=False), start(), [size(0.5)], None)]
    assert [row["training"] for row in found] == ["none", "ramped"]
    assert not any("noisy_n" in row for row in found)


def _jobs(section: Ablate | None) -> list[Job]:
    params = params_of(("seeds", [0, 1]))
    return [
        *ablate.jobs(
            Path("runs/tiny"),
            seeds=params.seeds,
            numerics=params.numerics,
            train=params.train,
            lda=params.lda,
            surgery=params.surgery,
            noise=params.noise,
            ablate=section,
        )
    ]


def _section(**changes: Any) -> Ablate:
    found = params_of(("ablate", ABLATE | changes)).ablate
    assert found is not None
    return found


def test_there_are_no_jobs_where_nothing_is_taken_apart() -> None:
    assert _jobs(None) == []


def test_ways_are_crossed_and_start_from_the_push_or_its_control() -> None:
    jobs = _jobs(_section(widths=["layer", "uniform"]))
    crossed = [
        (seed, start, score, widths)
        for seed in (0, 1)
        for start in ("pushed", "control")
        for score in ("saliency", "l1", "saliency_noisy")
        for widths in ("layer", "uniform")
    ]
    assert [tuple(job.labels.values()) for job in jobs] == crossed
    for job in jobs:
        push = "main" if job.labels["start"] == "pushed" else "control"
        assert job.inputs["start"] == Path(f"runs/tiny/push/{job.labels['seed']}/{push}/model")
        assert job.inputs["noisy"] == Path("runs/tiny/noise/gaussian")
        assert not (job.settings["scratch"] and job.labels["score"].endswith("_noisy")), job.name


def test_the_uniform_net_is_trained_from_scratch_for_the_first_score_alone() -> None:
    for job in _jobs(_section(widths=["layer", "global", "uniform"], noise=None)):
        first = job.labels["score"] == "saliency"
        assert job.settings["scratch"] == (job.labels["widths"] != "uniform" or first), job.name
        assert "noisy" not in job.inputs


def test_the_stage_writes_a_table_by_shares_of_the_original(tmp_path: Path) -> None:
    """The net that is cut may be another than the one that its sizes are counted from."""
    for folder in ("prepared", "noisy", "out"):
        (tmp_path / folder).mkdir()
    save_image_set(images().image_set, tmp_path / "prepared")
    save_model(start(), tmp_path / "original")
    save_model(start(), tmp_path / "start", about={"epochs": BEFORE})
    test = images().perturbed
    arrays = {"images": test.scaled().numpy().astype(np.float16), "labels": test.labels.numpy()}
    save_file(arrays, tmp_path / "noisy/images.safetensors")
    said = ablate.work(
        Workplace(tmp_path / "out", tmp_path / "resume"),
        seed=0,
        score="l1",
        widths="global",
        scratch=False,
        numerics=NUMERICS,
        training=TRAIN,
        lda=lda_weights(),
        surgery=SURGERY,
        sizes={"flops": [0.4]},
        retraining=retraining(schedule(epochs=AFTER)),
        noise=NOISE,
        prepared=tmp_path / "prepared",
        original=tmp_path / "original",
        start=tmp_path / "start",
        noisy=tmp_path / "noisy",
    )
    header, *lines = (tmp_path / "out/ablation.csv").read_text(encoding="utf-8").splitlines()
    table = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    assert [row["training"] for row in table] == ["none", "ramped"]
    whole = measure_cost(start(), images().image_set.image_shape).flops
    for row in table:
        assert int(row["flops"]) == pytest.approx(0.4 * whole, rel=0.05)
        # The same images, in half precision.
        assert row["noisy_n"] == row["test_n"] == f"{len(test)}"
    hits = ", ".join(f"{row['training']} {row['test_n_correct']}" for row in table)
    assert said == f"{hits} of {len(test)}"
