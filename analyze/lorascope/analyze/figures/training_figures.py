"""A figure of a training: MIUB, in all and by layer, beside the loss."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number, format_percent
from .captions import headline
from .maps import heat_map
from .marks import Look, add_legend, looks, points
from .scales import ends, whole_ticks
from .theme import COLORS, apply_theme

__all__ = ["training_figure"]

LAYER = "miub_layer_"
PANEL, GAP = 150, 22
"""Pixels of a panel, and between two of them."""
N_MARKED = 60
"""Most points of a line that has markers."""


class _Training(NamedTuple):
    """One training, as its record has it."""

    miub: Sequence[tuple[int, float]]
    """Step and MIUB in nats."""
    ce: Sequence[tuple[int, float]]
    """Step and cross-entropy of the samples that MIUB is measured on, nats per token; NaN where it isn't known."""
    loss: Sequence[tuple[int, float]]
    """Step and loss of its batch, nats per token."""
    layers: Sequence[int]
    by_layer: np.ndarray
    """MIUB in nats (layer, step)."""
    share: float
    """Share of the training's time that measuring took; NaN where it isn't known."""


def training_figure(record: Mapping[str, Any]) -> go.Figure:
    """MIUB against optimiser steps, in nats, with the loss below it and, of one training, MIUB by layer.

    Thin lines are the loss on the batches of each step, as it is logged; lines with points are the cross-entropy of
    the samples that MIUB is measured on. By layer colours are on a logarithmic scale, on which 0 has none.

    Parameters
    ----------
    record
        What a training left, read from JSON: `finetune.json` of an adapter, or a Trainer's `trainer_state.json` (or
        `{"log_history": trainer.state.log_history}`) that `MiubCallback` has logged to. Or several of them by name,
        to be compared.

    Raises
    ------
    ValueError
        If there is no training, or MIUB wasn't measured in one.
    """
    is_one = "log_history" in record or isinstance(record.get("steps"), Sequence)
    trainings = {name: _read(name, one) for name, one in ({"": record} if is_one else record).items()}
    if not trainings:
        raise ValueError("`record` is empty; give what a training left, or several of these by name")
    only = next(iter(trainings.values())) if len(trainings) == 1 else None
    n_rows = 3 if only is not None and len(only.layers) else 2
    whole = n_rows * PANEL + (n_rows - 1) * GAP
    figure = make_subplots(rows=n_rows, cols=1, shared_xaxes=True, vertical_spacing=GAP / whole)
    marks = looks(len(trainings))
    for (name, one), look in zip(trainings.items(), marks, strict=True):
        figure.add_trace(_line(name, one.miub, look, "MIUB", "nat"), row=1, col=1)
        figure.add_trace(_line(name, one.loss, look, "loss", "nat/token", thin=True), row=2, col=1)
        if any(np.isfinite(value) for _, value in one.ce):
            figure.add_trace(_line(name, one.ce, look, "CE", "nat/token"), row=2, col=1)
    apply_theme(figure, height=whole + 70)
    if only is not None and n_rows == 3:
        _add_layers(figure, only)
    last = max(step for one in trainings.values() for step, _ in (*one.miub, *one.loss))
    room = max(0.02 * last, 0.5)
    figure.update_xaxes(range=[-room, last + room], **whole_ticks(0, last))
    figure.update_xaxes(title_text="optimiser steps", row=n_rows, col=1)
    figure.update_yaxes(title_text="MIUB (nat)", rangemode="tozero", exponentformat="power", nticks=5, row=1, col=1)
    figure.update_yaxes(title_text="loss, CE (nat/token)", nticks=5, row=2, col=1)
    share = max((one.share for one in trainings.values() if np.isfinite(one.share)), default=0)
    most = f"Measuring took {'up to ' if only is None else ''}{format_percent(share)} of the training."
    headline(
        figure,
        "MIUB during training",
        "Thin: the loss of the batches; with points: CE of the samples that MIUB is measured on.",
        most if share else "",
        "Colour: MIUB of each layer (nat); none where it is exactly 0." if n_rows == 3 else "",
    )
    add_legend(figure, "training", list(trainings), marks, mode="lines+markers")
    return figure


def _read(name: str, record: Mapping[str, Any]) -> _Training:
    """A training from what a Trainer logged, or from `finetune.json`."""
    if "log_history" in record:
        losses = [(entry["step"], entry["loss"]) for entry in record["log_history"] if "loss" in entry]
        curve = [entry for entry in record["log_history"] if "miub" in entry]
        keys = [key for key in curve[-1] if key.startswith(LAYER)] if curve else []
        layers = [int(key.removeprefix(LAYER)) for key in keys]
        by_layer = [[point[key] for key in keys] for point in curve]
        share = curve[-1].get("miub_share", np.nan) if curve else np.nan
    else:
        losses = [(place, step["loss"]) for place, step in enumerate(record["steps"], start=1)]
        measured = record.get("miub") or {"steps": [], "layers": [], "share": np.nan}
        curve, layers, share = measured["steps"], measured["layers"], measured["share"]
        by_layer = [point["layers"] for point in curve]
    if not curve:
        raise ValueError(
            f"the record{f' of {name!r}' if name else ''} holds no MIUB; fine-tune with `miub_every`, or give the "
            "Trainer a `MiubCallback`"
        )
    miub, ce = ([(point["step"], point.get(key)) for point in curve] for key in ("miub", "ce"))
    miub, ce, loss = ([(at, np.nan if value is None else value) for at, value in one] for one in (miub, ce, losses))
    return _Training(miub, ce, loss, layers, np.array(by_layer, dtype=float).T, share)


def _line(
    name: str, curve: Sequence[tuple[int, float]], look: Look, what: str, unit: str, *, thin: bool = False
) -> go.Scatter:
    title = f"<b>{html.escape(name)}</b><br>" if name else ""
    texts = [f"{title}step {step}: {what} {format_number(value)} {unit}" for step, value in curve]
    shown = {"mode": "lines" if thin or len(curve) > N_MARKED else "lines+markers", "opacity": 0.6 if thin else 1}
    x, y = ([point[place] for point in curve] for place in (0, 1))
    return points(look, name, texts, size=5, x=x, y=y, line={"width": 1 if thin else 1.5}, **shown)


def _add_layers(figure: go.Figure, training: _Training) -> None:
    """A heat map in the third panel: a column a measurement, as wide as it is far from its neighbours."""
    values, steps = training.by_layer, [step for step, _ in training.miub]
    is_log = bool((values > 0).any())
    powers = np.full(values.shape, np.nan)
    np.log10(values, out=powers, where=values > 0)
    texts = [
        [f"step {step}, layer {layer}: {format_number(value)} nat" for step, value in zip(steps, row, strict=True)]
        for layer, row in zip(training.layers, values.tolist(), strict=True)
    ]
    heat = heat_map(powers, steps, list(training.layers), texts, COLORS, ends(powers, None, is_log), is_log)
    figure.add_trace(heat, row=3, col=1)
    figure.update_yaxes(title_text="layer", **whole_ticks(min(training.layers), max(training.layers)), row=3, col=1)
    figure.update_layout(margin_b=80, height=figure.layout.height + 70)
