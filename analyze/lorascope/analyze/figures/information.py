"""Figures of mutual information by component: MIUB beside it, and estimators beside each other."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr

from ..format import format_number
from ..information.dataset import UNITS
from .captions import headline, plural, range_of, run_name, shortened
from .scales import ValueAxis, value_axis, whole_ticks
from .theme import LINES, apply_theme, legend_below, line_styles

__all__ = ["bound_figure", "estimates_figure"]

VAGUE = ("saturated", "undersampled")
"""Verdicts under which a number says little: their markers are hollow."""
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "star", "hexagon", "pentagon", "hourglass", "bowtie")
"""Markers of estimators beside each other; triangles are what lies beyond an axis."""


def bound_figure(result: xr.Dataset, *, estimator: str = "panel") -> go.Figure:
    """Mutual information of each component over its js, in nats, and the line on which they are equal.

    The paper calls MIUB, the sum of these js, an upper bound: points would lie in the shaded part. Bars are 95 %
    intervals of the noise. Colours are kinds; a hollow marker is a value whose verdict is saturated or undersampled.
    Axes are logarithmic where values lie further apart than a factor of 30; a triangle is a value beyond the edge, such
    as infinity. Components without a value, or with a note on why one is missing, are left out and counted.

    Parameters
    ----------
    result
        What `measure_information` returns. Where it compares base with delta, js is that of delta alone.
    estimator
        One of the result's.

    Raises
    ------
    ValueError
        If the result isn't by component, or doesn't have this estimator.
    """
    _refuse_other(result)
    if estimator not in result["estimator"].values:
        raise ValueError(f"`estimator` is {estimator!r}; the result has {result['estimator'].values.tolist()}")
    values = _known(result, estimator)
    y_axis = value_axis(np.concatenate([values.js, values.value, values.high]))
    x_axis = value_axis(values.js, is_log=y_axis.is_log)
    figure = go.Figure()
    ends = [x_axis.low, x_axis.high]
    line, shade = {"color": "#777", "dash": "dot", "width": 1}, {"fill": "tozeroy", "fillcolor": "rgba(0,0,0,0.06)"}
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False, **shade))
    kinds = list(dict.fromkeys(values.kind.tolist()))
    for kind, style in zip(kinds, line_styles(len(kinds), "kind"), strict=True):
        look = {"color": style["color"], "symbol": "circle", "size": 8}
        some = values.take(values.kind == kind)
        symbols = np.where(some.js < x_axis.low, "triangle-left", _symbols(some, look["symbol"], y_axis))
        figure.add_trace(_legend_point(shortened(kind), look))
        figure.add_trace(
            go.Scatter(
                x=x_axis.inside(some.js),
                y=y_axis.inside(some.value),
                mode="markers",
                error_y=_bars(some, look),
                marker=look | {"symbol": symbols},
                **_drawn(some, shortened(kind), estimator),
            )
        )
    apply_theme(figure, height=400)
    other = "lora" if result.attrs["against"] == "lora" else "delta alone"
    figure.update_xaxes(title_text=f"MIUB: JS of base and {other} (nat)", **x_axis.layout())
    figure.update_yaxes(title_text="mutual information (nat)", **y_axis.layout())
    headline(
        figure,
        f"MIUB and mutual information of base and {result.attrs['against']}, by component",
        f"{run_name(result.attrs)}. MI: {estimator}; {_counted(result, [values])}",
        _sides(values),
        "Shaded: MIUB above MI, as a bound would be.",
        _marks(figure),
        _left_out(result, [values]),
    )
    legend_below(figure, title="kind", names=[shortened(kind) for kind in kinds])
    return figure


def estimates_figure(result: xr.Dataset) -> go.Figure:
    """Every estimate by layer, in nats: where estimators agree, and where they can't be believed.

    A line runs through the median of each layer; components outside of the layers are left out. Bars are 95 %
    intervals of the noise; a hollow marker is a value whose verdict is saturated or undersampled, a triangle an
    infinite one. Components with a note on why values are missing, and values that are, are left out and counted.

    Parameters
    ----------
    result
        What `measure_information` returns.

    Raises
    ------
    ValueError
        If the result isn't by component, or no component lies in a layer.
    """
    _refuse_other(result)
    n_all = result.sizes["component"]
    result = result.isel(component=np.flatnonzero(result["layer"].values >= 0))
    if not result.sizes["component"]:
        raise ValueError("none of the result's components lies in a layer, so there is no depth to draw")
    names = [str(name) for name in result["estimator"].values]
    found = [_known(result, name) for name in names]
    axis = value_axis(np.concatenate([part for one in found for part in (one.value, one.low, one.high)]), is_log=False)
    layers = np.unique(result["layer"].values)
    step = float(np.diff(layers).min()) if len(layers) > 1 else 1.0
    figure = go.Figure()
    for k, (name, values) in enumerate(zip(names, found, strict=True)):
        look = {"color": LINES[k % len(LINES)], "symbol": SYMBOLS[k % len(SYMBOLS)], "size": 7}
        figure.add_trace(_legend_point(name, look))
        figure.add_traces(_across(name, values, look, axis, 0.6 * step * ((k + 0.5) / len(names) - 0.5)))
    apply_theme(figure, height=420)
    low, high = int(layers.min()), int(layers.max())
    figure.update_xaxes(title_text="layer", range=[low - step / 2, high + step / 2], **whole_ticks(low, high))
    figure.update_yaxes(title_text="mutual information (nat)", **axis.layout())
    n_outside = n_all - result.sizes["component"]
    headline(
        figure,
        f"Mutual information of base and {result.attrs['against']}, by estimator and layer",
        f"{run_name(result.attrs)}. {_counted(result, found)} Bars: 95\u00a0% intervals of the noise.",
        "Lines: medians of layers.",
        _marks(figure),
        _left_out(result, found),
        f"{plural(n_outside, 'component')} outside of the layers left out." if n_outside else "",
    )
    legend_below(figure, title="estimator", names=names)
    return figure


class _Values(NamedTuple):
    """What is drawn of one estimator: arrays (component,) of the components that have a value."""

    place: np.ndarray
    """Index in the result."""
    component: np.ndarray
    kind: np.ndarray
    layer: np.ndarray
    verdict: np.ndarray
    js: np.ndarray
    """Nats, as all that follow."""
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def take(self, rows: np.ndarray) -> "_Values":
        """Some of them."""
        return _Values._make(part[rows] for part in self)


def _refuse_other(result: xr.Dataset) -> None:
    dims = [str(dim) for dim in result["value"].dims] if "value" in result else []
    if dims != ["component", "estimator"]:
        raise ValueError(
            f"`result` goes by {dims}; give what `measure_information` returns, by component and estimator"
        )


def _known(result: xr.Dataset, estimator: str) -> _Values:
    """The components with a value of this estimator, and without a note."""
    one = result.sel(estimator=estimator)
    nats = 1 / UNITS[result.attrs["units"]]
    js = one["js" if result.attrs["against"] == "lora" else "js_delta_alone"].values
    columns = [one[name].values for name in ("component", "kind", "layer", "verdict")]
    numbers = [one[name].values * nats for name in ("value", "low", "high")]
    values = _Values._make([np.arange(len(js)), *columns, js, *numbers])
    return values.take(~np.isnan(values.value) & (one["note"].values == ""))


def _symbols(values: _Values, symbol: str, axis: ValueAxis) -> np.ndarray:
    """Each value's marker: hollow where its verdict says that it says little, a triangle beyond an end of the axis."""
    names = np.where(np.isin(values.verdict, VAGUE), f"{symbol}-open", symbol)
    beyond, below = values.value > axis.high, values.value < axis.low
    return np.where(beyond, "triangle-up", np.where(below, "triangle-down", names))


