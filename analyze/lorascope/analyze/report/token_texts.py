"""The section of the page that shows samples as text, each token coloured by its js."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from lorascope.analyze.results.format import format_number
from lorascope.stores import Run
from lorascope.stores.format.tables import ROLES
from lorascope.stores.visible import visible

from .markup import escape

MOST_TOKENS = 600
"""Tokens of a sample that are shown at once; a page of all would be slow to scroll."""
UNDERLINED = frozenset({"answer", "generated", "assistant"})
"""Roles of what the model is to say."""
SPEAKERS = frozenset({"system", "user", "assistant", "tool"})
"""Roles of a chat that are named where they begin."""
GAP = '<span class="gap" title="{0} tokens weren\'t captured">[{0}]</span>'
_CONTROLS: dict[int, int | str] = {**{code: 0x2400 + code for code in range(32)}, 127: 0x2421, 10: "↵\n"}


def token_strings(run: Run) -> list[str]:
    """Text of each token as a page shows it: control characters visible; its id where the run keeps no text."""
    if "text" not in run.tokens:
        return [f"[{number}]" for number in run.tokens["token_id"].values.tolist()]
    texts = run.tokens["text"].values.tolist()
    known = {text: visible(str(text).translate(_CONTROLS)) for text in set(texts)}
    return [known[text] for text in texts]


def sample_titles(run: Run) -> list[str]:
    """Data set and id of each sample, and its prompt where the run has several."""
    samples = run.samples
    several = len(set(samples["prompt"].values[samples["answer"].values >= 0].tolist())) > 1
    names = ("dataset", "id", "prompt") if several else ("dataset", "id")
    return [" · ".join(row) for row in zip(*(samples[name].values.astype(str) for name in names), strict=True)]


def answer_text(run: Run, index: int) -> str:
    """What is right and what was picked, of a multiple-choice sample that was scored."""
    texts = run.choices["text"].values[run.choices["sample"].values == index]
    answer = int(run.samples["answer"].values[index])
    if not 0 <= answer < len(texts):
        return ""
    parts = [f"answer “{texts[answer]}”"]
    for column, words in (("prediction", "picked with the adapter"), ("base_prediction", "without")):
        picked = int(run.samples[column].values[index]) if column in run.samples else -1
        if 0 <= picked < len(texts):
            parts.append(f"{words} “{texts[picked]}” {'✓' if picked == answer else '✗'}")
    return " · ".join(parts)


def strongest(qualified: xr.DataTree) -> float:
    """The js from which on tokens have the strongest colour: a few of them shouldn't bleach the rest."""
    values = qualified.children["tokens"].dataset["miub"].values
    known = values[np.isfinite(values)]
    return float(np.quantile(known, 0.98)) if len(known) else 0.0


def chosen_samples(qualified: xr.DataTree, n: int = 5) -> list[int]:
    """Indices of samples at even steps of rank in samples/miub, from the most moved to the least."""
    by_sample = qualified.children["samples"].dataset
    values = by_sample["miub"].values
    known = np.flatnonzero(by_sample["used"].values & np.isfinite(values))
    ranked = known[np.argsort(-values[known], kind="stable")]
    places = np.linspace(0, len(ranked) - 1, min(n, len(ranked))).round().astype(int)
    return [int(index) for index in ranked[places]]


def heat(value: float, top: float) -> int:
    """How strongly a token is coloured, in percent, for a value from 0 to `top` or above."""
    return round(100 * min(value / top, 1.0)) if top > 0 and value > 0 else 0


def legend(run: Run, top: float) -> str:
    """What colours and marks mean; HTML."""
    there = {ROLES[number] for number in np.unique(run.tokens["role"].values).tolist() if 0 <= number < len(ROLES)}
    said = " or ".join(name for name in ROLES if name in there & UNDERLINED)
    n_read = int(run.samples["length"].sum())
    marks = [
        f'0 <span class="scale"></span> <span id="texts-top">{format_number(top)}</span> nat or more',
        f"<u>underlined</u>: {escape(said)}" if said else "",
        '<span class="role">user</span> who speaks' if there & SPEAKERS else "",
        '<span class="template">small</span>: the chat template\'s' if "template" in there else "",
        '<span class="gap">[3]</span>: so many tokens that weren\'t captured' if run.n_tokens < n_read else "",
    ]
    return f'<p class="legend">{" &emsp; ".join(filter(None, marks))}</p>'


def sample_block(run: Run, qualified: xr.DataTree, index: int, top: float, texts: list[str]) -> str:
    """One sample: its name and number, its tokens, and what was answered; HTML."""
    miub = format_number(float(qualified.children["samples"].dataset["miub"].values[index]))
    answers = answer_text(run, index)
    below = f'<p class="picked">{escape(answers)}</p>' if answers else ""
    return (
        f'<article class="sample"><h3>{escape(sample_titles(run)[index])} <small>MIUB {miub} nat</small></h3>'
        f'<p class="tokens">{"".join(_tokens(run, qualified, index, top, texts))}</p>{below}</article>'
    )


def _tokens(run: Run, qualified: xr.DataTree, index: int, top: float, texts: list[str]) -> Iterator[str]:
    start, stop = (int(run.samples[name].values[index]) for name in ("token_start", "token_stop"))
    columns = [run.tokens[name].values for name in ("position", "role", "nll")]
    expected, before, js = 0, "", qualified.children["tokens"].dataset["miub"].values
    for token in range(start, min(stop, start + MOST_TOKENS)):
        position, number, nll = (column[token] for column in columns)
        role = ROLES[number] if 0 <= number < len(ROLES) else "no role"
        if position > expected:
            yield GAP.format(position - expected)
        if role in SPEAKERS and role != before:
            yield f'<span class="role">{role}</span>'
        expected, before, value = int(position) + 1, role, float(js[token])
        title = f"position {position}, {role}: JS {format_number(value)} nat, nll {format_number(float(nll))} nat"
        marks = f"t{' answer' if role in UNDERLINED else ''}{' template' if role == 'template' else ''}"
        style = f"--js:{heat(value, top)}%"
        yield f'<span class="{marks}" style="{style}" title="{escape(title)}">{escape(texts[token])}</span>'
    if stop > start + MOST_TOKENS:
        yield f'<span class="gap">[{stop - start - MOST_TOKENS} more captured tokens aren\'t shown]</span>'
    elif expected < int(run.samples["length"].values[index]):
        yield GAP.format(int(run.samples["length"].values[index]) - expected)
