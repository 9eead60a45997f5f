"""The page in a real browser, clicked through as a user would: what it shows is what Python computes."""

import itertools
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze import directions, experts, measure_run, miub
from lorascope.analyze.viewing import write_bundle

from ..analyze.conftest import Small
from ..analyze.miub.test_experts import N_EXPERTS, UNUSED, write_mixture
from ..analyze.viewing.test_bundle import static
from ..marks import slow_but
from .conftest import N_SAMPLES, N_TOKENS, Look
from .seen import agrees, click_map, expect, listed, number, shown, state, sums

Q, UP = "model.layers.1.q_proj", "model.layers.0.up_proj"
TOP = "adapters/default"


def test_samples_are_found_by_id_and_by_text(look: Callable[..., Look], served: Callable[..., str]) -> None:
    opened = look(served("main", "two"))
    search, count = opened.page.get_by_label("Search text and ids"), opened.page.locator(".count [role=status]")
    for words, ids in (
        ("ITEM-7", [7, *range(70, 80)]),
        ("w1239  W1220", [61]),
        ("w1239 w1240", []),
        ("w999", [49]),
        ("item-11", [11, *range(110, 120)]),
    ):
        search.fill(words)
        expect(count).to_have_text(f"{len(ids)} of {N_SAMPLES} samples")
        assert list(listed(opened).values()) == [f"item-{i}" for i in ids]
        opened.expect_address(f"search={words}")
    search.fill("")
    expect(count).to_have_text(f"{N_SAMPLES} samples")


@pytest.mark.slow
def test_each_order_and_each_filter(look: Callable[..., Look], served: Callable[..., str], main: Small) -> None:
    samples = main.run.samples
    ids, moved = samples["id"].values, miub(main.run)["samples/miub"].values
    change = (samples["ce"] - samples["base_ce"]).values
    now, before = samples["correct"].values, samples["base_correct"].values
    outcome = np.select([(now == 0) & (before == 1), (now == 1) & (before == 0), now == 0], [0, 1, 2], 3)
    opened = look(served("main", "two"))
    order, show = opened.page.get_by_label("Order", exact=True), opened.page.get_by_label("Show", exact=True)
    for label, key in (
        ("MIUB, largest first", -moved),
        ("MIUB, smallest first", moved),
        ("CE, most raised first", -change),
        ("CE, most lowered first", change),
        ("right or wrong", outcome),
        ("order in the run", np.arange(N_SAMPLES)),
    ):
        order.select_option(label)
        expected = ids[np.argsort(key, kind="stable")]
        for end, at in (("Home", 0), ("End", -1)):
            opened.page.get_by_role("listbox", name="Samples").press(end)
            expect(opened.page.locator("h1")).to_have_text(expected[at])
            found = listed(opened)
            assert len(found) > 10
            assert list(found.values()) == expected[list(found)].tolist(), label
    for label, kept in (
        ("became right", outcome == 1),
        ("became wrong", outcome == 0),
        ("stayed right", outcome == 3),
        ("stayed wrong", outcome == 2),
        ("right with adapter", now == 1),
        ("wrong with adapter", now == 0),
    ):
        assert kept.any()
        show.select_option(label)
        expect(opened.page.locator(".count [role=status]")).to_have_text(f"{kept.sum()} of {N_SAMPLES} samples")
        found = listed(opened)
        assert list(found.values()) == ids[kept][list(found)].tolist()
    opened.settle()
    row = opened.page.locator(".row").first
    sample = int(row.get_attribute("data-sample"))
    texts = row.locator(".number").all_inner_texts()
    assert agrees(texts[0], moved[sample])
    assert agrees(texts[1].removeprefix("CE "), change[sample], sign=True)


