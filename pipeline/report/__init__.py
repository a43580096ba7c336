"""The two reports, from tables alone: what a run produced, good or bad."""

from pathlib import Path

from ruamel.yaml import YAML

from pipeline.files import write_atomically
from pipeline.report.pruning import pruning_report
from pipeline.report.results import Results, with_accuracy
from pipeline.report.robustness import robustness_report
from pipeline.report.summary import summary

_MORE = (
    "variants",
    "comparison",
    "accuracy",
    "reliability",
    "pairs",
    "white_box",
    "perturbations",
)


def write_report(results: Results, folder: Path) -> None:
    """Write `pruning.md`, `robustness.md`, `summary.md`, `figures/`, `tables/` and the params that were used.

    The same tables give the same bytes.
    """
    figures, tables = folder / "figures", folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    for name, page in (
        ("pruning", pruning_report(results, figures)),
        ("robustness", robustness_report(results, figures)),
        ("summary", summary(results)),
    ):
        write_atomically(folder / f"{name}.md", page.encode())
    for name in ("scores", "layers", "samples", "latent", "growth", "pushing", *_MORE):
        frame = getattr(results, name)
        if "n_correct" in frame:
            frame = with_accuracy(frame)
        frame.to_csv(tables / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    # A bar for `dvc plots` needs one row: models and conditions together name it, seeds are averaged.
    keyed = with_accuracy(results.accuracy)
    keyed = keyed.assign(what=keyed["condition"] + ", " + keyed["model"])
    means = keyed.groupby("what", sort=False)["accuracy"].mean().reset_index()
    means.to_csv(tables / "accuracy_means.csv", index=False, float_format="%.6g", lineterminator="\n")
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        yaml = YAML()
        yaml.default_flow_style = False
        yaml.dump(results.params.model_dump(mode="json", by_alias=True), file)