def _bars(values: _Values, look: dict[str, Any]) -> dict[str, Any]:
    """The 95 % interval about a value; none where there is none."""
    with np.errstate(invalid="ignore"):  # infinite values
        up, down = values.high - values.value, values.value - values.low
    return {"type": "data", "array": up, "arrayminus": down, "color": look["color"], "width": 0, "thickness": 1.2}


def _drawn(values: _Values, name: str, estimator: str) -> dict[str, Any]:
    """What all points have: the group of a legend's entry, and what hovering tells."""
    rows = zip(values.component, values.verdict, values.value, values.low, values.high, values.js, strict=True)
    texts = [
        f"<b>{html.escape(str(component))}</b><br>{html.escape(estimator)}: {format_number(value)} nat, {verdict}<br>"
        f"95 %: {f'{format_number(low)} to {format_number(high)} nat' if low <= high else 'not known'}<br>"
        f"JS: {format_number(js)} nat"
        for component, verdict, value, low, high, js in rows
    ]
    return {"text": texts, "hovertemplate": "%{text}<extra></extra>", "legendgroup": name, "showlegend": False}


def _legend_point(name: str, look: dict[str, Any]) -> go.Scatter:
    """A point that only a legend shows: points of the plot may be hollow."""
    return go.Scatter(x=[None], y=[None], mode="markers", marker=look, name=name, legendgroup=name)


