"""Figure of mutual information (MI) of components, by estimator."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr

from lorascope.analyze.results.format import format_number

from ..information.mutual_information import UNITS_PER_NAT
from .captions import headline, plural, range_of, run_name
from .scales import ValueAxis, value_axis
from .theme import BLACK, EDGES, LINES, SYMBOLS, Look, add_legend, apply_theme, line, points

VAGUE = ("saturated", "undersampled")
"""Verdicts of values that say little, which have hollow markers."""


def estimates_figure(result: xr.Dataset) -> go.Figure:
    """Draw all estimates of mutual information by layer, in nats, to show where estimators agree.

    A line connects the medians of layers; the panel, the largest of its members, is black. Components outside of the
    layers are excluded. Bars are 95 % intervals; a hollow marker is a value whose verdict is saturated or undersampled,
    a triangle an infinite value. Missing values, and components with a note on why they are missing, are excluded and
    counted.

    Parameters
    ----------
    result
        Result of `measure_information`.

    Returns
    -------
    plotly.graph_objects.Figure
        Layer across, mutual information up; each estimator has a colour.

    Raises
    ------
    ValueError
        If the result isn't by component, or no component is in a layer.
    """
    _require_estimates(result)
    n_outside = int((result["layer"].values < 0).sum())
    result = result.isel(component=np.flatnonzero(result["layer"].values >= 0))
    if not result.sizes["component"]:
        raise ValueError("none of the result's components lies in a layer, so there is no depth to draw")
    names = sorted(map(str, result["estimator"].values), key=lambda name: name == "panel")  # in front of its members
    tables = [_known_values(result, name) for name in names]
    axis = value_axis(pd.concat(tables)[["value", "low", "high"]].to_numpy(), is_log=False)
    layers = np.unique(result["layer"].values)
    marks = [Look(LINES[k % len(LINES)], SYMBOLS[k % len(SYMBOLS)]) for k in range(len(names))]
    marks = [BLACK if name == "panel" else look for name, look in zip(names, marks, strict=True)]
    figure = go.Figure()
    apply_theme(figure, height=420)
    for k, (name, values, look) in enumerate(zip(names, tables, marks, strict=True)):
        shift = 0.0 if name == "panel" else 0.6 * ((k + 0.5) / (len(names) - ("panel" in names)) - 0.5)
        medians = values.groupby("layer")["value"].median()
        figure.add_trace(line(look, name, width=1.2, x=medians.index + shift, y=axis.inside(medians.to_numpy())))
        figure.add_trace(_value_points(values, look, name, axis).update(x=values["layer"] + shift))
    low, high = int(layers.min()), int(layers.max())
    ticks = layers if len(layers) <= 10 else None
    figure.update_xaxes(title_text="layer", range=[low - 0.5, high + 0.5], tickvals=ticks)
    figure.update_yaxes(title_text=f"MI of base and {result.attrs['against']} (nat)", **axis.layout())
    headline(
        figure,
        "Mutual information (MI) by estimator and layer",
        f"{run_name(result.attrs)}. {_counts_text(result, tables)} Bars: 95\u00a0% intervals.",
        "Lines: medians of layers.",
        *_footnotes(figure, result, tables),
        f"{plural(n_outside, 'component')} outside of the layers not shown." if n_outside else "",
    )
    add_legend(figure, "estimator", names, marks)
    return figure


def _require_estimates(result: xr.Dataset) -> None:
    """Raise ValueError unless a result has values by component and estimator."""
    dims = [str(dim) for dim in result["value"].dims] if "value" in result else []
    if dims != ["component", "estimator"]:
        raise ValueError(
            f"`result` has dimensions {dims}; give a result of `measure_information`, by component and estimator"
        )


def _known_values(result: xr.Dataset, estimator: str) -> pd.DataFrame:
    """Return a table, in nats, of components that have a value of this estimator and no note on a missing one."""
    values = result.sel(estimator=estimator)
    columns: dict[str, Any] = {name: values[name].values for name in ("component", "kind", "layer", "verdict")}
    columns["js"] = values["js" if result.attrs["against"] == "lora" else "js_delta_alone"].values
    columns |= {name: values[name].values / UNITS_PER_NAT[result.attrs["units"]] for name in ("value", "low", "high")}
    return pd.DataFrame(columns)[~np.isnan(values["value"].values) & (values["note"].values == "")]


def _value_points(values: pd.DataFrame, look: Look, estimator: str, axis: ValueAxis) -> go.Scatter:
    """Return a trace of points with interval bars: hollow if saturated or undersampled, triangles at infinity."""
    symbols = np.where(values["verdict"].isin(VAGUE), f"{look.symbol}-open", look.symbol)
    symbols = np.where(values["value"] > axis.high, EDGES["up"], symbols)
    texts = []
    for row in values.itertuples():
        span = f"{format_number(row.low)} to {format_number(row.high)} nat" if row.low <= row.high else "not known"
        value = f"<b>{html.escape(str(row.component))}</b><br>{html.escape(estimator)}: {format_number(row.value)} nat"
        texts.append(f"{value}, {row.verdict}<br>95 %: {span}<br>JS: {format_number(row.js)} nat")
    with np.errstate(invalid="ignore"):  # infinite values
        ends = {"array": values["high"] - values["value"], "arrayminus": values["value"] - values["low"]}
    bars = {"type": "data", **ends, "color": look.color, "width": 0, "thickness": 1.2}
    y = axis.inside(values["value"].to_numpy())
    return points(look, estimator, texts, size=7, y=y, error_y=bars, marker={"symbol": symbols})


def _counts_text(result: xr.Dataset, tables: Sequence[pd.DataFrame]) -> str:
    """Return a sentence with the number of components, and of tokens per component."""
    places = pd.concat(tables).index.unique()
    return f"{plural(len(places), 'component')}, {range_of(result['n_tokens'].values[places], 'token')} each."


def _footnotes(figure: go.Figure, result: xr.Dataset, tables: Sequence[pd.DataFrame]) -> list[str]:
    """Return sentences on the markers that occur in a figure, and on the number of values that aren't shown."""
    symbols = {str(symbol) for trace in figure.data for symbol in np.ravel(trace.marker.symbol)}
    notes = ["Hollow: saturated or undersampled."] if any(symbol.endswith("-open") for symbol in symbols) else []
    notes += ["Triangles: infinite."] if EDGES["up"] in symbols else []
    n_unknown = result.sizes["component"] * len(tables) - sum(map(len, tables))
    return [*notes, f"{plural(n_unknown, 'value')} not known, not shown."] if n_unknown else notes
