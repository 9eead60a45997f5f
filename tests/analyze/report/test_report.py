import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze.miub.qualify import qualify
from lorascope.analyze.report import write_report
from lorascope.analyze.report.about_run import source
from lorascope.analyze.report.markup import as_json, table, tile
from lorascope.analyze.report.sections import scores_caption
from lorascope.analyze.report.token_texts import MOST_TOKENS, chosen_samples, heat
from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.analyze.results.scores import scores_table
from lorascope.stores import Run, StoreError, open_run
from lorascope.stores.visible import COMMANDS

from ..conftest import Small, width

SECTIONS = ["components", "scores", "texts", "qualifiers", "samples", "tokens", "record"]
FIGURES = {"js-map", "width-map", "ratio-map", "null-map", "share-curve", "sample-spread", "positions"}
FETCHING = {"src", "href", "action", "data", "poster", "srcset", "formaction", "background", "cite", "xlink:href"}
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


class Page(HTMLParser):
    """What a browser would find: addresses, styles, scripts, figures, text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.data: dict[str, Any] = {}
        self.samples: dict[str, Any] = {}
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
        if tag == "script" and attrs.get("id") == "token-data":
            self.samples = json.loads(data)
        elif tag == "script" and attrs.get("type") == "application/json":
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
    "items": ({}, ["ACC: items", "CE: mean negative log-likelihood of an item's right answer,"], ["PPL", "not read"]),
    "text": (
        {"is_text": True},
        ["of a text's or chat's tokens that are to be predicted,", "PPL: exp(CE)"],
        ["ACC", "item"],
    ),
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_caption_speaks_of_what_its_table_holds(make_small: Callable[..., Small], name: str) -> None:
    options, said, unsaid = CAPTIONS[name]
    caption = scores_caption(scores_table(make_small(**options).run)[1])
    assert all(words in caption for words in said)
    assert not any(words in caption for words in unsaid)
    assert "change's error" in caption


def test_numbers_on_pages_have_a_minus_sign() -> None:
    shown = table(("a-b", "c"), [("x-1", "-1.5 ± 0.2"), ("y", "1-5"), ("z", "2·10⁻³, -∞")])
    cells = re.findall(r"<td[^>]*>(.*?)</td>", shown)
    minus = "\N{MINUS SIGN}"
    assert cells == ["x-1", f"{minus}1.5 ± 0.2", "y", "1-5", "z", f"2·10⁻³, {minus}∞"]
    assert f"change {minus}2" in tile("a", "1", "change -2")


def test_page_is_whole_and_not_too_large(page: Page) -> None:
    assert page._open == []
    assert len(page.source.encode()) < 6e6
    assert len(page.scripts) == 3
    assert "displaylogo: false" in page.scripts[1]
    assert page.source.count("* plotly.js v") == 1


def test_sections_and_figures_are_there_in_order(page: Page) -> None:
    assert [str(attrs["id"]) for tag, attrs in page.tags if tag == "section"] == SECTIONS
    assert set(page.data) == {*FIGURES, "answer-positions"}
    assert [attrs["id"] for attrs in page.with_class("plot")] == list(page.data)
    assert all({"data", "layout"} <= set(figure) for figure in page.data.values())


def test_headline_is_the_definitions_number(small: Small, page: Page) -> None:
    by_sample = small.by_sample(small.js()).sum(axis=1)
    error = by_sample.std(ddof=1) / np.sqrt(len(by_sample))
    assert format_error(by_sample.mean(), error) in page.text
    assert f"12 samples{small.run.n_tokens} tokens \N{MULTIPLICATION SIGN} 6 components" in page.text
    assert re.search(r"accuracy[\d.]+ → [\d.]+ %without → with adapter; change \S+ ± \S+; facts/\w+, n = 12", page.text)
    assert "at most ln 2 = 0.693 nats a component" in page.text
    assert "That theorem doesn't hold" in page.text


def test_figures_hold_the_definitionsnumbers(small: Small, page: Page) -> None:
    texts = page.data["js-map"]["data"][0]["text"]
    by_sample = small.by_sample(small.js())
    means, errors = by_sample.mean(axis=0), by_sample.std(axis=0, ddof=1) / np.sqrt(12)
    for index, path in enumerate(small.run.component_paths):
        shown = texts[index % 3][index // 3]
        assert shown.startswith(f"<b>{path}</b><br>mean JS (nat): {format_error(means[index], errors[index])}<br>")
    accuracy = small.run.samples["correct"].values.mean()
    assert format_error(100 * accuracy, 100 * np.sqrt(accuracy * (1 - accuracy) / 12)) in section(page, "scores")


def test_the_largest_components_come_first(small: Small, page: Page) -> None:
    means = small.by_sample(small.js()).mean(axis=0)
    order = np.argsort(-means)
    shares = means[order] / means.sum()
    table = section(page, "components").replace("<wbr>", "")
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    assert [row[0] for row in rows] == [small.run.component_paths[place] for place in order]
    assert [row[2] for row in rows] == list(map(format_percent, shares))
    assert [row[3] for row in rows] == list(map(format_percent, np.cumsum(shares)))
    assert f"The five largest hold {format_percent(shares[:5].sum())} of MIUB." in page.text
    assert 'permuted, effective width, |delta| / |base|: see <a href="#qualifiers">' in table


def test_tokens_are_coloured_by_their_js(small: Small, page: Page) -> None:
    total = small.js().sum(axis=1)
    top = np.quantile(total, 0.98)
    tokens = page.with_class("t")
    answers = page.with_class("answer")
    chosen = chosen_samples(qualify(small.run))
    spans = [slice(int(small.run.samples["token_start"][i]), int(small.run.samples["token_stop"][i])) for i in chosen]
    expected = np.concatenate([total[span] for span in spans])
    assert len(tokens) == len(expected)
    assert len(answers) == 2 * len(chosen)
    for attrs, value in zip(tokens, expected, strict=True):
        assert f"JS {format_number(value)} nat" in str(attrs["title"])
        assert attrs["style"] == f"--js:{heat(value, top)}%"
    assert str(tokens[0]["title"]).startswith("position 2, prompt")
    assert len([attrs for attrs in page.with_class("gap") if attrs.get("title") == "2 tokens weren't captured"]) == 5
    assert "picked with the adapter" in page.text
    miub = small.by_sample(small.js()).sum(axis=1)[chosen[0]]
    assert f"<small>MIUB {format_number(miub)} nat</small>" in page.source


def test_store_fidelity_and_provenance_are_told(small: Small, page: Page) -> None:
    assert "whole run" in section(page, "store")
    assert f"over {int(np.isfinite(small.run.js().values).sum())} values" in section(page, "fidelity")
    shares = np.nanmean(small.run.reduction("swallowed").values.astype(float), axis=0)
    told = f"{format_percent(shares.mean())} of features (mean over 6 components; at most {format_percent(shares[-1])}"
    assert f"{told}, in model.layers.1.down_proj" in section(page, "fidelity")
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
        "other ones. 7 items beyond the limit weren't read." in page.text
    )
    assert "/long/way/to/adapter" in section(page, "provenance")
    assert "[&quot;facts.<wbr>jsonl&quot;]" in section(page, "provenance")


def test_what_a_store_says_is_never_code(make_small: Callable[..., Small], tmp_path: Path) -> None:
    attributes = {"provenance": {"settings": {"model": EVIL, "tokens": EVIL}, "device": EVIL, "population": EVIL}}
    run = make_small(word=EVIL, sample_id=EVIL, dataset=EVIL, attributes=attributes).run
    page = page_of(run, tmp_path)
    assert len(page.scripts) == 3
    assert page._open == []
    assert not {tag for tag, _ in page.tags} & {"img"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert EVIL in page.text
    assert page.data["sample-spread"]["data"][0]["text"][0].startswith("&lt;/script&gt;")


def test_json_in_a_script_element_cant_end_it() -> None:
    text = json.dumps({"a": "</script><!-- & -->"})
    assert not set("<>&") & set(as_json(text))
    assert json.loads(as_json(text)) == json.loads(text)


def test_control_characters_become_visible(make_small: Callable[..., Small], tmp_path: Path) -> None:
    assert ">␀\t␉␡↵\n<".replace("\t", "") in page_of(make_small(word="\x00\t\x7f\n").run, tmp_path).source


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


def test_token_ids_stand_in_for_missing_text(make_small: Callable[..., Small], tmp_path: Path) -> None:
    assert re.search(r">\[1\d\d\]<", page_of(make_small(token_text=False).run, tmp_path).source)


WITHOUT_STATES = {"js-map", "share-curve", "sample-spread", "positions", "answer-positions"}


def test_run_without_states(make_small: Callable[..., Small], tmp_path: Path) -> None:
    small = make_small(states="none")
    page = page_of(small.run, tmp_path)
    assert set(page.data) == WITHOUT_STATES | {"width-map", "ratio-map"}
    n = small.run.n_tokens
    assert f"This run keeps no states. JS is the one measured during capture, on {n} of {n} tokens;" in page.text
    assert "it isn't computed again from states and compared" in section(page, "fidelity")
    assert "The null of a delta with permuted features is missing" in section(page, "qualifiers")
    assert "permuted (nat)" not in page.text
    first = small.run.component_paths[0]
    assert page.data["width-map"]["data"][0]["text"][0][0].startswith(f"<b>{first}</b>")
    assert format_number(np.median(width(small.base[first]))) in page.data["width-map"]["data"][0]["text"][0][0]


def test_pair(make_small: Callable[..., Small], tmp_path: Path) -> None:
    small = make_small(stream="pair")
    page = page_of(small.run, tmp_path)
    assert "(stream pair), base is a layer's output in a run without the adapter" in page.text
    assert set(page.data) == {*FIGURES, "answer-positions"}
    assert format_number(small.by_sample(small.js()).sum(axis=1).mean(), digits=2) in page.text
    assert "adapted" in section(page, "store")
    assert "delta from" not in page.text


def test_deltas_that_are_differences_are_named(make_small: Callable[..., Small], tmp_path: Path) -> None:
    page = page_of(make_small(factored=False, delta_source="difference").run, tmp_path)
    assert "6 components have no additive branch. Their delta is the layer's output less its base" in page.text
    assert "delta from" in section(page, "components")
    assert section(page, "components").count("difference</td>") == 6
    page = page_of(make_small(factored=False).run, tmp_path)
    assert "delta from" not in page.text
    assert "no additive branch" not in page.text


def test_divergence_of_the_next_token(make_small: Callable[..., Small], tmp_path: Path) -> None:
    run = make_small(kl_share=0.6).run
    values = run.reduction("kl").values
    n = int(np.isfinite(values).sum())
    page = page_of(run, tmp_path)
    mean = format_number(np.nanmean(values.astype(float)))
    assert f"next token (nat){mean}KL(base || adapted), mean over {n} tokens" in page.text
    assert "next token (nat)" not in page_of(make_small().run, tmp_path).text


def test_drawn_tokens_are_weighed(make_small: Callable[..., Small], tmp_path: Path) -> None:
    small = make_small(is_weighted=True, kl_share=0.6)
    total, weight = small.js().sum(axis=1), small.weight
    by_sample = small.by_sample(small.js()).sum(axis=1)
    page = page_of(small.run, tmp_path)
    assert format_error(by_sample.mean(), by_sample.std(ddof=1) / np.sqrt(12)) in page.text
    answers = small.run.tokens["role"].values == 2
    of = small.run.tokens["sample"].values
    sums = [np.bincount(of[answers], one[answers]) for one in (total * weight, weight)]
    means_of_answers = sums[0] / sums[1]
    error = means_of_answers.std(ddof=1) / np.sqrt(12)
    assert f"answer12{answers.sum()}{format_error(means_of_answers.mean(), error)}" in page.text
    measured = {"kl": small.run.reduction("kl").values, "swallowed": small.run.reduction("swallowed").values[:, -1]}
    known = {name: np.isfinite(values) for name, values in measured.items()}
    means = {name: np.average(values[known[name]], weights=weight[known[name]]) for name, values in measured.items()}
    assert f"next token (nat){format_number(means['kl'])}KL(base" in page.text
    assert f"at most {format_percent(means['swallowed'])}, in model.layers.1.down_proj" in section(page, "fidelity")
    assert "They were drawn; means, sums and quantiles over tokens weigh each by the inverse of its chance" in page.text


@pytest.mark.parametrize(("tokens", "is_known"), [("all", True), ("generated", True), ("last:3", False)])
def test_generated_tokens(make_small: Callable[..., Small], tmp_path: Path, tokens: str, is_known: bool) -> None:
    settings = {"provenance": {"settings": {"generate": 2, "tokens": tokens}}}
    page = page_of(make_small(generated=True, attributes=settings).run, tmp_path)
    assert ("answer-positions" in page.data) is is_known
    if is_known:  # every sample's last two tokens are generated
        x = page.data["answer-positions"]["data"][-1]["x"]
        assert (max(numbers(x)), min(numbers(x))) == (1, -6)
        assert "counted from the first generated token" in page.text
    assert "generated" in section(page, "tokens")
    assert len(page.with_class("answer")) == 10


def numbers(values: Any) -> list[int]:
    """A plotly array, which is plain or binary."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()
    return list(values)


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
    assert f"{words} · data facts" in source(run, qualify(run))


