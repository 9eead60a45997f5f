"""The paper's tables as HTML: a column a setting, and in every cell a link to the units that it comes from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.format import format_error, format_number, format_power
from lorascope.analyze.report.markup import escape, table
from lorascope.analyze.stats.summary import Summary, cell_text

__all__ = ["anchor", "anchors", "paper_layout", "summary_parts", "verdict_list"]

UNITS = {"ACC": "share", "CE": "nat/token", "MIUB": "nat", "PPL": "", "MI": "nat", "js": "nat", "js sum": "nat"}


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


def paper_layout(found: pd.DataFrame, key: str, name: str, *, caption: str = "") -> str:
    """A table of one of the paper's, models beside each other; what wasn't measured is a dash, and counted below.

    Small numbers of a metric that lie near each other are shown in one power of ten, which stands beside its unit.

    Parameters
    ----------
    found
        What `paper_table_1`, `paper_table_2` or `paper_table_3` returns.
    key, name
        Column of its rows' names, and what that is called.
    caption
        HTML below it.
    """
    models = list(dict.fromkeys(found["model"]))
    settings = {
        model: list(dict.fromkeys(found[(found["model"] == model) & found["value"].notna()]["setting"]))
        for model in models
    }
    columns = [(model, setting) for model in models for setting in settings[model]]
    firsts = {(model, settings[model][0]) for model in models[1:] if settings[model]}
    cells = {(row[key], row["metric"], row["model"], row["setting"]): row for row in found.to_dict("records")}
    powers = {metric: _power(rows) if UNITS.get(metric) == "nat" else 0 for metric, rows in found.groupby("metric")}
    body = ""
    last = None
    for row_name, metric in dict.fromkeys(found[[key, "metric"]].itertuples(index=False, name=None)):
        power = powers[metric]
        unit = " ".join([format_power(power)] * bool(power) + [UNITS.get(metric, "")])
        metric_text = escape(f"{metric} ({unit})" if unit else metric)
        begins = ' class="begins"' if row_name != last else ""
        shown = escape(row_name) if row_name != last else ""
        last = row_name
        body += f'<tr{begins}><td class="name">{shown}</td><td class="name">{metric_text}</td>'
        body += (
            "".join(
                _cell(cells.get((row_name, metric, *column)), power, is_first=column in firsts) for column in columns
            )
            + "</tr>"
        )
    n_empty = int(found["value"].isna().sum())
    empty = f" {n_empty} of {len(found)} cells weren't measured." if n_empty else ""
    head = _head(models, settings, name)
    whole = f'<table class="linked"><thead>{head}</thead><tbody>{body}</tbody></table>'
    return f'<figure><div class="scroll">{whole}</div><figcaption>{caption}{empty}</figcaption></figure>'


def verdict_list(rows: Sequence[tuple[str, str, str]]) -> str:
    """Verdict, claim and reason of each, the word in its colour; HTML."""
    lines = "".join(
        f'<tr><td><span class="word {escape(word.replace(" ", "-"))}">{escape(word)}</span></td>'
        f'<td class="claim">{escape(claim)}<div class="note">{escape(because)}</div></td></tr>'
        for word, claim, because in rows
    )
    return f'<table class="verdicts"><tbody>{lines}</tbody></table>'


def summary_parts(summary: Summary) -> str:
    """What a result prints, as HTML: facts and verdicts, and behind a click its tables and remarks."""
    facts = table(("", ""), summary.facts.items(), n_names=2)
    verdicts = verdict_list([(one.word, one.claim, one.because) for one in summary.verdicts])
    tables = "".join(
        f"<h3>{escape(one.title)}</h3>"
        + table(
            [str(column) for column in one.rows.columns],
            [[cell_text(value, one.digits) for value in row] for row in one.rows.itertuples(index=False, name=None)],
            caption=escape(one.note),
        )
        for one in summary.tables
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in summary.notes)
    notes = f"<ul>{notes}</ul>" if notes else ""
    return f"{verdicts}<details><summary>all numbers</summary>{facts}{tables}{notes}</details>"


def _head(models: Sequence[str], settings: Mapping[str, Sequence[str]], name: str) -> str:
    above = ""
    if len(models) > 1:
        groups = "".join(
            f'<th class="model" colspan="{len(settings[model])}">{escape(model)}</th>'
            for model in models
            if settings[model]
        )
        above = f'<tr><th class="name"></th><th class="name"></th>{groups}</tr>'
    columns = "".join(f'<th class="number">{escape(setting)}</th>' for model in models for setting in settings[model])
    return f'{above}<tr><th class="name">{escape(name)}</th><th class="name">metric</th>{columns}</tr>'


def _power(rows: pd.DataFrame) -> int:
    """The power of a thousand that small numbers are shown in, errors and quartiles among them; else 0.

    In it the largest has up to three digits before its point and the smallest its first within three places behind:
    where none does that, each is better written with a power of its own.
    """
    shown = rows[[column for column in ("value", "se", "low", "high") if column in rows]].abs().to_numpy(dtype=float)
    known = np.isfinite(shown) & (shown > 0)
    if not known[:, 0].any() or shown[known].max() >= 1 or shown[:, 0][known[:, 0]].min() >= 0.01:
        return 0
    power = 3 * math.floor(math.log10(shown[known].max()) / 3)
    return power if shown[known].min() >= 10.0 ** (power - 3) else 0


def _cell(row: Mapping[Any, Any] | None, power: int, *, is_first: bool) -> str:
    """A number with its links, in a power of ten; the first of a further model stands apart."""
    kind = "number first" if is_first else "number"
    if row is None or pd.isna(row["value"]):
        return f'<td class="{kind}">-</td>'
    runs = str(row["runs"]).split()
    unit = 10.0**power
    said = [f"n = {row['n_items']} items", f"{row['n_seeds']} seed{'' if row['n_seeds'] == 1 else 's'}"]
    if pd.notna(row["seed_sd"]):
        said.append(f"sd between seeds {format_number(row['seed_sd'] / unit)}")
    below = ""
    if "low" in row and pd.notna(row["low"]):
        low, high = (format_number(float(row[end]) / unit) for end in ("low", "high"))
        below = f'<div class="note">{low} to {high}</div>'
    if row["metric"] == "MI":
        counts = f"{int(row['n_clean'])} of {int(row['n_components'])} ok"
        below += f'<div class="note">{escape(counts)}</div>'
    text = anchors(runs, format_error(float(row["value"]) / unit, float(row["se"]) / unit))
    return f'<td class="{kind}" title="{escape(", ".join(said))}">{text}{below}</td>'
