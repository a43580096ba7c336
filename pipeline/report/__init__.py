"""The two reports, from tables alone: what a run produced, good or bad."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from ruamel.yaml import YAML

from pipeline.files import write_atomically
from pipeline.report.hits import without_hits
from pipeline.report.page import literal
from pipeline.report.pruning import pruning_report
from pipeline.report.recommend import sentence, tables_of
from pipeline.report.robustness import robustness_report
from pipeline.report.summary import summary

if TYPE_CHECKING:
    from pipeline.report.results import Results


def write_report(results: Results, folder: Path) -> None:
    """Write `pruning.md`, `robustness.md`, `summary.md`, `figures/`, `tables/` and the params that were used.

    The same tables give the same bytes.
    """
    figures, tables = folder / "figures", folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    pages = {"pruning": pruning_report(results, figures), "robustness": robustness_report(results, figures)}
    pages["summary"] = f"**{literal(sentence(results))}**\n\n{summary(results)}"
    for name, page in pages.items():
        write_atomically(folder / f"{name}.md", page.encode())
    made = {"accuracy_means": _accuracy_means(results), **tables_of(results)}
    for name, table in (results.tables | made).items():
        if len(table):
            without_hits(table).to_csv(
                tables / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n"
            )
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml = YAML()
        yaml.default_flow_style = False
        # How many processes there were says nothing about the results.
        yaml.dump(results.params.model_dump(mode="json", by_alias=True, exclude={"runtime"}), file)


def _accuracy_means(results: Results) -> pd.DataFrame:
    """For a bar of `dvc plots`, which needs one row: models and conditions together name it, seeds are averaged."""
    accuracy = results.tables["accuracy"]
    keyed = accuracy.assign(what=accuracy["condition"] + ", " + accuracy["model"])
    return keyed.groupby("what", sort=False)["accuracy"].mean().reset_index()