def test_a_token_by_click_and_by_keys(look: Callable[..., Look], served: Callable[..., str], main: Small) -> None:
    opened = look(served("main", "two"), view="sample=3")
    js = measure_run(main.run, ("js",))["js"].values[60:80]
    found = opened.page.locator(".t")
    expect(found).to_have_text([f"w{token}" for token in range(60, 80)])
    assert all(agrees(text, value) for text, value in zip(sums(opened), js.sum(axis=1), strict=True))
    expect(opened.page.locator(".gap")).to_have_text(["2 tokens not captured"])
    answer = opened.page.get_by_role("group", name="answer")
    expect(answer.locator(".t")).to_have_text(["w78", "w79"])
    expect(answer.locator(".tag")).to_be_visible()
    readout = opened.page.locator(".ribbon .readout")
    found.nth(4).click()
    for press, position in ((None, 6), ("ArrowRight", 7), ("ArrowRight", 8), ("ArrowLeft", 7)):
        if press:
            opened.page.keyboard.press(press)
        opened.expect_address(f"sample=3&token={position}")
        token = position - 2
        expect(opened.page.locator(".t[aria-selected=true]")).to_have_text(f"w{60 + token}")
        expect(opened.page.locator(".map .readout").first).to_contain_text(
            f"“w{60 + token}”, position {position}, prompt"
        )
        expect(readout).to_contain_text(f"“w{60 + token}”, position {position}, prompt · all layers: js ")
        nll = float(main.run.tokens["nll"].values[60 + token])
        assert agrees(re.search(r"all layers: js (\S+) nats", readout.inner_text())[1], js[token].sum())  # type: ignore[index]
        assert agrees(re.search(r"nll (\S+) nats", readout.inner_text())[1], nll)  # type: ignore[index]
    found.nth(10).focus()
    opened.page.keyboard.press("Enter")
    opened.expect_address("sample=3&token=12")
    opened.page.keyboard.press("Escape")
    opened.expect_address("sample=3")


def test_a_cell_of_the_ribbon(look: Callable[..., Look], served: Callable[..., str], main: Small) -> None:
    opened = look(served("main", "two"), view="sample=3")
    js = measure_run(main.run, ("js",))["js"]
    canvas, readout = opened.page.locator(".ribbon canvas"), opened.page.locator(".ribbon .readout")
    box = canvas.bounding_box()
    for layer, row in ((1, 2), (0, 1), (-1, 0)):
        at = {"x": 30 + (row + 5.5) * (box["width"] - 31) / N_TOKENS, "y": box["height"] - 2 - 14 * (2.5 - row)}
        token = row + 5
        canvas.hover(position=at)
        value = js.values[60 + token, js["layer"].values == layer].sum()
        expect(readout).to_contain_text(f"“w{60 + token}”, position {token + 2}, prompt · layer {layer}: js ")
        assert agrees(re.search(r": js (\S+) nats", readout.inner_text())[1], value)  # type: ignore[index]
        canvas.click(position=at)
        opened.expect_address(f"sample=3&token={token + 2}&layer={layer}")
    canvas.press("Enter")
    expect(opened.page.locator(".cell h3 b")).to_have_text("lm_head")
    canvas.press("ArrowDown")
    opened.expect_address("sample=3&token=7&layer=0&component=lm_head")


def test_the_ribbon_fits_a_narrow_screen_or_says_what_to_scroll(
    look: Callable[..., Look], served: Callable[..., str]
) -> None:
    opened = look(served("main", "two"), viewport={"width": 290, "height": 844})
    box, more = opened.page.locator(".ribbon .scroll"), opened.page.locator(".ribbon .more")
    opened.expect_equal(lambda: box.evaluate("box => box.scrollWidth - box.clientWidth"), 0)
    expect(more).to_have_text("")
    opened.page.set_viewport_size({"width": 150, "height": 844})
    expect(more).to_have_text(f"Tokens 1 to 7 of {N_TOKENS}: scroll sideways for the others.")
    box.evaluate("box => box.scrollLeft = box.scrollWidth")
    expect(more).to_have_text(f"Tokens 14 to 20 of {N_TOKENS}: scroll sideways for the others.")


