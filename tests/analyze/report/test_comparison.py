"""The page that compares runs."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from lorascope.analyze import paired
from lorascope.analyze.miub.qualify import qualify
from lorascope.analyze.report import write_report
from lorascope.analyze.results.format import format_error, format_number
from lorascope.analyze.results.scores import shared_scores
from lorascope.stores import Run
from lorascope.stores.reading.read import RunLike

from ..conftest import Small
from .test_report import EVIL, FETCHING, Page, section
from .test_stored_page import NOTE


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


def test_it_opens_with_what_each_adapter_did(three: list[Run], page: Page) -> None:
    names = ["miub", "scores", "maps"]
    assert [str(attrs["id"]) for tag, attrs in page.tags if tag == "section"] == names
    assert [attrs["href"] for tag, attrs in page.tags if tag == "a"] == [f"#{name}" for name in names]
    openings = re.findall(r'<h3>(.*?)</h3><p class="subtitle">.*?</p><p class="opening">(.*?)</p>', page.source)
    assert [name for name, _ in openings] == [str(run.path).split("/")[-2] for run in three]
    assert [text.startswith("Accuracy ") for _, text in openings] == [True, True, False]
    assert openings[2][1].startswith(
        "Can&#x27;t tell, since no sample was scored. Outputs of modules move about as much as by "
    )
    assert "The adapter&#x27;s effect is largest in " in openings[2][1]
    assert page.source.count("This run keeps no states.") == 1
    assert not [a for _, attrs in page.tags for n, a in attrs.items() if n in FETCHING and not str(a).startswith("#")]


def test_differences_are_paired_with_the_first_run(three: list[Run], page: Page) -> None:
    results = [qualify(run) for run in three]
    table = rows(page, "miub")
    for row, result in zip(table, results, strict=True):
        assert row[1:4] == [format_error(float(result["miub"]), float(result["miub_se"])), "12", "6"]
    expected = paired(results[0], results[1])
    difference = format_error(float(expected["difference"]), float(expected["difference_se"]))
    assert table[0][4:] == ["", "", ""]
    assert table[1][4].removeprefix("+") == difference.replace("-", "\N{MINUS SIGN}")
    assert table[1][5:] == ["12", format_number(float(expected["p_t"]))]
    assert table[2][4:] == ["not paired", "", ""]
    assert re.search("isn't paired with the first run: .* share 0 whole samples", page.text)


def test_maps_are_on_one_scale(three: list[Run], page: Page) -> None:
    assert set(page.data) == {"map-0", "map-1", "map-2"}
    scales = {(m["zmin"], m["zmax"]) for k in range(3) for m in page.data[f"map-{k}"]["data"]}
    largest = max(float(qualify(run)["js"].max()) for run in three)
    assert len(scales) == 1
    assert scales.pop()[1] == pytest.approx(np.log10(largest))


def test_scores_are_those_of_shared_samples(three: list[Run], page: Page) -> None:
    name = str(three[1].path).split("/")[-2]
    expected = [(name, score.measure, str(score.n)) for score in shared_scores(*three[:2])]
    assert [(row[0], row[2].split(" (")[0], row[3]) for row in rows(page, "scores")] == expected


def test_adapters_that_do_nothing(make_small: Callable[..., Small], small: Small, tmp_path: Path) -> None:
    page = page_of([make_small(zero=True).run, small.run], tmp_path)
    assert "Nowhere: the adapter changes no module's output" in page.text
    page = page_of([make_small(zero=True).run, make_small(zero=True, n_samples=11).run], tmp_path)
    assert page.data["map-0"]["data"][0]["zmax"] == 1.0


def test_hostile_names(make_small: Callable[..., Small], tmp_path: Path) -> None:
    page = page_of([make_small(dataset=EVIL, sample_id=EVIL, n_samples=n).run for n in (11, 12)], tmp_path)
    assert page._open == []
    assert len(page.scripts) == 2
    assert not {tag for tag, _ in page.tags} & {"img"}


def test_paths_do_as_well(three: list[Run], page: Page, small: Small, tmp_path: Path) -> None:
    first, *others = three
    again = page_of([str(first.path), Path(others[0].path), others[1]], tmp_path)
    assert NOTE.sub("", again.source) == NOTE.sub("", page.source)
    write_report([small.run], tmp_path / "page.html")  # both of the next read the numbers that this one stores
    alone = Page(write_report(str(small.run.path), tmp_path / "page.html"))
    assert alone.text == Page(write_report([small.run], tmp_path / "page.html")).text


@pytest.mark.parametrize("n", [0, 2])
def test_each_run_once(small: Small, tmp_path: Path, n: int) -> None:
    with pytest.raises(ValueError, match="give at least one run, and each once"):
        write_report([small.run] * n, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
