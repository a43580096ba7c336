"""Every preset passes, can be read by a person, and stands for jobs that fit each other."""

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Workspace
from ruamel.yaml import YAML

from pipeline.jobs.job import Job
from pipeline.jobs.output import RUNS, list_jobs
from pipeline.params.file import read_params
from pipeline.params.nets.sections import TorchvisionModel
from pipeline.params.params import Params

PRESETS = {path.stem: path for path in sorted((ROOT / "presets").glob("*.yaml"))}
# In the order in which they run.
STAGES = [
    *("prepare", "train", "grow", "push", "prune", "select", "compare", "evaluate", "source"),
    *("noise", "ablate", "craft", "white_box", "robustness", "latency", "report"),
]
MODULES = {stage: import_module(f"stages.{stage}") for stage in STAGES}

# Keys whose names say what they are; gamma, lambda and beta are in the line of their section.
SPEAKING = {
    *("source", "name", "attribute", "attributes", "architecture", "hidden", "dropout", "competitors"),
    *("train_folds", "validation_folds", "test_folds", "validation_fraction", "test_fraction"),
    *("learning_rate", "momentum", "weight_decay", "warmup_epochs"),
    *("gamma", "lambda", "beta", "noise_seed", "gallery_seed"),
    *("min_validation_accuracy", "target_params_fraction"),
}


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@cache
def _params(preset: str) -> Params:
    return read_params(PRESETS[preset])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_passes_under_its_own_name(preset: str) -> None:
    assert _params(preset).name == preset


def test_params_file_is_the_digits_preset() -> None:
    assert (ROOT / "params.yaml").read_bytes() == PRESETS["digits"].read_bytes()


def test_a_preset_is_as_long_as_a_person_reads() -> None:
    lengths = {preset: len(_lines(path)) for preset, path in PRESETS.items()}
    assert {preset: n for preset, n in lengths.items() if not 100 <= n <= 170} == {}
    assert sum(lengths.values()) <= 2200
    assert len(_lines(ROOT / "params.yaml")) <= 260


@pytest.mark.parametrize("preset", ["cifar10", "cifar100", "lfwa", "adience_age", "image_folder"])
def test_fixed_nets_start_from_imagenet_weights_where_the_base_does_and_torchvision_has_them(
    preset: str,
) -> None:
    """CVIU 5.2: "the original base and competing fixed models are pre-trained on ImageNet"."""
    params = _params(preset)
    assert isinstance(params.model, TorchvisionModel)
    assert params.model.pretrained
    assert params.compare is not None
    weights = {
        "squeezenet": "squeezenet1_0",
        "mobilenet_v2": "mobilenet_v2",
    }  # none for v1 and the tiny ResNets
    found = {name: net.model for name, net in params.compare.fixed_nets.items() if name in weights}
    assert len(found) == 1
    for name, model in found.items():
        assert model == TorchvisionModel(architecture="torchvision", name=weights[name], pretrained=True)


def _keys(node: Any) -> Iterator[str]:
    for key, below in node.items() if isinstance(node, dict) else ():
        yield key
        yield from _keys(below)
    for below in node if isinstance(node, list) else ():
        yield from _keys(below)


@pytest.mark.parametrize("preset", PRESETS)
def test_no_key_is_one_that_dvc_does_not_see(preset: str) -> None:
    """Two names, at any depth, are left out of the run-cache's key (treeverse/dvc#10296)."""
    keys = set(_keys(YAML(typ="safe").load(PRESETS[preset].read_text(encoding="utf-8"))))
    assert {"epochs", "momentum", "max_drop"} <= keys
    assert ("fraction" in keys) is (_params(preset).lineup is not None)
    assert not keys & {"size", "nfiles"}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_value_has_a_word_on_what_it_is_unless_its_name_says_it(preset: str) -> None:
    """Of values that have a line to themselves: behind it, or in a line above it."""
    silent, above = set(), ""
    for line in _lines(PRESETS[preset]):
        found = re.match(r" *(\w+): +(?![&*{#])\S", line)
        if found and "#" not in line and not above.lstrip().startswith("#"):
            silent.add(found[1])
        above = line
    assert silent - SPEAKING == set()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_section_says_what_it_is_or_what_its_first_key_is(preset: str) -> None:
    lines = _lines(PRESETS[preset])
    silent = [
        line
        for idx, line in enumerate(lines)
        if re.match(r"[a-z]", line) and "#" not in "".join(lines[max(idx - 1, 0) : idx + 3])
    ]
    assert silent == []


