"""A figure of how far each parameter of a fit may go."""

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from lorascope.analyze.fits.profile import Interval, Profile, interval_text, threshold
from lorascope.analyze.fits.result import ScalingFit
from lorascope.analyze.results.format import format_number

from .captions import headline, plural
from .marks import BLACK, EDGES, Look, points
from .theme import LINES, small_multiples

BAR = Look(LINES[1])
FLAT = 0.05
"""A profile that doesn't move by more than this from some value on is flat there, and drawn no further."""
LONG = 1e4
"""Numbers of at least this size leave room for fewer ticks."""
ROOM = 0.3
"""Share of an interval drawn beyond its closed ends."""


def profile_figure(fit: ScalingFit) -> go.Figure:
    """Profile of each amplitude, slope and exponent: how much worse the law gets as the parameter is held elsewhere.

    Height is the square root of (SSR - least SSR) / (least SSR / df), all other parameters fitted: 0 at the estimate,
    a V for a parameter of which the law is linear. Where it lies below the dotted line, values are in the interval; an
    end that is open, as the data don't bound the parameter there, has an arrow.

    Parameters
    ----------
    fit
        What `fit_scaling_law` returns, of relative or absolute residuals by least squares.

    Returns
    -------
    plotly.graph_objects.Figure
        A panel a parameter: its value across, |t| of the profile up, its estimate and interval above.

    Raises
    ------
    ValueError
        If it has no profiles.
    """
    if not fit.profiles:
        raise ValueError(
            "this fit has no profiles: they need least squares of relative or absolute residuals that aren't all 0"
        )
    limit = float(_height(np.array(threshold(fit.ssr, fit.df_resid, fit.level)), fit))
    top = 1.8 * limit
    figure, panels = small_multiples([_title(fit, profile) for profile in fit.profiles.values()], height=170)
    for profile, panel in zip(fit.profiles.values(), panels, strict=True):
        value = float(fit.params[profile.name])
        window = _window(profile, _height(profile.ssr, fit), value)
        figure.add_trace(_curve(fit, profile, value, window), **panel)
        figure.add_trace(_bar(profile.interval, window, limit), **panel)
        figure.add_hline(y=limit, line={"color": BAR.color, "dash": "dot", "width": 1}, **panel)
        text = f"estimate: {format_number(value, digits=6)}"
        figure.add_trace(points(BLACK, "", [text], size=9, x=[value], y=[0]), **panel)
        is_long = max(map(abs, window)) >= LONG
        figure.update_xaxes(exponentformat="power", nticks=3 if is_long else 4, **panel)
    figure.update_yaxes(range=[-0.08 * top, top])
    figure.update_yaxes(title_text="|t| of the profile", col=1)
    n_open = sum(any(profile.interval[2:4]) for profile in fit.profiles.values())
    headline(
        figure,
        f"How far the parameters of {fit.design.response} may go",
        f"Law: {fit.design.equation}; n\u00a0=\u00a0{plural(fit.nobs, 'cell')}, df\u00a0=\u00a0{fit.df_resid}.",
        "Height, |t|: root of (SSR - least) / (least / df), all else fitted. Diamonds: estimates.",
        f"Bars on the dotted line: {100 * fit.level:g}\u00a0% intervals by F; arrows: open ends, where the data don't "
        f"bound the parameter: {n_open} of {len(fit.profiles)} are open.",
    )
    return figure


def _height(ssr: np.ndarray, fit: ScalingFit) -> np.ndarray:
    return np.asarray(np.sqrt(np.maximum(ssr / fit.ssr - 1, 0) * fit.df_resid))


def _title(fit: ScalingFit, profile: Profile) -> str:
    """The estimate and its interval in two lines."""
    value = format_number(fit.params[profile.name], digits=4)
    return f"<b>{html.escape(profile.name)}</b> = {value}<br>{interval_text(profile.interval)}"


def _curve(fit: ScalingFit, profile: Profile, value: float, window: tuple[float, float]) -> go.Scatter:
    """The profile, with 0 at the estimate."""
    order = np.argsort(np.append(profile.values, value), kind="stable")
    x, height = np.append(profile.values, value)[order], np.append(_height(profile.ssr, fit), 0.0)[order]
    inside = (x >= window[0]) & (x <= window[1])
    x, height = x[inside], height[inside]
    texts = [
        f"{html.escape(profile.name)} = {format_number(at, digits=4)}<br>"
        f"SSR: {format_number(1 + h * h / fit.df_resid, digits=4)} times the least"
        for at, h in zip(x, height, strict=True)
    ]
    return points(Look(), "", texts, size=3, x=x, y=height, mode="lines+markers")


def _window(profile: Profile, height: np.ndarray, value: float) -> tuple[float, float]:
    """From where the profile stops being flat at an open end, and to a little beyond the interval's closed ends."""
    low, high, low_open, high_open, _ = profile.interval
    below, above = profile.values < value, profile.values > value
    if low_open:
        low = _flat_from(profile.values[below][::-1], height[below][::-1], low)
    if high_open:
        high = _flat_from(profile.values[above], height[above], high)
    low, high = min(low, value), max(high, value)
    room = ROOM * (high - low) or abs(value) or 1.0
    return low - room, high + room


def _flat_from(x: np.ndarray, height: np.ndarray, end: float) -> float:
    """The first of values going outwards from which a profile is flat as far as the end of its interval."""
    known = np.abs(x - x[:1]) <= np.abs(end - x[:1])
    if not known.any():  # the estimate is at the end
        return end
    moved = np.flatnonzero(np.abs(height[known] - height[known][-1]) > FLAT)
    return float(x[known][moved[-1] + 1 if len(moved) else 0])


def _bar(interval: Interval, window: tuple[float, float], limit: float) -> go.Scatter:
    """An interval on its line, with an arrow at each open end, at the edge where that lies beyond it."""
    low = max(interval.low, window[0]) if interval.low_open else interval.low
    high = min(interval.high, window[1]) if interval.high_open else interval.high
    is_open = {"left": interval.low_open, "right": interval.high_open}
    marker = {"symbol": [EDGES[side] if beyond else "line-ns-open" for side, beyond in is_open.items()], "size": 11}
    texts = [interval_text(interval)] * 2
    bar: dict[str, Any] = {"mode": "lines+markers", "marker": marker, "line": {"width": 3}}
    return points(BAR, "", texts, x=[low, high], y=[limit, limit], **bar)
