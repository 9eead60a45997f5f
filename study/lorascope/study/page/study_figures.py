"""Figures of a study: the paper's figures 2 and 3, and its table 1 along rank and model size, with error bars.

MIUB is the summed Jensen-Shannon divergence of base and adapted outputs, ACC accuracy, CE cross-entropy, PPL exp(CE).
"""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from lorascope.analyze.figures.captions import headline, shortened
from lorascope.analyze.figures.scales import size_axis, value_axis
from lorascope.analyze.figures.theme import Look, add_legend, line, looks, points, small_multiples
from lorascope.analyze.results.format import format_error, format_number

from ..results.tables import AVG

AXES = {"ACC": "share", "CE": "nat/token", "PPL": "", "MIUB": "nat"}
"""Metric -> its unit."""
MEAN = Look("#222222", "diamond", "solid")
"""Look of the mean over data sets."""
HEIGHT = 160
"""Height of a panel in pixels."""


def text_sizes_figure(table: pd.DataFrame) -> go.Figure:
    """Draw MIUB, PPL and CE of texts against model parameters (the paper's figure 2), a line per text and model.

    `table` is what `texts_table` returns; raises ValueError if it has no value at a known number of parameters.
    """
    rows = table[table["value"].notna() & table["N"].notna()]
    if not len(rows):
        raise ValueError("no text was measured at a known number of parameters")
    rows = rows.assign(line=_line_names(rows), x=rows["N"].astype(float), panel="<b>" + rows["metric"] + "</b>")
    ranks = " and ".join(str(int(rank)) for rank in sorted(rows["R"].dropna().unique()))
    title = "Texts against model size (the paper's figure 2)"
    return _draw_panels(rows, "text", _data_set_looks(rows["line"]), title, f"LoRA rank {ranks}.")


def settings_figure(table: pd.DataFrame) -> go.Figure:
    """Draw MIUB, ACC and CE against rank (left) and model size (right), a line per data set, their mean in black.

    `table` is what `datasets_table` returns, with `N` and `R` of its settings; raises ValueError if neither varies.
    """
    rows = table[table["value"].notna()]
    is_mean = rows["dataset"].str.startswith(AVG)
    if rows[~is_mean]["dataset"].nunique() < 2:  # the mean over one data set would cover it
        rows = rows[~is_mean]
    side = rows["setting"].str.startswith("share").map({True: "model size", False: "rank"})
    x = rows["N"].astype(float).where(side == "model size", rows["R"].astype(float))
    rows = rows.assign(line=_line_names(rows), side=side, x=x, panel="<b>" + rows["metric"] + "</b>, " + side)
    rows = rows[rows["x"].notna() & (rows.groupby("side")["setting"].transform("nunique") > 1)]
    if not len(rows):
        raise ValueError("neither rank nor model size varies")
    order = ["MIUB", "ACC", "CE", "rank", "model size"]
    rows = rows.sort_values(["metric", "side"], key=lambda key: key.map(order.index), kind="stable")
    note = f"Model sizes at rank {table.attrs.get('rank')}." if (rows["side"] == "model size").any() else ""
    return _draw_panels(rows, "data set", _data_set_looks(_line_names(table)), "Along rank and model size", note)


def lengths_figure(table: pd.DataFrame) -> go.Figure:
    """Draw MIUB and ACC against items' length (the paper's figure 3), data sets as rows, a line per setting.

    `table` is what `lengths_table` returns; raises ValueError if it has no value.
    """
    rows = table[table["value"].notna()]
    if not len(rows):
        raise ValueError("no items were drawn by their length")
    buckets = list(dict.fromkeys(rows["bucket"]))
    titles = "<b>" + _line_names(rows).map(shortened) + "</b>, " + rows["metric"]
    rows = rows.assign(line=rows["setting"], x=rows["bucket"].map(buckets.index), panel=titles)
    order = [*dict.fromkeys(table["dataset"]), "MIUB", "ACC"]
    rows = rows.sort_values(["dataset", "metric"], key=lambda key: key.map(order.index), kind="stable")
    looks_of: dict[str, Look] = {}
    for start, symbol, dash in (("r", "circle", "solid"), ("share", "square", "dash")):
        names = [name for name in dict.fromkeys(table["setting"]) if name.startswith(start)]
        for name, look in zip(names, looks(len(names), "rank"), strict=True):
            looks_of[name] = Look(look.color, symbol, dash)
    n = rows["n_items"]
    figure = _draw_panels(
        rows, "setting", looks_of, "MIUB and accuracy against length (the paper's figure 3)",
        f"{n.min()} to {n.max()} items a point; lines are shifted sideways, so that they don't overlap.", aside=True,
    )  # fmt: skip
    ticks = {"tickvals": list(range(len(buckets))), "ticktext": [html.escape(name) for name in buckets]}
    figure.update_xaxes(title_text="length", type="linear", range=[-0.35, len(buckets) - 0.65], **ticks)
    return figure