@pytest.mark.parametrize("kind", slow_but(["main", "two", "branch", "pair", "bfloat16"], "main"))
def test_a_cell_of_the_map_shows_what_python_computes(
    look: Callable[..., Look], served: Callable[..., str], made: Callable[[str], Small], kind: str
) -> None:
    run, adapter = made(kind).run, "b" if kind == "two" else "default"
    pane = {"main": "0", "two": "1:b"}.get(kind, "0")
    opened = look(
        served("main", "two") if kind in ("main", "two") else served(kind), view=f"panes={pane}&sample=70&token=9"
    )
    click_map(opened, 1, 1 if kind == "main" else 0, (4, 3) if kind == "main" else (3, 2))
    token, cell = 1407, opened.page.locator(".cell")
    expect(cell.locator("h3 *")).to_have_text([UP, f"“w{token}”, position 9, prompt"])
    options = {"adapter": adapter, "component": [UP]}
    names = ("js", "js_permuted", "delta_ratio", "effective_width", "delta_norm", "base_norm")
    expected = {name: float(values[token, 0]) for name, values in measure_run(run, names, **options).items()}
    for text, name in zip(cell.locator(".value").all_inner_texts(), names, strict=False):
        assert agrees(text.split()[0], expected[name]), name
    norms = re.search(r"own: (\S+) / (\S+)\.", cell.inner_text())
    assert norms is not None
    assert all(agrees(*pair) for pair in zip(norms.groups(), [expected[name] for name in names[4:]], strict=True))
    states = {name: values.values[0] for name, values in run.take([token], **options)[UP].items()}
    rows = [row.split("\t") for row in cell.locator("tbody").inner_text().split("\n")]
    rows = [row[:3] for row in rows if row[0]]
    features = np.argsort(-np.abs(states["delta"]), kind="stable")[:10]
    assert [row[0] for row in rows] == [str(feature) for feature in features]
    for (_, base, delta), feature in zip(rows, features, strict=True):
        assert agrees(base, states["base"][feature], within=1e-9)
        assert agrees(delta, states["delta"][feature], sign=True, within=1e-6)
    if kind in ("branch", "pair"):
        expect(cell.locator(".note")).to_contain_text("this component's delta is not kept as a factor")
        return
    found = directions(run, UP, adapter=adapter)
    z = run.factor(UP, adapter=adapter).values[token].astype(np.float64)
    scores = found["rotation"].values.astype(np.float64) @ z
    for at, button in enumerate(cell.locator(".direction").all()):
        texts = [text for text in button.inner_text().split("\n") if text]
        assert texts[0] == str(at + 1)
        assert agrees(texts[1], scores[at], sign=True, within=1e-6 * np.abs(scores).max())
        assert texts[2] == f"{100 * found['share'].values[at]:.1f} %"
        button.click()
        links = cell.locator(".contexts a")
        expect(cell.locator("h4").nth(1)).to_have_text(f"Where direction {at + 1} acts most")
        expect(links).to_have_count(10)
        expect(links.first).to_contain_text(shown(float(found["top_score"].values[at, 0]), sign=True))
        for link, top, score in zip(
            links.all(), *(found[name].values[at] for name in ("top_token", "top_score")), strict=True
        ):
            assert agrees(link.locator(".number").inner_text(), score, sign=True)
            assert link.locator("mark").inner_text().strip() == f"w{top}"
            place = f"offset={top % N_TOKENS}&" if top % N_TOKENS else "offset=0&"
            assert place in link.get_attribute("href")