def _across(name: str, values: _Values, look: dict[str, Any], axis: ValueAxis, shift: float) -> list[go.Scatter]:
    """The line through an estimator's medians by layer, and its points."""
    layers = np.unique(values.layer)
    medians = np.array([np.median(values.value[values.layer == layer]) for layer in layers])
    line = {"color": look["color"], "width": 1.2}
    return [
        go.Scatter(
            x=layers + shift, y=axis.inside(medians), mode="lines", line=line, legendgroup=name, showlegend=False
        ),
        go.Scatter(
            x=values.layer + shift,
            y=axis.inside(values.value),
            mode="markers",
            error_y=_bars(values, look),
            marker=look | {"symbol": _symbols(values, look["symbol"], axis)},
            **_drawn(values, name, name),
        ),
    ]


def _counted(result: xr.Dataset, found: Sequence[_Values]) -> str:
    """How many components, and tokens of each."""
    places = np.unique(np.concatenate([values.place for values in found]))
    tokens = range_of(result["n_tokens"].values[places], "token")
    return f"{plural(len(places), 'component')}, {tokens} each."


def _sides(values: _Values) -> str:
    """In how many components MIUB lies on which side of the mutual information."""
    below, above = int((values.js < values.low).sum()), int((values.js > values.high).sum())
    unknown = int((np.isnan(values.low) | np.isnan(values.high)).sum())
    within = len(values.js) - below - above - unknown
    said = f"MIUB is below the interval of MI in {below} of them, within it in {within}, above it in {above}"
    return f"{said}; {unknown} without one." if unknown else f"{said}."


def _marks(figure: go.Figure) -> str:
    """What markers mean, of those that occur."""
    symbols = {str(symbol) for trace in figure.data for symbol in np.ravel(trace.marker.symbol)}
    said = ["Hollow: saturated or undersampled."] if any(symbol.endswith("-open") for symbol in symbols) else []
    is_beyond = any(symbol.startswith("triangle") for symbol in symbols)
    return " ".join([*said, "Triangles: beyond the axis."] if is_beyond else said)


def _left_out(result: xr.Dataset, found: Sequence[_Values]) -> str:
    """How much isn't drawn, as a sentence."""
    n_all = result.sizes["component"]
    gone = n_all - len(np.unique(np.concatenate([values.place for values in found])))
    n_values = (n_all - gone) * len(found) - sum(len(values.place) for values in found)
    said = [plural(n, what) for n, what in ((gone, "component"), (n_values, "value")) if n]
    return f"{' and '.join(said)} not known, left out." if said else ""
