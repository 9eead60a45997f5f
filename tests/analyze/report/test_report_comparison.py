"""The page that compares runs."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from lorascope.analyze import paired
from lorascope.analyze.miub.qualify import qualify
from lorascope.analyze.report import write_report
from lorascope.analyze.report.comparison import _depth_figure
from lorascope.analyze.results.format import format_error, format_number
from lorascope.analyze.results.scores import shared_scores
from lorascope.stores import Run
from lorascope.stores.reading.read import RunLike

from ..conftest import Small
from .test_report import EVIL, FETCHING, Page, numbers, section


def page_of(runs: Sequence[RunLike], folder: Path) -> Page:
    return Page(write_report(runs, folder / "page.html"))


def rows(page: Page, name: str) -> list[list[str]]:
    table = section(page, name).replace("<wbr>", "")
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]


@pytest.fixture(scope="module")
def three(small: Small, make_small: Callable[..., Small]) -> list[Run]:
    """With and without states, and one of other samples that wasn't scored."""
    return [small.run, make_small(states="none").run, make_small(is_scored=False, sample_id="other").run]


@pytest.fixture(scope="module")
def page(three: list[Run], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(three, tmp_path_factory.mktemp("three"))


def test_sections_sentences_and_contents(page: Page) -> None:
    names = ["runs", "miub", "scores", "depth", "maps"]
    assert [str(attrs["id"]) for tag, attrs in page.tags if tag == "section"] == names
    assert [attrs["href"] for tag, attrs in page.tags if tag == "a"] == [f"#{name}" for name in names]
    assert page.text.count("MIUB, the size of its push on the layers' outputs") == 3
    assert page.text.count("the adapter raises accuracy") + page.text.count("the adapter takes accuracy") == 2
    assert page.text.count("Nothing was scored") == 1
    assert section(page, "runs").count("This run keeps no states.") == 1
    assert not [a for _, attrs in page.tags for n, a in attrs.items() if n in FETCHING and not str(a).startswith("#")]


def test_differences_are_paired_with_the_first_run(three: list[Run], page: Page) -> None:
    results = [qualify(run) for run in three]
    found = rows(page, "miub")
    for row, result in zip(found, results, strict=True):
        assert row[1:4] == [format_error(float(result["miub"]), float(result["miub_se"])), "12", "6"]
    expected = paired(results[0], results[1])
    difference = format_error(float(expected["difference"]), float(expected["difference_se"]))
    assert found[0][4:] == ["", "", ""]
    assert found[1][4].removeprefix("+") == difference.replace("-", "\N{MINUS SIGN}")
    assert found[1][5:] == ["12", format_number(float(expected["p_t"]))]
    assert found[2][4:] == ["not paired", "", ""]
    assert re.search("isn't paired with the first run: .* share 0 whole samples", page.text)


def test_figures_hold_every_run_on_one_scale(three: list[Run], page: Page) -> None:
    assert set(page.data) == {"depth-figure", "map-0", "map-1", "map-2"}
    assert sum(len(trace["x"]) > 1 for trace in page.data["depth-figure"]["data"]) == 3
    scales = {(m["zmin"], m["zmax"]) for k in range(3) for m in page.data[f"map-{k}"]["data"]}
    largest = max(float(qualify(run)["js"].max()) for run in three)
    assert len(scales) == 1
    assert scales.pop()[1] == pytest.approx(np.log10(largest))


def test_scores_name_their_runs(three: list[Run], page: Page) -> None:
    names = [str(run.path).rpartition("/")[0].rpartition("/")[2] for run in three]
    found = [row for row in rows(page, "scores") if row]
    assert {row[0] for row in found} == set(names[:2])
    paired = [(names[1], score.measure, str(score.n)) for score in shared_scores(*three[:2])]
    assert [(row[0], row[2].split(" (")[0], row[3]) for row in found[:2]] == paired
    (opening,) = re.findall(r'<p class="opening">(.*?)</p>', page.source)
    assert f"On the 12 samples of facts/test that {names[0]} and {names[1]} share, " in opening
    assert f"{names[0]} and {names[2]} share no scored samples." in opening
    assert f"Not scored: {names[2]}." in page.text


def test_adapters_that_do_nothing(make_small: Callable[..., Small], small: Small, tmp_path: Path) -> None:
    page = page_of([make_small(zero=True).run, small.run], tmp_path)
    assert "it moves no layer at all" in page.text
    page = page_of([make_small(zero=True).run, make_small(zero=True, n_samples=11).run], tmp_path)
    assert page.data["map-0"]["data"][0]["zmax"] == 1.0


def test_components_outside_of_layers_have_no_depth(make_small: Callable[..., Small], tmp_path: Path) -> None:
    page = page_of([make_small(outside=True).run, make_small().run], tmp_path)
    x = page.data["depth-figure"]["data"][0]["x"]
    assert numbers(x) == [0, 1]


def test_layers_lie_on_a_logarithmic_axis_with_zeros_at_its_foot(
    small: Small, make_small: Callable[..., Small]
) -> None:
    figure = _depth_figure(["none", "some"], [qualify(make_small(zero=True).run), qualify(small.run)])
    foot = 10 ** figure.layout.yaxis.range[0]
    assert figure.layout.yaxis.type == "log"
    assert set(figure.data[0].marker.symbol) == {"triangle-down"}
    np.testing.assert_allclose(figure.data[0].y, foot)
    layers = small.by_sample(small.js()).reshape(12, 2, 3).sum(axis=2).mean(axis=0)
    np.testing.assert_allclose(figure.data[1].y, layers, rtol=1e-5)
    assert (figure.data[1].y > foot).all()


def test_hostile_names(make_small: Callable[..., Small], tmp_path: Path) -> None:
    one, other = (make_small(dataset=EVIL, sample_id=EVIL, n_samples=n).run for n in (11, 12))
    page = page_of([one, other], tmp_path)
    assert page._open == []
    assert len(page.scripts) == 3
    assert not {tag for tag, _ in page.tags} & {"img"}


def test_paths_do_as_well(three: list[Run], page: Page, small: Small, tmp_path: Path) -> None:
    first, *others = three
    assert page_of([str(first.path), Path(others[0].path), others[1]], tmp_path).text == page.text
    one = Page(write_report(str(small.run.path), tmp_path / "page.html"))
    assert one.text == Page(write_report([small.run], tmp_path / "page.html")).text


@pytest.mark.parametrize("n", [0, 2])
def test_each_run_once(small: Small, tmp_path: Path, n: int) -> None:
    with pytest.raises(ValueError, match="give at least one run, and each once"):
        write_report([small.run] * n, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
