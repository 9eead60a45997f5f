"""Samples as text, each token on a background that tells how far the adapter moved it."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from lorascope.analyze.figures.theme import COLORS
from lorascope.analyze.format import format_number
from lorascope.stores import Run
from lorascope.stores.format.tables import ROLES

from .markup import escape

__all__ = ["chosen_samples", "sample_block", "scale_legend", "scale_top", "token_color"]

MOST_TOKENS = 600
"""Tokens of a sample that are shown; a page of all would be slow to scroll."""
GAP = '<span class="gap" title="{0} tokens weren\'t captured">[{0}]</span>'
_STOPS = ("#ffffff", COLORS[1], COLORS[2], "#f16913")
_CONTROLS: dict[int, int | str] = {**{code: 0x2400 + code for code in range(32)}, 127: 0x2421, 10: "↵\n"}


def chosen_samples(qualified: xr.Dataset, n: int = 5) -> list[int]:
    """Indices of samples at even steps of rank in miub_sample, from the most moved to the least."""
    values = qualified["miub_sample"].values
    known = np.flatnonzero(qualified["used"].values & np.isfinite(values))
    ranked = known[np.argsort(-values[known], kind="stable")]
    places = np.linspace(0, len(ranked) - 1, min(n, len(ranked))).round().astype(int)
    return [int(index) for index in ranked[places]]


def scale_top(qualified: xr.Dataset) -> float:
    """Js_token at the dark end of the scale, nats: the 98th percentile, so that a few tokens don't bleach the rest."""
    values = qualified["js_token"].values
    known = values[np.isfinite(values)]
    return float(np.quantile(known, 0.98)) if len(known) else 0.0


def token_color(value: float, top: float) -> str:
    """Background of a token, #rrggbb, for a value from 0 to `top` or above; black text stays readable on it."""
    if not (top > 0 and value > 0):
        return _STOPS[0]
    place = min(value / top, 1.0) * (len(_STOPS) - 1)
    left = min(int(place), len(_STOPS) - 2)
    low, high = (bytes.fromhex(stop[1:]) for stop in _STOPS[left : left + 2])
    return "#" + "".join(f"{round(a + (b - a) * (place - left)):02x}" for a, b in zip(low, high, strict=True))


def scale_legend(top: float) -> str:
    """The colour scale with its ends in nats, and what underlining means."""
    return (
        f'<p class="legend">0 <span class="scale" style="background:linear-gradient(90deg,{",".join(_STOPS)})"></span> '
        f"{format_number(top)} nat or more &emsp; <u>underlined</u>: the answer &emsp; "
        '<span class="gap">[3]</span>: so many tokens that weren\'t captured</p>'
    )


def sample_block(run: Run, qualified: xr.Dataset, index: int, top: float) -> str:
    """One sample: its name and numbers, its tokens, and what was answered."""
    sample = run.samples.isel(sample=index)
    miub = float(qualified["miub_sample"].values[index])
    several = len(set(run.samples["prompt"].values[run.samples["answer"].values >= 0].tolist())) > 1
    names = ("dataset", "id", "prompt") if several else ("dataset", "id")
    title = " · ".join(escape(sample[name].item()) for name in names)
    return (
        f'<article class="sample"><h3>{title} <small>{format_number(miub)} nat</small></h3>'
        f'<p class="tokens">{"".join(_tokens(run, qualified, index, top))}</p>{_answers(run, index)}</article>'
    )


def _tokens(run: Run, qualified: xr.Dataset, index: int, top: float) -> Iterator[str]:
    start, stop = (int(run.samples[name].values[index]) for name in ("token_start", "token_stop"))
    expected = 0
    for token in range(start, min(stop, start + MOST_TOKENS)):
        position = int(run.tokens["position"].values[token])
        if position > expected:
            yield GAP.format(position - expected)
        expected = position + 1
        yield _token(run, qualified, token, top)
    if stop > start + MOST_TOKENS:
        yield f'<span class="gap">[{stop - start - MOST_TOKENS} more captured tokens aren\'t shown]</span>'
    elif expected < int(run.samples["length"].values[index]):
        yield GAP.format(int(run.samples["length"].values[index]) - expected)


def _token(run: Run, qualified: xr.Dataset, token: int, top: float) -> str:
    value, role = float(qualified["js_token"].values[token]), int(run.tokens["role"].values[token])
    name = ROLES[role] if 0 <= role < len(ROLES) else "no role"
    nll, position = float(run.tokens["nll"].values[token]), int(run.tokens["position"].values[token])
    title = f"position {position}, {name}: JS {format_number(value)} nat, nll {format_number(nll)} nat"
    kind = "t answer" if name in {"answer", "generated"} else "t"
    style = f"background:{token_color(value, top)}"
    text = f"[{int(run.tokens['token_id'].values[token])}]"  # where the run keeps no text
    if "text" in run.tokens:
        text = str(run.tokens["text"].values[token]).translate(_CONTROLS)
    return f'<span class="{kind}" style="{style}" title="{escape(title)}">{escape(text)}</span>'


def _answers(run: Run, index: int) -> str:
    """What is right and what was picked, of a multiple-choice sample that was scored."""
    sample = run.samples.isel(sample=index)
    texts = run.choices["text"].values[run.choices["sample"].values == index]
    answer = int(sample["answer"])
    if not 0 <= answer < len(texts):
        return ""
    parts = [f"answer “{escape(texts[answer])}”"]
    for column, words in (("prediction", "picked with the adapter"), ("base_prediction", "without")):
        picked = int(sample[column]) if column in sample else -1
        if 0 <= picked < len(texts):
            parts.append(f"{words} “{escape(texts[picked])}” {'✓' if picked == answer else '✗'}")
    return f'<p class="picked">{" · ".join(parts)}</p>'
