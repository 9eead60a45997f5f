"""Where adapters of a study act: js by layer and setting."""

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from lorascope.analyze.figures.captions import headline, plural, shortened
from lorascope.analyze.figures.scales import colorbar, ends
from lorascope.analyze.figures.theme import COLORS, apply_theme
from lorascope.analyze.format import format_number, format_percent

from .cells import study_cells
from .layout import laid_out
from .reading import UnitResult

__all__ = ["settings_map"]

OUTSIDE = "outside"


def settings_map(units: Sequence[UnitResult], model: str | None = None) -> go.Figure:
    """Js of a layer, summed over its kinds of modules, by layer and setting, in nats.

    Means over all samples of a data set (those drawn for their length too, so that a row adds up to nearly MIUB), over
    data sets, each counting the same, with the first prompt, and over seeds; of texts where a study has texts alone.

    Parameters
    ----------
    units
        What `read_units` returns.
    model
        One of the study's models; by default the first.

    Raises
    ------
    ValueError
        If there is no such model.
    """
    model = units[0].model if model is None else model
    own = [unit for unit in units if unit.model == model]
    if not own:
        raise ValueError(f"`model` is {model!r}; the study has {', '.join(sorted({unit.model for unit in units}))}")
    layout = laid_out(study_cells(own))
    by_name = {unit.name: unit for unit in own}
    layers = sorted({int(layer) for unit in own for layer in unit.components["layer"].values}, key=lambda k: (k < 0, k))
    names, grid, texts = [], [], []
    for column in layout.columns:
        runs = list(dict.fromkeys(layout.cells[layout.cells["column"] == column]["run"]))
        parts = [_by_layer(by_name[run], layers) for run in runs]
        values = np.mean(parts, axis=0)
        names.append(column)
        grid.append(values)
        texts.append(_texts(column, layers, values, runs))
    return _drawn(np.array(grid), names, layers, texts, model, len(by_name))


def _drawn(
    grid: np.ndarray, names: Sequence[str], layers: Sequence[int], texts: list[list[str]], model: str, n_units: int
) -> go.Figure:
    is_log = bool((np.isfinite(grid) & (grid > 0)).any())
    shown = np.full_like(grid, np.nan)
    np.log10(grid, out=shown, where=np.isfinite(grid) & (grid > 0))
    low, high = ends(shown if is_log else grid, None, is_log)
    figure = go.Figure(
        go.Heatmap(
            z=shown if is_log else grid,
            x=[OUTSIDE if layer < 0 else str(layer) for layer in layers],
            y=[html.escape(name) for name in names],
            text=texts,
            hovertemplate="%{text}<extra></extra>",
            colorscale=list(COLORS),
            zmin=low,
            zmax=high,
            xgap=1,
            ygap=1,
            hoverongaps=False,
            colorbar=colorbar(low, high, is_log),
        )
    )
    apply_theme(figure, height=150 + 26 * len(names))
    figure.update_xaxes(title_text="layer", type="category", nticks=12, tickangle=0)
    figure.update_yaxes(type="category", autorange="reversed", ticklabelstandoff=4)
    figure.update_layout(plot_bgcolor="#e4e4e4", margin_b=100)
    headline(
        figure,
        f"js by layer and setting, {model} (nat)",
        f"Sum over a layer's modules; mean over all samples of a data set, and over data sets; first prompt, "
        f"{plural(n_units, 'unit')}. Logarithmic colours.",
    )
    return figure


def _texts(column: str, layers: Sequence[int], values: np.ndarray, runs: Sequence[str]) -> list[str]:
    """What hovering tells of each layer of a setting."""
    total = float(values[np.isfinite(values)].sum())
    of = f"<br>{plural(len(runs), 'unit')}: {shortened(' '.join(runs), 60)}"
    return [
        f"<b>{column}</b>, layer {OUTSIDE if layer < 0 else layer}<br>js {format_number(float(value))} nat, "
        f"{format_percent(float(value / total) if total else np.nan)} of {format_number(total)}{of}"
        for layer, value in zip(layers, values, strict=True)
    ]


def _by_layer(unit: UnitResult, layers: Sequence[int]) -> np.ndarray:
    """(layer,) sum over components of the mean over data sets; NaN where the unit has no component."""
    found = unit.components
    is_first = found["prompt"].values == unit.first_prompt
    js = found["js"].values[is_first if is_first.any() else slice(None)].mean(axis=0)
    of_layer = found["layer"].values
    return np.array([js[of_layer == layer].sum() if (of_layer == layer).any() else np.nan for layer in layers])
