"""Text of figures: titles, notes below them, and shortened names."""

import html
import re
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

TITLE_WIDTH, NOTE_WIDTH = 84, 100
"""Characters per line that fit into 660 pixels in a wide font; a narrower page's script breaks lines."""


def headline(figure: go.Figure, title: str, *notes: str) -> None:
    """Write a title above a figure and smaller sentences below it; the figure's height grows by their lines.

    Both are plain text, which is escaped here.
    """
    lines = textwrap.wrap(title, TITLE_WIDTH)
    small = textwrap.wrap(" ".join(note for note in notes if note), NOTE_WIDTH)
    shown = "<br>".join(html.escape(line) for line in lines)
    if small:
        text = "<br>".join(html.escape(line) for line in small)
        shown += f'<br><span style="font-size:11px;color:#5b636c">{text}</span>'
    room = 17 * (len(lines) - 1) + 16 * len(small) + 6 * bool(small)
    # plotly counts the pad from the middle of a first line of several
    place = {"x": 0, "xref": "container", "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 18, "l": 10}}
    top, height = figure.layout.margin.t + room, figure.layout.height + room
    figure.update_layout(title={"text": shown, "font": {"size": 13}, **place}, margin_t=top, height=height)


def shortened(name: object, n: int = 24) -> str:
    """Return a name of at most n characters, escaped; longer names lose their middle, paths their beginning.

    Examples
    --------
    >>> shortened("boolq"), shortened("a-data-set-with-a-very-long-name", 15), shortened("/home/me/runs/a/run.zarr", 15)
    ('boolq', 'a-data-…ng-name', '…uns/a/run.zarr')
    """
    return html.escape(_shorten_text(str(name), n))


def plural(n: int, what: str) -> str:
    """Return a count and its noun as text, with a no-break space."""
    return f"{n}\u00a0{what}" if n == 1 else f"{n}\u00a0{what}s"


def range_of(counts: Any, what: str) -> str:
    """Return the smallest and largest of several counts, and their noun, as text; counts of 0 are ignored."""
    known = np.asarray(counts)[np.asarray(counts) > 0]
    low, high = (int(known.min()), int(known.max())) if len(known) else (0, 0)
    return plural(high, what) if low == high else f"{low}\u00a0to\u00a0{plural(high, what)}"


def run_name(attributes: Mapping[str, Any]) -> str:
    """Return the names of a result's run and adapter as text, without folders and shortened.

    Examples
    --------
    >>> run_name({"run": "runs/demo/run.zarr", "adapter": "default"}), run_name({"run": "/data/r8", "adapter": "a"})
    ('demo (default)', 'r8 (a)')
    """
    *folders, name = re.split(r"[/\\]", str(attributes["run"]).rstrip("/\\"))
    if name == "run.zarr" and folders:  # a name that every run may have
        name = folders[-1]
    return f"{_shorten_text(name, 36)} ({_shorten_text(str(attributes['adapter']), 24)})"


def tokens_reduced(attributes: Mapping[str, Any]) -> str:
    """Return a sentence on how tokens were reduced (as a mean or a sum), from a result's attributes."""
    how = attributes["reduction"].split(";")[0].removeprefix("tokens: ")
    return f"{how[0].upper()}{how[1:]} over tokens." if how.endswith(("mean", "sum")) else f"Tokens: {how}."


def _shorten_text(text: str, n: int) -> str:
    """Return a text of at most n characters: longer ones lose their middle, paths their beginning."""
    if len(text) > n and "/" in text:  # the end of a path says more than its middle
        return f"…{text[1 - n :]}"
    return text if len(text) <= n else f"{text[: n // 2]}…{text[-(n - n // 2 - 1) :]}"
