"""A real browser, and test runs that `lorascope view` serves to it."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from lorascope.analyze import view
from lorascope.analyze.viewing.index import view_index
from lorascope.stores import Component

from ..analyze.conftest import Small, write_small

CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 60_000
N_SAMPLES, N_TOKENS = 120, 20
WORDS = tuple(f" w{token}" for token in range(N_SAMPLES * N_TOKENS))
KINDS: dict[str, dict[str, Any]] = {
    "main": {"outside": True},
    "two": {"adapters": ("a", "b")},
    "branch": {"factored": False},
    "pair": {"stream": "pair"},
    "bfloat16": {"dtype": "bfloat16"},
    "none": {"states": "none"},
    "sample": {"states": "sample", "state_rows": (True, False, True)},
}
"""Name of a test run of three rows -> options of `write_small`."""

BAD = "</script><script>alert(1)</script><img src=x onerror=alert(1)><svg/onload=alert(1)>\"'&amp;"
TEXTS = (
    BAD,
    "\u202eevil",
    "\x00\x1b[31m",
    "javascript:alert(1)",
    "y" * 3000,
    "{{1+1}}",
    "\u2028\ufeff",
    "\n\n<b>\n",
    "",
    "\U0001f600",
    "\u05d0\u05d1",
    " ",
    "${alert(1)}",
    "]]>-->",
    "\t\t",
)
NAMES = ("__proto__", "constructor.prototype", "_", "x" * 255)
"""Paths of hostile components."""


RESTS = """() => {
    const loads = document.querySelector("[aria-busy=true]")
        || document.querySelector(".count")?.textContent.includes("reading");
    const frames = window.framesAtRest = loads ? 0 : (window.framesAtRest ?? 0) + 1;
    return frames > 4;
}"""
"""Called once a frame: whether nothing has loaded for 5 frames; what is drawn may need the frame before."""


@dataclass
class Look:
    """A page in a new window, with its requests and problems."""

    page: Any
    requests: list[str] = field(default_factory=list)
    """Requested addresses, below that of the page."""
    missing: list[str] = field(default_factory=list)
    """Requested addresses that were answered with an error."""
    problems: list[str] = field(default_factory=list)
    """Errors in the console or of scripts, dialogs, and requests that leave the page's origin."""

    def expect_equal(self, read: Callable[[], Any], expected: Any) -> None:
        """Wait until `read()` returns this."""
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while (value := read()) != expected and time.monotonic() < deadline:
            self.settle()
        assert value == expected

    def expect_address(self, expected: str) -> None:
        """Wait until the address has this view; that of keys and typing is written once they rest."""
        self.expect_equal(lambda: unquote(urlsplit(self.page.url).fragment), expected)

    def go(self, view: str) -> None:
        """Open a view again, in the same window."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.home}#{view}")
        self.settle()

    def settle(self) -> None:
        """Wait until something is shown, nothing loads, and all is drawn."""
        self.page.wait_for_selector("h1:visible, [role=alert]")
        self.page.evaluate("() => { window.framesAtRest = 0; }")
        self.page.wait_for_function(RESTS)

    home: str = ""


@pytest.fixture(scope="module")  # not longer: its loop would be in the way of tests with one of their own
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    if CHROME is None:
        pytest.skip("no Chrome or Chromium on the path: `chromium`")
    if find_spec("playwright") is None:
        pytest.skip("no playwright in this environment: `pip install playwright`")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROME, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture
def look(browser: Any) -> Iterator[Callable[..., Look]]:
    """Return a function that opens a page; fail if it has had problems other than missing chunks of a broken run."""
    with ExitStack() as stack:

        def start(url: str, *, page: str = "", view: str = "", is_broken: bool = False, **options: Any) -> Look:
            context = browser.new_context(**{"viewport": {"width": 1440, "height": 1000}} | options)
            stack.callback(context.close)
            context.set_default_timeout(PATIENCE_MS)
            look = Look(context.new_page(), home=f"{url}{page}")

            def requested(request: Any) -> None:
                if request.url.startswith(url):
                    look.requests.append(request.url.removeprefix(url).partition("#")[0])
                elif request.url != "about:blank" and not request.url.startswith("data:"):
                    look.problems.append(f"asked for {request.url}")

            def said(message: Any) -> None:
                if message.type == "error" and not (is_broken and message.text.startswith("Failed to load resource")):
                    look.problems.append(message.text)

            def asked(dialog: Any) -> None:
                look.problems.append(f"dialog: {dialog.message}")
                dialog.dismiss()

            def answered(response: Any) -> None:
                if response.status >= 400:
                    look.missing.append(response.url.removeprefix(url))

            context.on("request", requested)
            context.on("response", answered)
            context.on("console", said)
            context.on("weberror", lambda error: look.problems.append(str(error.error)))
            context.on("dialog", asked)
            look.go(view)
            stack.callback(lambda: look.problems == [] or pytest.fail("\n".join(look.problems)))
            return look

        yield start


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Small]:
    """Return a function that makes a run of a kind, once."""
    known: dict[str, Small] = {}

    def make(kind: str) -> Small:
        if kind not in known:
            path = tmp_path_factory.mktemp(kind) / f"{kind}.zarr"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("os.fsync", lambda descriptor: None)  # the slowest part, and no test cuts the power
                options = {"n_samples": N_SAMPLES, "n_tokens": N_TOKENS, "word": WORDS}
                known[kind] = write_small(path, **options | KINDS[kind])
        return known[kind]

    return make


@pytest.fixture(scope="session")
def main(made: Callable[[str], Small]) -> Small:
    return made("main")


@pytest.fixture(scope="session")
def served(made: Callable[[str], Small]) -> Iterator[Callable[..., str]]:
    """Return a function that serves runs, given by kinds or paths, and returns the page's address."""
    with ExitStack() as stack:
        yield (
            lambda *runs: (
                stack.enter_context(view([run if isinstance(run, Path) else made(run).run for run in runs])).url
            )
        )


@pytest.fixture
def growing(unfinished: Path, tmp_path: Path) -> Path:
    """A run of two components by two layers whose middle row isn't committed."""
    return shutil.copytree(unfinished, tmp_path / "growing.zarr")


@pytest.fixture
def broken(main: Small, tmp_path: Path) -> Path:
    """A copy of the main run with its index, to be damaged."""
    index = view_index(main.run)
    shutil.copytree(index, tmp_path / "broken.view.zarr")
    return shutil.copytree(main.run.path, tmp_path / "broken.zarr")


def hostile_components(dtype: str, *, outside: bool) -> tuple[Component, ...]:
    layers, size = (-1, 0, 7, 16_383), {"d_in": 8, "d_out": 24, "dtype": dtype, "stored_dtype": dtype}
    return tuple(
        Component(path=path, kind=kind, layer=layer, **size)
        for path, kind, layer in zip(NAMES, (BAD, "__proto__", "\u202e\n", "k" * 3000), layers, strict=True)
    )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose texts, ids and names try to be more than text."""
    path = tmp_path_factory.mktemp("hostile") / "<img src=x onerror=alert(1)>\u202e.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(write_small.__globals__, "make_components", hostile_components)
        write_small(
            path,
            word=TEXTS,
            sample_id=f"{BAD}\u202e\x07{'x' * 3000}",
            dataset=f"{BAD}\u2066",
            adapters=("__proto__", "constructor"),
            attributes={"provenance": {"model": {"name": f"{BAD}\u202e"}}},
        )
    return path


@pytest.fixture(scope="module")
def zero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose delta is 0."""
    return Path(write_small(tmp_path_factory.mktemp("zero") / "zero.zarr", zero=True).run.path)
