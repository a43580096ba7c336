"""Markdown of the sections as HTML: tables that can be read by ear and on a phone, charts in the place of images.

Every text goes through markdown-it with raw HTML switched off: what comes from outside is letters, never markup.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

if TYPE_CHECKING:
    from pipeline.report.charts.chart import Figure, Key

HERE = Path(__file__).parent
# A longer table is folded: a reader who looks for something else passes it by.
_FOLDED_ROWS = 12
_SHAPES = {
    "circle": "M8 3a5 5 0 1 0 .01 0z",
    "square": "M3.5 3.5h9v9h-9z",
    "diamond": "M8 2l5 6-5 6-5-6z",
    "triangle-up": "M8 3l5.5 10h-11z",
    "triangle-down": "M8 13L2.5 3h11z",
    "triangle-right": "M13 8L3 2.5v11z",
    "triangle-left": "M3 8l10-5.5v11z",
    "cross": "M6.3 3h3.4v3.3H13v3.4H9.7V13H6.3V9.7H3V6.3h3.3z",
}
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


def to_html(text: str, *, figures: Mapping[str, Figure], folder: Path) -> Markup:
    """A section's Markdown; its headings one level lower, its images as charts or as pictures within the page.

    Args:
        text: with images as `markdown.image` writes them.
        figures: the charts by name; an image of another name is a picture below `folder`.
        folder: of the report.
    """
    tokens, heading, end = list[Token](), "", ""
    parsed = _MARKDOWN.parse(text)
    for idx, token in enumerate(parsed):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + 1}"
        if token.type == "inline" and tokens and tokens[-1].type == "heading_open":
            heading = token.content
        if token.type == "table_open":
            start, end = _around_table(_n_rows(parsed, idx), heading)
            tokens.append(_html(start))
        if token.type == "inline" and (image := _image_of(token)) is not None:
            # In the place of its paragraph.
            tokens[-1] = _html(_figure(*image, figures=figures, folder=folder))
            continue
        if token.type == "paragraph_close" and tokens[-1].type == "html_block":
            continue
        tokens.append(token)
        if token.type == "table_close":
            tokens.append(_html(end))
    _mark_headers(tokens)
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))


def script_json(value: object) -> Markup:
    """JSON within a `<script>`, whatever its strings hold."""
    return Markup(json.dumps(value, ensure_ascii=True, sort_keys=True).replace("<", "\\u003c"))


def legend_of(keys: Sequence[Key]) -> Markup:
    """A figure's legend, as a list."""
    if not keys:
        return Markup()
    item = Markup('<li><svg viewBox="0 0 16 16" aria-hidden="true" fill="{}"><path d="{}"/></svg>{}</li>')
    items = Markup().join(item.format(key.color, _SHAPES[key.shape], key.label) for key in keys)
    return Markup('<ul class="legend">{}</ul>').format(items)


def chart_of(figure: Figure, alternative: str) -> Markup:
    """A chart: where it is drawn, its words for whoever cannot see it, its legend, its copies for papers."""
    panels = Markup().join(
        Markup(
            '<div class="chart" role="img" aria-label="{}"><script type="application/json">{}</script></div>'
        ).format(
            alternative if len(figure.panels) == 1 else f"{alternative}, panel {idx} of {len(figure.panels)}",
            script_json(spec),
        )
        for idx, spec in enumerate(figure.specs(), start=1)
    )
    copies = Markup('<a href="figures/{0}.svg">SVG</a> <a href="figures/{0}.png">PNG</a>').format(figure.name)
    return Markup(
        '<figure id="figure-{}"><div class="panels columns{}">{}</div>{}<figcaption>{} {}</figcaption></figure>'
    ).format(figure.name, figure.columns, panels, legend_of(figure.keys), f"{alternative}.", copies)


def _figure(name: str, alternative: str, *, figures: Mapping[str, Figure], folder: Path) -> Markup:
    if name in figures:
        return chart_of(figures[name], alternative)
    png = base64.b64encode((folder / "figures" / f"{name}.png").read_bytes()).decode()
    return Markup(
        '<figure><img src="data:image/png;base64,{}" alt="{}">'
        '<figcaption>{} <a href="figures/{}.svg">SVG</a></figcaption></figure>'
    ).format(png, alternative, f"{alternative}.", name)


def _image_of(token: Token) -> tuple[str, str] | None:
    """The name and the words of an image that is alone in its paragraph."""
    children = token.children or []
    if [child.type for child in children] != ["link_open", "image", "link_close"]:
        return None
    image = children[1]
    return Path(str(image.attrs["src"])).stem, image.content


def _html(text: str) -> Token:
    return Token("html_block", "", 0, content=f"{text}\n")


def _n_rows(parsed: Sequence[Token], start: int) -> int:
    """How many rows the table has that begins there, below its head."""
    end = next(idx for idx in range(start, len(parsed)) if parsed[idx].type == "table_close")
    return sum(token.type == "tr_open" for token in parsed[start:end]) - 1


def _around_table(n_rows: int, heading: str) -> tuple[str, str]:
    """What stands before a table and behind it: it scrolls by itself, and a long one is folded."""
    name = f"Table: {heading}" if heading else "Table"
    start = Markup('<div class="table" role="region" tabindex="0" aria-label="{}">').format(name)
    if n_rows <= _FOLDED_ROWS:
        return start, "</div>"
    folded = Markup("<details><summary>Table of {} rows</summary>{}").format(n_rows, start)
    return folded, "</div></details>"


def _mark_headers(tokens: Sequence[Token]) -> None:
    """The first cell of a row is its header, and every cell of a head that of its column."""
    first = body = False
    for token in tokens:
        if token.type in ("tbody_open", "tbody_close"):
            body = token.type == "tbody_open"
        elif token.type == "tr_open":
            first = True
        elif token.type == "th_open":
            token.attrs["scope"] = "col"
        elif token.type == "td_open" and first and body:
            token.tag, token.attrs["scope"] = "th", "row"
        elif token.type == "td_close" and first and body:
            token.tag, first = "th", False


def render(template: str, **values: object) -> str:
    """A template of this folder, with the stylesheet; every value that is no markup is escaped.

    Raises:
        jinja2.UndefinedError: if the template names something else.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    style = Markup((HERE / "style.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(style=style, **values)
