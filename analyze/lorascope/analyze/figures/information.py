"""Figures of mutual information (MI): compared with MIUB (here the JS of a component), and by estimator."""

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
from .theme import BLACK, EDGES, LINES, SYMBOLS, Look, add_legend, apply_theme, line, looks, points

VAGUE = ("saturated", "undersampled")
"""Verdicts of values that say little, which have hollow markers."""


def bound_figure(result: xr.Dataset, *, estimator: str = "panel") -> go.Figure:
    """Draw the mutual information of each component over its JS, in nats, and the line on which they are equal.

    The paper calls MIUB, the sum of these js, an upper bound: if it were, all points would be in the shaded part. Bars
    are 95 % intervals. Colours are kinds; a hollow marker is a value whose verdict is saturated or undersampled. Axes
    are logarithmic if values differ by more than a factor of 30; a triangle is a value beyond the edge, such as
    infinity. Components without a value, or with a note on why one is missing, are excluded and counted.

    Parameters
    ----------
    result
        Result of `measure_information`. If it compares base with delta, js is that of delta alone.
    estimator
        Name of one of the result's estimators.

    Returns
    -------
    plotly.graph_objects.Figure
        JS across, mutual information up; one point per component.

    Raises
    ------
    ValueError
        If the result isn't by component, or doesn't have this estimator.
    """
    _require_estimates(result)
    if estimator not in result["estimator"].values:
        raise ValueError(f"`estimator` is {estimator!r}; the result has {result['estimator'].values.tolist()}")
    values = _known_values(result, estimator)
    y_axis = value_axis(values[["js", "value", "high"]].to_numpy())
    x_axis = value_axis(values["js"].to_numpy(), is_log=y_axis.is_log)
    figure = go.Figure()
    apply_theme(figure, height=400)
    ends = [x_axis.low, x_axis.high]
    shade = {"fill": "tozeroy", "fillcolor": "rgba(0,0,0,0.06)"}
    figure.add_trace(line(Look("#777", dash="dot"), "", width=1, x=ends, y=ends, **shade))
    kinds = list(dict.fromkeys(values["kind"]))
    marks = looks(len(kinds))
    for kind, look in zip(kinds, marks, strict=True):
        some = values[values["kind"] == kind]
        drawn = _value_points(some, kind, look, estimator, y_axis)
        drawn.marker.symbol = np.where(some["js"] < x_axis.low, EDGES["left"], drawn.marker.symbol)
        figure.add_trace(drawn.update(x=x_axis.inside(some["js"].to_numpy()), marker_size=8))
    other = "lora" if result.attrs["against"] == "lora" else "delta alone"
    figure.update_xaxes(title_text=f"MIUB: JS of base and {other} (nat)", **x_axis.layout())
    figure.update_yaxes(title_text=f"MI of base and {result.attrs['against']} (nat)", **y_axis.layout())
    below, above = (values["js"] < values["low"]).sum(), (values["js"] > values["high"]).sum()
    unknown = values[["low", "high"]].isna().any(axis=1).sum()
    headline(
        figure,
        "MIUB and mutual information by component",
        f"{run_name(result.attrs)}. MI: {estimator}; {_counts_text(result, [values])}",
        f"MIUB is below the interval of MI in {below} of them, within it in {len(values) - below - above - unknown}, "
        f"above it in {above}{f'; {unknown} without one' if unknown else ''}.",
        "Shaded: MIUB above MI, as a bound would be.",
        *_footnotes(figure, result, [values]),
    )
    add_legend(figure, "kind", kinds, marks)
    return figure


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
        figure.add_trace(_value_points(values, name, look, name, axis).update(x=values["layer"] + shift))
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


def _value_points(values: pd.DataFrame, group: str, look: Look, estimator: str, axis: ValueAxis) -> go.Scatter:
    """Return a trace of points with interval bars: hollow if saturated or undersampled, triangles beyond the axis."""
    symbols = np.where(values["verdict"].isin(VAGUE), f"{look.symbol}-open", look.symbol)
    symbols = np.where(values["value"] > axis.high, EDGES["up"], symbols)
    symbols = np.where(values["value"] < axis.low, EDGES["down"], symbols)
    texts = []
    for row in values.itertuples():
        span = f"{format_number(row.low)} to {format_number(row.high)} nat" if row.low <= row.high else "not known"
        value = f"<b>{html.escape(str(row.component))}</b><br>{html.escape(estimator)}: {format_number(row.value)} nat"
        texts.append(f"{value}, {row.verdict}<br>95 %: {span}<br>JS: {format_number(row.js)} nat")
    with np.errstate(invalid="ignore"):  # infinite values
        ends = {"array": values["high"] - values["value"], "arrayminus": values["value"] - values["low"]}
    bars = {"type": "data", **ends, "color": look.color, "width": 0, "thickness": 1.2}
    y = axis.inside(values["value"].to_numpy())
    return points(look, group, texts, size=7, y=y, error_y=bars, marker={"symbol": symbols})


def _counts_text(result: xr.Dataset, tables: Sequence[pd.DataFrame]) -> str:
    """Return a sentence with the number of components, and of tokens per component."""
    places = pd.concat(tables).index.unique()
    return f"{plural(len(places), 'component')}, {range_of(result['n_tokens'].values[places], 'token')} each."


def _footnotes(figure: go.Figure, result: xr.Dataset, tables: Sequence[pd.DataFrame]) -> list[str]:
    """Return sentences on the markers that occur in a figure, and on the number of values that aren't shown."""
    symbols = {str(symbol) for trace in figure.data for symbol in np.ravel(trace.marker.symbol)}
    notes = ["Hollow: saturated or undersampled."] if any(symbol.endswith("-open") for symbol in symbols) else []
    notes += ["Triangles: beyond the axis."] if symbols & set(EDGES.values()) else []
    n_unknown = result.sizes["component"] * len(tables) - sum(map(len, tables))
    return [*notes, f"{plural(n_unknown, 'value')} not known, not shown."] if n_unknown else notes
