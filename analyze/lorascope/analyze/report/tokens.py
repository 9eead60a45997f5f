"""The sections of the page about samples and tokens: how js spreads over them, and a few of them as text."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from lorascope.analyze.figures import position_figure, sample_figure
from lorascope.analyze.figures.theme import COLORS
from lorascope.analyze.format import format_number
from lorascope.analyze.weights import weighted_mean
from lorascope.stores import Run
from lorascope.stores.format.tables import ROLES

from .markup import escape, figure, section, table

MOST_TOKENS = 600
"""Tokens of a sample that are shown; a page of all would be slow to scroll."""
GAP = '<span class="gap" title="{0} tokens weren\'t captured">[{0}]</span>'
_STOPS = ("#ffffff", COLORS[1], COLORS[2], "#f16913")
_CONTROLS: dict[int, int | str] = {**{code: 0x2400 + code for code in range(32)}, 127: 0x2421, 10: "↵\n"}


def across_samples(qualified: xr.DataTree) -> str:
    """How MIUB spreads over samples."""
    by_sample = qualified.children["samples"].dataset
    values = by_sample["miub"].values[by_sample["used"].values]
    low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
    caption = (
        f"MIUB by sample in nats (n = {len(values)}): median {format_number(median)}, and 10 to 90 % of the samples "
        f"lie from {format_number(low)} to {format_number(high)}. Each point above is a sample."
    )
    return section(
        "samples", "Across samples", figure("sample-spread", sample_figure(qualified, titled=False), caption)
    )


def across_tokens(run: Run, qualified: xr.DataTree) -> str:
    """How the js of a token goes along the sequence and, where there is one, about the answer's start; and by role."""
    parts = [
        figure(
            "positions",
            position_figure(qualified),
            "JS of a token in nats, summed over components, by its position from the start of the sequence. Grey bars: "
            "captured tokens at that position, on which line and bands rest.",
        )
    ]
    by_token = qualified.children["tokens"].dataset
    what = "first generated token" if _is_generated(run) else "answer's first token"
    origin = _answer_starts(run)[by_token["sample_of_token"].values]
    if np.isfinite(origin).any():
        plot = position_figure(qualified, origin=origin, label=f"position from the {what}")
        caption = f"As before, counted from the {what}: the model predicts that token at -1 and reads it at 0."
        parts.append(figure("answer-positions", plot, caption))
    values, roles, weights = (by_token[name].values for name in ("miub", "role", "weight"))
    found = [(name, (roles == name) & np.isfinite(values)) for name in ROLES]
    rows = [(name, k.sum(), format_number(weighted_mean(values[k], weights[k]))) for name, k in found if k.any()]
    caption = "JS summed over components, mean over tokens."
    means = table(("role of the token", "tokens", "mean JS (nat)"), rows, caption=caption)
    return section("tokens", "Across tokens", f'<div class="pair">{"".join(parts)}</div>', means)


def _is_generated(run: Run) -> bool:
    """Whether what follows the prompts is the model's own text instead of the right answers."""
    return bool(run.attributes.get("provenance", {}).get("settings", {}).get("generate"))


def _answer_starts(run: Run) -> np.ndarray:
    """Position of the first token after the prompt, float64 (sample,); NaN where there is none or it isn't known."""
    answers = run.samples["answer"].values
    start = np.full(len(answers), np.nan)
    if not _is_generated(run):
        for index in np.flatnonzero(answers >= 0):
            n_tokens = run.choices["n_tokens"].values[run.choices["sample"].values == index]
            start[index] = run.samples["length"].values[index] - n_tokens[answers[index]]
    elif run.attributes["provenance"]["settings"].get("tokens") in {"all", "generated"}:  # all of them were captured
        generated = run.tokens["role"].values == ROLES.index("generated")
        np.fmin.at(start, run.tokens["sample"].values[generated], run.tokens["position"].values[generated])
    return start


def token_texts(run: Run, qualified: xr.DataTree) -> str:
    """A few samples as text, coloured."""
    values, chosen = qualified.children["tokens"].dataset["miub"].values, chosen_samples(qualified)
    known = values[np.isfinite(values)]
    top = float(np.quantile(known, 0.98)) if len(known) else 0.0  # a few tokens shouldn't bleach the rest
    text = (
        f"<p>{len(chosen)} of {qualified.attrs['n_samples']} samples, at even steps from the most moved to the "
        "least. A token's colour is its JS summed over components; hover over it for the number. The dark end is "
        "the 98th percentile over all captured tokens.</p>"
    )
    legend = (
        f'<p class="legend">0 <span class="scale" style="background:linear-gradient(90deg,{",".join(_STOPS)})"></span> '
        f"{format_number(top)} nat or more &emsp; <u>underlined</u>: the answer &emsp; "
        '<span class="gap">[3]</span>: so many tokens that weren\'t captured</p>'
    )
    blocks = "".join(_sample_block(run, qualified, index, top) for index in chosen)
    return section("texts", "Token by token", text, legend, blocks)


def chosen_samples(qualified: xr.DataTree, n: int = 5) -> list[int]:
    """Indices of samples at even steps of rank in samples/miub, from the most moved to the least."""
    by_sample = qualified.children["samples"].dataset
    values = by_sample["miub"].values
    known = np.flatnonzero(by_sample["used"].values & np.isfinite(values))
    ranked = known[np.argsort(-values[known], kind="stable")]
    places = np.linspace(0, len(ranked) - 1, min(n, len(ranked))).round().astype(int)
    return [int(index) for index in ranked[places]]


def token_color(value: float, top: float) -> str:
    """Background of a token, #rrggbb, for a value from 0 to `top` or above; black text stays readable on it."""
    if not (top > 0 and value > 0):
        return _STOPS[0]
    place = min(value / top, 1.0) * (len(_STOPS) - 1)
    left = min(int(place), len(_STOPS) - 2)
    low, high = (bytes.fromhex(stop[1:]) for stop in _STOPS[left : left + 2])
    return "#" + "".join(f"{round(a + (b - a) * (place - left)):02x}" for a, b in zip(low, high, strict=True))


def _sample_block(run: Run, qualified: xr.DataTree, index: int, top: float) -> str:
    """One sample: its name and numbers, its tokens, and what was answered."""
    sample = run.samples.isel(sample=index)
    miub = float(qualified.children["samples"].dataset["miub"].values[index])
    several = len(set(run.samples["prompt"].values[run.samples["answer"].values >= 0].tolist())) > 1
    names = ("dataset", "id", "prompt") if several else ("dataset", "id")
    title = " · ".join(escape(sample[name].item()) for name in names)
    return (
        f'<article class="sample"><h3>{title} <small>{format_number(miub)} nat</small></h3>'
        f'<p class="tokens">{"".join(_tokens(run, qualified, index, top))}</p>{_answers(run, index)}</article>'
    )


def _tokens(run: Run, qualified: xr.DataTree, index: int, top: float) -> Iterator[str]:
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


def _token(run: Run, qualified: xr.DataTree, token: int, top: float) -> str:
    value, role = (
        float(qualified.children["tokens"].dataset["miub"].values[token]),
        int(run.tokens["role"].values[token]),
    )
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