def _n_jobs(params: Params) -> dict[str, int]:
    """How many jobs the params stand for, counted by hand from the README's description of the flow."""
    n, attacks, sources = len(params.seeds), len(params.attacks), len(params.sources)
    others = (
        (params.compare.variants, params.compare.competitors, params.compare.fixed_nets)
        if params.compare
        else ()
    )
    compared = 1 + sum(map(len, others)) if params.compare else 0
    taken_apart = 0
    if params.ablate:
        traced = {"deconvolution", "saliency"} & {*params.ablate.scores} if params.ablate.noise else ()
        taken_apart = 2 * (len(params.ablate.scores) + len(traced)) * len(params.ablate.widths)
    once = {"prepare": 1, "noise": len(params.noise), "report": 1}
    once["latency"] = 0 if params.latency is None else 1
    of_each_seed = {
        **dict.fromkeys(("train", "grow", "evaluate"), 1),
        "select": 1 if params.after_the_fact is None else 2,
        "push": 2 + len(params.push.variants),
        "prune": params.prune.rounds + getattr(params.after_the_fact, "rounds", 0),
        "compare": compared,
        "ablate": taken_apart,
        "source": sources,
        "craft": sources * attacks,
        "white_box": len(params.white_box),
        "robustness": 1 + len(params.noise) + sources * attacks,
    }
    return once | {stage: n * each for stage, each in of_each_seed.items()}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_stands_for_its_jobs(preset: str) -> None:
    params = _params(preset)
    found = {stage: len(list_jobs(module, params)) for stage, module in MODULES.items()}
    assert found == _n_jobs(params)


def _paths(inputs: Mapping[str, Any]) -> Iterator[Path]:
    for found in inputs.values():
        if isinstance(found, Path):
            yield found
        elif isinstance(found, Mapping):
            yield from _paths(found)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_job_has_a_folder_of_its_own_and_reads_what_came_before_it(preset: str) -> None:
    runs = RUNS / preset
    made: set[Path] = set()
    for stage, module in MODULES.items():
        jobs: list[Job] = list_jobs(module, _params(preset))
        folders = Counter(runs / stage / job.folder for job in jobs)
        assert [folder for folder, n in folders.items() if n > 1] == []
        for idx, job in enumerate(jobs):
            assert all(needed in jobs[:idx] for needed in job.needs), job.name
            for path in _paths(job.inputs):
                # A job's folder, something in it, or several jobs' folders at once.
                within = any(folder in made for folder in (path, *path.parents))
                assert within or any(path in folder.parents for folder in made), (stage, job.name, path)
        made |= set(folders)


def test_the_jobs_of_all_presets_are_listed_in_a_second() -> None:
    """`dvc repro` lists them in each stage, whether one runs or not."""
    everything = [_params(preset) for preset in PRESETS]
    started = time.process_time()
    n = sum(len(list_jobs(module, params)) for params in everything for module in MODULES.values())
    assert time.process_time() - started < 1
    assert n > 1000


def test_a_preset_that_never_ran_can_be_tried_dry(workspace: Workspace, tmp_path: Path) -> None:
    """With --force, that is: without, DVC stops at the first input that is not there (treeverse/dvc#9818)."""
    copy = workspace.copy(tmp_path / "copy")
    (copy.root / "params.yaml").write_bytes(PRESETS["mnist"].read_bytes())
    tried = copy.must("dvc", "repro", "--dry", "--force")
    assert sorted(tried.ran) == sorted(STAGES)
    assert not copy.path("runs").exists()