def test_unscored_run(make_small: Callable[..., Small], tmp_path: Path) -> None:
    page = page_of(make_small(is_scored=False).run, tmp_path)
    assert "This run wasn't scored." in page.text
    assert "accuracy" not in page.text
    assert "picked" not in page.text


def test_several_adapters(make_small: Callable[..., Small], tmp_path: Path) -> None:
    run = make_small(adapters=("one", "two")).run
    assert "This run holds 2 adapters; the page is about two." in page_of(run, tmp_path, adapter="two").text
    with pytest.raises(StoreError, match="`adapter` isn't given"):
        write_report(run, tmp_path / "report.html")


def test_chosen_components(small: Small, tmp_path: Path) -> None:
    page = page_of(small.run, tmp_path, components=["*.up_proj"])
    assert "2 of 6 components were chosen: MIUB, shares and colours are about these alone." in page.text
    by_sample = small.by_sample(small.js())[:, [1, 4]].sum(axis=1)
    assert format_error(by_sample.mean(), by_sample.std(ddof=1) / np.sqrt(12)) in page.text
    assert [one["path"][-7:] for one in page.samples["components"]] == ["up_proj", "up_proj"]


def test_unfinished_run(unfinished: Path, tmp_path: Path) -> None:
    page = page_of(open_run(unfinished), tmp_path)
    assert "This run is unfinished: 2 of 3 rows are committed. 3 samples that aren't wholly captured" in page.text
    assert "This run doesn't know which share of features" in page.text
    assert "No token's JS was measured during capture" in page.text
    assert "without → with" not in page.text
    assert f"[{700 - MOST_TOKENS} more captured tokens aren't shown]" in page.text


def test_nothing_committed_leaves_no_page(nothing_committed: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="wholly committed"):
        write_report(open_run(nothing_committed), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_adapter_that_does_nothing(make_small: Callable[..., Small], tmp_path: Path) -> None:
    page = page_of(make_small(zero=True).run, tmp_path)
    assert "MIUB is 0: the adapter changes nothing" in page.text
    assert {str(attrs["style"]) for attrs in page.with_class("t")} == {"--js:0%"}


def test_values_that_arent_finite(make_small: Callable[..., Small], tmp_path: Path) -> None:
    page = page_of(make_small(not_finite=True).run, tmp_path)
    assert "1 values aren't finite. In model.layers.0.q_proj base or delta holds NaN or infinity." in page.text
    assert "MIUB (nat)n/a" in page.text
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


def test_chosen_samples_go_from_most_to_least_moved(small: Small) -> None:
    qualified = qualify(small.run)
    chosen = chosen_samples(qualified)
    values = qualified["samples/miub"].values[chosen]
    assert len(set(chosen)) == 5
    assert (values[0], values[-1]) == (qualified["samples/miub"].max(), qualified["samples/miub"].min())
    assert (np.diff(values) < 0).all()
