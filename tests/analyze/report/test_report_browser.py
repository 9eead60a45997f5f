"""The page in a real browser: what a click, a search and the buttons do. Skipped only where there is no Chrome."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze.report import write_report
from lorascope.analyze.results.format import format_number

from ..conftest import Small
from .test_report import EVIL

CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TIMEOUT_SECONDS = 60
Evaluate = Callable[[str], Awaitable[Any]]

pytestmark = pytest.mark.skipif(CHROME is None, reason="no Chrome or Chromium on the path")


@pytest.fixture(scope="module")
def browser() -> Iterator[tuple[asyncio.Runner, Any]]:
    """A headless Chrome for all tests, and what runs their calls to it."""
    from choreographer import Browser

    with asyncio.Runner() as runner:
        chrome = Browser(path=CHROME, headless=True, enable_sandbox=False)
        runner.run(chrome.open())
        yield runner, chrome
        runner.run(chrome.close())


@pytest.fixture(scope="module")
def page(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(small.run, tmp_path_factory.mktemp("browser") / "page.html")


@pytest.fixture
def in_chrome(browser: tuple[asyncio.Runner, Any]) -> Callable[..., None]:
    """Has a look at a page in a tab of its own."""
    runner, chrome = browser

    def run(look: Callable[[Evaluate], Coroutine[Any, Any, None]], page: Path, **options: Any) -> None:
        async def in_tab() -> None:
            async with shown(chrome, page, **options) as evaluate:
                await look(evaluate)

        runner.run(in_tab())

    return run


@asynccontextmanager
async def shown(
    browser: Any, page: Path, *, width: int = 1440, theme: str = "light", scripts: bool = True
) -> AsyncIterator[Evaluate]:
    """A page in a tab; what it yields evaluates JavaScript there."""
    tab = await browser.create_tab("about:blank")
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    await tab.send_command("Emulation.setDeviceMetricsOverride", metrics)
    media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    await tab.send_command("Emulation.setEmulatedMedia", media)
    await tab.send_command("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    await tab.send_command("Page.navigate", {"url": page.resolve().as_uri()})

    async def evaluate(expression: str) -> Any:
        options = {"expression": f"JSON.stringify({expression})", "awaitPromise": True}
        answer = (await tab.send_command("Runtime.evaluate", options))["result"]
        assert "exceptionDetails" not in answer, answer
        return json.loads(answer["result"].get("value", "null"))

    ready = "document.readyState === 'complete'"
    if scripts:
        ready += " && document.querySelectorAll('.plot .main-svg').length > 0"
    await until(evaluate, ready)
    evaluate.command = tab.send_command  # type: ignore[attr-defined]  # for clicks with a real mouse
    yield evaluate


async def until(evaluate: Evaluate, condition: str) -> None:
    """Wait for what drawing and typing bring about a little later."""
    for _ in range(10 * TIMEOUT_SECONDS):
        if await evaluate(condition):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"never true: {condition}")


async def click(evaluate: Any, x: float, y: float) -> None:
    await evaluate.command("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
    for kind in ("mousePressed", "mouseReleased"):
        event = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
        await evaluate.command("Input.dispatchMouseEvent", event)


CONTROLS = "document.getElementById('texts-controls')"
TITLES = "[...document.querySelectorAll('.sample h3')].map(one => one.firstChild.textContent.trim())"
NUMBERS = "[...document.querySelectorAll('.t')].map(one => one.title)"


def test_a_cell_of_the_map_shows_its_component_and_all_come_back(
    small: Small, page: Path, in_chrome: Callable[..., None]
) -> None:
    js = small.js()

    async def look(evaluate: Evaluate) -> None:
        first = (await evaluate(TITLES))[0]
        sample = small.run.samples["id"].values.tolist().index(first.partition(" · ")[2])
        own = slice(int(small.starts[sample]), int(small.run.samples["token_stop"][sample]))
        assert numbers(await evaluate(NUMBERS))[0] == pytest.approx(js[own].sum(axis=1)[0], rel=6e-3)
        await evaluate("document.getElementById('js-map').scrollIntoView()")
        x, y, wide, high = await evaluate(
            "(box => [box.x, box.y, box.width, box.height])"
            "(document.querySelector('#js-map .nsewdrag').getBoundingClientRect())"
        )
        await click(evaluate, x + 0.75 * wide, y + high / 6)  # the second layer's q_proj
        await until(evaluate, f"!{CONTROLS}.querySelector('button').hidden")
        chosen = f"{CONTROLS}.querySelectorAll('select')[1].selectedOptions[0].textContent"
        assert await evaluate(chosen) == "model.layers.1.q_proj"
        component = small.run.component_paths.index("model.layers.1.q_proj")
        for found, value in zip(numbers(await evaluate(NUMBERS)), js[own, component], strict=False):
            assert found == pytest.approx(value, rel=0.03 + 0.05)  # of its code, and of two digits shown
        top = float(await evaluate("document.getElementById('texts-top').textContent"))
        assert top == pytest.approx(np.quantile(js[:, component], 0.98), rel=0.1)
        await evaluate(f"{CONTROLS}.querySelector('button').click()")
        assert numbers(await evaluate(NUMBERS))[0] == pytest.approx(js[own].sum(axis=1)[0], rel=6e-3)

    in_chrome(look, page)


def numbers(titles: list[str]) -> list[float]:
    found = [re.search(r"JS (\S+) nat", title) for title in titles]
    return [
        float(one[1].replace("·10⁻", "e-").translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789"))) for one in found if one
    ]


def test_every_sample_is_found_by_its_id_and_its_text_and_sorted(
    small: Small, page: Path, in_chrome: Callable[..., None]
) -> None:
    ids, miub = small.run.samples["id"].values, small.by_sample(small.js()).sum(axis=1)
    change = small.run.samples["ce"].values - small.run.samples["base_ce"].values

    async def look(evaluate: Evaluate) -> None:
        for words, expected in (("item-11", {"item-11"}), ("WORD word", set(ids.tolist())), ("no such", set())):
            await evaluate(
                f"(box => (box.value = {json.dumps(words)}, box.dispatchEvent(new Event('input'))))"
                f"({CONTROLS}.querySelector('input'))"
            )
            await until(evaluate, f"{TITLES}.length === {len(expected)}")
            assert {title.partition(" · ")[2] for title in await evaluate(TITLES)} == expected
        await evaluate(f"{CONTROLS}.querySelector('input').value = ''")
        orders = {"most moved first": -miub, "least moved first": miub, "loss fell most": change}
        orders |= {"loss rose most": -change, "as in the data": np.arange(len(ids))}
        for order, values in orders.items():
            await evaluate(
                f"(box => (box.value = {json.dumps(order)}, box.dispatchEvent(new Event('change'))))"
                f"({CONTROLS}.querySelector('select'))"
            )
            expected_order = ids[np.argsort(values, kind="stable")].tolist()
            assert [title.partition(" · ")[2] for title in await evaluate(TITLES)] == expected_order, order
        with_adapter, without = (format_number(float(small.run.samples[name][0])) for name in ("ce", "base_ce"))
        told = await evaluate("document.querySelector('#texts-list article small').textContent")
        assert told == f"MIUB {format_number(miub[0])} nat, loss {without} → {with_adapter} nat/token"

    in_chrome(look, page)


def test_a_hostile_store_on_a_phone_in_the_dark(
    make_small: Callable[..., Small], tmp_path: Path, in_chrome: Callable[..., None]
) -> None:
    """Its texts stay texts, nothing scrolls sideways, and light comes back with a click."""
    run = make_small(word=EVIL * 3, sample_id=EVIL, dataset="x" * 300).run
    page = write_report(run, tmp_path / "page.html")

    async def look(evaluate: Evaluate) -> None:
        assert await evaluate("document.querySelectorAll('img').length") == 0
        assert (await evaluate("document.querySelector('.t').textContent")) == EVIL * 3
        assert EVIL in (await evaluate(TITLES))[0]
        assert await evaluate("document.documentElement.scrollWidth") <= 390
        await until(
            evaluate, "[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))"
        )
        titles = await evaluate(
            "[...document.querySelectorAll('.gtitle')].map((title) => title.getBoundingClientRect().right)"
        )
        assert len(titles) > 5
        assert max(titles) <= 390
        background = "getComputedStyle(document.body).backgroundColor"
        assert await evaluate(background) == "rgb(18, 18, 18)"
        await evaluate("document.querySelector('.theme').click()")
        assert await evaluate(background) == "rgb(255, 255, 255)"

    in_chrome(look, page, width=390, theme="dark")


def test_without_scripts_five_samples_show(page: Path, in_chrome: Callable[..., None]) -> None:

    async def look(evaluate: Evaluate) -> None:
        assert len(await evaluate(TITLES)) == 5
        assert await evaluate(f"{CONTROLS}.childElementCount") == 0
        assert await evaluate("document.querySelector('.plot noscript').checkVisibility()")

    in_chrome(look, page, scripts=False)
