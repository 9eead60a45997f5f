"""A figure of a training: MIUB, in all and by layer, beside the loss."""

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]  # plotly ships no types
from plotly.subplots import make_subplots  # type: ignore[import-untyped]  # plotly ships no types

from ..format import format_number, format_percent
from .captions import headline, plural
from .marks import Look, add_legend, hovering, looks
from .scales import colorbar, ends, whole_ticks
from .theme import COLORS, apply_theme

__all__ = ["training_figure"]

LAYER = "miub_layer_"
PANEL, GAP = 150, 22
"""Pixels of a panel, and between two of them."""
N_MARKED = 60
"""Most points of a line that has markers."""


class _Curve(NamedTuple):
    """Values over optimiser steps."""

    steps: np.ndarray
    values: np.ndarray


class _Training(NamedTuple):
    """One training, as its record has it."""

    miub: _Curve
    """Nats."""
    ce: _Curve
    """Cross-entropy of the samples that MIUB is measured on, nats per token; NaN where it isn't known."""
    loss: _Curve
    """Loss of each step's batch, nats per token."""
    layers: Sequence[int]
    by_layer: np.ndarray
    """MIUB in nats (layer, step)."""
    n_samples: int | None
    """Samples that MIUB was measured on; None where the record doesn't say."""
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
        if np.isfinite(one.ce.values).any():
            figure.add_trace(_line(name, one.ce, look, "CE", "nat/token"), row=2, col=1)
    apply_theme(figure, height=whole + 70)
    if only is not None and n_rows == 3:
        _add_layers(figure, only)
    last = max(int(curve.steps.max(initial=0)) for one in trainings.values() for curve in (one.miub, one.loss))
    room = max(0.02 * last, 0.5)
    figure.update_xaxes(range=[-room, last + room], **whole_ticks(0, last))
    figure.update_xaxes(title_text="optimiser steps", row=n_rows, col=1)
    figure.update_yaxes(title_text="MIUB (nat)", rangemode="tozero", exponentformat="power", nticks=5, row=1, col=1)
    figure.update_yaxes(title_text="loss, CE (nat/token)", nticks=5, row=2, col=1)
    headline(figure, "MIUB during training", *_caption(list(trainings.values()), n_rows))
    add_legend(figure, "training", list(trainings), marks, mode="lines+markers")
    return figure


def _read(name: str, record: Mapping[str, Any]) -> _Training:
    """A training from what a Trainer logged, or from `finetune.json`."""
    if "log_history" in record:
        losses = [(entry["step"], entry["loss"]) for entry in record["log_history"] if "loss" in entry]
        points = [entry for entry in record["log_history"] if "miub" in entry]
        keys = [key for key in points[-1] if key.startswith(LAYER)] if points else []
        layers = [int(key.removeprefix(LAYER)) for key in keys]
        by_layer = [[point[key] for key in keys] for point in points]
        n_samples, share = None, points[-1].get("miub_share", np.nan) if points else np.nan
    else:
        curve = record.get("miub") or {"steps": [], "layers": [], "samples": [], "share": np.nan}
        losses = [(place, step["loss"]) for place, step in enumerate(record["steps"], start=1)]
        points, layers = curve["steps"], curve["layers"]
        by_layer = [point["layers"] for point in points]
        n_samples, share = len(curve["samples"]), curve["share"]
    if not points:
        raise ValueError(
            f"the record{f' of {name!r}' if name else ''} holds no MIUB; fine-tune with `miub_every`, or give the "
            "Trainer a `MiubCallback`"
        )
    steps = np.array([point["step"] for point in points])
    return _Training(
        miub=_Curve(steps, _numbers(point["miub"] for point in points)),
        ce=_Curve(steps, _numbers(point.get("ce") for point in points)),
        loss=_Curve(np.array([step for step, _ in losses], dtype=int), _numbers(loss for _, loss in losses)),
        layers=layers,
        by_layer=np.array(by_layer, dtype=float).T,
        n_samples=n_samples,
        share=share,
    )


def _numbers(values: Any) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _line(name: str, curve: _Curve, look: Look, what: str, unit: str, *, thin: bool = False) -> go.Scatter:
    title = f"<b>{html.escape(name)}</b><br>" if name else ""
    texts = [f"{title}step {x}: {what} {format_number(y)} {unit}" for x, y in zip(*curve, strict=True)]
    return go.Scatter(
        x=curve.steps,
        y=curve.values,
        mode="lines" if thin or len(texts) > N_MARKED else "lines+markers",
        marker=look.marker(5),
        line={"color": look.color, "dash": look.dash, "width": 1 if thin else 1.5},
        opacity=0.6 if thin else 1,
        **hovering(name, texts),
    )


def _add_layers(figure: go.Figure, training: _Training) -> None:
    """A heat map in the third panel: a column a measurement, as wide as it is far from its neighbours."""
    values, steps = training.by_layer, training.miub.steps
    is_log = bool((values > 0).any())
    powers = np.full(values.shape, np.nan)
    np.log10(values, out=powers, where=values > 0)
    low, high = ends(powers, None, is_log)
    texts = [
        [f"step {step}, layer {layer}: {format_number(value)} nat" for step, value in zip(steps, row, strict=True)]
        for layer, row in zip(training.layers, values.tolist(), strict=True)
    ]
    figure.add_heatmap(
        z=powers,
        x=steps,
        y=list(training.layers),
        text=texts,
        hovertemplate="%{text}<extra></extra>",
        colorscale=list(COLORS),
        zmin=low,
        zmax=high,
        hoverongaps=False,
        colorbar=colorbar(low, high, is_log),
        row=3,
        col=1,
    )
    figure.update_yaxes(title_text="layer", **whole_ticks(min(training.layers), max(training.layers)), row=3, col=1)
    figure.update_layout(margin_b=80, height=figure.layout.height + 70)


def _caption(trainings: Sequence[_Training], n_rows: int) -> Iterator[str]:
    counts = {one.n_samples for one in trainings}
    if None not in counts and len(counts) == 1:
        yield f"MIUB on {plural(counts.pop() or 0, 'held-out sample')}."
    yield "Thin: the loss of the batches; with points: CE of the samples that MIUB is measured on."
    shares = [one.share for one in trainings if np.isfinite(one.share)]
    if shares:
        yield f"Measuring took {'up to ' if len(shares) > 1 else ''}{format_percent(max(shares))} of the training."
    if n_rows == 3:
        yield "Colour: MIUB of each layer (nat); none where it is exactly 0."
