"""The paper's figures 2 and 3 of a study, and its tables along rank and model size, with error bars."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from lorascope.analyze.figures.captions import headline, shortened
from lorascope.analyze.figures.marks import Look, add_legend, hovering, looks
from lorascope.analyze.figures.scales import LOG_FROM
from lorascope.analyze.figures.size_axes import log_axis, size_axis
from lorascope.analyze.figures.small_multiples import Panel, small_multiples
from lorascope.analyze.figures.theme import line_styles
from lorascope.analyze.format import format_error, format_number

from .experiment_untuned import error_bars, told_apart_by_model
from .layout import AVG

__all__ = ["lengths_figure", "sweeps_figure", "text_sizes_figure"]

AXES = {"ACC": "share", "CE": "nat/token", "PPL": "", "MIUB": "nat"}
"""Metric -> its unit; its name stands above the panel."""
MEAN = Look("#222222", "diamond", "solid")
"""Of the mean over data sets."""
MEAN_DASHES = ("solid", "dash", "dot", "dashdot")
MILLIONS = "N (million parameters)"
HEIGHT = 170
"""Pixels of a panel."""


def text_sizes_figure(table: pd.DataFrame) -> go.Figure:
    """The paper's figure 2: MIUB, PPL and CE of texts against parameters of the model, a line a text and model.

    Parameters
    ----------
    table
        What `paper_figure_2` returns.

    Raises
    ------
    ValueError
        If it has no value at a known number of parameters.
    """
    rows = table[table["value"].notna() & table["N"].notna()].assign(x=lambda rows: rows["N"].astype(float))
    if not len(rows):
        raise ValueError("no text was measured at a known number of parameters")
    rows = rows.assign(line=told_apart_by_model(rows))
    metrics = [name for name in ("MIUB", "PPL", "CE") if (rows["metric"] == name).any()]
    figure, panels = small_multiples([f"<b>{name}</b>" for name in metrics], height=HEIGHT, share_y=False)
    names = list(dict.fromkeys(rows["line"]))
    marks = looks(len(names))
    for metric, panel in zip(metrics, panels, strict=True):
        own = rows[rows["metric"] == metric]
        _draw_lines(figure, panel, own, names, marks)
        figure.update_yaxes(**_value_axis(metric, own), **panel.place)
    figure.update_xaxes(title_text=MILLIONS, **_in_millions(rows["x"]))
    headline(figure, "Texts against model size (the paper's figure 2)", f"{_bars(rows)} LoRA rank {_ranks(rows)}.")
    add_legend(figure, "text", names, marks, mode="lines+markers")
    return figure


def lengths_figure(table: pd.DataFrame) -> go.Figure:
    """The paper's figure 3: MIUB and ACC against the items' length, a row of panels a data set, a line a setting.

    Parameters
    ----------
    table
        What `paper_figure_3` returns.

    Raises
    ------
    ValueError
        If it has no value.
    """
    rows = table[table["value"].notna()]
    if not len(rows):
        raise ValueError("no items were drawn by their length")
    rows = rows.assign(place=told_apart_by_model(rows), line=rows["setting"], x=rows["bucket"])
    places, buckets = (list(dict.fromkeys(rows[name])) for name in ("place", "bucket"))
    titles = [f"<b>{shortened(place)}</b>, {metric}" for place in places for metric in ("MIUB", "ACC")]
    figure, panels = small_multiples(titles, height=140, share_y=False)
    names = list(dict.fromkeys(table["setting"]))
    marks = _setting_looks(names)
    for k, place in enumerate(places):
        for metric, panel in zip(("MIUB", "ACC"), panels[2 * k : 2 * k + 2], strict=True):
            own = rows[(rows["place"] == place) & (rows["metric"] == metric)]
            _draw_lines(figure, panel, own, names, marks, spread=len(buckets))
            figure.update_yaxes(**_value_axis(metric, own), **panel.place)
    ticks = {"tickvals": list(range(len(buckets))), "ticktext": [html.escape(name) for name in buckets]}
    figure.update_xaxes(title_text="length", range=[-0.35, len(buckets) - 0.65], **ticks)
    n = rows["n_items"]
    notes = f"{_bars(rows)} {n.min()} to {n.max()} items a point; lines are moved aside to be told apart."
    headline(figure, "MIUB and accuracy against length (the paper's figure 3)", notes)
    add_legend(figure, "setting", names, marks, mode="lines+markers")
    return figure


def sweeps_figure(table: pd.DataFrame, sizes: pd.DataFrame) -> go.Figure:
    """MIUB, ACC and CE along rank (left) and model size (right), a line a data set, the mean over them in black.

    Parameters
    ----------
    table
        What `paper_table_1` returns.
    sizes
        `model`, `setting`, `N` and `R` of its settings.

    Raises
    ------
    ValueError
        If there is nothing that varies.
    """
    rows = table[table["value"].notna()].merge(sizes, on=["model", "setting"], how="left")
    is_mean = rows["dataset"].str.startswith(AVG)
    if rows[~is_mean]["dataset"].nunique() < 2:  # a mean over one data set would hide it
        rows = rows[~is_mean]
    rows = rows.assign(line=told_apart_by_model(rows), is_size=rows["setting"].str.startswith("share"))
    rows["x"] = rows["N"].astype(float).where(rows["is_size"], rows["R"].astype(float))
    rows = rows[rows["x"].notna()]
    sides = [side for side in (False, True) if rows[rows["is_size"] == side]["setting"].nunique() > 1]
    if not sides:
        raise ValueError("neither rank nor model size varies")
    metrics = ("MIUB", "ACC", "CE")
    titles = [f"<b>{metric}</b>, {'model size' if side else 'rank'}" for metric in metrics for side in sides]
    figure, panels = small_multiples(titles, height=HEIGHT, share_y=False)
    names = list(dict.fromkeys(rows["line"]))
    marks = _set_looks(names)
    places = [(metric, side) for metric in metrics for side in sides]
    for (metric, side), panel in zip(places, panels, strict=True):
        own = rows[(rows["metric"] == metric) & (rows["is_size"] == side)]
        _draw_lines(figure, panel, own, names, marks)
        figure.update_yaxes(**_value_axis(metric, own), **panel.place)
        of_side = rows[rows["is_size"] == side]["x"]
        title, axis = (MILLIONS, _in_millions(of_side)) if side else ("rank", size_axis(of_side.to_numpy()))
        figure.update_xaxes(title_text=title, **axis, **panel.place)
    headline(figure, "Along rank and model size", f"{_bars(rows)} Model sizes at rank {table.attrs.get('rank')}.")
    add_legend(figure, "data set", names, marks, mode="lines+markers")
    return figure


def _draw_lines(
    figure: go.Figure, panel: Panel, rows: pd.DataFrame, names: Sequence[str], marks: Sequence[Look], *, spread: int = 0
) -> None:
    """A line a name, with error bars; on an axis of `spread` places each a little aside of the others."""
    for k, (name, look) in enumerate(zip(names, marks, strict=True)):
        own = rows[rows["line"] == name]
        if not len(own):
            continue
        x = own["x"]
        if spread:
            order = {bucket: place for place, bucket in enumerate(dict.fromkeys(rows["x"]))}
            x = own["x"].map(order) + 0.5 * (k - (len(names) - 1) / 2) / max(len(names), 2)
        else:
            own = own.sort_values("x", kind="stable")
            x = own["x"]
        figure.add_trace(
            go.Scatter(
                x=x, y=own["value"], mode="lines+markers", marker=look.marker(6),
                line={"color": look.color, "dash": look.dash, "width": 2 if look.color == MEAN.color else 1.25},
                error_y=error_bars(own["se"], look.color), **hovering(name, [_text(one) for one in own.itertuples()]),
            ),
            **panel.place,
        )  # fmt: skip


def _value_axis(metric: str, rows: pd.DataFrame) -> dict[str, Any]:
    """An axis of a metric's values with their errors, logarithmic where they lie far apart."""
    errors = rows["se"].fillna(0)
    values = np.concatenate([rows["value"] - errors, rows["value"] + errors]).astype(float)
    if metric == "ACC" or not len(values) or values.min() <= 0 or values.max() <= LOG_FROM * values.min():
        return {"title_text": AXES[metric]}
    return log_axis(values) | {"title_text": ", ".join(filter(None, (AXES[metric], "log")))}


