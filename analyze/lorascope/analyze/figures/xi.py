"""What JS of joint and product says of mutual information, as a figure."""

import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from ..information.bound import Dependence, discrete_dependence, gaussian_dependence, js_upper_bound
from .captions import headline, plural
from .marks import Look, points
from .theme import LINES, apply_theme, legend_below

__all__ = ["xi_figure"]

RHO = (0.75, 0.9, 0.99, 0.9999)
"""Correlations of the normal pairs in `xi_figure`."""
N_SYMBOLS = (2, 3, 10, 100, 1000)
"""Numbers of symbols of the variables in `xi_figure` that are one symbol twice."""
MOST_NATS = 8.0
"""Upper end of `xi_figure`."""


def xi_figure() -> go.Figure:
    """What JS(joint, product) says of mutual information, in nats: the claimed upper bound, and true lower ones.

    Lines: ln 2 JS, which theorem 3 of arXiv 2501.03152 calls an upper bound; 2 JS and Xi(JS), below which mutual
    information can't lie. Points: pairs of variables with known values, named by correlation or number of symbols.
    """
    nats, most = np.linspace(0, MOST_NATS, 400), np.array([0.0, math.log(2)])
    shade = {"fill": "tozeroy", "fillcolor": "rgba(33,113,181,0.15)"}
    figure = go.Figure()
    for name, x, y, stroke, fill in (
        ("claimed: at most ln 2 JS", most, math.log(2) * most, {"color": LINES[1], "dash": "dash"}, shade),
        ("true: above 2 JS", most, 2 * most, {"color": "#777", "dash": "dot"}, {}),
        ("true: at least Xi(JS)", js_upper_bound(nats), nats, {"color": "#222"}, {}),
    ):
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=stroke, name=name, hoverinfo="skip", **fill))
    normals = {f"\u03c1\u00a0{rho:g}": gaussian_dependence(rho) for rho in RHO}
    twice = {f"n\u00a0{n}": discrete_dependence(np.eye(n) / n) for n in N_SYMBOLS}
    figure.add_trace(_examples("correlated normals", normals, Look(), "middle left"))
    figure.add_trace(_examples("one symbol twice", twice, Look(LINES[2]), "bottom right"))
    apply_theme(figure, height=400)
    figure.update_xaxes(title_text="JS of joint and product (nat)", range=[0, 0.8])
    figure.update_yaxes(title_text="mutual information (nat)", range=[0, MOST_NATS])
    pairs = [*normals.values(), *twice.values()]
    n_above = sum(pair.mutual_information > math.log(2) * pair.js for pair in pairs)
    headline(
        figure,
        "What JS of joint and product says of mutual information",
        f"{n_above} of {plural(len(pairs), 'pair')} with known values lie above the shaded part, where theorem 3 of "
        "arXiv 2501.03152 would have them; no pair lies below Xi.",
    )
    legend_below(figure, title="", names=[trace.name for trace in figure.data])
    return figure


def _examples(name: str, pairs: Mapping[str, Dependence], look: Look, side: str) -> go.Scatter:
    """Pairs of variables with known values, their names beside them."""
    x, y = ([getattr(pair, key) for pair in pairs.values()] for key in ("js", "mutual_information"))
    hover = f"{name}, %{{text}}: mutual information %{{y:.4f}} nat, JS %{{x:.4f}} nat<extra></extra>"
    shown = {"name": name, "showlegend": True, "hovertemplate": hover, "mode": "markers+text", "textposition": side}
    return points(look, name, list(pairs), size=8, x=x, y=y, textfont_color=look.color, **shown)
