"""The page about incomplete, broken and hostile runs, and seen from other origins."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.stores import pull

from ..analyze.conftest import Small
from ..analyze.viewing.test_bundle import static
from ..stores.on_disk import damage
from .conftest import BAD, N_TOKENS, NAMES, Look
from .seen import NONE, agrees, click_map, expect, listed, sums

pytestmark = pytest.mark.slow

TOP, Q, UP = "adapters/default", "model.layers.1.q_proj", "model.layers.0.up_proj"


def test_an_unfinished_run_says_so_and_what_is_not_committed_is_not_read(
    look: Callable[..., Look], served: Callable[..., str], growing: Any
) -> None:
    opened = look(served(growing), is_broken=True)
    notice = "This run isn't finished: 2 of 3 rows are committed. Incomplete samples are marked."
    expect(opened.page.locator(".notice")).to_have_text(notice)
    expect(opened.page.locator(".row b")).to_have_count(3)
    expect(opened.page.locator(".row .number:nth-child(2)").filter(has_text=re.compile(f"^{NONE}$"))).to_have_count(3)
    for sample, n_known, n in ((1, 324, 400), (2, 0, 900), (3, 12, 60)):
        opened.page.locator(f"#sample-{sample}").click()
        expect(opened.page.locator(".about .notice")).to_contain_text("This sample is incomplete")
        expect(opened.page.locator(".t")).to_have_count(n)
        expect(opened.page.locator(".t:not(.unknown)")).to_have_count(n_known)
    opened.page.locator("#sample-2").click()
    opened.settle()
    opened.page.locator(".t").nth(5).click()
    click_map(opened, 0, 0, (2, 2))
    expect(opened.page.locator(".cell .note").first).to_have_text("the token's row is not captured yet")
    expect(opened.page.locator(".cell .value").first).to_have_text(f"{NONE} nats")
    opened.settle()
    of_rows = [each for each in opened.requests if re.search(r"runs/0/.*(nll|js|states|factor|delta).*/c\.", each)]
    assert any("/c.0" in each for each in of_rows)
    assert not [each for each in of_rows if re.search(r"/c\.1\b", each)]
    assert set(opened.missing) == {"runs/0/rows/commit/c.1.0"}


def test_a_copy_of_an_unfinished_run_says_so(
    look: Callable[..., Look], served: Callable[..., str], growing: Path, tmp_path: Path
) -> None:
    pull(growing, tmp_path / "copy.zarr")
    notice = "This run was copied from an unfinished run: 3 of its samples weren't captured yet and are missing here."
    expect(look(served(tmp_path / "copy.zarr")).page.locator(".notice")).to_have_text(notice)


@pytest.mark.parametrize(("kind", "token"), [("none", 9), ("sample", 1207), ("sample", 9)])
def test_a_run_without_states_shows_what_was_measured(
    look: Callable[..., Look], served: Callable[..., str], made: Callable[[str], Small], kind: str, token: int
) -> None:
    small = made(kind)
    opened = look(served(kind), view=f"sample={token // N_TOKENS}&token={token % N_TOKENS + 2}&component={UP}")
    message = {"none": "keeps no states", "sample": "keeps the states of some rows only"}[kind]
    expect(opened.page.locator(".notice")).to_contain_text(message)
    js = small.js()
    assert all(
        agrees(*each) for each in zip(sums(opened), js[token - token % N_TOKENS :].sum(axis=1)[:20], strict=True)
    )
    values = [text.split()[0] for text in opened.page.locator(".cell .value").all_inner_texts()]
    base, delta = small.base[UP][token], small.delta[UP][token]
    assert agrees(values[0], js[token, small.run.component_paths.index(UP)])
    assert agrees(values[2], float(np.linalg.norm(delta) / np.linalg.norm(base)))
    p = np.exp(base - base.max()) / np.exp(base - base.max()).sum()
    assert agrees(values[3], float(np.exp(-(p * np.log(p)).sum())))
    is_there = kind == "sample" and token < 1024
    assert (values[1] == NONE) is not is_there
    expect(opened.page.locator(".cell tbody tr")).to_have_count(10 * is_there)
    expect(opened.page.locator(".direction")).to_have_count(2 * is_there)
    if not is_there:
        why = {"none": "the run keeps no states", "sample": "the token's row keeps no states"}[kind]
        expect(opened.page.locator(".cell .note")).to_have_text([why, why])
        assert not [each for each in opened.requests if "/states/model" in each or "/factor/" in each]


CELL = f"sample=3&token=9&component={UP}"
VERIFY, AGAIN = "run `lorascope verify` on it", "run `lorascope view` again"
WRONG, CUT = "is broken: its checksum is wrong", "is broken: "


@pytest.mark.parametrize(
    ("key", "how", "part", "message"),
    [
        (f"broken.zarr/states/{UP}/base/c.0.0", "flip", ".cell", f"of broken.zarr {WRONG}; {VERIFY}"),
        (f"broken.zarr/states/{UP}/base/c.0.0", "missing", ".cell", f"of broken.zarr is missing; {VERIFY}"),
        (f"broken.zarr/{TOP}/factor/c.0.0", "truncated", ".cell", f"of broken.zarr {CUT}"),
        (f"broken.zarr/{TOP}/lora_B/{UP}/c.0.0", "flip", ".cell", f"of broken.zarr {WRONG}; {VERIFY}"),
        (
            f"broken.view.zarr/{TOP}/top_token/c.1.0.0",
            "flip",
            ".cell",
            f"the view index of broken.zarr {WRONG}; {AGAIN}",
        ),
        (f"broken.view.zarr/{TOP}/js/c.0.0", "flip", ".pane", f"the view index of broken.zarr {WRONG}; {AGAIN}"),
        (f"broken.view.zarr/{TOP}/js/c.0.0", "missing", ".pane", f"the view index of broken.zarr is missing; {AGAIN}"),
        ("broken.zarr/tokens/nll/c.0", "truncated", ".pane", f"of broken.zarr {WRONG}; {VERIFY}"),
        ("broken.zarr/tokens/text/c.0", "flip", ".pane", f"of broken.zarr {WRONG}; {VERIFY}"),
        ("broken.zarr/samples/id/c.0", "flip", "main", f"of broken.zarr {WRONG}; {VERIFY}"),
    ],
)
def test_a_broken_chunk_is_reported_where_it_matters_and_the_rest_works(
    look: Callable[..., Look], served: Callable[..., str], broken: Path, key: str, how: str, part: str, message: str
) -> None:
    page = served(broken)
    damage(broken.parent / key, how)  # once the server is there, which refuses what is damaged before
    opened = look(page, view=CELL, is_broken=True)
    alert = opened.page.locator(f"{part} [role=alert]")
    expect(alert).to_contain_text(f"chunk {key.partition('/')[2]} of")
    expect(alert).to_contain_text(message)
    expect(opened.page.locator("[role=alert]")).to_have_count(1)
    if part == "main":
        return
    expect(opened.page.locator(".row").first).to_contain_text("item-0")
    if part == ".cell":
        expect(opened.page.locator(".t")).to_have_count(N_TOKENS)
        expect(opened.page.locator(".cell .value:visible, .cell tr:visible")).to_have_count(0)
        opened.go(CELL.replace(UP, Q) if "factor" not in key else CELL.replace("=3", "=60"))
    elif "text" in key:
        opened.page.get_by_label("Search text and ids").fill("item-7")
        expect(opened.page.locator(".count [role=alert]")).to_contain_text(message)
        assert list(listed(opened).values())[:2] == ["item-7", "item-70"]
        return
    else:
        expect(opened.page.locator(".sentence:visible, canvas:visible")).to_have_count(0)
        opened.page.get_by_role("listbox", name="Samples").press("End")
        expect(opened.page.locator("h1")).to_have_text("item-119")
    expect(opened.page.locator("[role=alert]")).to_have_count(0)
    expect(opened.page.locator(".contexts a")).to_have_count(10)


SAID = """() => {
    const body = document.body.cloneNode(true);
    body.querySelector("script").remove();
    const labels = [...body.querySelectorAll("[title], [aria-label]")].map((each) => `${each.title} ${each.ariaLabel}`);
    return [document.title, body.textContent, ...labels].join("\\n");
}"""


def test_a_hostile_run_is_only_text(look: Callable[..., Look], served: Callable[..., str], hostile: Path) -> None:
    opened = look(served(hostile))

    def harmless() -> None:
        opened.settle()
        of = "script, style, img, svg, b, iframe, object, embed, base, form:not([method=dialog]), [onerror], [onload]"
        assert (
            opened.page.locator(f"body :is({of})").count() == opened.page.locator("body > script, .cell h3 > b").count()
        )
        assert opened.page.locator("script").count() == 1
        assert not re.search("[\x00-\x08\x0b-\x1f\u2028-\u202e\u2066-\u2069\ufeff]", opened.page.evaluate(SAID))
        assert opened.page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0

    harmless()
    expect(opened.page.locator("h1")).to_contain_text(f"{BAD}⟨202E⟩␇")
    expect(opened.page.locator(".row .id").first).to_contain_text(BAD)
    expect(opened.page.locator(".model")).to_have_text(re.compile("⟨202E⟩$"))
    for at, text in enumerate((BAD, "⟨202E⟩evil", "␀␛[31m")):
        expect(opened.page.locator(".t").nth(at)).to_have_text(text)
    opened.page.get_by_label("Search text and ids").fill("<IMG src=x")
    expect(opened.page.locator(".count [role=status]")).to_have_text("12 samples")
    opened.page.get_by_role("button", name="Compare").click()
    expect(opened.page.locator("h1")).to_have_count(2)
    opened.expect_equal(lambda: "#panes=0,0:constructor&" in opened.page.url, True)
    for kind in range(4):
        opened.settle()
        canvas = opened.page.locator(".map canvas").first
        box = canvas.bounding_box()
        canvas.click(position={"x": (kind + 0.5) * box["width"] / 4, "y": (kind + 0.5) * box["height"] / 4})
        opened.settle()
        expect(opened.page.locator(".cell .contexts a")).to_have_count(20)
        expect(opened.page.locator(".cell h3 b").first).to_have_text(NAMES[kind])
        harmless()
    opened.page.locator(".kinds button").nth(3).click()
    expect(opened.page.locator(".filter [role=status]")).to_have_text("1 of 4")
    opened.page.locator(".contexts a").nth(5).click()
    opened.settle()
    harmless()
    opened.go("panes=0:<img src=x onerror=alert(1)>&component=<img src=x onerror=alert(1)>&token=3&search=<b>")
    expect(opened.page.locator(".cell [role=alert]")).to_contain_text(
        "This run has no component <img src=x onerror=alert(1)>."
    )
    harmless()
    opened = look(opened.home, view=f"token=2&component={NAMES[3]}", viewport={"width": 390, "height": 844})
    expect(opened.page.locator(".contexts a")).to_have_count(10)
    harmless()


def test_an_adapter_that_changes_nothing(look: Callable[..., Look], served: Callable[..., str], zero: Path) -> None:
    opened = look(served(zero), view=f"token=3&component={UP}")
    assert sums(opened) == ["0"] * opened.page.locator(".t").count()
    expect(opened.page.locator(".marks")).to_have_text(["0", "0", "0"])
    values = [text.split()[0] for text in opened.page.locator(".cell .value").all_inner_texts()]
    assert values[:3] == ["0", "0", "0"]
    expect(opened.page.locator(".cell .note")).to_have_text("No token of the run is known for it.")


def test_another_origin_may_show_the_page_and_read_nothing(
    browser: Any, served: Callable[..., str], tmp_path: Path
) -> None:
    url, chunk = served("main", "two"), "runs/0/tokens/text/c.0"
    (tmp_path / "index.html").write_text("<!doctype html><title>another</title>")
    with static(tmp_path) as another:
        page = browser.new_context().new_page()
        page.goto(another)
        tried = "([url, options]) => fetch(url, options).then((r) => `${r.type} ${r.status}`, (e) => e.name)"
        for address in (url, f"{url}view.json", f"{url}{chunk}"):
            assert page.evaluate(tried, [address, {}]) == "TypeError"
            assert page.evaluate(tried, [address, {"mode": "no-cors"}]) == "TypeError"
        loaded = """([tag, url]) => new Promise((done) => {
            const made = document.createElement(tag);
            [made.onload, made.onerror, made.src] = [() => done("loaded"), () => done("refused"), url];
            document.body.append(made);
        })"""
        assert page.evaluate(loaded, ["script", f"{url}view.json"]) == "refused"
        assert page.evaluate(loaded, ["img", f"{url}{chunk}"]) == "refused"
        with page.expect_response(f"{url}{chunk}") as answer:
            page.evaluate(loaded, ["iframe", f"{url}{chunk}"])
        assert answer.value.status == 403
        page.evaluate(loaded, ["iframe", url])
        shown = page.frames[-1]
        expect(shown.locator("h1")).to_have_text("item-0")
        assert page.evaluate("() => [...document.querySelectorAll('iframe')].at(-1).contentDocument") is None
        page.context.close()
