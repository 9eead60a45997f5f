"""Figures of two results beside each other: differences by component, and samples in pairs."""

import html
from collections.abc import Iterator

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
import xarray as xr

from ..format import format_error, format_number
from ..runs import matched, paired
from .captions import headline, plural, run_name, shortened, tokens_reduced
from .maps import component_map
from .theme import DIVERGING, apply_theme, legend_below, line_styles

__all__ = ["difference_map", "pair_figure"]

LEVEL = 0.05
"""False discovery rate below which a component gets a dot."""
N_DENSE = 1000
"""More pairs than that are drawn small and pale."""


def difference_map(first: xr.Dataset, second: xr.Dataset) -> go.Figure:
    """Js of each component in the second result less that in the first, in their unit, by layer and module kind.

    Means over the samples that both hold. Colours are white at 0 and reach equally far to either side, to the 98 %
    quantile of the distances from 0. A dot marks a component whose difference has p < 0.05 after Benjamini and
    Hochberg's control of false discoveries over all components. Hovering tells both values, the difference, its
    standard error and p.

    Parameters
    ----------
    first, second
        What `miub` or `qualify` returns, with one reduction and unit.

    Raises
    ------
    ValueError
        If `paired` can't match them.
    """
    tests = paired(first, second, ["component"])
    labels = {name: place for one in (first, second) for name, place in _places(one)}
    tests = tests.sel(component=list(labels))  # in the model's order instead of by name
    differences = tests["difference"].assign_coords(
        kind=("component", [kind for kind, _ in labels.values()]),
        layer=("component", [layer for _, layer in labels.values()]),
    )
    units, is_clear = tests.attrs["units"], tests["p_adjusted"].values < LEVEL
    distances = np.abs(differences.values[np.isfinite(differences.values)])
    reach = (np.quantile(distances, 0.98) or distances.max()) if len(distances) else 0.0
    return component_map(
        differences,
        label=f"JS, second less first ({units})",
        notes=_difference_notes(first, second, tests),
        colors=DIVERGING,
        limits=(-float(reach or 1), float(reach or 1)),
        log=False,
        marked=is_clear,
        note=f"First: {run_name(first.attrs)}. Second: {run_name(second.attrs)}. Means over samples; n\u00a0=\u00a0"
        f"{plural(int(tests['n_samples']), 'pair')}. {tokens_reduced(tests.attrs)} Dots: p < {LEVEL} after "
        f"Benjamini-Hochberg ({int(is_clear.sum())} of {plural(len(labels), 'component')}).",
    )


def pair_figure(first: xr.Dataset, second: xr.Dataset) -> go.Figure:
    """Miub_sample of the second result over that of the first, in their unit, for the samples that both hold.

    The diagonal is where both agree; the title tells the mean difference, its standard error and p.

    Parameters
    ----------
    first, second
        What `miub` or `qualify` returns, with one reduction and unit.

    Raises
    ------
    ValueError
        If `paired` can't match them.
    """
    tests = paired(first, second)
    ones, others = _pairs(first, second)
    x, y = ones["miub_sample"].values, others["miub_sample"].values
    is_known = np.isfinite(x) & np.isfinite(y)
    low, high = _ends(np.concatenate([x[is_known], y[is_known]]))
    diagonal = {"color": "#999", "dash": "dot", "width": 1}
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(x=[low, high], y=[low, high], mode="lines", line=diagonal, hoverinfo="skip", showlegend=False)
    )
    units, datasets = html.escape(tests.attrs["units"]), list(dict.fromkeys(ones["dataset"].values.tolist()))
    for name, style in zip(datasets, line_styles(len(datasets), "dataset"), strict=True):
        chosen = np.flatnonzero(is_known & (ones["dataset"].values == name))
        names = ones["sample"].values[chosen]
        figure.add_trace(_points(x[chosen], y[chosen], names, style["color"], units, is_dense=len(x) > N_DENSE))
        figure.data[-1].name = shortened(name)
    apply_theme(figure, height=440)
    axis = {"range": [low, high], "constrain": "domain", "exponentformat": "power", "nticks": 6}
    figure.update_xaxes(title_text=f"MIUB of a sample, first ({units})", **axis)
    figure.update_yaxes(title_text=f"MIUB of a sample, second ({units})", scaleanchor="x", **axis)
    headline(figure, *_pair_words(first, second, tests, int((~is_known).sum())))
    legend_below(figure, title="dataset", names=[shortened(name) for name in datasets])
    figure.update_layout(legend_itemsizing="constant")  # small and pale points would be small and pale there too
    return figure


def _points(x: np.ndarray, y: np.ndarray, names: np.ndarray, color: str, units: str, *, is_dense: bool) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        marker={"color": color, "size": 4 if is_dense else 6, "opacity": 0.3 if is_dense else 0.55},
        text=[html.escape(str(name)) for name in names],
        hovertemplate=f"%{{text}}: first %{{x:.4g}}, second %{{y:.4g}} {units}",
    )


def _pair_words(first: xr.Dataset, second: xr.Dataset, tests: xr.Dataset, n_bad: int) -> tuple[str, str, str]:
    """Title and notes of `pair_figure`."""
    difference, error, p, p_ranks = (float(tests[key]) for key in ("difference", "difference_se", "p_t", "p_wilcoxon"))
    return (
        f"Second less first: {format_error(difference, error)} {tests.attrs['units']}, "
        f"p\u00a0=\u00a0{format_number(p, digits=2)}",
        f"First: {run_name(first.attrs)}. Second: {run_name(second.attrs)}. Mean\u00a0± standard error of paired "
        f"differences; n\u00a0=\u00a0{plural(int(tests['n_samples']), 'pair')}. p: paired t-test; signed ranks: "
        f"{format_number(p_ranks, digits=2)}. {tokens_reduced(tests.attrs)}",
        f"{plural(n_bad, 'pair')} not drawn: not finite." if n_bad else "",
    )


def _pairs(first: xr.Dataset, second: xr.Dataset) -> tuple[xr.Dataset, ...]:
    """The samples that both hold, in the first one's order."""
    return tuple(one.isel(sample=at) for one, at in zip((first, second), matched(first, second), strict=True))


def _places(result: xr.Dataset) -> Iterator[tuple[str, tuple[str, int]]]:
    """Each component's kind and layer."""
    columns = (result[key].values.tolist() for key in ("component", "kind", "layer"))
    return ((name, (kind, layer)) for name, kind, layer in zip(*columns, strict=True))


def _difference_notes(first: xr.Dataset, second: xr.Dataset, tests: xr.Dataset) -> list[str]:
    """What is shown beside each component's difference."""
    names, units = tests["component"].values.tolist(), html.escape(tests.attrs["units"])
    means = [
        dict(zip(one["component"].values.tolist(), one["js_sample"].values.mean(axis=0).tolist(), strict=True))
        for one in _pairs(first, second)
    ]
    lines = []
    for name, difference, error, p in zip(
        names, *(tests[key].values.tolist() for key in ("difference", "difference_se", "p_adjusted")), strict=True
    ):
        values = [
            f"{format_number(mean[name])} {units}" if name in mean else "not adapted, counts as 0" for mean in means
        ]
        parts = [f"first {values[0]}", f"second {values[1]}"]
        parts += [f"difference {format_error(difference, error)} {units}", f"adjusted p = {format_number(p, digits=2)}"]
        lines.append("<br>".join(parts))
    return lines


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Range of both axes: from 0 where values are nearer to it than they are to each other."""
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low or abs(high) or 1.0)
    return (0.0 if 0 <= low < high - low else low) - margin, high + margin
