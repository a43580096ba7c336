"""The pages in Debian's Chromium, from disk: no error, no request, every chart drawn, for ears and phones, too."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import ROOT
from playwright.sync_api import Browser, Page, sync_playwright
from report_builders import write_run
from tiny_params import LATENCY, params_of

from pipeline.report import index
from pipeline.report.results import load_results
from pipeline.report.write import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine; .ci/run installs Debian's"),
]
OUTSIDE = "<img src=x onerror=fetch('http://a.b')> | </script> {{ 1 }} $x$ *a*"
COMMITTED = sorted((ROOT / "reports").rglob("index.html"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole report of a made-up run, with all that can be in one, beside the page over all reports."""
    root = tmp_path_factory.mktemp("browser")
    params = params_of(("latency", LATENCY), ("seeds", [0, 1]), ("report.headline", ["gaussian", "fgsm"]))
    write_run(root / "runs", params)
    described = root / "runs/prepare/images.json"
    about = json.loads(described.read_text(encoding="utf-8"))
    described.write_text(json.dumps(about | {"remarks": [OUTSIDE]}), encoding="utf-8")
    write_report(load_results(params, root / "runs"), root / "reports" / "tiny")
    return root / "reports" / "tiny"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Opened:
    """A page, and what it complained of or asked for."""

    def __init__(self, browser: Browser, file: Path, *, width: int = 1280, scheme: str = "light") -> None:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if scheme == "dark" else "light"
        )
        self.page: Page = context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        if self.page.locator(".chart").count():
            self.page.wait_for_selector("html[data-drawn]", timeout=60_000)

    def cells(self, table: int) -> list[list[str]]:
        rows: list[list[str]] = (
            self.page.locator("table")
            .nth(table)
            .evaluate(
                "table => [...table.rows].map(row => [...row.cells].map(cell => cell.textContent.trim()))"
            )
        )
        return rows


@pytest.fixture(scope="module")
def opened(report: Path, browser: Browser) -> Opened:
    return Opened(browser, report / "index.html")


def assert_quiet(opened: Opened, file: Path) -> None:
    """No error, no warning, and nothing asked for but the file itself and what it holds."""
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [file.as_uri()]


def test_the_page_needs_nothing_and_draws_every_chart(report: Path, opened: Opened) -> None:
    assert_quiet(opened, report / "index.html")
    marks = "chart => chart.querySelectorAll('svg .mark-symbol path, svg .mark-line path, svg .mark-rule line').length"
    charts = opened.page.locator(".chart")
    drawn = [charts.nth(idx).evaluate(marks) for idx in range(charts.count())]
    assert len(drawn) > 25
    assert min(drawn) > 0
    pictures = "all => Promise.all(all.map(image => image.decode().then(() => image.naturalWidth)))"
    assert min(opened.page.locator("img").evaluate_all(pictures)) > 100
    assert (report / "index.html").stat().st_size < 10 * 2**20


def test_no_marker_leaves_its_chart_and_none_is_wider_than_its_place(opened: Opened) -> None:
    wide = opened.page.locator(".chart").evaluate_all(
        "all => all.filter(each => each.querySelector('svg').getBoundingClientRect().width"
        " > each.getBoundingClientRect().width + 1).length"
    )
    assert wide == 0


def test_the_table_of_models_says_what_its_csv_says(report: Path, opened: Opened) -> None:
    """Row by row and number by number, to the digits that are shown."""
    table = pd.read_csv(report / "tables/recommendation.csv")
    rows = opened.cells(0)
    assert len(rows) == 1 + len(table)
    for shown, row in zip(rows[1:], table.to_dict("records"), strict=True):
        assert shown[0] == row["label"]
        assert int(shown[1].split()[0].replace(",", "")) == round(row["params"])
        assert int(shown[2].replace(",", "")) == round(row["flops"])
        accuracy = [float(each) / 100 for each in re.findall(r"[-+\d.]+", shown[6])]
        assert accuracy == pytest.approx([row["test_accuracy"], row["low"], row["high"]], abs=5.1e-5)
        difference = [float(each) / 100 for each in re.findall(r"[-+]\d+\.\d+", shown[7])]
        expected = [
            row[each]
            for each in ("difference", "difference_low", "difference_high")
            if row[each] == row[each]
        ]
        assert difference == pytest.approx(expected, abs=5.1e-5)
    bold = opened.page.locator("table").nth(0).locator("strong").all_text_contents()
    assert bold == table[table["chosen"]]["label"].tolist()


