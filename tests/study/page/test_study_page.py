import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]
import pytest

from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.study import read_units
from lorascope.study.page.page_parts import paper_table_html, tile, unit_anchor, unit_links
from lorascope.study.page.study_page import render_study
from lorascope.study.results.study_results import StudyResults, study_results

from ...analyze.figures.conftest import legend_of
from ...analyze.figures.test_training import record
from ...analyze.report.test_report import EVIL, FETCHING, Page
from ..made import make_study, make_unit

SECTIONS = ["tables", "figures", "training", "law", "metrics", "claims", "units"]


def page_of(text: str, folder: Path) -> Page:
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    return Page(path)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    folder = make_study(tmp_path_factory.mktemp("page"), n_items=24)
    units = read_units(folder)
    return study_results(units, planned=[*(unit.name for unit in units), "share1-r512-s0-qa"])


@pytest.fixture(scope="module")
def page(study: StudyResults, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(render_study(study, source="here"), tmp_path_factory.mktemp("page"))


def test_sections_in_their_order(page: Page) -> None:
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == SECTIONS
    for name in ("sweeps", "figure-2", "figure-3", "law-N", "law-R", "metrics-figure"):
        assert name in page.data
    assert "No figure" not in page.text


def test_nothing_is_fetched(page: Page) -> None:
    addresses = [str(value) for _, attrs in page.tags for name, value in attrs.items() if name in FETCHING]
    assert addresses
    assert all(address.startswith("#") for address in addresses)


def test_every_number_of_the_tables_leads_to_its_unit(study: StudyResults, page: Page) -> None:
    ids = {attrs.get("id") for _, attrs in page.tags}
    targets = {str(attrs["href"]).removeprefix("#") for tag, attrs in page.tags if tag == "a"}
    assert targets == {unit_anchor(unit.name) for unit in study.units}
    assert targets <= ids
    for table in ("table_1", "table_2", "table_3"):
        for row in study.tables[table].itertuples():
            # Small ones in nats stand in thousandths or millionths; which, the next test says.
            units = (1, 1e-3, 1e-6) if row.unit == "nat" else (1,)
            shown = (format_error(row.value / unit, row.se / unit) for unit in units)
            assert any(f'<a href="#{unit_anchor(row.runs)}">{text}</a>' in page.source for text in shown)


@pytest.mark.parametrize(
    ("metric", "rows", "shown"),
    [
        ("MIUB", [(0.00199, 2.8e-5), (0.0284, 6.5e-5)], ["MIUB (10⁻³ nat)", "1.990 ± 0.028", "28.400 ± 0.065"]),
        ("js sum", [(-0.00284, 1e-4)], ["js sum (10⁻³ nat)", "-2.84 ± 0.10"]),
        ("js", [(3.9e-6, np.nan, 9.2e-7, 8.9e-5)], ["js (10⁻⁶ nat)", "3.90  0.920 to 89.0"]),
        ("MIUB", [(0.00199, 2.8e-5), (1.0, 0.01)], ["MIUB (nat)", "(1.990 ± 0.028)·10⁻³", "1.000 ± 0.010"]),
        ("js", [(0.0, np.nan)], ["js (nat)", "0"]),
        ("ACC", [(0.05, 0.02)], ["ACC (share)", "0.050 ± 0.020"]),  # what isn't in nats stays as it is
    ],
)
def test_small_numbers_of_a_metric_share_a_power_of_ten(
    metric: str, rows: list[tuple[float, ...]], shown: list[str]
) -> None:
    frame = pd.DataFrame(rows).reindex(columns=range(4)).set_axis(["value", "se", "low", "high"], axis=1)
    frame = frame.assign(model="m", dataset="piqa", metric=metric, n_items=9, runs="one", n_seeds=1, seed_sd=np.nan)
    layout = paper_table_html(frame.assign(setting=[f"r{k}" for k in range(len(rows))]), "dataset")
    cells = re.findall(r'<td class="n[^>]+>(.+?)</td>', layout.split("tbody")[1])
    assert [re.sub(r"<[^>]+>", " ", cell).strip() for cell in cells[1:]] == shown


def test_each_unit_says_where_its_numbers_come_from(study: StudyResults, page: Page) -> None:
    for unit in study.units:
        part = page.source.split(f'id="{unit_anchor(unit.name)}"')[1].split("</article>")[0]
        for run in unit.runs.values():
            assert run["fingerprint"] in part
        assert unit.name in part
        assert "learning_rate" in part


def test_what_must_be_known_comes_first(page: Page) -> None:
    head = page.text.split("What MIUB is.")[0]
    for words in (
        "1 of 7 units aren't done: share1-r512-s0-qa",
        "Each setting has one seed.",
        "Few items: 24 a data set. An accuracy has a standard error of up to 10.2 points.",
        "6 of 7",
    ):
        assert words in head
    assert "Units differ" not in head
    assert "piqa: 5 of 6 items of 101 to 200 tokens" in page.text


def test_claims_have_their_words_and_numbers(study: StudyResults, page: Page) -> None:
    for claim in study.tables["claims"].itertuples():
        assert claim.claim in page.text
        assert claim.because in page.text
    words = re.findall(r'<span class="word ([a-z-]+)">', page.source)
    assert set(words) <= {"supported", "not-identified", "contradicted"}


def test_small_studies_have_a_page_that_says_what_they_lack(tmp_path: Path) -> None:
    make_study(tmp_path, [(1, 8)], text=False, lengths=False, prompts=("main",), informed=False)
    page = page_of(render_study(study_results(read_units(tmp_path))), tmp_path)
    for words in (
        "Table 2: no items were put to more than one prompt.",
        "Table 3: mutual information was estimated of no unit.",
        "No figure: neither rank nor model size varies.",
        "No figure: no items were drawn by their length.",
        "No figure: no text was measured at a known number of parameters.",
        "Not identified: no size varies",
        "Not compared:",
        "1 of 1",
    ):
        assert words in page.text
    make_study(tmp_path / "texts", [(8, 8), (1, 8)], sets=(), lengths=False, informed=False)
    page = page_of(render_study(study_results(read_units(tmp_path / "texts"))), tmp_path)
    assert "Table 1: no data set with choices." in page.text
    assert "there is no data set with choices" in page.text
    assert "figure-2" in page.data


def test_seeds_have_links_of_their_own(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_study(tmp_path, [(1, 8)], seed=seed, text=False, lengths=False)
    units = read_units(tmp_path)
    source = render_study(study_results(units))
    assert unit_links([unit.name for unit in units], "1.5") == (
        '<a href="#unit-share1-r8-s0-qa">1.5</a><sup><a href="#unit-share1-r8-s1-qa">2</a></sup>'
    )
    assert "Means of 2 seeds" in source
    table = study_results(units).tables["table_1"]
    for sd in table[table["n_seeds"] == 2]["seed_sd"]:
        shown = {format_number(sd / unit, digits=2) for unit in (1, 1e-3, 1e-6)}
        assert any(f'<div class="note">sd {text}</div>' in source for text in shown)
    assert "have one seed" not in source
    assert unit_links([], "-") == "-"


def test_how_uneven_numbers_of_seeds_count_is_said(tmp_path: Path) -> None:
    """The accuracy above is a mean over settings; one setting has three adapters, two of them never right."""
    options: dict[str, Any] = {"text": False, "lengths": False, "prompts": ("main",), "informed": False}
    make_study(tmp_path, [(1, 8), (1, 128)], **options)
    for seed in (1, 2):
        change = lambda results: results.assign(correct=results["correct"] * 0)  # noqa: E731
        make_unit(tmp_path / "results", 1, 128, seed=seed, change=change, **options)
    study = study_results(read_units(tmp_path))
    source = render_study(study)
    assert "once however many it has: settings have 1 to 3 seeds." in source
    cells = study.tables["study"]
    by_setting = cells.groupby("setting")["ACC"].mean().mean()
    assert abs(by_setting - cells["ACC"].mean()) > 0.05
    assert f"→ {format_percent(by_setting)}" in source.split("without → with adapter")[0][-200:]


def test_trainings_are_drawn_where_they_were_measured(tmp_path: Path) -> None:
    curve = record()["miub"]
    for share, rank, own in ((1, 8, curve), (1, 32, curve), (8, 8, curve), (4, 8, curve), (2, 8, {"steps": "x"})):
        folder = tmp_path / ("bad" if share == 2 else "good")
        make_unit(folder, share, rank, text=False, lengths=False, prompts=("main",), curve=own)
    good, bad = (render_study(study_results(read_units(tmp_path / name))) for name in ("good", "bad"))
    page = page_of(good, tmp_path)
    assert legend_of(go.Figure(page.data["training-0"])) == ["share1-r8-s0-qa", "share1-r32-s0-qa"]
    assert legend_of(go.Figure(page.data["training-1"])) == ["share8-r8-s0-qa", "share4-r8-s0-qa"]
    assert "training-2" not in page.data
    assert good.index("<h3>qa, smol</h3>") < good.index("<h3>qa, smol, layers shared</h3>")
    assert "No figure: " in bad.split("<h3>qa, smol, layers shared</h3>")[1][:100]


def test_a_headline_number_has_a_minus_sign() -> None:
    assert "change \N{MINUS SIGN}2" in tile("a", "1", "change -2")


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    make_unit(tmp_path, model=EVIL, sets=(EVIL,), task=EVIL, name="odd", libraries={EVIL: EVIL}, prompts=("main", EVIL))
    make_unit(tmp_path, model=EVIL, sets=(EVIL,), task=EVIL, name="other", rank=32)
    page = page_of(render_study(study_results(read_units(tmp_path)), source=EVIL), tmp_path)
    assert len(page.scripts) == 2
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert EVIL in page.text
