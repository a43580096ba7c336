"""Names from outside, such as those of classes: letter by letter in figures and pages, whatever they hold."""

import json
import sys
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import Workspace, warmed
from markdown_it import MarkdownIt
from matplotlib.image import imread

from pipeline.report.figures import figure, literal
from pipeline.report.markdown import literal as in_markdown
from pipeline.report.markdown import table

# The first two are formulas that cannot be parsed, or would lose their dollars.
NAMES = [
    *(r"$\frac{$", "a$b$c", "$", r"a\$b", r"\\", "x" * 300, "\U0001f600 smile", "中文", "  ", "a\tb\nc"),
    *(
        "<b>|</b>",
        "<!-- -->",
        "&lt;",
        "*a* _b_",
        "`code`",
        "[a](b)",
        "![a](b)",
        "# a",
        "a|b",
        r"a\|b",
        "~~a~~",
    ),
]
SHORT = [name for name in NAMES if len(name) <= 14 and name.isprintable() and name.strip()]


def texts_of(svg: Path) -> set[str]:
    """Every text of a drawing, as a reader of XML has it."""
    return {"".join(node.itertext()) for node in ElementTree.parse(svg).iter() if node.tag.endswith("}text")}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_figure_shows_a_name_letter_by_letter(name: str, tmp_path: Path) -> None:
    with figure(tmp_path, "drawn", size=(3, 2), dpi=60) as drawing:
        drawing.subplots().set_title(literal(name, most=14))
    assert imread(tmp_path / "drawn.png").shape[:2] == (120, 180)
    if name in SHORT:
        assert name in texts_of(tmp_path / "drawn.svg")


def test_a_long_name_ends_in_an_ellipsis_and_the_end_of_a_line_is_a_box() -> None:
    assert literal("x" * 300, most=14) == "x" * 13 + "…"
    assert literal("x" * 14, most=14) == "x" * 14
    assert literal("a\nb\x00", most=14) == "a□b□"
    assert literal("  ", most=14) == "□□"
    # A cut leaves no half of an escape behind.
    assert literal("$" * 20, most=3) == r"\$\$…"


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_markdown_shows_a_name_letter_by_letter_in_a_sentence_and_in_a_table(name: str) -> None:
    """As an implementation of CommonMark reads it."""
    reader = MarkdownIt("commonmark").enable("table")
    escaped = in_markdown(name)
    assert unescape(reader.renderInline(escaped)) == " ".join(name.split())
    page = reader.render(table("class | n", [[escaped, 1]]))
    assert f'<td style="text-align:left">{reader.renderInline(escaped)}</td>' in page
    assert '<td style="text-align:right">1</td>' in page
    assert table("class | n", [["a|b", 1]]).splitlines()[-1] == r"| a\|b | 1 |"


def test_the_report_of_classes_of_any_name(finished: Workspace, tmp_path: Path) -> None:
    """The last stage, which hours of others come before."""
    copy = finished.copy(tmp_path / "copy", without=[".jobs", ".dvc", ".git"])
    described = copy.path("runs", "tiny", "prepare", "images.json")
    about = json.loads(described.read_text(encoding="utf-8"))
    about["classes"] = NAMES[: len(about["classes"])]
    assert len(about["classes"]) == 10
    about["remarks"] = [f"2 images are there twice: {name}" for name in NAMES]
    described.unlink()
    described.write_text(json.dumps(about), encoding="utf-8")
    copy.note("runs/tiny/prepare")
    with warmed(copy) as by_warm:
        result = copy.run(*by_warm, sys.executable, "-m", "stages.report")
    assert result.code == 0, result.output
    assert "Warning" not in result.output
    page = copy.path("reports", "tiny", "report.md").read_text(encoding="utf-8")
    rendered = unescape(MarkdownIt("commonmark").enable("table").render(page))
    for name in NAMES:
        assert f"2 images are there twice: {' '.join(name.split())}." in " ".join(rendered.split())
    galleries = [*copy.path("reports", "tiny", "figures").glob("gallery_*.svg")]
    assert galleries
    shown = set[str]().union(*map(texts_of, galleries))
    assert any(f": {name} (" in text for text in shown for name in SHORT)
