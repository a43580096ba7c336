"""The crossing of `ablate` by itself, where the rest of a preset takes hours: `python -m benchmarks.crossing`.

After `python -m pipeline.jobs.repro ablate` it writes what the report would say of that stage for params.yaml, its
tables and its figure, to benchmarks/crossings/<name>/.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

from pipeline.params.file import read_params
from pipeline.report.ablation import ablation_section, effects
from pipeline.report.charts.trade_off import effects_figure
from pipeline.report.hits import with_accuracy, without_hits
from pipeline.report.results import Results


def main() -> None:
    """Read `runs/<name>/ablate/ablation.csv`."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    params = read_params()
    path = Path("runs", params.name, "ablate", "ablation.csv")
    if not path.exists():
        sys.exit(f"{path}: expected what `ablate` leaves; run it first")
    table = with_accuracy(pd.read_csv(path, keep_default_na=False, na_values=[""]))
    results = Results(params, {"ablation": table}, {}, {}, {}, {}, {}, {}, {}, {})
    folder = Path("benchmarks/crossings", params.name)
    folder.mkdir(parents=True, exist_ok=True)
    found = [*effects(results)]
    rows = [
        {"part": each.words, "change": each.change.mean, "low": each.change.low, "high": each.change.high}
        | {"pairs": each.n_pairs, "left_out": each.n_collapsed}
        for each in found
    ]
    for name, written in (("ablation", without_hits(table)), ("effects", pd.DataFrame(rows))):
        written.to_csv(folder / f"{name}.csv", index=False, float_format="%.9g", lineterminator="\n")
    effects_figure(found).write(folder / "figures", dpi=params.report.dpi)
    (folder / "README.md").write_text(ablation_section(results), encoding="utf-8")


if __name__ == "__main__":
    main()
