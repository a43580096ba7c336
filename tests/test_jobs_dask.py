"""Jobs on a Dask cluster: the same bytes, and one line for each way in which a cluster is not one to use."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from toy_project import ROOM, Toy, said_by, until

# One process for all that share the cluster.
pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("dask")]

# Two workers in processes that cannot import the project; one worker of two threads; none.
_CLUSTERS = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    kinds = [
        dict(n_workers=2, threads_per_worker=1, processes=True),
        dict(n_workers=1, threads_per_worker=2, processes=False, protocol='tcp://'),
        dict(n_workers=0),
    ]
    clusters = [LocalCluster(dashboard_address=None, **kind) for kind in kinds]
    print(*(cluster.scheduler_address for cluster in clusters), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "clusters.py").write_text(_CLUSTERS)
    process = subprocess.Popen(
        [sys.executable, "clusters.py"],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    yield process
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)


@pytest.fixture(scope="module")
def addresses(clusters: subprocess.Popen[str]) -> list[str]:
    assert clusters.stdout is not None
    return clusters.stdout.readline().split()


@pytest.fixture
def toy(tmp_path: Path, addresses: list[str]) -> Iterator[Toy]:
    toy = Toy(tmp_path / "toy")
    toy.change(("runtime.backend", "dask"), ("runtime.address", addresses[0]))
    yield toy
    toy.end()


def test_two_workers_make_the_bytes_of_one_process(toy: Toy, tmp_path: Path) -> None:
    alone = Toy(tmp_path / "alone")
    toy.change(("seeds", [0, 1, 2]))
    alone.change(("seeds", [0, 1, 2]))
    assert alone.here() == 0
    assert toy.must().last.startswith("toy: 6 jobs finished, 6 of them ran (")
    assert toy.outputs() == alone.outputs()
    assert len({line["process"] for line in toy.log("start")}) == 2


def test_workers_with_older_code_in_memory_are_refused(toy: Toy) -> None:
    toy.change(("seeds", [0]))
    toy.must()
    toy.path("stages/room.py").write_text(ROOM.replace("+ seed", "+ 2 * seed"))
    said = toy.run()
    assert said.code == 1
    refused = "its process has another stages/room.py in memory; start the Dask workers again"
    assert said.lines == [f"toy, seed 0, name base: {refused}"]
    assert len(toy.log("end")) == 2


def test_a_killed_worker_loses_no_epoch(toy: Toy) -> None:
    toy.change(("seeds", [0]), ("noise", {}))
    toy.act("0-base", "wait 2")
    process = toy.start()
    first = toy.await_act("0-base")
    os.kill(first, signal.SIGKILL)
    assert toy.await_act("0-base") != first
    toy.release("0-base")
    said = said_by(process)
    assert said.code == 0, said
    assert toy.path("acts/epochs.log").read_text().split()[1::2] == ["0", "1", "2", "3"]


def test_interrupted_it_says_one_line_and_finds_what_the_workers_end(toy: Toy) -> None:
    toy.change(("seeds", [0]), ("noise", {}))
    toy.act("0-base", "wait 2")
    process = toy.start()
    toy.await_act("0-base")
    os.killpg(process.pid, signal.SIGINT)
    said = said_by(process)
    assert said.code == 130
    (line,) = said.lines
    assert line.startswith("toy: interrupted; ")
    toy.release("0-base")
    until(lambda: toy.names("end") == ["0-base"])
    assert "1 jobs finished, 0 of them ran" in toy.must().last


def test_workers_of_several_threads_are_refused(toy: Toy, addresses: list[str]) -> None:
    toy.change(("runtime.address", addresses[1]))
    said = toy.run()
    assert said.code == 1
    assert said.lines == [
        "toy: params.yaml: runtime.address: expected workers of one thread each (dask worker --nthreads 1), got 2"
    ]
    assert toy.log("start") == []


def test_a_cluster_without_workers_is_refused(toy: Toy, addresses: list[str]) -> None:
    toy.change(("runtime.address", addresses[2]))
    said = toy.run()
    assert said.code == 1
    assert said.lines == [f"toy: params.yaml: runtime.address: expected workers at {addresses[2]}, got none"]


def test_an_address_without_a_scheduler_is_a_line(toy: Toy) -> None:
    toy.change(("runtime.address", "tcp://127.0.0.1:9"))
    toy.path("stages/impatient.py").write_text(
        "import pipeline.jobs.executors as executors\n"
        "from pipeline.jobs.stage import run_stage\n"
        "assert executors._CONNECT_SECONDS == 10\n"
        "executors._CONNECT_SECONDS = 0.5\n"
        "run_stage('stages.toy')\n"
    )
    said = toy.run(module="stages.impatient")
    assert said.code == 1
    (line,) = said.lines
    assert line.startswith(
        "toy: params.yaml: runtime.address: expected a Dask scheduler at tcp://127.0.0.1:9 ("
    )


@pytest.mark.parametrize(
    "address", ["nonsense://127.0.0.1:9", "tcp://127.0.0.1", "my cluster", "inproc://1/2/3"]
)
def test_what_is_no_address_is_a_line(toy: Toy, caplog: pytest.LogCaptureFixture, address: str) -> None:
    toy.change(("runtime.address", address))
    assert toy.here() == 1
    expected = f"expected one such as tcp://HOST:8786 (got {address})"
    assert caplog.messages == [f"toy: params.yaml: runtime.address: {expected}"]


def test_without_the_package_it_is_a_line(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert toy.here() == 1
    assert caplog.messages == [
        "toy: params.yaml: runtime.backend: dask needs the package distributed, which is not installed"
    ]


def test_a_lost_cluster_is_a_line(toy: Toy, clusters: subprocess.Popen[str]) -> None:
    """The last test here: nothing is left of it."""
    toy.change(("seeds", [0]), ("noise", {}))
    toy.act("0-base", "wait 2")
    process = toy.start()
    toy.await_act("0-base")
    os.killpg(clusters.pid, signal.SIGKILL)
    said = said_by(process)
    assert said.code == 1
    assert len(said.lines) == 1, said
    (line,) = said.lines
    assert line.startswith("toy: a process was lost (")
    assert "while these ran: seed 0, name base" in line
