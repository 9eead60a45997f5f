"""A figure of what taking a component's delta out costs, over what a measure says of it."""

import html

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr

from ..format import format_error, format_number
from .captions import headline, plural, run_name
from .marks import add_legend, looks, points
from .scales import value_axis
from .theme import apply_theme


def ablation_figure(comparison: xr.Dataset, measure: str = "js", *, titled: bool = True) -> go.Figure:
    """Points of ablation's KL over a measure, one a component, a colour a kind of module.

    Parameters
    ----------
    comparison
        What `compare_measures` returns.
    measure
        One of its measures.
    titled
        Write a title above it; the report says the same in its caption.

    Returns
    -------
    plotly.graph_objects.Figure
        The measure across, ablation's KL in nats up; values that aren't finite, or not above 0 on a logarithmic axis,
        are left out.
    """
    one = comparison.sel(measure=measure)
    kinds = list(dict.fromkeys(comparison["kind"].values.tolist()))
    across, up = value_axis(one["value"].values), value_axis(one["ablation"].values)
    figure, marks = go.Figure(), looks(len(kinds))
    for kind, look in zip(kinds, marks, strict=True):
        part = one.isel(component=np.flatnonzero(one["kind"].values == kind))
        texts = [
            f"<b>{html.escape(str(path))}</b><br>{measure}: {format_number(value)}<br>KL (nat): "
            f"{format_error(cost, error)}"
            for path, value, cost, error in zip(
                part["component"].values,
                *(part[name].values for name in ("value", "ablation", "ablation_se")),
                strict=True,
            )
        ]
        figure.add_trace(points(look, str(kind), texts, x=part["value"].values, y=part["ablation"].values))
    apply_theme(figure, height=360)
    figure.update_xaxes(title_text=f"{measure}, mean over samples", **across.layout())
    figure.update_yaxes(title_text="KL without it (nat)", **up.layout())
    if titled:
        r = f"{float(one['spearman']):.2f} [{float(one['spearman_low']):.2f}, {float(one['spearman_high']):.2f}]"
        headline(
            figure,
            f"What taking a component out costs, over {measure}: Spearman {r}",
            f"{run_name(comparison.attrs)}. Means over {plural(comparison.attrs['n_samples'], 'sample')}.",
        )
    add_legend(figure, "kind", list(map(str, kinds)), marks)
    return figure
