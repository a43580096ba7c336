"""Which model to take: a stand-in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.compared import ORIGINAL
from pipeline.report.hits import more_hits
from pipeline.report.latency import measured

if TYPE_CHECKING:
    from pipeline.report.results import Results


def tables_of(results: Results) -> dict[str, pd.DataFrame]:
    """The tables `claims` and `recommendation`."""
    rows: list[dict[str, Any]] = []
    scores = results.estimates("scores", "model", "split")
    for name in ("original", "pushed", "control", "accuracy_first", "parameter_first"):
        found = scores[name, "test"]
        mine, orig = (results.rows("scores", model=m, split="test") for m in (name, ORIGINAL))
        diff = results.difference(more_hits(mine, orig))
        row: dict[str, Any] = {"model": name, "label": results.labels[name]}
        row |= {each: results.size(name, each) for each in ("params", "flops")}
        row |= {"bytes": np.nan, "milliseconds": np.nan}
        if results.params.latency:
            disk = results.tables["disk"]
            row["bytes"] = float(disk[disk["model"] == name]["onnx_bytes"].iloc[0])
            row["milliseconds"] = next(iter(measured(results)[-1].timings.values()))[name].median
        drops = {c: results.drop(name, c).mean for c in results.headline()}
        kinds = {c.name: c.kind for c in results.conditions()}
        row |= {"epochs": 52, "test_accuracy": found.mean, "low": found.low, "high": found.high}
        row |= {"difference": diff.mean, "difference_low": diff.low, "difference_high": diff.high}
        for kind in ("noise", "attack"):
            of = {c: d for c, d in drops.items() if kinds[c] == kind}
            worst = min(of, key=lambda c: of[c]) if of else ""
            row |= {f"worst_{kind}": worst, f"worst_{kind}_drop": of.get(worst, np.nan)}
        rows.append(row | {"chosen": name.endswith("first")})
    claims = pd.DataFrame(
        [
            {
                "family": "thesis 5.3",
                "claim": "Pruned loses less than the original under gaussian.",
                "source": "thesis 5.3",
            }
            | {
                "test": "difference of drops, paired",
                "effect": 0.01,
                "low": -0.02,
                "high": 0.03,
                "p": 0.3,
                "p_holm": 1.0,
            }
            | {"verdict": "undecided", "n_seeds": 3, "n_images": 360, "note": ""}
        ]
    )
    return {"claims": claims, "recommendation": pd.DataFrame(rows)}


def sentence(results: Results) -> str:
    """The answer."""
    return "Take the parameter-first model: 21,101 parameters (8.9 % of the original's), a stand-in sentence <b>&."