def test_the_claims_on_the_page_are_those_of_their_csv(report: Path, opened: Opened) -> None:
    claims = pd.read_csv(report / "tables/claims.csv")
    shown = opened.page.locator("#claims tbody tr").evaluate_all(
        "rows => rows.map(row => [row.cells[0].textContent, row.querySelector('strong').textContent])"
    )
    assert len(claims) > 5
    assert sorted(map(tuple, shown)) == sorted(zip(claims["claim"], claims["verdict"], strict=True))


def test_every_number_of_the_first_screen_is_in_a_table(report: Path, opened: Opened) -> None:
    """None is typed: each is a number of a table, to the digits that are shown, a share or a difference of two."""
    rows = {name: pd.read_csv(report / f"tables/{name}.csv") for name in ("recommendation", "claims", "disk")}
    known = {abs(float(each)) for frame in rows.values() for each in frame.select_dtypes("number").stack()}
    params = rows["recommendation"].set_index("model")["params"]
    known |= {each / params["original"] for each in params}
    # Words of the settings, and how many there are of something.
    text = re.sub(
        r"seed 0's|over 2 seeds|within 1\.00|\(\D[^()]* on [^()]*\)",
        "",
        opened.page.locator(".answer").inner_text(),
    )
    lost = []
    for each in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?", text):
        value, digits = float(each.replace(",", "")), len(each.partition(".")[2])
        if not any(value in (round(number, digits), round(100 * number, digits)) for number in known):
            lost.append(each)
    assert (lost, len(text) > 200) == ([], True), text


@pytest.mark.parametrize("measure", ["flops", "bytes", "milliseconds"])
def test_the_first_figure_shows_other_sizes_by_the_keyboard_alone(opened: Opened, measure: str) -> None:
    title = opened.page.locator("#figure-comparison svg .role-title-text text")
    opened.page.locator("input[name=measure]").first.check()
    before = title.text_content()
    opened.page.locator("input[name=measure]:checked").focus()
    for _ in range(["params", "flops", "bytes", "milliseconds"].index(measure)):
        opened.page.keyboard.press("ArrowRight")
    assert opened.page.locator("input[name=measure]:checked").get_attribute("value") == measure
    assert title.text_content() != before


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_nothing_is_wider_than_the_window_and_nothing_stops_a_reader(
    report: Path, browser: Browser, width: int, scheme: str
) -> None:
    """axe-core finds nothing serious, in light on a desk and in the dark on a phone."""
    page = Opened(browser, report / "index.html", width=width, scheme=scheme).page
    page.locator("details").evaluate_all("all => all.forEach(each => { each.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    serious = [
        f"{each['id']}: {each['nodes'][0]['html'][:200]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_text_from_outside_is_letters(opened: Opened) -> None:
    assert OUTSIDE in opened.page.locator("header").inner_text()


@pytest.mark.parametrize("file", COMMITTED, ids=lambda file: file.parent.name)
def test_the_committed_pages_open_as_quietly(browser: Browser, file: Path) -> None:
    opened = Opened(browser, file)
    assert_quiet(opened, file)
    links = opened.page.locator("a").evaluate_all("all => all.map(each => each.getAttribute('href'))")
    lost = [
        link for link in links if not link.startswith("#") and not (file.parent / link.split("#")[0]).exists()
    ]
    assert lost == []


def test_the_page_over_all_reports_leads_to_each(
    report: Path, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(report.parents[1])
    index.main([])
    first = Path("reports/index.html").read_bytes()
    opened = Opened(browser, Path("reports/index.html").absolute())
    assert_quiet(opened, Path("reports/index.html").absolute())
    opened.page.locator("h2 a").click()
    assert opened.page.url == (report / "index.html").as_uri()
    index.main([])
    assert Path("reports/index.html").read_bytes() == first
