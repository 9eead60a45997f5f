import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lorascope.analyze.miub.qualify import qualify
from lorascope.analyze.report import samples as module
from lorascope.analyze.report.samples import colour_percent, most_changed_samples, samples_section
from lorascope.analyze.results.format import format_number
from lorascope.stores import open_run

from ..conftest import Small
from .test_report import Page, page_of, section


@pytest.fixture(scope="module")
def page(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(small.run, tmp_path_factory.mktemp("report"))


def test_the_samples_that_changed_most_come_first(small: Small, make_small: Callable[..., Small]) -> None:
    miub = small.by_sample(small.js()).sum(axis=1)
    assert most_changed_samples(qualify(small.run)) == np.argsort(-miub)[:10].tolist()
    qualified = qualify(make_small(not_finite=True).run)
    assert np.isfinite(qualified["samples/miub"].values[most_changed_samples(qualified)]).all()


def test_tokens_are_coloured_by_their_js(small: Small, page: Page) -> None:
    total = small.js().sum(axis=1)
    top = np.quantile(total, 0.98)
    tokens, answers = page.with_class("t"), page.with_class("answer")
    shown = most_changed_samples(qualify(small.run))
    stops = small.run.samples["token_stop"].values
    expected = np.concatenate([total[small.starts[index] : stops[index]] for index in shown])
    assert len(tokens) == len(expected)
    assert len(answers) == 2 * len(shown)
    for attrs, value in zip(tokens, expected, strict=True):
        assert f"JS {format_number(value)} nat" in str(attrs["title"])
        assert attrs["style"] == f"--js:{colour_percent(value, top)}%"
    assert str(tokens[0]["title"]).startswith("position 2, prompt")
    gaps = [attrs for attrs in page.with_class("gap") if attrs.get("title") == "2 tokens weren't captured"]
    assert len(gaps) == len(shown)
    assert "picked with the adapter" in page.text
    miub = small.by_sample(small.js()).sum(axis=1)[shown[0]]
    assert f"<small>MIUB {format_number(miub)} nat</small>" in page.source


def test_samples_link_to_the_page_of_view_where_there_is_one(small: Small) -> None:
    run, qualified = open_run(small.run.path), qualify(small.run)
    alone, linked = samples_section(run, qualified, None), samples_section(run, qualified, "index.html")
    assert f">lorascope view {small.run.path}</code> shows all samples" in alone
    assert "href" not in alone
    links = re.findall(r'href="([^"]*)"', linked)
    assert links == ["index.html", *(f"index.html#sample={index}" for index in most_changed_samples(qualified))]
    run.path = Path("a folder/$(rm)&.zarr")
    assert ">lorascope view &#x27;a folder/$(rm)&amp;.zarr&#x27;</code>" in samples_section(run, qualified, None)


def test_of_a_long_sample_the_first_tokens_are_shown(
    make_small: Callable[..., Small], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_TOKENS", 3)
    run = make_small(token_text=False).run
    text = samples_section(run, qualify(run), None)
    assert text.count('<span class="t') == 3 * 10
    assert "[1 more captured tokens]" in text
    assert re.search(r">\[1\d\d\]<", text)  # ids stand in for missing text


def test_control_characters_become_visible(make_small: Callable[..., Small]) -> None:
    run = make_small(word="\x00\t\x7f\n").run
    assert ">␀␉␡↵\n<" in samples_section(run, qualify(run), None)


def test_a_chat_says_who_speaks(make_small: Callable[..., Small], tmp_path: Path) -> None:
    page = page_of(make_small(is_text=True, chat=True).run, tmp_path)
    text = section(page, "samples")
    speakers = re.findall(r'<span class="role">(\w+)</span>', text.split("<article")[1])
    assert speakers[:3] == ["system", "user", "assistant"]
    roles = [str(attrs["title"]).partition(", ")[2].partition(":")[0] for attrs in page.with_class("t")]
    marked = [str(attrs["class"]).removeprefix("t").strip() for attrs in page.with_class("t")]
    assert set(zip(roles, marked, strict=True)) == {
        ("system", ""), ("template", "template"), ("user", ""), ("assistant", "answer")
    }  # fmt: skip
    for words in ("<u>underlined</u>: assistant", "who speaks", "the chat template's"):
        assert words in text


def test_the_legend_names_what_is_shown(small: Small, make_small: Callable[..., Small]) -> None:
    run, qualified = open_run(small.run.path), qualify(small.run)
    assert "<u>underlined</u>: answer" in samples_section(run, qualified, None)
    missing = "number of tokens that weren't captured"
    assert missing in samples_section(run, qualified, None)
    run.samples = run.samples.assign(length=run.samples["length"] - 2)
    assert missing not in samples_section(run, qualified, None)
    text = make_small(is_text=True).run
    assert "underlined" not in samples_section(text, qualify(text), None)
