import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lorascope.analyze import compare_measures, explain
from lorascope.analyze.importance.compare_measures import COMPARED_MEASURES

from ..conftest import Small
from .test_report import SECTIONS, Page, page_of, section


@pytest.fixture(scope="module")
def ablated(make_small: Callable[..., Small]) -> Small:
    return make_small(ablate="components")


@pytest.fixture(scope="module")
def page(ablated: Small, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(ablated.run, tmp_path_factory.mktemp("report"))


def rows_of(page: Page, place: int) -> list[list[str]]:
    """Cells of a table of the section, by row."""
    table = section(page, "ablation").split("<table")[place].replace("<wbr>", "")
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]


def test_the_table_of_parts(ablated: Small, page: Page) -> None:
    ablation = explain(ablated.run).ablation
    assert ablation is not None
    rows = rows_of(page, 1)
    shares = {row[0]: row[2] for row in rows}
    kl = ablation["kl"].to_series().sort_values(ascending=False)
    assert shares == {name: f"{100 * value / kl.sum():.1f} %" for name, value in kl.items()}


def test_the_table_of_measures(ablated: Small, page: Page) -> None:
    assert [str(attrs["id"]) for tag, attrs in page.tags if tag == "section"] == SECTIONS
    comparison = compare_measures(ablated.run)
    rows = rows_of(page, 2)
    shown = {row[0]: row[1].replace("\N{MINUS SIGN}", "-") for row in rows}
    assert len(shown) == len(COMPARED_MEASURES)
    r, low, high = (float(comparison[f"spearman{end}"].sel(measure="js")) for end in ("", "_low", "_high"))
    assert shown["JS"] == f"{r:.2f} ({low:.2f} to {high:.2f})"
    assert shown["norm of s B A"] == "n/a"
    assert "The bootstrap rests on 6 groups" in page.text
    texts = [text for trace in page.data["ablation-scatter"]["data"] for text in trace["text"]]
    assert sorted(text.split("</b>")[0].removeprefix("<b>") for text in texts) == sorted(ablated.run.component_paths)


def test_other_runs_have_no_measures(make_small: Callable[..., Small], tmp_path: Path) -> None:
    page = page_of(make_small(ablate="layers").run, tmp_path)
    assert section(page, "ablation").count("<table") == 1
    assert "ablation-scatter" not in page.data
