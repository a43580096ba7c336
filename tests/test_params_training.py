"""params.yaml, sections on training: schedules and their batches, growing, the weights of the push."""

from typing import Any

import pytest
from tiny_params import assert_one_error, errors_of, params_of, sections_with

# Batches of the push's loss hold as many images of each class; so do those of what is compared with it.
BALANCED = ["push.training", "prune.retraining", "compare.retraining"]
SHUFFLED = ["train.training", "grow.training", "grow.full_training", "sources.resnet.training"]


def test_the_schedules_are_those_of_the_preset() -> None:
    assert set(sections_with("epochs")) == {*BALANCED, *SHUFFLED}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("epochs", -1, ("greater than", "got -1")),
        ("learning_rate", 0, ("greater than 0", "got 0")),
        ("optimizer.momentum", 1.0, ("less than 1", "got 1.0")),
        ("optimizer.clip_grad_norm", 0.0, ("greater than 0", "got 0")),
        ("optimizer.average_weights", 1.0, ("less than 1", "got 1.0")),
        ("optimizer.method", "adam", ("'sgd', 'rmsprop'", 'got "adam"')),
        ("optimizer.decay", 0.9, ("unknown key",)),
        ("weight_decay", -1e-4, ("greater than or equal to 0", "got -0.0001")),
        ("decision_weight_decay", -1e-4, ("greater than or equal to 0", "got -0.0001")),
        ("decision_weight_decay", ..., ("required key is missing",)),
        ("label_smoothing", 1.0, ("less than 1", "got 1.0")),
        ("shift_px", -1, ("greater than or equal to 0", "got -1")),
        ("mirror", 1, ("boolean", "got 1")),
        ("warmup_epochs", -1, ("greater than or equal to 0", "got -1")),
        ("batch_size", ..., ("required key is missing",)),
    ],
)
def test_a_bad_value_of_any_schedule_is_named_on_one_line(
    key: str, value: Any, words: tuple[str, ...]
) -> None:
    for section in (*BALANCED, *SHUFFLED):
        assert_one_error(f"{section}.{key}", *words, changes=[(f"{section}.{key}", value)])


@pytest.mark.parametrize("section", [*BALANCED, *SHUFFLED])
def test_a_warm_up_ends_with_the_run_at_the_latest(section: str) -> None:
    at_most = [(f"{section}.epochs", 4), (f"{section}.warmup_epochs", 4)]
    assert errors_of(*at_most) == []
    longer = [(f"{section}.epochs", 4), (f"{section}.warmup_epochs", 5)]
    assert_one_error(f"{section}.warmup_epochs", "at most epochs, 4", "got 5", changes=longer)


def test_the_decision_layer_may_go_without_decay() -> None:
    assert errors_of(*((f"{section}.decision_weight_decay", 0) for section in (*BALANCED, *SHUFFLED))) == []


@pytest.mark.parametrize("section", BALANCED)
def test_balanced_batches_have_no_size_of_their_own(section: str) -> None:
    """`lda` says how many images of each class they hold."""
    assert errors_of((f"{section}.batch_size", None)) == []
    assert_one_error(
        f"{section}.batch_size", "expected null", "got 64", changes=[(f"{section}.batch_size", 64)]
    )


@pytest.mark.parametrize("section", SHUFFLED)
def test_shuffled_batches_have_a_size_of_two_or_more(section: str) -> None:
    key = f"{section}.batch_size"
    assert errors_of((key, 2)) == []
    assert_one_error(key, "equal to 2", "got 1", changes=[(key, 1)])
    assert_one_error(key, "integer", "got null", changes=[(key, None)])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("auxiliary.batch_norm", ..., ("missing",)),
        ("max_modules", 0, ("greater than 0", "got 0")),
        ("max_modules", -1, ("greater than 0", "got -1")),
        ("noticeable_gain", 1.1, ("equal to 1", "got 1.1")),
        ("patience", 0, ("greater than 0", "got 0")),
        ("bounds.params", 0, ("greater than 0", "got 0")),
        ("bounds.flops", 1.5, ("integer", "got 1.5")),
        ("bounds.memory_mib", 0.0, ("greater than 0", "got 0.0")),
        ("bounds.memory_mib", ..., ("missing",)),
        ("start", "fresh", ("'parent' or 'scratch'", 'got "fresh"')),
    ],
)
def test_a_bad_rule_of_growing_is_named_on_one_line(key: str, value: Any, words: tuple[str, ...]) -> None:
    assert_one_error(f"grow.{key}", *words, changes=[(f"grow.{key}", value)])


def test_bounds_of_growth_are_null_or_positive() -> None:
    bounds = (("grow.bounds.params", 5000), ("grow.bounds.flops", 10**9), ("grow.bounds.memory_mib", 0.5))
    for changes, expected in ((bounds, (5000, 10**9, 0.5)), ((), (None, None, None))):
        grow = params_of(*changes).grow
        assert grow is not None
        assert (grow.bounds.params, grow.bounds.flops, grow.bounds.memory_mib) == expected


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("separation", "det", ("'trace' or 'log_det'", 'got "det"')),
        ("separation", ..., ("missing",)),
        ("gamma", -1.0, ("equal to 0", "got -1.0")),
        ("lambda", -1.0, ("equal to 0", "got -1.0")),
        ("lambda", ..., ("missing",)),
        ("beta", "much", ("number", 'got "much"')),
    ],
)
def test_a_bad_weight_of_a_push_is_named_on_one_line(key: str, value: Any, words: tuple[str, ...]) -> None:
    for section in ("push.variants.ours", "lda"):
        assert_one_error(f"{section}.{key}", *words, changes=[(f"{section}.{key}", value)])


def test_a_variant_has_the_weights_and_the_separation_and_nothing_else() -> None:
    key = "push.variants.ours.ridge"
    allowed = "allowed: separation, gamma, lambda, beta"
    assert_one_error(key, "unknown key", "got 0.1", allowed, changes=[(key, 0.1)])
