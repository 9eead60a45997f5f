"""Figures of a fitted law: along one of its sizes, and how far each parameter may go."""

import html
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from lorascope.analyze.fits.profile import Interval, Profile, largest_ssr
from lorascope.analyze.fits.result import ScalingFit
from lorascope.analyze.results.format import format_number

from .captions import headline, plural, shortened
from .scales import ValueAxis, size_axis, tick_text, value_axis
from .theme import BLACK, EDGES, LINES, Look, add_legend, apply_theme, line, looks, points, small_multiples

AXES = {"N": "parameters N", "R": "rank R", "MIUB": "MIUB (nat)", "CE": "CE (nat/token)"}
"""Name of a column in the paper -> title of its axis."""
N_POINTS = 61
"""Number of points of a curve."""
BAR = Look(LINES[1])
"""Look of an interval."""
FLAT = 0.05
"""Change of a profile below which it counts as flat and isn't drawn further out."""
LONG = 1e4
"""Smallest number that is so long that an axis has fewer ticks."""
ROOM = 0.3
"""Share of an interval drawn beyond its closed ends."""


class _FittedLine(NamedTuple):
    """Cells of one group and offset along a size, with the fitted law between them: one line of a figure."""

    group: str
    offset: str
    places: np.ndarray
    """Rows of the cells in the fit."""
    x: np.ndarray
    y: np.ndarray
    curve: pd.DataFrame
    """Columns `x`, `mean`, `low`, `high`; empty if the cells have a single size."""


def scaling_figure(fit: ScalingFit, *, along: str | None = None) -> go.Figure:
    """Draw a response over one size with the fitted law through each group, and local exponents below.

    Cells are shown whose other sizes are at their references or, if a group has no such cells, at its nearest sizes;
    the other cells are counted. Lines end at a group's smallest and largest size; bands are intervals of the mean by
    linear theory, cut at the edge. A local exponent is the slope of ln y over ln size from one size to the next. Both
    axes are logarithmic; if a response isn't above zero, its axis is linear and slopes are those of y.

    Parameters
    ----------
    fit
        Result of `fit_scaling_law`.
    along
        N, R, D, or share of the law 'share'; by default, the law's first size.

    Returns
    -------
    plotly.graph_objects.Figure
        The size across; the response up, and local exponents in a panel below. Each group has a colour.

    Raises
    ------
    ValueError
        If the law doesn't have this size, or the size is the same in all cells.
    """
    sizes = fit.design.sizes
    axis = next(iter(sizes)) if along is None else along
    if axis not in sizes:
        raise ValueError(f"`along` is {along!r}; the sizes of this fit are {list(sizes)}")
    column, frame = sizes[axis], fit.design.frame
    if frame[column].nunique() < 2:
        raise ValueError(f"{column!r} is {frame[column].iloc[0]:g} in every cell; there is nothing to draw along it")
    references = {name: fit.design.references.get(size, 1.0) for size, name in sizes.items() if size != axis}
    is_shown = _nearest_cells(frame, fit.design.groups, column, references)
    series = list(_lines_by_group(fit, column, np.flatnonzero(is_shown)))
    is_log = all((part.y > 0).all() for part in series)
    shown = np.concatenate([*(part.y for part in series), *(part.curve["mean"] for part in series)])
    y_axis = value_axis(shown, is_log=is_log)
    groups = list(dict.fromkeys(part.group for part in series))
    marks = dict(zip(groups, looks(len(groups)), strict=True))
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.62, 0.38], vertical_spacing=0.05)
    apply_theme(figure, height=520)
    for part in series:
        hollow = part.offset != series[0].offset
        for trace in _response_traces(fit, part, marks[part.group], y_axis, hollow=hollow):
            figure.add_trace(trace, row=1, col=1)
        if len(part.curve):
            for trace in _exponent_traces(part, marks[part.group], hollow=hollow, is_log=is_log):
                figure.add_trace(trace, row=2, col=1)
    figure.update_xaxes(**size_axis(np.concatenate([part.x for part in series])))
    figure.update_xaxes(title_text=AXES.get(column, shortened(column)), row=2, col=1)
    response = fit.design.response
    figure.update_yaxes(title_text=AXES.get(response, shortened(response)), row=1, col=1, **y_axis.layout())
    slope = f"d {'ln ' if is_log else ''}{shortened(response, 12)} / d ln {shortened(column, 12)}"
    figure.update_yaxes(title_text=slope, row=2, col=1, zeroline=True, zerolinecolor="#bbb", nticks=5)
    fixed = {name: sorted(set(frame[is_shown][name])) for name in references}
    title = f"{fit.design.response} along {column}, and its local exponent"
    headline(figure, title, *_caption_sentences(fit, series, fixed, int((~is_shown).sum()), is_log=is_log))
    add_legend(figure, "/".join(fit.design.group_columns), groups, list(marks.values()), mode="lines+markers")
    return figure


