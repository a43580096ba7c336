"""A job's key: what a result depends on changes it, and nothing else does."""

import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from tiny_params import params_of
from toy_project import ROOM, Toy, inside

from pipeline.errors import InputError
from pipeline.jobs import context
from pipeline.jobs.job import Input, Job
from pipeline.jobs.run import JobKeys
from pipeline.jobs.store import Finished

PARAMS = params_of(("report.headline", ["fgsm"]))
BASE = Job({"seed": 0}, {}, {})
DONE = {BASE: Finished(Path("somewhere"), "content", "a line")}


@pytest.fixture(autouse=True)
def toy(tmp_path: Path) -> Iterator[Toy]:
    with inside(Toy(tmp_path / "toy")) as toy:
        yield toy


def _key(
    *,
    labels: Mapping[str, int | str] | None = None,
    settings: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Input] | None = None,
    done: Mapping[Job, Finished] = DONE,
) -> str:
    settings = {"seed": 0, "numerics": PARAMS.numerics, "noise": PARAMS.noise["gaussian"]} | dict(
        settings or {}
    )
    read = {"data": Path("data.txt"), "base": BASE} | dict(inputs or {})
    return JobKeys("stages.toy").key(Job(labels or {"seed": 0}, settings, read), done)


def test_key_is_the_same_for_the_same() -> None:
    assert _key() == _key()
    assert len(_key()) == 32


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 1},
        {"seed": "0"},
        {"noise": PARAMS.noise["poisson"]},
        {"noise": None},
        {"noise": params_of(("noise.gaussian.std", 6.0)).noise["gaussian"]},
        {"numerics": params_of(("numerics.threads", 2)).numerics},
        {"etas": [0.5]},
        {"nets": {"a": PARAMS.noise["poisson"]}},
    ],
)
def test_a_setting_changes_it(settings: Mapping[str, Any]) -> None:
    assert _key(settings=settings) != _key()


def test_settings_inside_lists_and_mappings_count() -> None:
    keys = {
        _key(settings={"several": value})
        for value in ([1, 2], [2, 1], [1], {"a": PARAMS.lda}, {"b": PARAMS.lda}, {"a": PARAMS.surgery})
    }
    assert len(keys) == 6


def test_labels_are_none_of_it() -> None:
    assert _key(labels={"seed": 7, "name": "another"}) == _key()


def test_a_byte_of_an_input_changes_it(toy: Toy) -> None:
    before = _key()
    toy.path("data.txt").write_text("some dats")
    assert _key() != before


def test_an_inputs_place_is_none_of_it(toy: Toy) -> None:
    before = _key()
    toy.path("data.txt").rename(toy.path("moved.txt"))
    assert _key(inputs={"data": Path("moved.txt")}) == before


def test_an_earlier_jobs_content_changes_it() -> None:
    other = {BASE: Finished(Path("somewhere"), "other content", "a line")}
    elsewhere = {BASE: Finished(Path("elsewhere"), "content", "another line")}
    assert _key(done=other) != _key()
    assert _key(done=elsewhere) == _key()


def test_several_inputs_count_by_name(toy: Toy) -> None:
    toy.path("more.txt").write_text("more")
    pair = {"a": Path("data.txt"), "b": Path("more.txt")}
    swapped = {"a": Path("more.txt"), "b": Path("data.txt")}
    assert len({_key(), _key(inputs={"several": pair}), _key(inputs={"several": swapped})}) == 3


def test_a_missing_input_names_itself() -> None:
    with pytest.raises(
        InputError, match=r"runs/tiny/prepare: expected an earlier stage's output; run `dvc repro`"
    ):
        _key(inputs={"prepared": Path("runs/tiny/prepare")})


