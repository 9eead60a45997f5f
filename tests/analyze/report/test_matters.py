import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lorascope.analyze import explain, importance
from lorascope.analyze.report.matters import _importance_table

from ..conftest import Small
from .test_report import Page, page_of, section


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


def test_the_table_of_importance(make_small: Callable[..., Small], tmp_path: Path) -> None:
    run = make_small(importance=True).run
    page = page_of(run, tmp_path)
    tree = importance(run)
    shares = {row[0]: row[2] for row in rows_of(page, 1)}
    expected = {f"layer {layer}": value for layer, value in tree["layers"]["share"].to_series().items()}
    expected |= {f"all {kind}": value for kind, value in tree["kinds"]["share"].to_series().items()}
    expected |= tree["components"]["share"].to_series().to_dict()
    assert shares == {name: f"{100 * value:.1f} %" for name, value in expected.items()}
    assert "It holds for small changes: " in section(page, "ablation")
    assert "Can't tell by taking parts out, since the run holds no ablation; " in section(page, "ablation")


def test_small_importances_share_a_power_of_ten(make_small: Callable[..., Small]) -> None:
    tree = importance(make_small(importance=True).run)
    share = 1e-4 / float(tree["kinds"]["value"].max())
    for name in ("kinds", "layers", "components"):
        for column in ("value", "se"):
            tree[f"{name}/{column}"] = share * tree[f"{name}/{column}"]
    head, body = _importance_table(tree).split("<tbody>")
    (power,) = re.findall(r"importance \((10⁻\S+) nat\)", head)
    cells = re.findall(r">([^<>]* ± [^<>]*)<", body)
    assert "·10" not in "".join(cells)
    largest = float(tree["kinds"]["value"].max())
    exponent = int(power[2:].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
    assert float(cells[0].partition(" ±")[0]) == pytest.approx(largest / 10.0**exponent, rel=0.1)
