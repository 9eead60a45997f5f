"""Parts of a study's page: notices, the paper's tables with links to units, verdicts, and a section per unit."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.figures.captions import shortened
from lorascope.analyze.report.markup import escape, section, table, with_minus
from lorascope.analyze.results.format import format_error, format_number, format_power

from ..read_table import join_names
from ..results.study_results import StudyResults
from ..results.tables import UNITS
from ..results.units import UnitResult

FEW_ITEMS = 400
"""Number of items of a data set below which the standard error of accuracy may exceed 2.5 points."""
UNIT_COLUMNS = ("unit", "N", "D", "samples", "train s")
UNCOMPARED_SETTINGS = {"rank", "seed", "states", "states_share", "prompt", "share", "shared_layers", "share_from"}
"""Settings that may differ between units: the grid decides them, or they change no number."""
MEANING = (
    "<p>MIUB, in nats: mean over a sample's tokens, sum over components, mean over samples. Accuracy: share of items "
    "whose right choice has the highest log-likelihood. CE: nat a token of the right answer, mean over items; of texts "
    "mean over tokens; PPL = exp(CE).</p>"
)


def tile(label: str, value: str, note: str) -> str:
    """Return the HTML of a headline number, with a label above it and a note below it."""
    value, note = escape(with_minus(value)), escape(with_minus(note))
    return (
        f'<div class="tile"><div class="label">{escape(label)}</div><div class="value">{value}</div>'
        f'<div class="note">{note}</div></div>'
    )


def notices(study: StudyResults) -> Iterator[str]:
    """Yield the notices at the top of a study's page, as HTML: missing units, few items, differing settings."""
    cells, missing, unplanned = study.tables["study"], study.missing, study.unplanned_units
    if missing:
        n = f"{len(missing)} of {len(study.planned)}"
        yield f"<b>{n} units aren't done:</b> {escape(join_names(missing))}. What needs them is empty."
    if unplanned:
        yield (
            f"<b>{len(unplanned)} results are of units that the study doesn't have,</b> and aren't in here: "
            f"{escape(join_names(unplanned))}."
        )
    for tokens in dict.fromkeys(str(unit.provenance.get("population", "all")) for unit in study.units):
        if not tokens.startswith("all"):
            yield f"<b>MIUB is of a part of the tokens:</b> {escape(tokens)}. It doesn't compare with that of all."
    n_seeds = cells.groupby(["model", "task", "setting"])["seed"].nunique()
    if n_lone := int((n_seeds == 1).sum()):
        who = "Each setting has" if n_lone == len(n_seeds) else f"{n_lone} of {len(n_seeds)} settings have"
        yield (
            f"<b>{who} one seed.</b> Errors say how another draw of items would differ, not another adapter. Claims "
            "take that from settings of the same task with several seeds; without any, they are about these very "
            "adapters."
        )
    choices = cells[cells["first_prompt"] & ~cells["is_text"] & (cells["n_scored"] > 0)]
    if len(choices) and choices["n_scored"].min() < FEW_ITEMS:
        low, high = int(choices["n_scored"].min()), int(choices["n_scored"].max())
        yield (
            f"<b>Few items:</b> {low if low == high else f'{low} to {high}'} a data set. An accuracy has a standard "
            f"error of up to {format_number(100 * float(choices['ACC_se'].max()))} points."
        )
    yield from (f"<b>Units differ</b> in {what}." for what in setting_differences(study.units))
    if n_bad := int(cells["MIUB"].isna().sum()):
        yield f"<b>{n_bad} cells have a MIUB that isn't finite</b> in some sample; they are empty."


def setting_differences(units: Sequence[UnitResult]) -> Iterator[str]:
    """Yield HTML on each setting, library or weights that differ between units although the grid doesn't vary it."""
    units_by_value: dict[str, dict[str, list[str]]] = {}  # setting -> its value as JSON -> units
    for unit in units:
        libraries, device, model = (unit.provenance.get(key) or {} for key in ("libraries", "device", "model"))
        about = {**libraries, **{f"device {key}": device.get(key) for key in ("type", "name")}}
        about[f"weights of {unit.model}, share{unit.share}"] = model.get("sha256")
        for step, recipe in unit.recipe.items():
            parts = recipe if isinstance(recipe, Mapping) else {}
            settings = parts["config"] if isinstance(parts.get("config"), Mapping) else {}
            compared = {key: value for key, value in settings.items() if key not in UNCOMPARED_SETTINGS}
            alike = f"{unit.task}, {unit.model}, share{unit.share}, d{unit.train_items or 'all'}"
            about |= {f"settings of {step}, {unit.task}": compared}
            about |= {f"{key} of {step}, {alike}": parts[key] for key in parts.keys() - {"config", "information"}}
        for what, value in about.items():
            units_by_value.setdefault(what, {}).setdefault(json.dumps(value, sort_keys=True), []).append(unit.name)
    for what, values in units_by_value.items():
        if len(values) > 1:
            parted = (f"{shortened(value, 60)} in {escape(join_names(names))}" for value, names in values.items())
            yield f"{escape(what)}: {'; '.join(parted)}"


