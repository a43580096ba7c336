"""All files of a report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from ruamel.yaml import YAML

from pipeline.files import write_atomically
from pipeline.report import latency, latent, layers, published
from pipeline.report import pruning as models
from pipeline.report.ablation import ablation_section, effects
from pipeline.report.charts import nets, sizes, trade_off
from pipeline.report.charts import robustness as perturbed
from pipeline.report.charts.curves import curves_figure
from pipeline.report.claims.page import claims_section, robustness_in_short
from pipeline.report.compare import PAIRED
from pipeline.report.comparison import comparison_section, tracing_section
from pipeline.report.curves import curves_section
from pipeline.report.hits import packed_again, without_hits
from pipeline.report.html.first import models_table
from pipeline.report.html.page import Part, alternative, markdown, page
from pipeline.report.markdown import image, literal
from pipeline.report.recommend import metrics_of, sentences, tables_of
from pipeline.report.robustness.gallery import galleries_section
from pipeline.report.robustness.page import robustness_report
from pipeline.report.robustness.strengths import strengths_table
from pipeline.report.summary import summary

if TYPE_CHECKING:
    from pipeline.report.charts.chart import Figure
    from pipeline.report.results import Results


def write_report(results: Results, folder: Path) -> None:
    """Write `index.html`, the same for forges as `report.md`, `summary.md`, `figures/`, `tables/`, `params.yaml`, and
    `metrics.json`, the means of the models for `dvc metrics diff`.

    The same tables give the same bytes.
    """
    tables, pictures = folder / "tables", folder / "figures"
    tables.mkdir(parents=True, exist_ok=True)
    judged = tables_of(results)
    strengths = strengths_table(results)
    derived = _plotted(results) | {"strengths": strengths} | judged
    for name, table in {**results.tables, **derived}.items():
        if len(table):
            # `make compare` pairs the models of two reports; everything else is for people.
            written = packed_again(table) if name in PAIRED else without_hits(table)
            written.to_csv(tables / f"{name}.csv", index=False, float_format="%.9g", lineterminator="\n")
    figures = {each.name: each for each in _charts(results, judged["recommendation"], strengths)}
    for each in figures.values():
        each.write(pictures, dpi=results.params.report.dpi)
    latent.draw_covariances(results, pictures)
    parts = _parts(results, pictures, claims=judged["claims"], drawn=figures)
    answer, recommended = sentences(results), judged["recommendation"]
    first = f"{image('comparison', alternative(results))}\n\n{models_table(results, recommended)}"
    texts = {
        "metrics.json": json.dumps(metrics_of(recommended), indent=2) + "\n",
        "summary.md": f"**{literal(' '.join(answer))}**\n\n{summary(results)}",
        "report.md": markdown(results, answer, [Part("answer", "The answer", first), *parts]),
        "index.html": page(
            results,
            answer=answer,
            models=recommended,
            first=first,
            parts=parts,
            figures=figures,
            folder=folder,
        ),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml = YAML()
        yaml.default_flow_style = False
        # How many processes there were says nothing about the results.
        yaml.dump(results.params.model_dump(mode="json", by_alias=True, exclude={"runtime"}), file)


def _charts(results: Results, recommended: pd.DataFrame, strengths: pd.DataFrame) -> list[Figure]:
    found = (
        trade_off.trade_off(results, recommended),
        trade_off.differences(results),
        trade_off.effects_figure([*effects(results)]) if results.params.ablate else None,
        sizes.samples_figure(results),
        sizes.growth_figure(results),
        sizes.tracing_figure(results),
        curves_figure(results),
        nets.layers_figure(results),
        nets.profile_figure(results),
        nets.discriminants_figure(results),
        nets.sensitivity_figure(results),
        nets.pushing_figure(results),
        perturbed.drops_figure(results),
        perturbed.severities_figure(results, strengths),
        perturbed.reliability_figure(results),
        perturbed.latency_figure(results),
    )
    return [each for each in found if each is not None]


def _parts(
    results: Results, pictures: Path, *, claims: pd.DataFrame, drawn: dict[str, Figure]
) -> Sequence[Part]:
    """Everything below the first screen, in the order of a reader's questions."""

    def part(name: str, title: str, *sections: str) -> Part:
        return Part(name, title, "\n\n".join(filter(None, sections)))

    return (
        part(
            "claims",
            "What the papers claim, and what this run says",
            claims_section(results, claims),
        ),
        part(
            "comparison",
            "What ours was compared with, and how fairly",
            comparison_section(results),
            tracing_section(results),
            curves_section(results),
            published.published_scores(results),
        ),
        part("parts", "Which part pays", ablation_section(results)),
        part(
            "robustness",
            "Robustness under noise and attacks",
            robustness_in_short(claims),
            robustness_report(results, drawn="severities" in drawn),
        ),
        part("latent", "The latent space", *(section(results) for section in latent.SECTIONS)),
        part("layers", "Layer by layer", layers.profile_section(results), layers.layers_section(results)),
        part("growth", "Growing", models.growth_section(results)),
        part(
            "sizes",
            "Accuracy against size, time and bytes",
            models.models_section(results),
            models.samples_section(results),
            models.selected_section(results),
            latency.latency_section(results),
        ),
        part("pictures", "Attacked images", galleries_section(results, pictures)),
        part("provenance", "Provenance", models.head_section(results), models.settings_section(results)),
    )


def _plotted(results: Results) -> dict[str, pd.DataFrame]:
    """What `dvc plots` needs in a column: accuracies; models and conditions together, seeds averaged.

    Beside them the change to the accuracy of clean images, with its interval.
    """
    accuracy, comparison = results.tables["accuracy"], results.tables["comparison"]
    means = accuracy.groupby(["condition", "model"], sort=False)["accuracy"].mean().reset_index()
    drops = [results.drop(row["model"], row["condition"]) for row in means.to_dict("records")]
    means.insert(0, "what", means["condition"] + ", " + means["model"])
    for name, part in (("drop", "mean"), ("drop_low", "low"), ("drop_high", "high")):
        means[name] = [getattr(each, part) for each in drops]
    few = means["condition"].isin(results.headline()) & means["model"].isin(("original", "parameter_first"))
    if len(comparison):
        comparison = comparison.assign(test_accuracy=comparison["test_n_correct"] / comparison["test_n"])
    return {"accuracy_means": means, "headline": means[few], "comparison": comparison}