@pytest.mark.slow
def test_where_a_direction_acts_most_is_a_link_to_that_token(
    look: Callable[..., Look], served: Callable[..., str], main: Small
) -> None:
    opened = look(served("main", "two"), view=f"sample=3&token=9&component={Q}&direction=1")
    top = directions(main.run, Q)["top_token"].values[1]
    scores = directions(main.run, Q)["top_score"].values[1]
    body = opened.page.locator(".body")
    before = body.inner_text()
    opened.page.locator(".contexts a").nth(2).click()
    token = int(top[2])
    expect(opened.page.locator("h1")).to_have_text(f"item-{token // N_TOKENS}")
    expect(opened.page.locator(".t[aria-selected=true]")).to_have_text(f"w{token}")
    opened.expect_address(f"sample={token // N_TOKENS}&token={token % N_TOKENS + 2}&component={Q}&direction=1")
    opened.settle()
    pressed = opened.page.locator(".direction[aria-pressed=true]").inner_text().split("\n")
    assert pressed[0] == "2"
    assert agrees(pressed[1], float(scores[2]), sign=True, within=1e-6 * abs(float(scores[2])))
    opened.page.go_back()
    expect(opened.page.locator("h1")).to_have_text("item-3")
    expect(opened.page.locator(".contexts a")).to_have_count(10)
    opened.expect_equal(body.inner_text, before)


@pytest.mark.slow
def test_a_pattern_chooses_components(look: Callable[..., Look], served: Callable[..., str], main: Small) -> None:
    opened = look(served("main", "two"), view="sample=3")
    box, count = opened.page.locator("#filter"), opened.page.locator(".filter [role=status]")
    for pattern in ("*.q_proj", "model.layers.1.*", "*.[qd]*_proj lm_head", UP):
        box.fill(pattern)
        js = measure_run(main.run, ("js",), component=pattern.split())["js"].values[60:80]
        expect(count).to_have_text(f"{js.shape[1]} of 7")
        assert all(agrees(text, value) for text, value in zip(sums(opened), js.sum(axis=1), strict=True)), pattern
    box.fill("nothing*")
    expect(count).to_have_text("0 of 7")
    expect(box).to_have_attribute("aria-invalid", "true")
    expect(opened.page.locator(".t.unknown")).to_have_count(N_TOKENS)
    opened.page.get_by_role("button", name="down_proj").click()
    opened.expect_address("sample=3&filter=*.down_proj")
    expect(count).to_have_text("2 of 7")


def test_adapters_and_runs_side_by_side_on_one_scale(
    look: Callable[..., Look], served: Callable[..., str], main: Small, made: Callable[[str], Small]
) -> None:
    opened = look(served("main", "two"), view="panes=1&sample=3&token=5")
    alone = opened.page.locator(".marks").all_inner_texts()
    opened.page.get_by_role("button", name="Compare").click()
    expect(opened.page.locator(".pane")).to_have_count(2)
    expect(opened.page.get_by_role("button", name="Compare")).to_be_focused()
    opened.expect_address("panes=1,1:b&sample=3&token=5")
    opened.page.get_by_role("button", name="Compare").click()
    expect(opened.page.locator(".pane h1")).to_have_text(["item-3"] * 3)
    opened.expect_address("panes=1,1:b,0&sample=3&token=5")
    opened.settle()
    two, js, tints = made("two").run, [], []
    for pane, (run, adapter) in zip(
        opened.page.locator(".pane").all(), ((two, "a"), (two, "b"), (main.run, None)), strict=True
    ):
        js.append(measure_run(run, ("js",), adapter=adapter)["js"].values)
        found = pane.locator(".t")
        expect(found).to_have_count(N_TOKENS)
        expect(pane.locator(".t[aria-selected=true]")).to_have_text("w63")
        labels = found.evaluate_all("all => all.map((each) => [each.ariaLabel, each.style.backgroundColor])")
        for (label, _), value in zip(labels, js[-1][60:80].sum(axis=1), strict=True):
            assert agrees(re.search(r"js (\S+) nats", label)[1], value)  # type: ignore[index]
        tints.append([[int(each) for each in re.findall(r"\d+", color)] for _, color in labels])
    marks = [pane.locator(".marks").all_inner_texts() for pane in opened.page.locator(".pane").all()]
    assert marks[0] == marks[1] == marks[2] != alone
    top = max(float(np.quantile(each.astype(np.float64).sum(axis=1), 0.995)) for each in js)
    assert number(marks[0][0].split("\n")[-1]) == pytest.approx(top, rel=0.05)  # two digits
    gradient = opened.page.locator(".scale i").first.evaluate("each => each.style.background")
    stops = np.array(re.findall(r"rgb\((\d+), (\d+), (\d+)\)", gradient), float)
    for values, colors in zip(js, tints, strict=True):
        at = np.sqrt(np.minimum(1, values[60:80].sum(axis=1) / top)) * (len(stops) - 1)
        expected = np.stack([np.interp(at, np.arange(len(stops)), channel) for channel in stops.T], axis=1)
        np.testing.assert_allclose(colors, expected, atol=6)
    opened.page.locator(".pane").nth(2).locator(".t").nth(8).click()
    expect(opened.page.locator(".t[aria-selected=true]")).to_have_text(["w68"] * 3)
    opened.page.get_by_role("button", name="Close this pane").nth(1).click()
    opened.expect_address("panes=1,0&sample=3&token=10")
    opened.page.get_by_label("Adapter").first.select_option("b")
    opened.expect_address("panes=1:b,0&sample=3&token=10")


