import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import compare_measures
from lorascope.analyze.ablation.compare_measures import MEASURED
from lorascope.analyze.report.ablation import sentences

from ..conftest import Small
from .test_report import SECTIONS, Page, page_of, section


@pytest.fixture(scope="module")
def ablated(make_small: Callable[..., Small]) -> Small:
    return make_small(ablate="components")


@pytest.fixture(scope="module")
def page(ablated: Small, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(ablated.run, tmp_path_factory.mktemp("report"))


def test_a_run_with_ablation_has_its_section(ablated: Small, page: Page) -> None:
    assert [str(attrs["id"]) for tag, attrs in page.tags if tag == "section"] == [
        SECTIONS[0],
        "ablation",
        *SECTIONS[1:],
    ]
    found = compare_measures(ablated.run)
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in section(page, "ablation").split("<tr>")]
    shown = {row[0]: row[1].replace("\N{MINUS SIGN}", "-") for row in rows if row and len(row) == 3}
    assert len(shown) == len(MEASURED)
    r, low, high = (float(found[f"spearman{end}"].sel(measure="js")) for end in ("", "_low", "_high"))
    assert shown["JS"] == f"{r:.2f} ({low:.2f} to {high:.2f})"
    assert shown["norm of s B A"] == "n/a"
    assert "The bootstrap rests on 6 groups" in page.text
    texts = [text for trace in page.data["ablation-scatter"]["data"] for text in trace["text"]]
    assert sorted(text.split("</b>")[0].removeprefix("<b>") for text in texts) == sorted(ablated.run.component_paths)


def test_other_runs_have_none(make_small: Callable[..., Small], small: Small, ablated: Small, tmp_path: Path) -> None:
    for run, options in (
        (small.run, {}),
        (make_small(ablate="layers").run, {}),
        (ablated.run, {"components": ["*.q_proj"]}),
    ):
        assert 'id="ablation"' not in page_of(run, tmp_path, **options).source


def made(**values: float) -> xr.Dataset:
    """A comparison of 20 components in which js orders half of them wrongly, with some correlations set."""
    found = {
        f"spearman{end}": xr.DataArray(np.full(len(MEASURED), shift), dims="measure")
        for end, shift in (("", 0.0), ("_low", -0.1), ("_high", 0.1))
    }
    result = xr.Dataset(found, coords={"measure": list(MEASURED)})
    js = np.arange(20.0)
    result["value"] = (("measure", "component"), np.tile(js, (len(MEASURED), 1)))
    result["ablation"] = ("component", np.r_[js[10:], js[:10]])
    for key, value in values.items():
        name, measure = key.split("__")
        for end, shift in (("", 0.0), ("_low", -0.1), ("_high", 0.1)):
            result[f"{name}{end}"].loc[{"measure": measure}] = value + shift
    return result


def test_sentences_open_with_the_conclusion_and_its_error() -> None:
    first, second = sentences(made(spearman__js=0.4, spearman__delta_ratio=-0.7))
    assert first == (
        "JS predicts what taking a component out costs with a rank correlation of 0.40 (0.30 to 0.50); the measure "
        "that predicts it best, |delta| / |base|, with one of -0.70 (-0.80 to -0.60)."
    )
    assert second == "Of the 2 components with the largest JS, 0 are among the 2 that cost most."
    first, _ = sentences(made(spearman__js=0.9))
    assert first.endswith("0.90 (0.80 to 1.00), no other measure with a larger one.")


def test_what_is_not_known_is_said() -> None:
    comparison = made()
    comparison["spearman"].loc[{"measure": "js"}] = np.nan
    assert sentences(comparison) == ["Whether JS sees what matters can't be told: JS isn't finite, or doesn't vary."]
