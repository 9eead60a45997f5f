"""Accuracy of a study's adapters against that of the model without them."""

import html
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types

from lorascope.analyze.figures.captions import headline
from lorascope.analyze.figures.marks import add_legend, hovering, looks
from lorascope.analyze.figures.theme import apply_theme
from lorascope.analyze.format import format_error

__all__ = ["error_bars", "told_apart_by_model", "untuned_figure"]


def untuned_figure(cells: pd.DataFrame) -> go.Figure:
    """Accuracy with each adapter over that of the same model without it, with standard errors; a point a cell.

    Parameters
    ----------
    cells
        What `study_cells` returns.

    Raises
    ------
    ValueError
        If no cell was scored without its adapter.
    """
    rows = cells[cells["first_prompt"] & ~cells["is_text"] & cells["ACC"].notna() & cells["base_ACC"].notna()]
    if not len(rows):
        raise ValueError("no items were scored without adapters")
    rows = rows.assign(name=told_apart_by_model(rows))
    names = list(dict.fromkeys(rows["name"]))
    marks = looks(len(names))
    figure = go.Figure()
    values = rows[["ACC", "base_ACC"]].to_numpy(float)
    errors = rows[["ACC_se", "base_ACC_se"]].fillna(0).to_numpy(float)
    low, high = max(float((values - errors).min()) - 0.02, 0.0), min(float((values + errors).max()) + 0.02, 1.0)
    figure.add_trace(
        go.Scatter(
            x=[low, high], y=[low, high], mode="lines", line={"color": "#999", "dash": "dot", "width": 1},
            hoverinfo="skip", showlegend=False,
        )
    )  # fmt: skip
    for name, look in zip(names, marks, strict=True):
        own = rows[rows["name"] == name]
        texts = [
            f"<b>{html.escape(one.run)}</b><br>{html.escape(name)}: with {format_error(one.ACC, one.ACC_se)}, without "
            f"{format_error(one.base_ACC, one.base_ACC_se)}<br>change {format_error(one.ACC_change, one.ACC_change_se)}"
            for one in own.itertuples()
        ]
        figure.add_trace(
            go.Scatter(
                x=own["base_ACC"], y=own["ACC"], mode="markers", marker=look.marker(7),
                error_x=error_bars(own["base_ACC_se"], look.color), error_y=error_bars(own["ACC_se"], look.color),
                **hovering(name, texts),
            )
        )  # fmt: skip
    apply_theme(figure, height=440)
    axis = {"range": [low, high], "constrain": "domain", "nticks": 6}
    figure.update_xaxes(title_text="accuracy without adapter", **axis)
    figure.update_yaxes(title_text="accuracy with adapter", scaleanchor="x", **axis)
    headline(
        figure,
        "Does fine-tuning move accuracy?",
        f"A point a unit and data set, {len(rows)} in all, first prompt. Above the dotted line fine-tuning helped. "
        "Bars: standard errors over items, which both share: hovering tells a change's own, which is smaller.",
    )
    add_legend(figure, "data set", names, marks)
    return figure


def error_bars(errors: pd.Series, color: str) -> dict[str, Any]:
    """What plotly is told of standard errors, none where they are unknown."""
    return {"type": "data", "array": errors.fillna(0), "color": color, "thickness": 1, "width": 2}


def told_apart_by_model(rows: pd.DataFrame) -> pd.Series:
    """Names of data sets, with the model where there are several: of a path its end, if that tells models apart."""
    models = rows["model"].unique()
    if len(models) < 2:
        return rows["dataset"]
    short = {model: model.rstrip("/").rpartition("/")[2] for model in models}
    is_told = len(set(short.values())) == len(models)
    return rows["dataset"] + " · " + (rows["model"].map(short) if is_told else rows["model"])
