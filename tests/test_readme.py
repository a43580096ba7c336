"""The README says what is: its table is the report's, and what it names exists."""

import ast
import re

from conftest import ROOT
from ruamel.yaml import YAML

from pipeline.params.file import read_params

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_result_table_is_the_reports_summary() -> None:
    block = re.search(r"<!-- summary: .*? -->\n(.*)<!-- /summary -->", README, flags=re.DOTALL)
    assert block is not None
    assert block[1].strip() == (ROOT / "reports/digits/summary.md").read_text(encoding="utf-8").strip()


def test_equation_table_names_functions_and_tests_that_exist() -> None:
    tables = README + (ROOT / "docs/method.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (.+?) \| `(pipeline/\S+\.py)` `(\w+)` \| `(tests/\S+\.py)` \|$", tables, flags=re.M
    )
    assert len(rows) >= 30
    for source, module, name, test in rows:
        tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
        defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        assert name in defined, f"{source}: {module} has no {name}"
        assert (ROOT / test).is_file(), f"{source}: {test} is missing"


def test_report_holds_the_settings_of_the_digits_preset() -> None:
    """All but `runtime`, which changes no result."""
    preset = read_params(ROOT / "presets/digits.yaml")
    used = YAML(typ="safe").load((ROOT / "reports/digits/params.yaml").read_text(encoding="utf-8"))
    assert used == preset.model_dump(mode="json", by_alias=True, exclude={"runtime"})
