"""Over all reports: `python -m pipeline.report.index [NAME]` writes `reports/index.html` and `reports/README.md`.

With the name of a report it says what that one recommends, and where its page is. It reads what the reports hold, and
writes the same bytes until they change.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from ruamel.yaml import YAML

from pipeline.files import write_atomically
from pipeline.report.html.render import render
from pipeline.report.markdown import counted, literal

REPORTS = Path("reports")
_PAGES = ("index.html", "report.md", "pruning.md", "summary.md")


def main(arguments: Sequence[str]) -> None:
    """Write both, and say where the named report is."""
    found = [_report(folder) for folder in sorted(REPORTS.iterdir()) if (folder / "summary.md").is_file()]
    write_atomically(REPORTS / "index.html", render("index.html.jinja", reports=found).encode())
    lines = [
        f"## [{literal(each['name'])}]({each['name']}/summary.md)\n\n{literal(each['sentence'])}\n\n{each['about']}\n"
        for each in found
    ]
    head = "# All reports\n\nBy `make repro`. `index.html` is for a browser, from disk; this page is for forges.\n"
    write_atomically(REPORTS / "README.md", "\n".join([head, *lines]).encode())
    for each in found:
        if each["name"] in arguments:
            sys.stdout.write(f"\n{each['sentence']}\n\nThe report: {REPORTS / each['link']}\n")


def _report(folder: Path) -> dict[str, str]:
    params = YAML(typ="safe").load((folder / "params.yaml").read_text(encoding="utf-8"))
    page = next(name for name in _PAGES if (folder / name).is_file())
    return {
        "name": folder.name,
        "link": f"{folder.name}/{page}",
        "sentence": _sentence(folder / "summary.md")
        if page == "index.html"
        else "A report by an earlier form.",
        "about": f"Data: {params['data']['source']}; net: {params['model']['architecture']}; "
        f"{counted(len(params['seeds']), 'seed')}.",
    }


def _sentence(summary: Path) -> str:
    """The recommendation: the summary's first line, as it is read."""
    tokens = MarkdownIt("commonmark").parseInline(summary.read_text(encoding="utf-8").split("\n", 1)[0])
    return "".join(child.content for child in tokens[0].children or ())


if __name__ == "__main__":
    main(sys.argv[1:])
