"""Reads what the page shows, and clicks in it."""

import re
import time
from typing import Any

import numpy as np

from .conftest import PATIENCE_MS, Look

NONE, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def expect(locator: Any) -> Any:
    """Playwright's `expect`, which waits; imported only if there is a browser."""
    from playwright.sync_api import expect

    return expect(locator)


def shown(value: float, *, sign: bool = False) -> str:
    """A number as the page shows it: three digits."""
    if np.isnan(value):
        return NONE
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        text = "0" if value == 0 else f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")
    else:
        mantissa, power = f"{value:.2e}".split("e")
        text = f"{mantissa}·10{str(int(power)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    return ("+" if sign and value > 0 else "") + text.replace("-", MINUS)


def agrees(text: str, value: float, *, sign: bool = False, within: float = 0) -> bool:
    """Whether a text shows this number; float32 may round its last digit either way."""
    apart = abs(value) * 2e-6 + within
    return text in {shown(float(value + shift), sign=sign) for shift in (-apart, 0, apart)}


def number(text: str) -> float:
    """The first number in a text."""
    found = re.search(rf"([{MINUS}\d.]+)(?:·10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?", text)
    assert found is not None, text
    power = (found[2] or "⁰").translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    return float(found[1].replace(MINUS, "-")) * 10 ** int(power)


def listed(look: Look) -> dict[int, str]:
    """Place in the list, from 0, -> id of each visible sample."""
    script = "rows => rows.map((row) => [row.ariaPosInSet - 1, row.querySelector('.id').textContent])"
    look.settle()
    return dict(look.page.eval_on_selector_all(".row", script))


def click_map(look: Look, kind: int, layer: int, of: tuple[int, int] = (4, 3)) -> None:
    """Click a cell of the map, which has `of` kinds and layers."""
    look.settle()
    canvas = look.page.locator(".map canvas")
    box = canvas.bounding_box()
    at = {"x": (kind + 0.5) * box["width"] / of[0], "y": (layer + 0.5) * box["height"] / of[1]}
    canvas.click(position=at)
    look.settle()


def sums(look: Look) -> list[str]:
    """Js of each token, as its label says."""
    look.settle()
    labels = look.page.eval_on_selector_all(".t", "tokens => tokens.map((token) => token.ariaLabel)")
    return [re.search(r"js (\S+) nats", label)[1] for label in labels]  # type: ignore[index]


STATE = """() => [
    document.documentElement.dataset.theme, document.querySelector("main").innerText,
    document.querySelector(".count").innerText,
    ...[...document.querySelectorAll("select, input")].map((each) => each.value),
    ...[...document.querySelectorAll("[aria-selected=true], [aria-pressed=true]")]
        .filter((each) => each.checkVisibility()).map((each) => each.textContent),
    ...[...document.querySelectorAll("canvas")].map((each) => each.toDataURL()),
]"""


def state(look: Look, *, but: list[str] | None = None) -> list[str]:
    """Return what the page shows once it rests, with the mouse out of the way; wait until it differs from `but`."""
    look.page.mouse.move(700, 5)
    last, now = None, but
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while time.monotonic() < deadline:
        look.settle()
        last, now = now, look.page.evaluate(STATE)
        if now == last and now != but:
            return now
    raise AssertionError(f"the page didn't change, or never rested: {now}")
