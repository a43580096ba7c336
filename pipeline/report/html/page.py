"""`index.html`: the answer first, then every section, in one file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import vl_convert
from markupsafe import Markup

from pipeline.report.charts.trade_off import measured_by
from pipeline.report.html.render import HERE, render, to_html
from pipeline.report.markdown import bullets, counted, literal
from pipeline.report.summary import over_seeds

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.report.charts.chart import Figure
    from pipeline.report.results import Results


class Part(NamedTuple):
    """A section of the page: its anchor, its heading and its Markdown."""

    name: str
    title: str
    text: str


def alternative(results: Results) -> str:
    """The first figure in words."""
    return (
        "Test accuracy against size: ours, what it is compared with, and the recommended model, ringed. Bars are "
        f"{results.params.report.confidence:.0%} intervals of seeds and images together. Markers of one size, in "
        "parameters or FLOPs, stand side by side; bytes and milliseconds are of the first seed's files, which not "
        "every method has. Comparable: within what a pruned model may lose (select.max_drop). What is far below all "
        "others stands at the lower edge with its accuracy"
    )


def markdown(results: Results, answer: Sequence[str], parts: Sequence[Part]) -> str:
    """The page for forges, which show no HTML."""
    blocks = [f"# {literal(_title(results))}", f"**{literal(' '.join(answer))}**", _meta(results)]
    blocks += [f"# {part.title}\n\n{part.text.strip()}" for part in parts if part.text.strip()]
    return "\n\n".join(blocks) + "\n"


def page(
    results: Results,
    *,
    answer: Sequence[str],
    models: pd.DataFrame,
    first: str,
    parts: Sequence[Part],
    figures: Mapping[str, Figure],
    folder: Path,
) -> str:
    """The page of a run.

    Args:
        results: of the run.
        answer: the recommendation, sentence by sentence.
        models: the recommendation's table.
        first: the first screen below the recommendation, as Markdown.
        parts: what follows; those without text are left out.
        figures: the charts by name.
        folder: of the report, where pictures lie.
    """

    def html(text: str) -> Markup:
        return to_html(text, figures=figures, folder=folder)

    shown = [
        {"name": part.name, "title": part.title, "html": html(part.text)}
        for part in parts
        if part.text.strip()
    ]
    return render(
        "page.html.jinja",
        title=_title(results),
        answer=answer[0],
        details=answer[1:],
        meta=html(_meta(results)),
        measures=measured_by(models),
        first=html(first),
        parts=shown,
        bundle=Markup(bundle()),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
    )


# Data sets whose names in params do not say what they are.
_SOURCES = {
    "digits": "scikit-learn's handwritten digits (UCI)",
    "image_folder": "class folders",
    "arrays": "an .npz file",
}


def _title(results: Results) -> str:
    return f"Grow, push, prune: {results.params.name}"


def _meta(results: Results) -> str:
    data, params = results.dataset, results.params
    counts = ", ".join(f"{n} {name}" for name, n in data["counts"].items())
    source = _SOURCES.get(params.data.source, params.data.source)
    about = (
        f"{counted(len(params.seeds), 'seed')}; images of {source}, {len(data['classes'])} classes: {counts}. "
        f"Accuracies: {over_seeds(results)}."
    )
    return "\n\n".join(filter(None, (about, bullets(results.notes))))


@cache
def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; what would end the script's element is written otherwise."""
    # Without a snippet it sets `window.vegaEmbed`; the stub lacks that case.
    found = vl_convert.javascript_bundle(None)  # type: ignore[arg-type]
    return found.replace("</script", "<\\/script")
