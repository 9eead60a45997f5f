"""Figure of a training: MIUB (JS of base and adapted output, summed over components) and the loss, by step."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from lorascope.analyze.results.format import format_number, format_percent

from .captions import headline
from .maps import heat_map
from .scales import ends, whole_ticks
from .theme import COLORS, Look, add_legend, apply_theme, looks, points

LAYER, COLUMNS = "miub_layer_", ("step", "loss", "miub", "ce", "miub_share")
PANEL, GAP = 150, 22
"""Height in pixels of a panel, and of the gap between two panels."""
N_MARKED = 60
"""Largest number of points of a line with markers."""


def training_figure(record: Mapping[str, Any]) -> go.Figure:
    """Draw MIUB (summed JS, in nats) during training, the loss below it and, of a single training, MIUB by layer.

    Thin lines are the logged loss of each step's batches; lines with points are the cross-entropy of the samples that
    MIUB is measured on. Colours of layers are on a logarithmic scale, so that 0 has no colour.

    Parameters
    ----------
    record
        Record of a training, read from JSON: `finetune.json` of an adapter, or `trainer_state.json` of a Trainer (or
        `{"log_history": trainer.state.log_history}`) with a `MiubCallback`. Or several of them by name, to compare.

    Returns
    -------
    plotly.graph_objects.Figure
        Optimiser steps across; panels of MIUB, of loss and CE, and a heat map by layer for a single training.

    Raises
    ------
    ValueError
        If there is no training, or MIUB wasn't measured in one.
    """
    is_single = "log_history" in record or isinstance(record.get("steps"), Sequence)
    trainings = {name: _read_record(name, part) for name, part in ({"": record} if is_single else record).items()}
    if not trainings:
        raise ValueError("`record` is empty; give the record of a training, or several by name")
    only = next(iter(trainings.values())) if len(trainings) == 1 else None
    layers = [] if only is None else [key for key in only if key.startswith(LAYER)]
    n_rows = 3 if layers else 2
    whole = n_rows * PANEL + (n_rows - 1) * GAP
    figure = make_subplots(rows=n_rows, cols=1, shared_xaxes=True, vertical_spacing=GAP / whole)
    marks = looks(len(trainings))
    for (name, training), look in zip(trainings.items(), marks, strict=True):
        figure.add_trace(_training_line(name, training, "miub", look, "MIUB", "nat"), row=1, col=1)
        figure.add_trace(_training_line(name, training, "loss", look, "loss", "nat/token", thin=True), row=2, col=1)
        if training["ce"].notna().any():
            figure.add_trace(_training_line(name, training, "ce", look, "CE", "nat/token"), row=2, col=1)
    apply_theme(figure, height=whole + 70)
    if only is not None and layers:
        _add_layers(figure, only.loc[only["miub"].notna(), ["step", *layers]])
    last = max(int(training["step"].max()) for training in trainings.values())
    room = max(0.02 * last, 0.5)
    figure.update_xaxes(range=[-room, last + room], **whole_ticks(0, last))
    figure.update_xaxes(title_text="optimiser steps", row=n_rows, col=1)
    figure.update_yaxes(title_text="MIUB (nat)", rangemode="tozero", exponentformat="power", nticks=5, row=1, col=1)
    figure.update_yaxes(title_text="loss, CE (nat/token)", nticks=5, row=2, col=1)
    shares = pd.concat([training["miub_share"].dropna().tail(1) for training in trainings.values()])
    most = f"Measuring took {'up to ' if only is None else ''}{format_percent(shares.max())} of the training."
    headline(
        figure,
        "MIUB during training",
        "Thin: the loss of the batches; with points: CE of the samples that MIUB is measured on.",
        most if shares.max() > 0 else "",
        "Colour: MIUB of each layer (nat); none where it is exactly 0." if n_rows == 3 else "",
    )
    add_legend(figure, "training", list(trainings), marks, mode="lines+markers")
    return figure


def _read_record(name: str, record: Mapping[str, Any]) -> pd.DataFrame:
    """Return a training's table by step, with `COLUMNS` and MIUB of each layer; raise ValueError if it has no MIUB."""
    if "log_history" in record:
        table = pd.DataFrame(record["log_history"])
    else:
        losses = pd.DataFrame({"loss": [step["loss"] for step in record["steps"]]}).rename_axis("step").reset_index()
        curve = record.get("miub") or {"steps": [], "layers": [], "share": np.nan}
        measured = pd.DataFrame(curve["steps"], columns=["step", "miub", "ce"]).assign(miub_share=curve["share"])
        layers = [f"{LAYER}{layer}" for layer in curve["layers"]]
        measured[layers] = [point["layers"] for point in curve["steps"]]
        table = pd.concat([losses.assign(step=losses["step"] + 1), measured])
    table = table.reindex(columns=[*COLUMNS, *(key for key in table if key.startswith(LAYER))]).astype(float)
    if table["miub"].notna().any():
        return table
    raise ValueError(
        f"the record{f' of {name!r}' if name else ''} holds no MIUB; fine-tune with `miub_every`, or give the "
        "Trainer a `MiubCallback`"
    )


def _training_line(
    name: str, training: pd.DataFrame, column: str, look: Look, what: str, unit: str, *, thin: bool = False
) -> go.Scatter:
    """Return the trace of one column of a training's table over its steps."""
    curve = training[training["loss" if thin else "miub"].notna()]
    title = f"<b>{html.escape(name)}</b><br>" if name else ""
    pairs = zip(curve["step"].astype(int), curve[column], strict=True)
    texts = [f"{title}step {step}: {what} {format_number(value)} {unit}" for step, value in pairs]
    shown = {"mode": "lines" if thin or len(curve) > N_MARKED else "lines+markers", "opacity": 0.6 if thin else 1}
    stroke = {"width": 1 if thin else 1.5}
    return points(look, name, texts, size=5, x=curve["step"], y=curve[column], line=stroke, **shown)


def _add_layers(figure: go.Figure, by_layer: pd.DataFrame) -> None:
    """Add a heat map of MIUB by layer and step to the third panel of a figure.

    A column is one measurement, and reaches halfway to its neighbours.
    """
    steps = by_layer["step"].astype(int).tolist()
    layers = [int(key.removeprefix(LAYER)) for key in by_layer.columns[1:]]
    values = by_layer.iloc[:, 1:].to_numpy().T
    is_log = bool((values > 0).any())
    powers = np.full(values.shape, np.nan)
    np.log10(values, out=powers, where=values > 0)
    texts = [
        [f"step {step}, layer {layer}: {format_number(value)} nat" for step, value in zip(steps, row, strict=True)]
        for layer, row in zip(layers, values.tolist(), strict=True)
    ]
    heat = heat_map(powers, steps, layers, texts, COLORS, ends(powers, None, is_log), is_log)
    figure.add_trace(heat, row=3, col=1)
    figure.update_yaxes(title_text="layer", **whole_ticks(min(layers), max(layers)), row=3, col=1)
    figure.update_layout(margin_b=80, height=figure.layout.height + 70)
