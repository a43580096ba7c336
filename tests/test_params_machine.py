"""params.yaml, sections on the machine: how numbers are computed, and where the jobs run."""

from copy import deepcopy
from typing import Any

import pytest
from tiny_params import LATENCY, Change, assert_one_error, errors_of, params_of


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("device", "gpu", ("'auto', 'cpu', 'cuda' or 'mps'", 'got "gpu"')),
        ("precision", "float64", ("'float32', 'bfloat16' or 'float16'", 'got "float64"')),
        ("precision", 16, ("'bfloat16'", "got 16")),
        ("compile", 1, ("boolean", "got 1")),
        ("threads", 0, ("greater than 0", "got 0")),
        ("threads", "auto", ("integer", 'got "auto"')),
        ("eval_batch_size", 0, ("greater than 0", "got 0")),
        ("devices", 0, ("greater than 0", "got 0")),
        ("num_nodes", 0, ("greater than 0", "got 0")),
        ("strategy", "dp", ("'ddp' or 'fsdp'", 'got "dp"')),
        ("strategy", ..., ("missing",)),
        ("jobs", 2, ("unknown key", "got 2", "allowed: device, precision")),
    ],
)
def test_bad_numerics_are_named_on_one_line(key: str, value: Any, words: tuple[str, ...]) -> None:
    assert_one_error(f"numerics.{key}", *words, changes=[(f"numerics.{key}", value)])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("runs", 49, ("equal to 50", "got 49")),
        ("batches", [], ("at least 1", "got []")),
        ("batches.0", 0, ("greater than 0", "got 0")),
        ("threads", 0, ("greater than 0", "got 0")),
        ("threads", ..., ("missing",)),
    ],
)
def test_a_bad_latency_is_named_on_one_line(key: str, value: Any, words: tuple[str, ...]) -> None:
    changes = [("latency", deepcopy(LATENCY)), (f"latency.{key}", value)]
    assert_one_error(f"latency.{key}", *words, changes=changes)


def _several(device: str, devices: int, num_nodes: int) -> list[Change]:
    return [("numerics.device", device), ("numerics.devices", devices), ("numerics.num_nodes", num_nodes)]


@pytest.mark.parametrize(
    ("device", "devices", "num_nodes"),
    [("mps", 1, 1), *((device, *each) for device in ("auto", "cpu", "cuda") for each in ((2, 1), (4, 2)))],
)
def test_several_processes_may_train_one_net(device: str, devices: int, num_nodes: int) -> None:
    assert params_of(*_several(device, devices, num_nodes)).numerics.n_processes == devices * num_nodes


@pytest.mark.parametrize(("devices", "num_nodes", "n"), [(2, 1, 2), (1, 2, 2), (4, 2, 8)])
def test_mps_is_alone_as_nothing_links_its_processes(devices: int, num_nodes: int, n: int) -> None:
    words = (f"expected auto, cpu or cuda for {n} processes", "got 'mps'")
    assert_one_error("numerics.device", *words, changes=_several("mps", devices, num_nodes))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        *(("jobs", value, ("expected 'auto' or an integer from 1 to 1024",)) for value in (0, -1, 1.5, True)),
        *(("jobs", value, ("expected 'auto' or an integer from 1 to 1024",)) for value in ("all", "2", None)),
        ("jobs", ..., ("missing",)),
        ("backend", "threads", ("'loky' or 'dask'", 'got "threads"')),
        ("address", "", ("at least 1", 'got ""')),
        ("address", 8786, ("string", "got 8786")),
        ("workers", -1, ("equal to 0", "got -1")),
        ("store_gib", 0, ("greater than 0", "got 0")),
        ("store_gib", None, ("number", "got null")),
        ("device", "cpu", ("unknown key", "allowed: jobs, backend")),
    ],
)
def test_a_bad_runtime_is_named_on_one_line(key: str, value: Any, words: tuple[str, ...]) -> None:
    assert_one_error(f"runtime.{key}", *words, changes=[(f"runtime.{key}", value)])


@pytest.mark.parametrize("jobs", ["auto", 1, 64])
def test_jobs_are_a_number_or_as_many_as_the_machine_does(jobs: int | str) -> None:
    found = params_of(("runtime.jobs", jobs)).runtime.jobs
    assert (found, type(found)) == (jobs, type(jobs))


def test_a_cluster_has_an_address() -> None:
    dask, address = ("runtime.backend", "dask"), ("runtime.address", "tcp://127.0.0.1:8786")
    assert_one_error("runtime.address", "such as tcp://127.0.0.1:8786", "got null", changes=[dask])
    assert errors_of(dask, address) == []
    assert errors_of(address) == []  # of use once the backend is switched
