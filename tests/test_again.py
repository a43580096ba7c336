"""A collapsed training is tried again at a tenth of the rate: the same as if that had been the first, bit for bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_competitors import HEADS, NUMERICS, base_training, contest, parts, play, start, state
from torch import Tensor

from pipeline.params.training import ShuffledSchedule
from pipeline.training.again import Tried, once_more
from pipeline.training.fit import Outcome
from pipeline.training.fresh import train_plainly
from pipeline.training.objectives import heads_of
from pipeline.training.resume import ResumePoint

RATE = base_training().training.learning_rate


def learned(model: torch.nn.Module) -> Tensor:
    """Every weight, the auxiliary heads' too."""
    return torch.cat([state(model), *(each.flatten() for each in heads_of(model).values())])


def try_it(folder: Path, *, collapses_above: float) -> tuple[Tried, Tensor, list[float]]:
    """Train a net that is said to collapse above a learning rate; what it has learned, and the rates that it had."""
    model, rates = start(), list[float]()

    def fit(settings: ShuffledSchedule, resume: ResumePoint) -> Outcome:
        rates.append(settings.learning_rate)
        found = train_plainly(
            model, settings, parts(), auxiliary=HEADS, seed=3, resume=resume, numerics=NUMERICS
        )
        last = found.history[-1] | {"collapsed": int(settings.learning_rate > collapses_above)}
        return replace(found, history=[*found.history[:-1], last])

    torch.manual_seed(5)
    tried = once_more(fit, model, base_training().training, ResumePoint(folder / "fit"))
    return tried, learned(model), rates


def direct(folder: Path, rate: float) -> Tensor:
    model = start()
    torch.manual_seed(5)
    settings = base_training(learning_rate=rate).training
    resume = ResumePoint(folder / "direct")
    train_plainly(model, settings, parts(), auxiliary=HEADS, seed=3, resume=resume, numerics=NUMERICS)
    return learned(model)


def test_one_that_does_not_collapse_is_trained_once(tmp_path: Path) -> None:
    tried, weights, rates = try_it(tmp_path, collapses_above=1.0)
    assert (tried, rates) == (Tried(collapsed=False, retried=False), [RATE])
    assert torch.equal(weights, direct(tmp_path, RATE))


@pytest.mark.parametrize(("above", "collapsed"), [(RATE / 2, False), (0.0, True)])
def test_one_that_collapses_is_trained_again_from_its_start_at_a_tenth_of_the_rate(
    tmp_path: Path, above: float, collapsed: bool
) -> None:
    tried, weights, rates = try_it(tmp_path, collapses_above=above)
    assert tried == Tried(collapsed=collapsed, retried=True)
    assert rates == pytest.approx([RATE, RATE / 10])
    assert torch.equal(weights, direct(tmp_path, rates[1]))
    assert not torch.equal(weights, direct(tmp_path / "other", RATE))


def test_one_that_was_killed_before_its_second_try_ends_with_the_same_bits(tmp_path: Path) -> None:
    _, whole, _ = try_it(tmp_path, collapses_above=RATE / 2)
    (tmp_path / "fit/again.safetensors").unlink()  # the first try is finished, the second has not begun
    tried, resumed, _ = try_it(tmp_path, collapses_above=RATE / 2)
    assert tried.retried
    assert torch.equal(resumed, whole)


def test_a_method_whose_retraining_collapses_has_another_try_in_its_row(tmp_path: Path) -> None:
    """A learning rate at which a real net ends at chance, and a tenth at which it need not."""
    played = contest(tmp_path, "l1")
    hot = played.retraining.model_copy(update={"learning_rate": 1e3})
    entrant = next(iter(play(replace(played, retraining=hot))))
    assert entrant.retried