@pytest.mark.slow
def test_a_link_shows_the_same_again_and_back_leads_back(look: Callable[..., Look], served: Callable[..., str]) -> None:
    opened = look(served("main", "two"))
    steps = [state(opened)]
    for act in (
        lambda: opened.page.get_by_label("Order", exact=True).select_option("MIUB, largest first"),
        lambda: opened.page.get_by_label("Show", exact=True).select_option("right with adapter"),
        lambda: opened.page.locator(f".row[aria-posinset='{min(listed(opened)) + 8}']").click(),  # in sight
        lambda: opened.page.locator(".t").nth(7).click(),
        lambda: click_map(opened, 2, 2),
        lambda: opened.page.locator(".direction[aria-pressed=false]").click(),
        lambda: opened.page.get_by_role("button", name="q_proj").click(),
    ):
        act()
        steps.append(state(opened, but=steps[-1]))
    opened.page.get_by_role("button", name="Light or dark").click()
    opened.page.get_by_label("Search text and ids").fill("item-1")
    expect(opened.page.locator(".count [role=status]")).to_contain_text(f" of {N_SAMPLES} samples")
    last = state(opened)
    opened.expect_equal(lambda: opened.page.url.count("&"), 9)
    assert state(look(opened.page.url.partition("#")[0], view=opened.page.url.partition("#")[2])) == last
    opened.page.get_by_label("Search text and ids").fill("")
    opened.page.get_by_role("button", name="Light or dark").click()
    opened.expect_equal(lambda: "search=" in opened.page.url or "theme=dark" in opened.page.url, False)
    for earlier, later in reversed([*itertools.pairwise(steps)]):
        opened.page.go_back()
        assert state(opened, but=later) == earlier


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_scrolls_down_alone(look: Callable[..., Look], served: Callable[..., str], theme: str) -> None:
    options = {"viewport": {"width": 390, "height": 844}, "color_scheme": theme, "has_touch": True, "is_mobile": True}
    opened = look(served("main", "two"), view=f"token=9&component={Q}", **options)
    wide = "() => [document.documentElement.scrollWidth, document.body.scrollWidth]"
    background = "() => getComputedStyle(document.body).backgroundColor"
    opened.expect_equal(
        lambda: opened.page.evaluate(background), {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 18, 18)"}[theme]
    )
    opened.expect_equal(lambda: opened.page.evaluate(wide), [390, 390])
    right = "() => Math.max(...[...document.querySelectorAll('body *')].map((e) => e.getBoundingClientRect().right))"
    assert (
        opened.page.evaluate(right) <= 390 + 17
    )  # a canvas within its own scroller; `look` waited until all was drawn
    samples = opened.page.get_by_role("listbox", name="Samples")
    expect(samples).to_be_hidden()
    opened.page.get_by_role("button", name="Samples").tap()
    expect(samples).to_be_visible()
    opened.expect_equal(lambda: opened.page.evaluate(wide), [390, 390])
    opened.page.locator(".row").nth(4).tap()
    expect(samples).to_be_hidden()
    expect(opened.page.locator("h1")).to_have_text("item-4")
    opened.page.locator(".t").nth(2).tap()
    expect(opened.page.locator(".t[aria-selected=true]")).to_have_text("w82")
    opened.page.get_by_role("button", name="Compare").tap()
    expect(opened.page.locator("h1")).to_have_count(2)
    opened.expect_equal(lambda: opened.page.evaluate(wide), [390, 390])
    opened.page.get_by_role("button", name="Light or dark").tap()
    opened.expect_equal(
        lambda: opened.page.evaluate(background), {"dark": "rgb(255, 255, 255)", "light": "rgb(18, 18, 18)"}[theme]
    )


