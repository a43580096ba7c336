"""Seeds that do not meet, and the device that the params ask for."""

from collections.abc import Iterator

import pytest
import torch
from builders import NUMERICS

from pipeline.errors import InputError
from pipeline.machine.device import configure_torch
from pipeline.machine.environment import describe_environment
from pipeline.machine.seeding import derive_seed, generator, seed_torch


@pytest.fixture(autouse=True)
def _settings_restored() -> Iterator[None]:
    n_threads, debug_mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    yield
    torch.set_num_threads(n_threads)
    torch.set_deterministic_debug_mode(debug_mode)
    torch.set_flush_denormal(False)


def has(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("wanted", "cuda", "mps", "found"),
    [
        ("auto", False, False, "cpu"),
        ("auto", True, False, "cuda:3"),
        ("auto", False, True, "cpu"),  # has to be asked for
        ("cpu", True, True, "cpu"),
        ("cuda", True, False, "cuda:3"),
        ("mps", False, True, "mps"),
    ],
)
def test_the_device_is_the_one_asked_for(
    wanted: str, cuda: bool, mps: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, cuda=cuda, mps=mps)
    assert str(configure_torch(NUMERICS.model_copy(update={"device": wanted}))) == found
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled() == (wanted != "cpu")


@pytest.mark.parametrize(
    ("wanted", "cuda", "mps", "there"),
    [("cuda", False, False, "cpu"), ("cuda", False, True, "cpu, mps"), ("mps", True, False, "cpu, cuda")],
)
def test_a_device_that_is_not_there_is_one_line(
    wanted: str, cuda: bool, mps: bool, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, cuda=cuda, mps=mps)
    with pytest.raises(InputError) as caught:
        configure_torch(NUMERICS.model_copy(update={"device": wanted}))
    assert str(caught.value) == (
        f"params.yaml: numerics.device: expected auto or what this machine has, {there} (got {wanted})"
    )


def test_the_environment_names_the_gpu_that_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, cuda=True, mps=False)
    assert describe_environment(torch.device("cuda", 3))["gpu"] == "GPU 3"
    assert "gpu" not in describe_environment(torch.device("cpu"))


def test_streams_of_different_uses_do_not_meet() -> None:
    assert derive_seed(1, "train") == derive_seed(1, "train")
    seeds = {derive_seed(*parts) for parts in [(1, "train"), (1, "push"), (11, "train"), ("1train",), (1,)]}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
    draws = [torch.rand(3, generator=generator(0, use)) for use in ("a", "a", "b")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    seed_torch(0, "a")
    first = torch.rand(3)
    seed_torch(0, "a")
    assert torch.equal(first, torch.rand(3))
