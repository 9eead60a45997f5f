"""Section with the text of the samples of largest MIUB (summed JS); colours show the JS of each token."""

import shlex
from collections.abc import Iterator

import numpy as np
import xarray as xr

from lorascope.analyze.results.format import format_number
from lorascope.analyze.results.largest import largest_places
from lorascope.stores import Run
from lorascope.stores.format.tables import ROLES
from lorascope.stores.visible import visible

from .markup import escape, section

N_SAMPLES = 10
"""Number of samples that are shown as text."""
MOST_TOKENS = 200
"""Most tokens of a sample that are shown; `lorascope view` shows the others."""
UNDERLINED = frozenset({"answer", "generated", "assistant"})
"""Roles of tokens that the model should produce."""
SPEAKERS = frozenset({"system", "user", "assistant", "tool"})
"""Roles of a chat, whose name is shown where they begin."""
_CONTROLS: dict[int, int | str] = {**{code: 0x2400 + code for code in range(32)}, 127: 0x2421, 10: "↵\n"}
"""Control character -> the character shown in its place."""


def samples_section(run: Run, result: xr.DataTree, view_page: str | None) -> str:
    """Return the HTML section with the samples of largest MIUB (summed JS), as coloured text.

    Parameters
    ----------
    run, result
        A run, and the result of `qualify`.
    view_page
        Address of the page of `lorascope view`, to which samples link; None if there is no such page.
    """
    shown = most_changed_samples(result)
    top = strongest_colour_js(result)
    blocks = "".join(_sample_html(run, result, index, top, view_page) for index in shown)
    n = int(result.children["samples"].dataset["used"].sum())
    viewer = f'<code class="command">lorascope view {escape(shlex.quote(str(run.path)))}</code> shows'
    if view_page is not None:
        viewer = f'<a href="{escape(view_page)}">The page of lorascope view</a> shows'
    about = (
        f"<p>The {len(shown)} samples with the largest MIUB, of {n}. A token's colour shows its JS, "
        "summed over components; the strongest colour is the 98th percentile over all captured tokens. Hover over a "
        f"token for its numbers. {viewer} all samples, token by token and layer by layer.</p>"
    )
    return section("samples", "Samples that changed most", about, _legend_html(run, top), blocks)


def most_changed_samples(result: xr.DataTree) -> list[int]:
    """Return the indices of the samples with the largest MIUB, at most `N_SAMPLES`, in descending order."""
    by_sample = result.children["samples"].dataset
    miub = np.where(by_sample["used"].values, by_sample["miub"].values, np.nan)
    return [int(index) for index in largest_places(miub, N_SAMPLES) if np.isfinite(miub[index])]


def strongest_colour_js(result: xr.DataTree) -> float:
    """Return the JS from which on tokens have the strongest colour, the 98th percentile over captured tokens.

    A few large values shouldn't make all others pale.
    """
    js = result.children["tokens"].dataset["miub"].values
    finite = js[np.isfinite(js)]
    return float(np.quantile(finite, 0.98)) if len(finite) else 0.0


def _legend_html(run: Run, top: float) -> str:
    """Return HTML that explains the colours and marks of the samples' text."""
    roles = {ROLES[number] for number in np.unique(run.tokens["role"].values).tolist() if 0 <= number < len(ROLES)}
    underlined = " or ".join(name for name in ROLES if name in roles & UNDERLINED)
    marks = [
        f'0 <span class="scale"></span> {format_number(top)} nat or more',
        f"<u>underlined</u>: {escape(underlined)}" if underlined else "",
        '<span class="role">user</span> who speaks' if roles & SPEAKERS else "",
        '<span class="template">small</span>: the chat template\'s' if "template" in roles else "",
        '<span class="gap">[3]</span>: number of tokens that weren\'t captured'
        if run.n_tokens < int(run.samples["length"].sum())
        else "",
    ]
    return f'<p class="legend">{" &emsp; ".join(filter(None, marks))}</p>'


def _sample_html(run: Run, result: xr.DataTree, index: int, top: float, view_page: str | None) -> str:
    """Return the HTML of one sample: its name and MIUB, its tokens, and the right and given answers."""
    several = len(set(run.samples["prompt"].values[run.samples["answer"].values >= 0].tolist())) > 1
    keys = ("dataset", "id", "prompt") if several else ("dataset", "id")
    title = escape(" · ".join(str(run.samples[key].values[index]) for key in keys))
    if view_page is not None:
        address = f"{view_page}{'&' if '#' in view_page else '#'}sample={index}"
        title = f'<a href="{escape(address)}">{title}</a>'
    miub = format_number(float(result.children["samples"].dataset["miub"].values[index]))
    answers = _answers_text(run, index)
    below = f'<p class="picked">{escape(answers)}</p>' if answers else ""
    tokens = "".join(_tokens_html(run, result, index, top))
    return (
        f'<article class="sample"><h3>{title} <small>MIUB {miub} nat</small></h3>'
        f'<p class="tokens">{tokens}</p>{below}</article>'
    )


def _answers_text(run: Run, index: int) -> str:
    """Return the right and picked answers of a scored multiple-choice sample as text; empty for other samples."""
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


def _tokens_html(run: Run, result: xr.DataTree, index: int, top: float) -> Iterator[str]:
    """Yield HTML of a sample's tokens as coloured text, and of the gaps between captured tokens."""
    start, stop = (int(run.samples[name].values[index]) for name in ("token_start", "token_stop"))
    names = ("position", "role", "nll", "text" if "text" in run.tokens else "token_id")
    columns = [run.tokens[name].values for name in names]
    next_position, before, js = 0, "", result.children["tokens"].dataset["miub"].values
    for token in range(start, min(stop, start + MOST_TOKENS)):
        position, number, nll, text = (column[token] for column in columns)
        role = ROLES[number] if 0 <= number < len(ROLES) else "no role"
        if position > next_position:
            yield _gap_html(position - next_position)
        if role in SPEAKERS and role != before:
            yield f'<span class="role">{role}</span>'
        next_position, before, value = int(position) + 1, role, float(js[token])
        title = f"position {position}, {role}: JS {format_number(value)} nat, nll {format_number(float(nll))} nat"
        marks = f"t{' answer' if role in UNDERLINED else ''}{' template' if role == 'template' else ''}"
        style = f"--js:{colour_percent(value, top)}%"
        yield f'<span class="{marks}" style="{style}" title="{escape(title)}">{escape(_token_text(text))}</span>'
    if stop > start + MOST_TOKENS:
        yield f'<span class="gap">[{stop - start - MOST_TOKENS} more captured tokens]</span>'
    elif next_position < int(run.samples["length"].values[index]):
        yield _gap_html(int(run.samples["length"].values[index]) - next_position)


def _token_text(token: object) -> str:
    """Return a token's text with visible control characters, or its id if the run keeps no text."""
    return visible(token.translate(_CONTROLS)) if isinstance(token, str) else f"[{token}]"


def colour_percent(value: float, top: float) -> int:
    """Return the strength of a token's colour in percent, for a value from 0 to `top` or above."""
    return round(100 * min(value / top, 1.0)) if top > 0 and value > 0 else 0


def _gap_html(n: int) -> str:
    """Return HTML that stands for n tokens that weren't captured."""
    return f'<span class="gap" title="{n} tokens weren\'t captured">[{n}]</span>'
