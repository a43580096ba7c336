"""What a job is doing right now reaches whoever watches it, and nobody else."""

import threading
from pathlib import Path

import pytest
import torch
from builders import NUMERICS, parts, schedule

from pipeline.attacks import craft
from pipeline.models import build_model
from pipeline.params.perturbations import FgsmAttack
from pipeline.progress import tell, watched_by
from pipeline.training.batches import shuffled_batches
from pipeline.training.fit import fit
from pipeline.training.objectives import Objective
from pipeline.training.resume import ResumePoint


def test_what_is_told_reaches_the_innermost_watcher_while_it_watches() -> None:
    outer, inner = list[str](), list[str]()
    tell("before")
    with watched_by(outer.append):
        tell("one")
        with watched_by(inner.append):
            tell("two")
        tell("three")
    tell("after")
    assert (outer, inner) == (["one", "three"], ["two"])


def test_a_watcher_never_hears_another_thread_and_is_gone_after_an_error() -> None:
    seen = list[str]()

    def fail() -> None:
        other = threading.Thread(target=tell, args=("from another thread",))
        other.start()
        other.join()
        raise KeyError

    with pytest.raises(KeyError), watched_by(seen.append):
        fail()
    tell("after")
    assert seen == []


def test_training_tells_its_epochs_and_crafting_its_images(tmp_path: Path) -> None:
    seen = list[str]()
    data = parts()
    torch.manual_seed(0)
    model = build_model("fc", 3, in_features=64, hidden=(5,))
    with watched_by(seen.append):
        fit(
            model,
            Objective(),
            data,
            schedule(epochs=2),
            batching=shuffled_batches(6),
            seed=0,
            resume=ResumePoint(tmp_path / "fit"),
            numerics=NUMERICS,
        )
        attack = FgsmAttack(method="fgsm", epsilon=8.0)
        craft(attack, model, data.validation.scaled(), data.validation.labels, batch_size=10)
    assert [line.partition(",")[0] for line in seen[:2]] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert seen[2:] == ["image 10 of 15", "image 15 of 15"]
