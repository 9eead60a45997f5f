"""The paper's tables as HTML: a column a setting, and in every cell a link to the units that it comes from."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.report.markup import escape
from lorascope.analyze.results.format import format_error, format_number, format_power

from ..results.tables import UNITS


def anchor(unit: str) -> str:
    """The id of a unit's section."""
    return f"unit-{unit}"


def anchors(runs: Sequence[str], first: str) -> str:
    """A link to the first unit, in the given words, and behind it numbered ones to others; HTML."""
    if not runs:
        return escape(first)
    others = "".join(
        f'<sup><a href="#{escape(anchor(run))}">{place}</a></sup>' for place, run in enumerate(runs[1:], start=2)
    )
    return f'<a href="#{escape(anchor(runs[0]))}">{escape(first)}</a>{others}'


def paper_layout(table: pd.DataFrame, key: str, *, caption: str = "") -> str:
    """One of the paper's tables, models side by side; what wasn't measured is a dash, and counted below.

    Parameters
    ----------
    table
        What `datasets_table`, `prompts_table` or `information_table` returns.
    key
        Column of its rows' names.
    caption
        HTML below it.
    """
    known = table[table["value"].notna()]
    columns = list(dict.fromkeys(known[["model", "setting"]].itertuples(index=False, name=None)))
    columns.sort(key=lambda column: list(dict.fromkeys(table["model"])).index(column[0]))
    firsts = {k for k in range(1, len(columns)) if columns[k][0] != columns[k - 1][0]}
    cells = {(row[key], row["metric"], row["model"], row["setting"]): row for row in table.to_dict("records")}
    powers = {metric: _power(rows["value"].abs(), metric) for metric, rows in table.groupby("metric")}
    body, last = "", None
    for name, metric in dict.fromkeys(table[[key, "metric"]].itertuples(index=False, name=None)):
        unit = " ".join(filter(None, (format_power(powers[metric]) if powers[metric] else "", UNITS.get(metric, ""))))
        begins, shown = (' class="begins"', escape(name)) if name != last else ("", "")
        body += f'<tr{begins}><td class="name">{shown}</td>'
        body += f'<td class="name">{escape(f"{metric} ({unit})" if unit else metric)}</td>'
        for k, column in enumerate(columns):
            kind = "number first" if k in firsts else "number"
            body += _cell(cells.get((name, metric, *column)), powers[metric], kind)
        body, last = f"{body}</tr>", name
    n_empty = len(table) - len(known)
    empty = f" {n_empty} of {len(table)} cells weren't measured." if n_empty else ""
    head = "".join(f'<th class="number">{escape(setting)}</th>' for _, setting in columns)
    head = f'<tr><th class="name">{escape(key)}</th><th class="name">metric</th>{head}</tr>'
    if firsts:
        names = [model for model, _ in columns]
        spans = (
            f'<th class="model" colspan="{names.count(model)}">{escape(model)}</th>' for model in dict.fromkeys(names)
        )
        head = f'<tr><th class="name"></th><th class="name"></th>{"".join(spans)}</tr>{head}'
    whole = f'<table class="linked"><thead>{head}</thead><tbody>{body}</tbody></table>'
    return f'<figure><div class="scroll">{whole}</div><figcaption>{caption}{empty}</figcaption></figure>'


def verdict_list(rows: Iterable[tuple[str, str, str]]) -> str:
    """Claim, word and reason of each verdict, the word in its colour; HTML."""
    lines = "".join(
        f'<tr><td><span class="word {escape(word.replace(" ", "-"))}">{escape(word)}</span></td>'
        f'<td class="claim">{escape(claim)}<div class="note">{escape(because)}</div></td></tr>'
        for claim, word, because in rows
    )
    return f'<table class="verdicts"><tbody>{lines}</tbody></table>'


def _power(sizes: pd.Series, metric: str) -> int:
    """The power of a thousand in which a metric's numbers are shown: where all are below 1, and some below 0.01."""
    if UNITS.get(metric) != "nat" or not 0 < sizes.max() < 1 or sizes.min() >= 0.01:
        return 0
    return 3 * math.floor(math.log10(sizes.max()) / 3)


def _cell(row: Mapping[Any, Any] | None, power: int, kind: str) -> str:
    """A number with its links, in a power of ten, and below it its quartiles and counts where it has them."""
    if row is None or pd.isna(row["value"]):
        return f'<td class="{kind}">-</td>'
    unit = 10.0**power
    details = [f"n = {row['n_items']} items", f"{row['n_seeds']} seed{'' if row['n_seeds'] == 1 else 's'}"]
    below = ""
    if pd.notna(row["seed_sd"]):
        below = f'<div class="note">sd {format_number(row["seed_sd"] / unit, digits=2)}</div>'
    if pd.notna(row.get("low")):
        low, high = (format_number(float(row[end]) / unit) for end in ("low", "high"))
        below += f'<div class="note">{low} to {high}</div>'
    if row["metric"] == "MI":
        below += f'<div class="note">{int(row["n_clean"])} of {int(row["n_components"])} ok</div>'
    text = anchors(str(row["runs"]).split(), format_error(float(row["value"]) / unit, float(row["se"]) / unit))
    return f'<td class="{kind}" title="{escape(", ".join(details))}">{text}{below}</td>'
