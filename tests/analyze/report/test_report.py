import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze import experts, explain, miub
from lorascope.analyze.miub.qualify import qualify
from lorascope.analyze.report import paragraph, write_report
from lorascope.analyze.report.helped import scores_caption
from lorascope.analyze.report.markup import as_json, escape, table, with_minus, with_units
from lorascope.analyze.report.samples import MOST_TOKENS
from lorascope.analyze.report.trust import describe_run
from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.analyze.results.scores import scores_table
from lorascope.stores import Run, StoreError, open_run, pull
from lorascope.stores.visible import COMMANDS

from ..conftest import Small, width
from ..miub.test_experts import write_mixture

SECTIONS = ["changed", "ablation", "directions", "scores", "components", "samples", "trust"]
FIGURES = ["js-map", "positions"]
FETCHING = {"src", "href", "action", "data", "poster", "srcset", "formaction", "background", "cite", "xlink:href"}
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


class Page(HTMLParser):
    """What a browser would find: addresses, styles, scripts, figures, text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.data: dict[str, Any] = {}
        self.styles: list[str] = []
        self.text = ""
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "wbr", "br", "img"}:
            self._open.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        tag, attrs = self._open[-1] if self._open else ("", {})
        if tag == "script" and attrs.get("type") == "application/json":
            self.data[str(attrs["id"]).removesuffix("-data")] = json.loads(data)
        elif tag == "script":
            self.scripts.append(data)
        elif tag == "style":
            self.styles.append(data)
        else:
            self.text += data

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.tags if name in str(attrs.get("class", "")).split()]


def page_of(run: Run, folder: Path, **options: Any) -> Page:
    return Page(write_report(run, folder / "report.html", **options))


def section(page: Page, name: str) -> str:
    """HTML of a section, or of what is folded away in one."""
    return re.split(r'<(?:section|details) id="', re.split(rf'<(?:section|details) id="{name}">', page.source)[1])[0]


@pytest.fixture(scope="module")
def page(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page_of(small.run, tmp_path_factory.mktemp("report"))


def test_nothing_is_fetched_from_elsewhere(page: Page) -> None:
    addresses = [str(value) for _, attrs in page.tags for name, value in attrs.items() if name in FETCHING]
    assert [address for address in addresses if not address.startswith("#")] == []
    styles = "".join(page.styles) + "".join(str(attrs.get("style", "")) for _, attrs in page.tags)
    assert not re.search(r"url\(|@import", styles)
    policy = next(attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base", "img"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]


CAPTIONS = {
    "items": ({}, ["ACC: items", "the mean negative log-likelihood of an item's right answer,"], ["PPL", "not read"]),
    "text": (
        {"is_text": True},
        ["of a text's or chat's tokens that are to be predicted,", "PPL: perplexity exp(CE)"],
        ["ACC", "item"],
    ),
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_caption_speaks_of_what_its_table_holds(make_small: Callable[..., Small], name: str) -> None:
    options, expected, others = CAPTIONS[name]
    caption = scores_caption(scores_table(make_small(**options).run)[1])
    assert all(words in caption for words in expected)
    assert not any(words in caption for words in others)
    assert "change's error" in caption


def test_numbers_on_pages_have_a_minus_sign() -> None:
    shown = table(("a-b", "c"), [("x-1", "-1.5 ± 0.2"), ("y", "1-5"), ("z", "2·10⁻³, -∞")])
    cells = re.findall(r"<td[^>]*>(.*?)</td>", shown)
    minus = "\N{MINUS SIGN}"
    assert cells == ["x-1", f"{minus}1.5 ± 0.2", "y", "1-5", "z", f"2·10⁻³, {minus}∞"]


def test_page_is_whole_and_not_too_large(page: Page) -> None:
    assert page._open == []
    assert len(page.source.encode()) < 6e6
    assert len(page.scripts) == 2
    assert "displaylogo: false" in page.scripts[1]
    assert page.source.count("* plotly.js v") == 1


def test_sections_and_figures_are_there_in_order(page: Page) -> None:
    assert [str(attrs["id"]) for tag, attrs in page.tags if tag == "section"] == SECTIONS
    assert [attrs["id"] for attrs in page.with_class("plot")] == list(page.data) == FIGURES
    assert all({"data", "layout"} <= set(figure) for figure in page.data.values())


def test_it_opens_with_the_paragraph(small: Small, page: Page) -> None:
    opening = re.findall(r'<p class="opening"><b>(.*?)</b> (.*?)</p>', page.source)
    answers = paragraph(small.run, explain(small.run))
    assert [question for question, _ in opening] == [question for question, _ in answers]
    for (_, shown), (_, answer) in zip(opening, answers, strict=True):
        assert re.sub("</?code>", "`", shown) == escape(with_units(with_minus(answer)))
    by_sample = small.by_sample(small.js()).sum(axis=1)
    value = with_units(f"{format_error(by_sample.mean(), by_sample.std(ddof=1) / np.sqrt(12))} nat")
    assert value in opening[-2][1]
    assert " " not in value
    assert "at most ln 2 = 0.693 nats per component" in page.text
    assert "in spite of its name isn't a bound of a mutual information" in page.text


def test_no_line_ends_between_a_number_and_its_unit() -> None:
    text = "(3.706 ± 0.020)·10⁻³ nat of 2 nats, 5 % or 1.2·10⁻⁶ nat"
    assert with_units(text).split(" ") == [
        "(3.706\xa0±\xa00.020)·10⁻³\xa0nat",
        "of",
        "2\xa0nats,",
        "5\xa0%",
        "or",
        "1.2·10⁻⁶\xa0nat",
    ]
    assert with_units("5 national parks, a % sign, 2 % 3") == "5 national parks, a % sign, 2\xa0% 3"


def test_figures_hold_the_definitions_numbers(small: Small, page: Page) -> None:
    texts = page.data["js-map"]["data"][0]["text"]
    by_sample = small.by_sample(small.js())
    means, errors = by_sample.mean(axis=0), by_sample.std(axis=0, ddof=1) / np.sqrt(12)
    for index, path in enumerate(small.run.component_paths):
        shown = texts[index % 3][index // 3]
        assert shown.startswith(f"<b>{path}</b><br>mean JS (nat): {format_error(means[index], errors[index])}<br>")
    accuracy = small.run.samples["correct"].values.mean()
    assert format_error(100 * accuracy, 100 * np.sqrt(accuracy * (1 - accuracy) / 12)) in section(page, "scores")


def test_rounding_and_provenance(small: Small, page: Page) -> None:
    shares = np.nanmean(small.run.reduction("swallowed").values.astype(float), axis=0)
    mean, most = format_percent(shares.mean()), format_percent(shares[-1])
    swallowed = f"{mean} of features (mean over 6 components; at most {most}, in model.layers.1.down_proj)"
    assert swallowed in section(page, "trust")
    assert "static_digest" in section(page, "provenance").replace("<wbr>", "")
    assert not page.with_class("notice")


def test_provenance_names_model_adapter_selection_and_omissions(
    make_small: Callable[..., Small], tmp_path: Path
) -> None:
    settings = {"model": "org/name", "adapter": "/long/way/to/adapter", "tokens": "last:6", "data": ["facts.jsonl"]}
    population = "the last 6 tokens of each sequence"
    attributes = {"provenance": {"settings": settings, "omitted_items": {"facts.jsonl": 7}, "population": population}}
    page = page_of(make_small(attributes=attributes).run, tmp_path)
    assert "model org/name · adapter to/adapter · data facts · stream adapted" in page.text
    assert (
        "(token selection last:6). All numbers are about the last 6 tokens of each sequence, not about the samples' "
        "other tokens. 7 items beyond the limit weren't read." in page.text
    )
    assert "/long/way/to/adapter" in section(page, "provenance")
    assert "[&quot;facts.<wbr>jsonl&quot;]" in section(page, "provenance")


def test_what_a_store_says_is_never_code(make_small: Callable[..., Small], tmp_path: Path) -> None:
    attributes = {"provenance": {"settings": {"model": EVIL, "tokens": EVIL}, "device": EVIL, "population": EVIL}}
    run = make_small(word=EVIL, sample_id=EVIL, dataset=EVIL, attributes=attributes).run
    page = page_of(run, tmp_path)
    assert len(page.scripts) == 2
    assert page._open == []
    assert not {tag for tag, _ in page.tags} & {"img"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert EVIL in page.text


def test_json_in_a_script_element_cant_end_it() -> None:
    text = json.dumps({"a": "</script><!-- & -->"})
    assert not set("<>&") & set(as_json(text))
    assert json.loads(as_json(text)) == json.loads(text)


def test_no_terminal_obeys_what_a_store_says(make_small: Callable[..., Small], tmp_path: Path) -> None:
    hostile = "a\x1b[2J\x9bm\u202eb"
    attributes = {"provenance": {"settings": {"model": hostile, "tokens": hostile}, "population": hostile, hostile: 1}}
    page = page_of(make_small(word=hostile, sample_id=hostile, dataset=hostile, attributes=attributes).run, tmp_path)
    without_scripts = page.source
    for script in page.scripts:
        without_scripts = without_scripts.replace(script, "")
    assert COMMANDS.findall(without_scripts) == []
    assert r"model a\x1b[2J\x9bm\u202eb · adapter" in page.text
    assert page.text.count(r"a\x1b[2J\x9bm\u202eb") > 5


def test_run_without_states(make_small: Callable[..., Small], tmp_path: Path) -> None:
    small = make_small(states="none")
    page = page_of(small.run, tmp_path)
    assert list(page.data) == FIGURES
    n = small.run.n_tokens
    assert f"This run keeps no states. JS is the one measured during capture, on {n} of {n} tokens;" in page.text
    shown = page.data["js-map"]["data"][0]["text"][0][0]
    median = np.median(width(small.base[small.run.component_paths[0]]))
    assert f"<br>effective width {format_number(median)} of 24<br>" in shown
    for name in ("ablation", "directions"):
        assert "Can&#x27;t tell" in section(page, name) or "Can't tell" in section(page, name)


def test_pair(make_small: Callable[..., Small], tmp_path: Path) -> None:
    small = make_small(stream="pair")
    page = page_of(small.run, tmp_path)
    assert " · stream pair" in page.text
    assert list(page.data) == FIGURES
    assert format_number(small.by_sample(small.js()).sum(axis=1).mean(), digits=2) in page.text


def test_deltas_that_are_differences_are_named(make_small: Callable[..., Small], tmp_path: Path) -> None:
    page = page_of(make_small(factored=False, delta_source="difference").run, tmp_path)
    assert "6 components have no additive branch. Their delta is the layer's output minus its base" in page.text
    page = page_of(make_small(factored=False).run, tmp_path)
    assert "no additive branch" not in page.text


def test_drawn_tokens_are_weighed(make_small: Callable[..., Small], tmp_path: Path) -> None:
    small = make_small(is_weighted=True)
    by_sample = small.by_sample(small.js()).sum(axis=1)
    page = page_of(small.run, tmp_path)
    assert with_units(format_error(by_sample.mean(), by_sample.std(ddof=1) / np.sqrt(12))) in page.text
    swallowed = small.run.reduction("swallowed").values[:, -1]
    known = np.isfinite(swallowed)
    mean = np.average(swallowed[known], weights=small.weight[known])
    assert f"at most {format_percent(mean)}, in model.layers.1.down_proj" in section(page, "trust")
    assert (
        "They were drawn at random. Means, sums and quantiles over tokens weigh each token by the inverse of its chance"
        in page.text
    )


@pytest.mark.parametrize(
    ("adapter", "words"),
    [
        ("/long/way/to/one", "adapter to/one"),
        (["/long/way/to/one"], "adapter to/one"),
        (["default=/way/to/one", "b=/way/to/two"], "adapter to/one"),
        (["/way/to/one", "b=/way/to/two"], "adapter default"),
        (None, "adapter default"),
    ],
)
def test_the_pages_adapter_is_named(make_small: Callable[..., Small], adapter: Any, words: str) -> None:
    run = make_small(attributes={"provenance": {"settings": {"adapter": adapter}}}).run
    assert f"{words} · data facts" in describe_run(run, qualify(run))


def test_unscored_run(make_small: Callable[..., Small], tmp_path: Path) -> None:
    page = page_of(make_small(is_scored=False).run, tmp_path)
    assert "This run wasn't scored." in page.text
    assert "picked" not in page.text


def test_several_adapters(make_small: Callable[..., Small], tmp_path: Path) -> None:
    run = make_small(adapters=("one", "two")).run
    assert "This run holds 2 adapters; the page is about two." in page_of(run, tmp_path, adapter="two").text
    with pytest.raises(StoreError, match="`adapter` isn't given"):
        write_report(run, tmp_path / "report.html")


def test_chosen_components(small: Small, tmp_path: Path) -> None:
    page = page_of(small.run, tmp_path, component=["*.up_proj"])
    assert "2 of 6 components were chosen: MIUB, shares and colours are only about these." in page.text
    by_sample = small.by_sample(small.js())[:, [1, 4]].sum(axis=1)
    assert with_units(format_error(by_sample.mean(), by_sample.std(ddof=1) / np.sqrt(12))) in page.text


def test_unfinished_run(unfinished: Path, tmp_path: Path) -> None:
    page = page_of(open_run(unfinished), tmp_path)
    assert "This run is unfinished: 2 of 3 rows are committed. 3 samples that aren't wholly captured" in page.text
    assert "Rounding." not in page.text
    assert f"[{700 - MOST_TOKENS} more captured tokens]" in page.text


def test_copy_of_an_unfinished_run(unfinished: Path, tmp_path: Path) -> None:
    page = page_of(pull(unfinished, tmp_path / "copy.zarr"), tmp_path)
    assert "This run was copied from an unfinished run: 3 of its samples are missing here." in page.text


def test_copy_of_chosen_tokens(make_small: Callable[..., Small], tmp_path: Path) -> None:
    attributes = {"provenance": {"settings": {"tokens": "all"}, "population": "all tokens"}}
    run = make_small(attributes=attributes).run
    answers = pull(run.path, tmp_path / "answers.zarr", tokens="answer")
    text = page_of(answers, tmp_path).text
    assert "(token selection answer). All numbers are about the tokens of the answer, not about the samples'" in text
    pull(run.path, tmp_path / "drawn.zarr", tokens="share:0.5")
    page = page_of(pull(tmp_path / "drawn.zarr", tmp_path / "both.zarr", tokens="prompt"), tmp_path)
    words = "inverse of its chance, so that they are about the tokens of the prompt, its choices included."
    assert "(token selection share:0.5, then prompt)" in page.text
    assert words in page.text


def test_nothing_committed_leaves_no_page(nothing_committed: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="wholly committed"):
        write_report(open_run(nothing_committed), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_adapter_that_does_nothing(make_small: Callable[..., Small], tmp_path: Path) -> None:
    page = page_of(make_small(zero=True).run, tmp_path)
    assert "Nowhere: the adapter changes no module's output in any of 12 samples." in page.text
    assert {str(attrs["style"]) for attrs in page.with_class("t")} == {"--js:0%"}


def test_values_that_arent_finite(make_small: Callable[..., Small], tmp_path: Path) -> None:
    page = page_of(make_small(not_finite=True).run, tmp_path)
    assert (
        "1 values of JS aren't finite. In model.layers.0.q_proj, base or delta contains NaN or infinity." in page.text
    )
    assert (
        "How far do outputs move? Can't tell, since outputs of modules, or the adapter's changes to them, contain NaN "
        "or" in page.text
    )
    assert "model.layers.1.up_proj" in page.data["js-map"]["data"][0]["text"][1][1]


def test_page_is_replaced_and_its_folder_made(small: Small, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    seen: list[tuple[int, int]] = []
    assert write_report(small.run, str(path), progress=lambda *step: seen.append(step)) == path
    assert seen[-1][0] == seen[-1][1] > 0
    path.write_text("old")
    assert write_report(small.run, path, n_workers=1) == path
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert [f.name for f in path.parent.iterdir()] == ["report.html"]


def test_a_folder_is_no_page(small: Small, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="a folder; name a file, e.g. "):
        write_report(small.run, tmp_path)


@pytest.mark.parametrize("stream", ["adapted", "pair"])
def test_an_adapter_on_experts_has_a_map_of_them(tmp_path: Path, stream: str) -> None:
    run = write_mixture(tmp_path / "run.zarr", stream=stream)
    page = page_of(run, tmp_path)
    assert list(page.data)[:2] == ["js-map", "expert-map"]
    assert "layer 1, expert 2" in page.data["expert-map"]["data"][0]["text"][2][1]
    found = experts(run, miub(run))
    if stream == "pair":
        changed = (found["gained"].sum("expert") / found["share"].sum("expert")).values
        layer, most = int(changed.argmax()), format_percent(changed.max())
        sentence = f"{format_percent(changed.mean())} are others than without the adapter, in layer {layer} {most}."
        assert sentence in page.text.replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")
    else:
        assert "are others than" not in page.text
    assert list(page_of(run, tmp_path).data) == list(page.data)  # from stored numbers