FOCUS = """() => {
    const [at, style] = [document.activeElement, getComputedStyle(document.activeElement)];
    const name = at.ariaLabel || at.labels?.[0]?.innerText || at.innerText || at.className;
    return [at.tagName.toLowerCase(), name.split(":")[0], style.outlineStyle, parseFloat(style.outlineWidth)];
}"""


@pytest.mark.slow
def test_the_keyboard_alone_reaches_everything(look: Callable[..., Look], served: Callable[..., str]) -> None:
    opened = look(served("main", "two"), view="sample=3")
    press = opened.page.keyboard.press
    names = []
    for _ in range(40):
        press("Tab")
        tag, name, style, width = opened.page.evaluate(FOCUS)
        if tag == "body":
            break
        names.append(name.strip().split("\n")[0].strip())
        assert (style, width >= 2) == ("solid", True), names
    for name in ("Components to look at, as a pattern", "Light or dark", "Keys", "Search text and ids", "Samples"):
        assert name in names
    wanted = ["Order", "Show", "Samples", "Run", "Compare", "“w60”, position 2, prompt", "q_proj", "lm_head", "0", "1"]
    assert [name for name in names if name in wanted] == wanted[:8] + ["-1", *wanted[8:]][1:], names
    press("/")
    opened.page.keyboard.type("item-7")
    expect(opened.page.locator(".count [role=status]")).to_have_text(f"11 of {N_SAMPLES} samples")
    press("Escape")
    press("j")
    expect(opened.page.locator("h1")).to_have_text("item-7")
    press("j")
    expect(opened.page.locator("h1")).to_have_text("item-70")
    press("ArrowRight")
    opened.expect_address("sample=70&token=2&search=item-7")
    opened.page.locator(".t[tabindex='0']").focus()
    press("ArrowRight")
    opened.expect_equal(lambda: opened.page.evaluate(FOCUS)[1], "“w1401”, position 3, prompt")
    opened.page.locator(".map canvas").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Enter"):
        press(key)
    expect(opened.page.locator(".cell h3 b")).to_have_text(UP)
    opened.page.locator(".direction").nth(0).focus()
    press("Tab")
    press("Enter")
    expect(opened.page.locator(".direction").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(opened.page.locator(".direction").nth(1)).to_be_focused()
    expect(opened.page.locator(".contexts a")).to_have_count(10)
    press("Tab")
    press("Enter")
    expect(opened.page.locator("h1")).not_to_have_text("item-70")
    press("Escape")
    expect(opened.page.locator(".cell")).to_be_hidden()
    press("f")
    opened.page.keyboard.type("*.q_proj")
    expect(opened.page.locator(".filter [role=status]")).to_have_text("2 of 7")
    press("Escape")
    press("?")
    expect(opened.page.get_by_role("dialog", name="Keys")).to_be_visible()
    press("Escape")
    expect(opened.page.get_by_role("dialog", name="Keys")).to_be_hidden()
    adapter = look(served("main", "two"), view="panes=1")
    adapter.page.get_by_label("Adapter").focus()
    adapter.page.keyboard.press("b")
    adapter.expect_address("panes=1:b")
    expect(adapter.page.get_by_label("Adapter")).to_be_focused()


@pytest.mark.slow
def test_roles_and_names_for_a_screen_reader(look: Callable[..., Look], served: Callable[..., str]) -> None:
    opened = look(served("main", "two"), view=f"sample=3&token=9&component={Q}")
    role = opened.page.get_by_role
    expect(role("listbox", name="Samples").get_by_role("option", selected=True)).to_contain_text("item-3")
    listbox = role("listbox", name="Samples")
    expect(listbox).to_have_attribute("aria-activedescendant", "sample-3")
    tokens = role("listbox", name="Tokens")
    expect(tokens.get_by_role("option", selected=True)).to_have_accessible_name(
        re.compile("“w67”, position 9, prompt: js ")
    )
    expect(role("group", name="answer").get_by_role("option")).to_have_count(2)
    for name in ("Js by layer and token; arrows", "Js by layer and kind; arrows"):
        expect(role("application", name=name)).to_be_visible()
    panel = role("region", name="Component")
    expect(panel.get_by_role("heading", level=3)).to_contain_text(Q)
    expect(panel.get_by_role("group", name="Direction, coordinate, share").get_by_role("button")).to_have_count(2)
    expect(panel.get_by_role("columnheader")).to_have_text(["feature", "base", "delta"])
    expect(panel.get_by_role("button", name="Close")).to_be_visible()
    snapshot = opened.page.locator("body").aria_snapshot()
    assert not re.search(r"- (button|textbox|combobox|searchbox|link|listbox|img)( \[|:|$)", snapshot, re.MULTILINE)


@pytest.mark.slow
def test_only_what_is_looked_at_is_read(look: Callable[..., Look], served: Callable[..., str]) -> None:
    opened = look(served("main", "two"))
    assert not [each for each in opened.requests if "states/" in each or "runs/1" in each or "permutation" in each]
    first = len(opened.requests)
    assert first < 40
    opened.page.locator(".row").nth(1).click()
    expect(opened.page.locator("h1")).to_have_text("item-1")
    opened.settle()
    assert opened.requests[first:] == []
    opened = look(opened.home, view="sample=0")
    first = len(opened.requests)
    opened.page.evaluate("location.hash = '#sample=60'")  # tokens 1200 to 1219
    expect(opened.page.locator("h1")).to_have_text("item-60")
    opened.settle()
    assert sorted(opened.requests[first:]) == ["indexes/0/adapters/default/js/c.4.0", "runs/0/tokens/nll/c.1"]
    first = len(opened.requests)
    click_map(opened, 1, 1)
    expect(opened.page.locator(".contexts a")).to_have_count(10)
    component = 1  # up_proj of layer 0
    assert sorted(set(opened.requests[first:])) == [
        *(f"indexes/0/{TOP}/{name}/c.{component}.0.0" for name in ("rotation",)),
        f"indexes/0/{TOP}/share/c.0.0",
        f"indexes/0/{TOP}/top_score/c.{component}.0.0",
        f"indexes/0/{TOP}/top_token/c.{component}.0.0",
        "indexes/0/permutation/40/c.0",
        f"runs/0/{TOP}/factor/c.1.0",
        f"runs/0/{TOP}/lora_B/{UP}/c.0.0",
        f"runs/0/states/{UP}/base/c.1.0",
    ]
    assert len(opened.requests) - first <= 9  # a shard's index and one of its chunks are read apart
    opened = look(opened.home, view="panes=0&sample=0")
    opened.page.get_by_label("Search text and ids").fill("w2399")
    expect(opened.page.locator(".count [role=status]")).to_have_text(f"1 of {N_SAMPLES} samples")
    opened.settle()
    assert opened.requests.count("runs/0/tokens/text/c.0") == 1


def test_a_bundle_links_to_the_report_of_the_shown_adapter(
    look: Callable[..., Look], served: Callable[..., str], made: Callable[[str], Small], tmp_path: Path
) -> None:
    with static(write_bundle(made("two").run, tmp_path / "bundle", with_runs=True)) as url:
        opened = look(url)
        for adapter in ("a", "b"):
            opened.go(f"panes=0:{adapter}")
            link = opened.page.get_by_role("link", name="Report")
            expect(link).to_have_attribute("href", f"report-0-{adapter}.html")
        link.click()
        opened.page.wait_for_url(f"{url}report-0-b.html")
        expect(opened.page.locator("h1")).to_have_text("What the adapter did and learned")
    expect(look(served("two")).page.get_by_role("link", name="Report")).to_have_count(0)


@pytest.mark.slow
def test_a_bundle_shows_the_same_from_a_web_server_and_a_bucket(
    look: Callable[..., Look], served: Callable[..., str], main: Small, tmp_path: Path, s3: Any
) -> None:
    view = f"sample=70&token=9&component={UP}&direction=1"
    expected = state(look(served("main"), view=view))
    assert "w1407" in expected[1]
    folder = write_bundle(main.run, tmp_path / "bundle", with_runs=True)
    with static(folder) as url:
        assert state(look(url, view=view)) == expected
    bucket = s3.prefix.replace("s3://", f"{s3.url}/")
    for file in filter(Path.is_file, folder.rglob("*")):
        kind = {"index.html": "text/html"}.get(file.name, "application/octet-stream")
        address = f"{bucket}/{file.relative_to(folder).as_posix()}"
        headers = {"Content-Type": kind, "x-amz-acl": "public-read"}
        put = urllib.request.Request(address, file.read_bytes(), headers, method="PUT")
        urllib.request.urlopen(put).close()
    opened = look(f"{bucket}/", page="index.html", view=view)
    assert state(opened) == expected
    assert f"runs/0/{TOP}/factor/c.1.0" in opened.requests


def test_experts_of_a_mixture_by_layer(
    look: Callable[..., Look], served: Callable[..., str], tmp_path: Path, main: Small
) -> None:
    run = write_mixture(tmp_path / "mixture.zarr")
    found = experts(run, miub(run))
    opened = look(served(Path(run.path)))
    canvas, line = opened.page.locator(".experts canvas"), opened.page.locator(".experts [role=status]")
    opened.settle()
    box = canvas.bounding_box()
    for layer, expert in ((0, 0), (1, 2), (1, UNUSED)):
        canvas.hover(position={"x": (expert + 0.5) * box["width"] / N_EXPERTS, "y": (layer + 0.5) * box["height"] / 2})
        cell = found.sel(layer=layer, expert=expert)
        n = int(cell["n_tokens"])
        expect(line).to_contain_text(f"layer {layer}, expert {expert}: {'MIUB' if n else 'no tokens'}")
        text = line.text_content()
        if n:
            assert agrees(text.split("MIUB ")[1].split(" ")[0], float(cell["miub"]))
            assert agrees(text.split(" % of tokens")[0].split(" ")[-1], 100 * float(cell["share"]))
            assert agrees(text.split(" % only")[0].split(" ")[-1], 100 * float(cell["gained"]))
    select = opened.page.get_by_label("Experts by", exact=True)
    select.select_option("share of tokens gained with the adapter")
    opened.page.mouse.move(0, 0)
    canvas.focus()
    canvas.press("ArrowRight")
    expect(line).to_contain_text("layer 0, expert 0")
    canvas.press("ArrowDown")
    expect(line).to_contain_text("layer 1, expert 0")
    canvas.blur()
    expect(line).to_contain_text(f"darkest: {shown(float(found['gained'].max()))}")
    other = look(served("main"))
    other.settle()
    expect(other.page.locator(".experts")).to_be_hidden()
