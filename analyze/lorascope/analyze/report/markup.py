"""Pieces of HTML. All text from a store passes `escape` here or before, because a store is data, never code."""

import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lorascope.stores.visible import visible

NO_BREAK = "\N{NO-BREAK SPACE}"
NEEDS_SCRIPT = "<noscript>This figure needs JavaScript.</noscript>"
"""Placeholder of a figure that isn't drawn; `with_pictures` replaces it by a picture if it can."""


class Html(str):
    """Text of a table's cell that is HTML already."""


def escape(value: object) -> str:
    """Return a value as text that is safe in HTML, in quoted attributes and in a terminal."""
    return html.escape(visible(str(value)), quote=True)


def as_json(json_text: str) -> str:
    """Return JSON with escapes for `<`, `>` and `&`, so that no string in it can end its script element."""
    return json_text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def figure(name: str, plot: Any, caption: str) -> str:
    """Return the HTML of a plotly figure, stored as JSON that the page's script draws, with its caption (HTML)."""
    data = as_json(json.dumps(json.loads(plot.to_json()), separators=(",", ":")))
    return (
        f'<figure><div class="plot" id="{escape(name)}" style="height:{int(plot.layout.height)}px">{NEEDS_SCRIPT}</div>'
        f'<script type="application/json" id="{escape(name)}-data">{data}</script>'
        f"<figcaption>{with_units(caption)}</figcaption></figure>"
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, n_names: int = 1, caption: str = "") -> str:
    """Return the HTML of a table of escaped cells; all columns after the first `n_names` are numbers.

    The caption is HTML; without rows there is no table. On a narrow screen, the numbers of a row are below its names,
    each under the name of its column.
    """
    cells = [[*row] for row in rows]
    if not cells:
        return ""
    kinds = [
        "reply" if isinstance(cell, Html) else "name" if place < n_names else "number"
        for place, cell in enumerate(cells[0])
    ]
    labels = [escape(column) for column in columns]
    head = "".join(f'<th class="{kind}">{label}</th>' for kind, label in zip(kinds, labels, strict=True))
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}" data-label="{label}">{_cell(kind, cell)}</td>'
            for kind, label, cell in zip(kinds, labels, row, strict=True)
        )
        + "</tr>"
        for row in cells
    )
    stacks = ' class="stacks"' if len(columns) > 3 else ""
    whole = f"<table{stacks}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    below = f"<figcaption>{with_units(caption)}</figcaption>" if caption else ""
    return f'<figure><div class="scroll">{whole}</div>{below}</figure>'


def table_of(rows: Sequence[Any], columns: Mapping[str, Callable[[Any], object]], **options: Any) -> str:
    """Return the HTML of a table; `columns` are heading -> function from a row to its cell, `options` table's."""
    return table([*columns], [[cell(row) for cell in columns.values()] for row in rows], **options)


def contents(body: str) -> str:
    """Return the HTML of links to the sections of a page's body."""
    sections = re.findall(r'<section id="([^"]*)"><h2>(.*?)</h2>', body)
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in sections)
    return f'<nav class="contents" aria-label="Contents"><ul>{links}</ul></nav>'


def folded(name: str, summary: str, *parts: str) -> str:
    """Return the HTML of a line that shows further parts (HTML) when it is clicked."""
    return f'<details id="{escape(name)}"><summary>{with_units(summary)}</summary>{"".join(parts)}</details>'


def notice(text: str) -> str:
    """Return the HTML of a warning, for the top of a page; `text` is HTML."""
    return f'<p class="notice">{text}</p>'


def unknown(reason: str, how: str = "") -> str:
    """Return HTML that says why a section is empty; plain text, with code between backquotes."""
    return f"<p>Can't tell{how}, since {with_code(reason)}.</p>"


def section(name: str, title: str, *parts: str) -> str:
    """Return the HTML of a titled section; parts are HTML."""
    return f'<section id="{escape(name)}"><h2>{escape(title)}</h2>{"".join(parts)}</section>'


def _cell(kind: str, value: object) -> str:
    """Return the HTML of a table's cell: names may break after a dot, numbers get a minus sign."""
    if kind == "reply":
        return str(value)
    return escape(value).replace(".", ".<wbr>") if kind == "name" else escape(with_minus(str(value)))


def with_code(text: str) -> str:
    """Return the HTML of plain text, with code between backquotes marked as such."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(with_units(with_minus(text))))


def with_minus(text: str) -> str:
    """Return a text whose negative numbers have a minus sign in place of a hyphen."""
    return re.sub(r"(?<![\w.])-(?=[\d∞])", "\N{MINUS SIGN}", text)


def with_units(text: str) -> str:
    """Return a text with no-break spaces before units and around ±, so that no line ends inside a quantity."""
    text = re.sub(r"(?<=[\d⁰¹²³⁴-⁹]) (?=(?:%|nats?\b))", NO_BREAK, text)
    return re.sub(r"(?<=\d) ± (?=\d)", f"{NO_BREAK}±{NO_BREAK}", text)