def _nearest_cells(frame: pd.DataFrame, groups: np.ndarray, column: str, others: Mapping[str, float]) -> np.ndarray:
    """Return which cells are drawn, bool (n,): of each group, those whose other sizes are nearest to references.

    Among these, sizes at which `column` varies are preferred.
    """
    is_shown = np.ones(len(frame), bool)
    if not others:
        return is_shown
    sizes = frame[list(others)].to_numpy()
    distance = np.abs(np.log(sizes / np.array(list(others.values())))).sum(axis=1)
    for group in dict.fromkeys(groups):
        inside = np.flatnonzero(groups == group)
        n_levels = frame.iloc[inside].groupby(list(others))[column].transform("nunique").to_numpy()
        inside = inside[n_levels > 1] if (n_levels > 1).any() else inside
        nearest = sizes[inside[distance[inside].argmin()]]
        is_shown[groups == group] = (sizes[groups == group] == nearest).all(axis=1)
    return is_shown


def _lines_by_group(fit: ScalingFit, column: str, places: np.ndarray) -> Iterator[_FittedLine]:
    """Yield one series per group and offset, with its cells and the law's curve; offsets of more cells come first."""
    frame = fit.design.frame.iloc[places]
    columns = list(fit.design.offset_columns)
    rows = frame[columns].itertuples(index=False, name=None)
    offsets = [", ".join(f"{name}={value}" for name, value in zip(columns, row, strict=True)) for row in rows]
    for offset in sorted(dict.fromkeys(offsets), key=lambda name: -offsets.count(name)):
        for group in dict.fromkeys(fit.design.groups[places]):
            inside = (fit.design.groups[places] == group) & (np.array(offsets, object) == offset)
            if inside.any():
                own = frame[inside]
                x, y = own[column].to_numpy(), own[fit.design.response].to_numpy()
                curve = pd.DataFrame(columns=["x", "mean", "low", "high"], dtype=np.float64)
                if len(set(x)) > 1:
                    along = np.geomspace(x.min(), x.max(), N_POINTS)
                    asked = pd.concat([own.iloc[:1]] * N_POINTS, ignore_index=True).assign(**{column: along})
                    curve = fit.predict(asked).assign(x=along)
                yield _FittedLine(group, offset, places[inside], x, y, curve)


def _response_traces(
    fit: ScalingFit, part: _FittedLine, look: Look, axis: ValueAxis, *, hollow: bool
) -> Iterator[go.Scatter]:
    """Yield the traces of one series: band of the mean (cut at the axis' edges), line of the mean, and cells."""
    known = part.curve.dropna()
    if len(known):
        x = np.concatenate([known["x"], known["x"][::-1]])
        y = axis.inside(np.concatenate([known["high"], known["low"][::-1]]))
        yield line(look, part.group, width=0, x=x, y=y, fill="toself", fillcolor=look.color, opacity=0.15)
    if len(part.curve):
        mean = part.curve["mean"]
        yield line(look, part.group, x=part.curve["x"], y=mean.where(mean > 0) if axis.is_log else mean)
    response, rows = html.escape(fit.design.response), part.places
    numbers = (part.y, fit.fittedvalues.iloc[rows], fit.resid.iloc[rows])
    texts = [
        f"{_bold_group(part.group)}{html.escape(str(setting))}<br>{response}: {format_number(y, digits=5)}<br>"
        f"law: {format_number(law, digits=5)}<br>residual: {_residual_text(fit, residual)}"
        for setting, y, law, residual in zip(fit.design.settings[rows], *numbers, strict=True)
    ]
    yield points(look, part.group, texts, x=part.x, y=part.y, marker=look.marker(7, hollow=hollow))


