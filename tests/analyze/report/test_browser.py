"""The page in a real browser, in the dark, on a phone and without scripts. Skipped only where there is no Chrome."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lorascope.analyze.report import write_report

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
    yield evaluate


async def until(evaluate: Evaluate, condition: str) -> None:
    """Wait for what drawing and typing bring about a little later."""
    for _ in range(10 * TIMEOUT_SECONDS):
        if await evaluate(condition):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"never true: {condition}")


def test_a_hostile_store_on_a_phone_in_the_dark(
    make_small: Callable[..., Small], tmp_path: Path, in_chrome: Callable[..., None]
) -> None:
    """Its texts stay texts, and nothing scrolls sideways."""
    run = make_small(word=EVIL * 3, sample_id=EVIL, dataset="x" * 300).run
    page = write_report(run, tmp_path / "page.html")

    async def look(evaluate: Evaluate) -> None:
        assert await evaluate("document.querySelectorAll('img').length") == 0
        assert (await evaluate("document.querySelector('.t').textContent")) == EVIL * 3
        assert EVIL in await evaluate("document.querySelector('.sample h3').textContent")
        assert await evaluate("document.documentElement.scrollWidth") <= 390
        await until(
            evaluate, "[...document.querySelectorAll('.plot')].every((plot) => plot.querySelector('.main-svg'))"
        )
        titles = await evaluate(
            "[...document.querySelectorAll('.gtitle')].map((title) => title.getBoundingClientRect().right)"
        )
        assert len(titles) == 2
        assert max(titles) <= 390
        assert await evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 18, 18)"

    in_chrome(look, page, width=390, theme="dark")


def test_without_scripts_text_and_samples_show(small: Small, tmp_path: Path, in_chrome: Callable[..., None]) -> None:
    page = write_report(small.run, tmp_path / "page.html")

    async def look(evaluate: Evaluate) -> None:
        assert await evaluate("document.querySelectorAll('.sample').length") == 10
        assert await evaluate("document.querySelector('.plot noscript').checkVisibility()")

    in_chrome(look, page, scripts=False)