def units_section(study: StudyResults) -> str:
    """Return the page's section on all units (adapters) as HTML: sizes, missing items, and a part for each."""
    notes = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(n for unit in study.units for n in unit.notes))
    rows = []
    for unit in study.units:
        n, d, seconds = unit.sizes["N"], unit.sizes["D"], unit.training.get("train_seconds")
        sizes = ["n/a" if size is None else f"{size:,}".replace(",", "\u202f") for size in (n, d)]
        time = format_number(float(seconds)) if isinstance(seconds, int | float) else "n/a"
        rows.append((unit.name, *sizes, unit.samples.sizes["sample"], time))
    caption = (
        "N: parameters of the model, each counted once; D: training samples; samples: items, windows of text and "
        "prompts, all together."
    )
    missing = f"<p>There wasn't enough of:</p><ul>{notes}</ul>" if notes else ""
    overview = table(UNIT_COLUMNS, rows, caption=caption)
    return section("units", "What was run", overview, missing, MEANING, *map(_unit_html, study.units))


def _unit_html(unit: UnitResult) -> str:
    """Return the part of the page about one unit (adapter) as HTML: its files, runs, training and recipe."""
    rows = [("file", f"results/{unit.name}.nc"), ("model", unit.model)]
    for name, run in unit.runs.items():
        about = f"{run.get('fingerprint')}; {run.get('n_tokens')} tokens, states kept: {run.get('states')}"
        rows.append((f"run {name}", about))
    if unit.information is not None:
        chosen = {key: value for key, value in unit.information.attrs.items() if key not in ("model", "adapter")}
        rows.append(("mutual information", ", ".join(f"{key} {value}" for key, value in chosen.items())))
    shown = ("model", "data", "population", "prompt", "libraries", "device")
    details = {
        "training": {key: value for key, value in unit.training.items() if not isinstance(value, list)},
        "provenance": {key: unit.provenance[key] for key in shown if key in unit.provenance},
        "recipe": unit.recipe,
    }
    text = json.dumps(details, indent=1, ensure_ascii=False, default=str)
    return (
        f'<article class="sample" id="{escape(unit_anchor(unit.name))}"><h3>{escape(unit.name)}</h3>'
        f"{table(('', ''), rows, n_names=2)}<details><summary>training, model, libraries, recipe</summary>"
        f"<pre>{escape(text)}</pre></details></article>"
    )


def unit_anchor(unit: str) -> str:
    """Return the HTML id of the page's part on a unit (one adapter), for links to it."""
    return f"unit-{unit}"


def unit_links(runs: Sequence[str], first: str) -> str:
    """Return HTML links to the units (adapters) `runs`: the first link's text is `first`, others' are numbers."""
    if not runs:
        return escape(first)
    others = "".join(
        f'<sup><a href="#{escape(unit_anchor(run))}">{place}</a></sup>' for place, run in enumerate(runs[1:], start=2)
    )
    return f'<a href="#{escape(unit_anchor(runs[0]))}">{escape(first)}</a>{others}'


def paper_table_html(table: pd.DataFrame, key: str, *, caption: str = "") -> str:
    """Return one of the paper's tables as HTML, models next to each other; missing numbers are dashes.

    `key` is the column with the names of rows, `caption` HTML below the table.
    """
    known = table[table["value"].notna()]
    columns = list(dict.fromkeys(known[["model", "setting"]].itertuples(index=False, name=None)))
    columns.sort(key=lambda column: list(dict.fromkeys(table["model"])).index(column[0]))
    firsts = {k for k in range(1, len(columns)) if columns[k][0] != columns[k - 1][0]}
    cells = {(row[key], row["metric"], row["model"], row["setting"]): row for row in table.to_dict("records")}
    powers = {metric: _common_power(rows["value"].abs(), metric) for metric, rows in table.groupby("metric")}
    body, last = "", None
    for name, metric in dict.fromkeys(table[[key, "metric"]].itertuples(index=False, name=None)):
        unit = " ".join(filter(None, (format_power(powers[metric]) if powers[metric] else "", UNITS.get(metric, ""))))
        begins, shown = (' class="begins"', escape(name)) if name != last else ("", "")
        body += f'<tr{begins}><td class="name">{shown}</td>'
        body += f'<td class="name">{escape(f"{metric} ({unit})" if unit else metric)}</td>'
        for k, column in enumerate(columns):
            kind = "number first" if k in firsts else "number"
            body += _table_cell(cells.get((name, metric, *column)), powers[metric], kind)
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


def verdict_table(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return an HTML table of verdicts: the word (such as `supported`) in its colour, the claim, the reason."""
    lines = "".join(
        f'<tr><td><span class="word {escape(word.replace(" ", "-"))}">{escape(word)}</span></td>'
        f'<td class="claim">{escape(claim)}<div class="note">{escape(because)}</div></td></tr>'
        for claim, word, because in rows
    )
    return f'<table class="verdicts"><tbody>{lines}</tbody></table>'


def _common_power(sizes: pd.Series, metric: str) -> int:
    """Return the exponent of ten to show a metric in: 0 unless all are below 1 nat, and some below 0.01."""
    if UNITS.get(metric) != "nat" or not 0 < sizes.max() < 1 or sizes.min() >= 0.01:
        return 0
    return 3 * math.floor(math.log10(sizes.max()) / 3)


def _table_cell(row: Mapping[Any, Any] | None, power: int, kind: str) -> str:
    """Return a table's cell as HTML: a number with its error and links; below it sd, quartiles and counts."""
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
    text = unit_links(str(row["runs"]).split(), format_error(float(row["value"]) / unit, float(row["se"]) / unit))
    return f'<td class="{kind}" title="{escape(", ".join(details))}">{text}{below}</td>'