def _exponent_traces(part: _FittedLine, look: Look, *, hollow: bool, is_log: bool) -> Iterator[go.Scatter]:
    """Yield traces of local exponents: a line of the law's, and points with bars between neighbouring cells."""
    mean, x = part.curve["mean"].to_numpy(), part.curve["x"].to_numpy()
    mean = np.log(np.where(mean > 0, mean, np.nan)) if is_log else mean
    yield line(look, part.group, x=x, y=np.gradient(mean, np.log(x), edge_order=2))
    levels = np.unique(part.x)
    values = np.log(part.y) if is_log else part.y
    means = np.array([values[part.x == level].mean() for level in levels])
    low, high = levels[:-1], levels[1:]
    slopes, middle = np.diff(means) / np.diff(np.log(levels)), np.sqrt(low * high)
    texts = [
        f"{_bold_group(part.group)}from {tick_text(a)} to {tick_text(b)}: {format_number(slope)}"
        for a, b, slope in zip(low, high, slopes, strict=True)
    ]
    reach = {"type": "data", "array": high - middle, "arrayminus": middle - low}
    bars = {**reach, "color": look.color, "width": 0, "thickness": 1}
    yield points(look, part.group, texts, x=middle, y=slopes, marker=look.marker(6, hollow=hollow), error_x=bars)


def _residual_text(fit: ScalingFit, residual: float) -> str:
    """Return a residual as text: in percent if it is relative or of a logarithm, else in units of the response."""
    is_share = fit.design.residual == "relative" or fit.design.law.logarithmic
    return f"{format_number(100 * residual)}\u00a0%" if is_share else format_number(residual)


def _bold_group(group: str) -> str:
    """Return the first line (HTML) of a hover text: the group's name in bold, or nothing if it has no name."""
    return f"<b>{html.escape(group)}</b><br>" if group else ""


def _caption_sentences(
    fit: ScalingFit, series: list[_FittedLine], fixed: Mapping[str, list[float]], n_elsewhere: int, *, is_log: bool
) -> Iterator[str]:
    """Yield the sentences below the figure, on its cells, lines and bands, as plain text."""
    parts = [
        f"{name} at {' or '.join(map(tick_text, values[:3]))}{' and others' if len(values) > 3 else ''}"
        for name, values in fixed.items()
    ]
    at = f", {' and '.join(parts)}" if parts else ""
    n_shown = plural(sum(len(part.y) for part in series), "cell")
    yield f"n\u00a0=\u00a0{n_shown}{at}; {n_elsewhere} elsewhere, not shown."
    band = f"bands: {100 * fit.level:g}\u00a0% intervals of its mean by linear theory."
    yield f"Lines: {fit.design.equation}; {band}"
    if others := dict.fromkeys(part.offset for part in series if part.offset != series[0].offset):
        yield f"Hollow: {' or '.join(others)}."
    scale = "" if is_log else f" of {fit.design.response} itself, which isn't above zero everywhere"
    yield f"Below: slopes{scale} from one size to the next (bars) and of the law; a pure power law would be flat."


def profile_figure(fit: ScalingFit) -> go.Figure:
    """Draw the profile of each amplitude, slope and exponent: how much worse the law fits at other values.

    Height is the square root of (SSR - least SSR) / (least SSR / df), with all other parameters fitted: 0 at the
    estimate, and a V if the law is linear in the parameter. Values below the dotted line are in the interval; an open
    end, where the data don't bound the parameter, has an arrow.

    Parameters
    ----------
    fit
        Result of `fit_scaling_law`.

    Returns
    -------
    plotly.graph_objects.Figure
        One panel per parameter: its value across, |t| of the profile up, its estimate and interval above.

    Raises
    ------
    ValueError
        If the law goes through every cell.
    """
    n_open = int(fit.conf_int()[["low_open", "high_open"]].any(axis=1).sum())  # raises without profiles
    limit = float(_profile_height(np.array(largest_ssr(fit.ssr, fit.df_resid, fit.level)), fit))
    top = 1.8 * limit
    figure, panels = small_multiples([_panel_title(fit, profile) for profile in fit.profiles.values()], height=170)
    for profile, panel in zip(fit.profiles.values(), panels, strict=True):
        value = float(fit.params[profile.name])
        window = _axis_ends(profile, _profile_height(profile.ssr, fit), value)
        figure.add_trace(_profile_curve(fit, profile, value, window), **panel)
        figure.add_trace(_interval_bar(profile.interval, window, limit), **panel)
        figure.add_hline(y=limit, line={"color": BAR.color, "dash": "dot", "width": 1}, **panel)
        text = f"estimate: {format_number(value, digits=6)}"
        figure.add_trace(points(BLACK, "", [text], size=9, x=[value], y=[0]), **panel)
        is_long = max(map(abs, window)) >= LONG
        figure.update_xaxes(exponentformat="power", nticks=3 if is_long else 4, **panel)
    figure.update_yaxes(range=[-0.08 * top, top])
    figure.update_yaxes(title_text="|t| of the profile", col=1)
    headline(
        figure,
        f"How far the parameters of {fit.design.response} may go",
        f"Law: {fit.design.equation}; n\u00a0=\u00a0{plural(fit.nobs, 'cell')}, df\u00a0=\u00a0{fit.df_resid}.",
        "Height, |t|: root of (SSR - least) / (least / df), all else fitted. Diamonds: estimates.",
        f"Bars on the dotted line: {100 * fit.level:g}\u00a0% intervals by F; arrows: open ends, where the data don't "
        f"bound the parameter: {n_open} of {len(fit.profiles)} are open.",
    )
    return figure


