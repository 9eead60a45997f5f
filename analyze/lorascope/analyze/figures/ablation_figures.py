"""A figure of what taking a component's delta out costs, over what a measure says of it."""

import html

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr

from lorascope.analyze.results.format import format_error, format_number

from .marks import add_legend, looks, points
from .scales import value_axis
from .theme import apply_theme


def ablation_figure(comparison: xr.Dataset, measure: str = "js") -> go.Figure:
    """Points of ablation's KL in nats (up) over a measure (across), one a component, a colour a kind of module.

    `comparison` is what `compare_measures` returns, `measure` one of its measures.
    """
    values = comparison.sel(measure=measure)
    kinds = list(dict.fromkeys(map(str, values["kind"].values)))
    figure, marks = go.Figure(), looks(len(kinds))
    for kind, look in zip(kinds, marks, strict=True):
        part = values.isel(component=np.flatnonzero(values["kind"].values == kind))
        x, y = part["value"].values, part["ablation"].values
        costs = map(format_error, y, part["ablation_se"].values)
        texts = [
            f"<b>{html.escape(str(path))}</b><br>{measure}: {format_number(value)}<br>KL (nat): {cost}"
            for path, value, cost in zip(part["component"].values, x, costs, strict=True)
        ]
        figure.add_trace(points(look, kind, texts, x=x, y=y))
    apply_theme(figure, height=360)
    figure.update_xaxes(title_text=f"{measure}, mean over samples", **value_axis(values["value"].values).layout())
    figure.update_yaxes(title_text="KL without it (nat)", **value_axis(values["ablation"].values).layout())
    add_legend(figure, "kind", kinds, marks)
    return figure
