"""A training that is repeated, at another rate or after a collapse, is as if it had been the only one, bit for bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from test_competitors import HEADS, NUMERICS, base_training, contest, ours, parts, play, start, state
from torch import Tensor

from pipeline.compared import OURS
from pipeline.params.training import ShuffledSchedule
from pipeline.training import again
from pipeline.training.again import Tried, best_rate, once_more
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
    assert (tried[:3], rates) == ((False, False, RATE), [RATE])
    assert [row["epoch"] for row in tried.history] == [1, 2, 3, 4]
    assert torch.equal(weights, direct(tmp_path, RATE))


@pytest.mark.parametrize(("above", "collapsed"), [(RATE / 2, False), (0.0, True)])
def test_one_that_collapses_is_trained_again_from_its_start_at_a_tenth_of_the_rate(
    tmp_path: Path, above: float, collapsed: bool
) -> None:
    tried, weights, rates = try_it(tmp_path, collapses_above=above)
    assert (tried.collapsed, tried.retried) == (collapsed, True)
    assert tried.learning_rate == rates[1]
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
    assert entrant.tried.retried


@pytest.mark.parametrize(("scores", "best"), [([2, 3, 3], 1), ([5, 3, 4], 0), ([1, 2, 9], 2)])
def test_of_several_rates_the_best_on_validation_is_kept_as_if_it_had_been_the_only_one(
    scores: list[float], best: int, tmp_path: Path
) -> None:
    model, factors, told = start(), [1.0, 0.8, 0.6], iter(scores)

    def fit(settings: ShuffledSchedule, resume: ResumePoint) -> Outcome:
        return train_plainly(
            model, settings, parts(), auxiliary=HEADS, seed=3, resume=resume, numerics=NUMERICS
        )

    torch.manual_seed(5)
    tried = best_rate(
        fit,
        model,
        base_training().training,
        ResumePoint(tmp_path / "fit"),
        factors=factors,
        score=lambda: next(told),
    )
    drawn = torch.rand(1)  # what comes after does not feel the others either
    assert tried[:3] == (False, False, factors[best] * RATE)
    assert torch.equal(learned(model), direct(tmp_path, factors[best] * RATE))
    assert torch.equal(drawn, torch.rand(1, generator=torch.Generator().set_state(_after_one(tmp_path))))


def _after_one(folder: Path) -> torch.Tensor:
    """The random numbers' state after a training by itself."""
    direct(folder / "alone", RATE)
    return torch.get_rng_state()


def test_a_collapsed_net_is_kept_only_where_all_collapsed(tmp_path: Path) -> None:
    """At a thousand times its rate the net ends at chance; it scores best here, and is not taken."""
    model = start()

    def fit(settings: ShuffledSchedule, resume: ResumePoint) -> Outcome:
        found = train_plainly(
            model, settings, parts(), auxiliary=HEADS, seed=3, resume=resume, numerics=NUMERICS
        )
        last = found.history[-1] | {"collapsed": int(settings.learning_rate > RATE / 2)}
        return replace(found, history=[*found.history[:-1], last])

    told = iter([9, 1])
    tried = best_rate(
        fit,
        model,
        base_training().training,
        ResumePoint(tmp_path / "fit"),
        factors=[100.0, 0.5],
        score=lambda: next(told),
    )
    assert tried[:3] == (False, False, RATE / 2)


@pytest.mark.parametrize("method", [OURS, "l1", "han", "scratch"])
def test_every_method_of_a_contest_tries_the_same_rates_at_every_size_and_goes_on_from_the_best(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played, seen = replace(contest(tmp_path, method), rate_factors=[0.5, 0.8, 1.0]), list[int]()

    def hits(_: object, images: object, **__: object) -> npt.NDArray[np.bool_]:
        """So that the second is the best at the first size, the third at the second."""
        assert images is played.parts.validation
        seen.append(1)
        return np.arange(5) < [3, 5, 4, 1, 2, 3][len(seen) - 1]

    ours()  # which the others follow, and which is trained in earnest
    monkeypatch.setattr("pipeline.compare.contest.hits_on", hits)
    monkeypatch.setattr(again, "once_more", lambda *args: Tried(False, False, args[2].learning_rate, []))
    own = base_training().training if method == "scratch" else played.retraining
    assert [each.tried.learning_rate for each in play(played)] == [0.8 * own.learning_rate, own.learning_rate]
    assert len(seen) == 6