def _profile_height(ssr: np.ndarray, fit: ScalingFit) -> np.ndarray:
    """Return the height |t| of a profile from sums of squares `ssr`: 0 at the fit's own, which is the least."""
    return np.asarray(np.sqrt(np.maximum(ssr / fit.ssr - 1, 0) * fit.df_resid))


def _panel_title(fit: ScalingFit, profile: Profile) -> str:
    """Return the title (HTML) of a parameter's panel: its estimate, and below it its interval."""
    value = format_number(fit.params[profile.name])
    return f"<b>{html.escape(profile.name)}</b> = {value}<br>{profile.interval.text()}"


def _profile_curve(fit: ScalingFit, profile: Profile, value: float, window: tuple[float, float]) -> go.Scatter:
    """Return the trace of a profile inside `window`, with height 0 at the estimate `value`."""
    order = np.argsort(np.append(profile.values, value), kind="stable")
    x, height = np.append(profile.values, value)[order], np.append(_profile_height(profile.ssr, fit), 0.0)[order]
    inside = (x >= window[0]) & (x <= window[1])
    x, height = x[inside], height[inside]
    texts = [
        f"{html.escape(profile.name)} = {format_number(at, digits=4)}<br>"
        f"SSR: {format_number(1 + h * h / fit.df_resid, digits=4)} times the least"
        for at, h in zip(x, height, strict=True)
    ]
    return points(Look(), "", texts, size=3, x=x, y=height, mode="lines+markers")


def _axis_ends(profile: Profile, height: np.ndarray, value: float) -> tuple[float, float]:
    """Return the ends of a panel's axis: where the profile becomes flat at open ends, beyond the interval elsewhere."""
    low, high, low_open, high_open, _ = profile.interval
    below, above = profile.values < value, profile.values > value
    if low_open:
        low = _flat_start(profile.values[below][::-1], height[below][::-1], low)
    if high_open:
        high = _flat_start(profile.values[above], height[above], high)
    low, high = min(low, value), max(high, value)
    room = ROOM * (high - low) or abs(value) or 1.0
    return low - room, high + room


def _flat_start(x: np.ndarray, height: np.ndarray, end: float) -> float:
    """Return the first of the values x, going outwards, from which a profile is flat up to `end`."""
    known = np.abs(x - x[:1]) <= np.abs(end - x[:1])
    if not known.any():  # the estimate is at the end
        return end
    moved = np.flatnonzero(np.abs(height[known] - height[known][-1]) > FLAT)
    return float(x[known][moved[-1] + 1 if len(moved) else 0])


def _interval_bar(interval: Interval, window: tuple[float, float], limit: float) -> go.Scatter:
    """Return the trace of an interval as a bar at height `limit`, with an arrow at each open end.

    An open end outside of `window` is moved to its edge.
    """
    low = max(interval.low, window[0]) if interval.low_open else interval.low
    high = min(interval.high, window[1]) if interval.high_open else interval.high
    is_open = {"left": interval.low_open, "right": interval.high_open}
    marker = {"symbol": [EDGES[side] if beyond else "line-ns-open" for side, beyond in is_open.items()], "size": 11}
    texts = [interval.text()] * 2
    bar: dict[str, Any] = {"mode": "lines+markers", "marker": marker, "line": {"width": 3}}
    return points(BAR, "", texts, x=[low, high], y=[limit, limit], **bar)
