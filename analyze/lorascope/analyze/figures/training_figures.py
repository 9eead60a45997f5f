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
"""A line of more points than that has no markers."""


class _Training(NamedTuple):
    """One training, as its record has it."""

    steps: np.ndarray
    """Optimiser steps after which MIUB was measured (step,)."""
    miub: np.ndarray
    """Nats (step,)."""
    ce: np.ndarray
    """Of the same samples, nats per token (step,); NaN where it isn't known."""
    layers: Sequence[int]
    by_layer: np.ndarray
    """Nats (layer, step)."""
    loss_steps: np.ndarray
    losses: np.ndarray
    """Nats per token (loss step,)."""
    n_samples: int | None
    """That MIUB was measured on; None where the record doesn't say."""
    share: float
    """Of the training's time that measuring took; NaN where it isn't known."""


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
    for (name, training), look in zip(trainings.items(), marks, strict=True):
        figure.add_trace(_miub_line(name, training, look), row=1, col=1)
        figure.add_traces(list(_loss_lines(name, training, look)), rows=2, cols=1)
    apply_theme(figure, height=whole + 70)
    if only is not None and n_rows == 3:
        _add_layers(figure, only)
    last = max(int(steps.max(initial=0)) for one in trainings.values() for steps in (one.steps, one.loss_steps))
    room = max(0.02 * last, 0.5)
    figure.update_xaxes(range=[-room, last + room], **whole_ticks(0, last))
    figure.update_xaxes(title_text="optimiser steps", row=n_rows, col=1)
    figure.update_yaxes(title_text="MIUB (nat)", rangemode="tozero", exponentformat="power", nticks=5, row=1, col=1)
    figure.update_yaxes(title_text="loss, CE (nat/token)", nticks=5, row=2, col=1)
    headline(figure, "MIUB during training", *_caption(list(trainings.values()), n_rows))
    add_legend(figure, "training", list(trainings), marks, mode="lines+markers")
    return figure


def _read(name: str, record: Mapping[str, Any]) -> _Training:
    found = _of_log(record["log_history"]) if "log_history" in record else _of_finetune(record)
    if found is None:
        where = f" of {name!r}" if name else ""
        raise ValueError(
            f"the record{where} holds no MIUB; fine-tune with `miub_every`, or give the Trainer a `MiubCallback`"
        )
    return found


def _of_finetune(record: Mapping[str, Any]) -> _Training | None:
    """From `finetune.json`."""
    curve = record.get("miub")
    if not curve:
        return None
    losses = [step["loss"] for step in record["steps"]]
    return _Training(
        steps=np.array([step["step"] for step in curve["steps"]]),
        miub=_numbers(step["miub"] for step in curve["steps"]),
        ce=_numbers(step["ce"] for step in curve["steps"]),
        layers=curve["layers"],
        by_layer=np.array([step["layers"] for step in curve["steps"]], dtype=float).T,
        loss_steps=np.arange(1, len(losses) + 1),
        losses=_numbers(losses),
        n_samples=len(curve["samples"]),
        share=curve["share"],
    )


def _of_log(history: Sequence[Mapping[str, Any]]) -> _Training | None:
    """From what a Trainer logged."""
    entries = [entry for entry in history if "miub" in entry]
    if not entries:
        return None
    keys = [key for key in entries[-1] if key.startswith(LAYER)]
    losses = [entry for entry in history if "loss" in entry]
    return _Training(
        steps=np.array([entry["step"] for entry in entries]),
        miub=_numbers(entry["miub"] for entry in entries),
        ce=_numbers(entry.get("ce") for entry in entries),
        layers=[int(key.removeprefix(LAYER)) for key in keys],
        by_layer=np.array([[entry[key] for entry in entries] for key in keys], dtype=float),
        loss_steps=np.array([entry["step"] for entry in losses], dtype=int),
        losses=_numbers(entry["loss"] for entry in losses),
        n_samples=None,
        share=entries[-1].get("miub_share", np.nan),
    )


def _numbers(values: Any) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _miub_line(name: str, training: _Training, look: Look) -> go.Scatter:
    texts = [
        f"{_title(name)}step {step}: MIUB {format_number(value)} nat"
        for step, value in zip(training.steps, training.miub, strict=True)
    ]
    return go.Scatter(x=training.steps, y=training.miub, **_drawn(look, len(texts)), **hovering(name, texts))


def _loss_lines(name: str, training: _Training, look: Look) -> Iterator[go.Scatter]:
    """The loss, thin and pale, and the cross-entropy where it is known."""
    texts = [
        f"{_title(name)}step {step}: loss {format_number(value)} nat/token"
        for step, value in zip(training.loss_steps, training.losses, strict=True)
    ]
    line = {"color": look.color, "dash": look.dash, "width": 1}
    yield go.Scatter(
        x=training.loss_steps, y=training.losses, mode="lines", line=line, opacity=0.6, **hovering(name, texts)
    )
    if np.isfinite(training.ce).any():
        texts = [
            f"{_title(name)}step {step}: CE {format_number(value)} nat/token"
            for step, value in zip(training.steps, training.ce, strict=True)
        ]
        yield go.Scatter(x=training.steps, y=training.ce, **_drawn(look, len(texts)), **hovering(name, texts))


def _drawn(look: Look, n: int) -> dict[str, Any]:
    return {
        "mode": "lines+markers" if n <= N_MARKED else "lines",
        "marker": look.marker(5),
        "line": {"color": look.color, "dash": look.dash, "width": 1.5},
    }


def _title(name: str) -> str:
    return f"<b>{html.escape(name)}</b><br>" if name else ""


def _add_layers(figure: go.Figure, training: _Training) -> None:
    """A heat map in the third panel: a column a measurement, as wide as it is far from its neighbours."""
    values = training.by_layer
    is_log = bool((values > 0).any())
    shown = np.full(values.shape, np.nan)
    np.log10(values, out=shown, where=values > 0)
    low, high = ends(shown, None, is_log)
    texts = [
        [
            f"step {step}, layer {layer}: {format_number(value)} nat"
            for step, value in zip(training.steps, row, strict=True)
        ]
        for layer, row in zip(training.layers, values.tolist(), strict=True)
    ]
    heat = go.Heatmap(
        z=shown,
        x=training.steps,
        y=list(training.layers),
        text=texts,
        hovertemplate="%{text}<extra></extra>",
        colorscale=list(COLORS),
        zmin=low,
        zmax=high,
        hoverongaps=False,
        colorbar=colorbar(low, high, is_log),
    )
    figure.add_trace(heat, row=3, col=1)
    layers = (min(training.layers), max(training.layers))
    figure.update_yaxes(title_text="layer", **whole_ticks(*layers), row=3, col=1)
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