def test_an_unstored_jobs_key_says_whose_it_is_and_not_what_lies_on_disk(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Copies of the project that share a store must not take each other's images."""

    def key(seed: int = 0) -> str:
        job = Job({}, {"seed": seed}, {"data": toy.path("data.txt")})
        return JobKeys("stages.toy", stored=False).key(job, {})

    before = key()
    toy.path("data.txt").write_text("other data")
    assert key() == before
    assert key(seed=1) != before
    toy.root.rename(tmp_path / "copy")
    (tmp_path / "toy").symlink_to(tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    assert key() != before
    toy.path("data.txt").unlink()
    with pytest.raises(InputError, match=r"data.txt: expected an earlier stage's output; run `dvc repro`"):
        key()


EDITS: dict[str, Callable[[str], str]] = {
    "comment": lambda text: f"# a remark\n{text}",
    "docstring": lambda text: text.replace("A number that", "The number that"),
    "docstring of the module": lambda text: text.replace("What the toy", "That which the toy"),
    "line ends": lambda text: text.replace("\n", "\r\n"),
    "formatting": lambda text: text.replace("+ seed", "+ (\n        seed\n    )"),
    "blank lines": lambda text: text.replace("\n\n", "\n\n\n\n"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_what_changes_no_result_in_the_code_is_none_of_it(toy: Toy, edit: Callable[[str], str]) -> None:
    before = _key()
    assert edit(ROOM) != ROOM
    toy.path("stages/room.py").write_bytes(edit(ROOM).encode())
    assert _key() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [("+ seed", "+ 2 * seed"), ("enumerate(text, 1)", "enumerate(text)"), ("def", "x = 1\n\n\ndef")],
)
def test_an_edit_of_imported_code_changes_it(toy: Toy, old: str, new: str) -> None:
    before = _key()
    toy.path("stages/room.py").write_text(ROOM.replace(old, new))
    assert _key() != before


def test_an_edit_of_the_stage_changes_it(toy: Toy) -> None:
    before, script = _key(), toy.path("stages/toy.py")
    script.write_text(script.read_text().replace("EPOCHS = 4", "EPOCHS = 5"))
    assert _key() != before


def test_what_is_imported_for_types_alone_is_none_of_it(toy: Toy) -> None:
    before = _key()
    toy.path("stages/typed.py").write_text("x = 1\n")
    assert _key() == before


@pytest.mark.parametrize("library", ["torch", "numpy", "scipy", "foolbox", "python"])
def test_a_librarys_version_changes_it(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    before, installed = _key(), dict(context.versions())
    monkeypatch.setattr(context, "versions", lambda: installed | {library: "0.0"})
    assert library in installed
    assert _key() != before


def test_the_kind_of_device_changes_it_but_not_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for found in (("cpu",), ("H100",), ("H100", "H100"), ("H200",), ("H100", "H200")):
        monkeypatch.setattr(context, "devices", lambda _, found=found: found)
        keys.append(_key())
    assert keys[1] == keys[2]
    assert len(set(keys)) == 4


def test_a_stage_without_torch_has_one_key_on_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for found in (("cpu",), ("H100",)):
        monkeypatch.setattr(context, "devices", lambda _, found=found: found)
        job = Job({}, {"noise": PARAMS.noise["gaussian"]}, {})
        keys.append(JobKeys("stages.toy").key(job, {}))
    assert keys[0] == keys[1]


def test_a_machine_without_a_gpu_does_not_import_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_may_have_gpu", lambda: False)
    monkeypatch.setitem(sys.modules, "torch", None)  # an import raises
    context.devices.cache_clear()
    for device, kind in (("auto", "cpu"), ("cpu", "cpu"), ("mps", "mps")):
        assert context.devices(params_of(("numerics.device", device)).numerics) == (kind,)
    context.devices.cache_clear()


def test_gpus_are_counted() -> None:
    assert [context.n_gpus(kinds) for kinds in (("cpu",), ("mps",), ("H100", "H100"))] == [0, 0, 2]


def test_timm_counts_where_it_is_installed() -> None:
    assert context.versions()["timm"] == version("timm")
