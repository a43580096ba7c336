"""When, from which commit and in what time: of a repository with a job store, and of none."""

import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from pipeline.jobs.provenance import provenance
from pipeline.jobs.store import Store


def git(*arguments: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    return subprocess.run(
        ["git", *who, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params, code and a store, whose log has a job that ran twice and another experiment's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPP_JOBS", raising=False)
    for name in ("params.yaml", "pipeline/a.py", "stages/b.py", "metrics/tiny.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    store = Store()
    for seed, seconds in ((0, 5.0), (1, 2.5)):
        store.log("end", stage="train", labels={"seed": seed}, seconds=seconds)
    store.log("stage", stage="train", experiment="tiny")
    store.log("end", stage="train", labels={"seed": 0}, seconds=1.0)
    store.log("stage", stage="train", experiment="tiny")
    store.log("end", stage="train", labels={"seed": 9}, seconds=100.0)
    store.log("stage", stage="train", experiment="other")
    return tmp_path


def test_durations_are_those_of_the_experiments_last_runs(here: Path) -> None:
    text = provenance("tiny")
    assert "| train | 2 | 3.5 |" in text
    assert "From no git repository." in text
    assert here.is_dir()


def test_the_commit_is_named_and_edits_of_code_alone_make_its_tree_unclean(here: Path) -> None:
    git("init", "--quiet")
    git("add", "params.yaml", "pipeline", "stages", "metrics")
    git("commit", "--quiet", "-m", "test")
    commit = git("rev-parse", "HEAD")
    (here / "metrics/tiny.json").write_text("{1}\n")  # what a run writes
    assert f"* Commit {commit}, the tree clean." in provenance("tiny")
    (here / "pipeline/a.py").write_text("1\n")
    assert f"* Commit {commit}, the tree with changes that are not committed (1 files)." in provenance("tiny")


def test_the_citation_names_the_papers() -> None:
    cited = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(cited)
    assert [each["type"] for each in cited["references"]] == ["article", "thesis", "article"]
    assert all(each["authors"] and each["title"] for each in cited["references"])