def _draw_panels(
    rows: pd.DataFrame, what: str, marks: dict[str, Look], title: str, note: str, *, aside: bool = False
) -> go.Figure:
    """Return a figure of `rows`: a panel per value of column `panel`, a line per `line` over `x`, with error bars."""
    figure, panels = small_multiples(list(dict.fromkeys(rows["panel"])), height=HEIGHT, share_y=False)
    for panel, (_, panel_rows) in zip(panels, rows.groupby("panel", sort=False), strict=True):
        for k, (name, look) in enumerate(marks.items()):
            line_rows = panel_rows[panel_rows["line"] == name].sort_values("x", kind="stable")
            shift = 0.5 * (k - (len(marks) - 1) / 2) / max(len(marks), 2) if aside else 0.0
            bars = {"type": "data", "array": line_rows["se"].fillna(0), "color": look.color, "thickness": 1, "width": 2}
            if len(line_rows):
                hover = [_hover_text(row) for row in line_rows.itertuples()]
                stroke = 2 if look.color == MEAN.color else 1.25
                shown: dict[str, Any] = {"mode": "lines+markers", "error_y": bars, "line": {"width": stroke}}
                trace = points(look, name, hover, x=line_rows["x"] + shift, y=line_rows["value"], **shown)
                figure.add_trace(trace, **panel)
            if line_rows["seed_sd"].notna().any():
                bars |= {"array": line_rows["seed_sd"].fillna(0), "thickness": 6, "width": 0}
                shown = {"mode": "markers", "marker": {"opacity": 0}, "error_y": bars, "opacity": 0.3}
                figure.add_trace(line(look, name, x=line_rows["x"] + shift, y=line_rows["value"], **shown), **panel)
        figure.update_yaxes(**_value_axis(panel_rows), **panel)
        is_size = not aside and ("side" not in panel_rows or (panel_rows["side"] == "model size").all())
        axis = size_axis(panel_rows["x"].to_numpy(float)) if not aside else {}
        if is_size:  # ticks short enough for half a phone's width
            ticks = zip(axis["tickvals"], axis["ticktext"], strict=True)
            axis["ticktext"] = [format_number(value / 1e6) if text else "" for value, text in ticks]
        figure.update_xaxes(title_text="N (million parameters)" if is_size else "rank", **axis, **panel)
    most = int(rows["n_seeds"].max())
    seeds = "one seed" if most == 1 else f"wide and pale: sd between up to {most} seeds, whose means are the values"
    headline(figure, title, f"Bars: standard errors over items; {seeds}. {note}")
    add_legend(figure, what, list(marks), list(marks.values()), mode="lines+markers")
    return figure


def _line_names(rows: pd.DataFrame) -> pd.Series:
    """Return the label of each row's line: the data set, and the model (last part of its path) if several."""
    models = rows["model"].unique()
    if len(models) < 2:
        return rows["dataset"]
    short = {model: model.rstrip("/").rpartition("/")[2] for model in models}
    is_distinct = len(set(short.values())) == len(models)
    return rows["dataset"] + " · " + (rows["model"].map(short) if is_distinct else rows["model"])


def _data_set_looks(names: Sequence[str]) -> dict[str, Look]:
    """Return name -> look of its line: data sets in colours, means over data sets in black, dashed differently."""
    sets = [name for name in dict.fromkeys(names) if not name.startswith(AVG)]
    means = [name for name in dict.fromkeys(names) if name.startswith(AVG)]
    dashes = ("solid", "dash", "dot", "dashdot")
    marks = dict(zip(sets, looks(len(sets)), strict=True))
    return marks | {name: MEAN._replace(dash=dashes[k % 4]) for k, name in enumerate(means)}


def _value_axis(rows: pd.DataFrame) -> dict[str, Any]:
    """Return plotly's settings of a metric's axis, logarithmic if values with errors span a wide range."""
    metric, errors = rows["metric"].iloc[0], rows["se"].fillna(0)
    values = np.concatenate([rows["value"] - errors, rows["value"] + errors]).astype(float)
    axis = value_axis(values)
    if metric == "ACC" or values.min() <= 0 or not axis.is_log:
        return {"title_text": AXES[metric]}
    return axis.layout() | {"title_text": ", ".join(filter(None, (AXES[metric], "log")))}


def _hover_text(row: Any) -> str:
    """Return the HTML shown when hovering over a number: setting, value, error, items, seeds and units."""
    seeds = f", {row.n_seeds} seeds (sd {row.seed_sd:.2g})" if row.n_seeds > 1 else ", 1 seed"
    unit = "" if row.unit == "1" else f" {html.escape(row.unit)}"
    where = f", {html.escape(row.bucket)}" if hasattr(row, "bucket") else ""
    return (
        f"<b>{html.escape(row.line)}</b>{where}<br>{html.escape(row.setting)}: {row.metric} "
        f"{format_error(row.value, row.se)}{unit}<br>n = {row.n_items} items{seeds}<br>{shortened(row.runs, 60)}"
    )