def _in_millions(sizes: pd.Series) -> dict[str, Any]:
    """An axis of parameters, whose ticks are short enough for half a phone's width."""
    axis = size_axis(sizes.to_numpy(float))
    ticks = zip(axis["tickvals"], axis["ticktext"], strict=True)
    texts = [format_number(value / 1e6) if text else "" for value, text in ticks]
    return axis | {"ticktext": texts}


def _text(row: Any) -> str:
    """Everything about a number, to hover over."""
    seeds = f", {row.n_seeds} seeds (sd {row.seed_sd:.2g})" if row.n_seeds > 1 else ", 1 seed"
    unit = "" if row.unit == "1" else f" {html.escape(row.unit)}"
    where = f", {html.escape(row.bucket)}" if hasattr(row, "bucket") else ""
    return (
        f"<b>{html.escape(row.line)}</b>{where}<br>{html.escape(row.setting)}: {row.metric} "
        f"{format_error(row.value, row.se)}{unit}<br>n = {row.n_items} items{seeds}<br>{shortened(row.runs, 60)}"
    )


def _set_looks(names: Sequence[str]) -> list[Look]:
    """Data sets in colours, means over them in black, with another dash for each."""
    plain, dashes = iter(looks(len(names))), iter(MEAN_DASHES * len(names))
    return [MEAN._replace(dash=next(dashes)) if name.startswith(AVG) else next(plain) for name in names]


def _setting_looks(names: Sequence[str]) -> list[Look]:
    """Ranks in the pale to dark of what has an order, sizes too, with another symbol."""
    found = {}
    for side, symbol, dash in ((False, "circle", "solid"), (True, "square", "dash")):
        own = [name for name in names if name.startswith("share") == side]
        for name, style in zip(own, line_styles(len(own), "rank") if own else (), strict=True):
            found[name] = Look(style["color"], symbol, dash)
    return [found[name] for name in names]


def _bars(rows: pd.DataFrame) -> str:
    most = int(rows["n_seeds"].max())
    seeds = "one seed" if most == 1 else f"means of up to {most} seeds"
    return f"Bars: standard errors over items; {seeds}."


def _ranks(rows: pd.DataFrame) -> str:
    return " and ".join(str(int(rank)) for rank in sorted(rows["R"].dropna().unique()))
