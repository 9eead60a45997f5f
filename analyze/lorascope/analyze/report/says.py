"""Sentences and section on what the adapter makes the model say: replies to short prompts, and words that differ."""

import os.path
import re
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.changes.languages import COMMONEST_WORDS
from lorascope.analyze.changes.reply_words import by_scale, reply_lengths
from lorascope.analyze.results.format import format_change, format_number, format_percent
from lorascope.stores import Run

from .explain import Explanation
from .markup import Html, escape, folded, section, table, table_of
from .wording import N_NAMED, quoted, rises_and_falls, rows_of, significant

NOTHING = "∎"
"""Mark where a reply ends and the other goes on."""
MOST_CHARACTERS = 48
"""Most characters of each reply of the pair that a sentence shows."""
HEADINGS = ("without the adapter", "with it", "at 1.5 times its scale", "at 2 times")
"""Scale of replies, by their place in `REPLY_SCALES`, as a column's heading."""
COMMON_WORDS = {word for words in COMMONEST_WORDS.values() for word in words.split()}
"""Words that a sentence names last."""
N_PROMPTS = 5
"""Most prompts whose replies are shown without a click."""


def answer_what_it_says(run: Run, explanation: Explanation) -> str:
    """Return sentences (plain text) on how replies change in length, end and words, and the pair that parts most."""
    words, adapter = explanation.replies, explanation.qualified.attrs["adapter"]
    if words is None:
        return f"Can't tell, since {explanation.reasons['replies']}."
    lengths, replies = reply_lengths(run, adapter=adapter), by_scale(run.replies(adapter))
    tokens, ends = (lengths.sel(measure=measure, scale=[0, 1]) for measure in ("n_tokens", "is_complete"))
    change, error = (float(tokens[name][1]) for name in ("difference", "difference_se"))
    verb = "stay about as long" if not abs(change) > 2 * error else "get shorter" if change < 0 else "get longer"
    before, after = map(format_number, tokens["mean"].values)
    ended, end = map(format_percent, ends["mean"].values)
    is_other = abs(float(ends["difference"][1])) > 2 * float(ends["difference_se"][1])
    end_clause = f"; {end} end by themselves, not {ended}" if is_other else ""
    named = sorted(rows_of(significant(words)), key=lambda row: (row.word in COMMON_WORDS, row.kind != "word", row.p))
    at_own_scale = [row for row in named if row.scale == 1]
    amplified = [row for row in named if row.scale > 1 and row.adapted > row.base][:N_NAMED]
    claim = rises_and_falls(
        at_own_scale, lambda row: float(row.adapted - row.base), _describe_word, ("more have", "fewer have")
    )
    difference = f". {claim}" if claim else "; no word differs significantly"
    if amplified:
        difference += f"; at 1.5 or 2 times its scale more have {', '.join(map(_describe_word, amplified))}"
    pair = replies.isel(prompt=int(_gains(replies)[:, 1].argmax()))
    base, adapted = pair["text"].sel(scale=[0, 1]).values.tolist()
    prompt, base, adapted = (
        f"“{shorten(text, MOST_CHARACTERS, placeholder=' …')}”"
        for text in (pair["prompt"].item(), _from_parting(base, adapted), _from_parting(adapted, base))
    )
    return (
        f"Replies to {words.attrs['n_prompts']} prompts {verb} ({after} tokens of at most 40, not {before}; change "
        f"{format_change(change, error)}){end_clause}{difference} (McNemar's test corrected for "
        f"{words.attrs['n_tests']}). To {prompt} the base replies {base}, the adapted model {adapted}."
    )


def _describe_word(row: Any) -> str:
    """Return a word with the numbers of replies that have it with the adapter and without it."""
    return f"{quoted(row.word)} ({row.adapted}, not {row.base})"


def _from_parting(text: str, other: str) -> str:
    """Return a text from the first word that differs from another text on, after an ellipsis if any is cut."""
    start, _ = _parting(text, other)
    return f"… {text[start:]}" if start else text


def what_it_says_section(run: Run, explanation: Explanation) -> str:
    """Return the HTML section with an adapter's replies to short prompts and the base's; empty without replies."""
    if explanation.replies is None:
        return ""
    replies = by_scale(run.replies(explanation.qualified.attrs["adapter"]))
    order = np.argsort(-_gains(replies)[:, 1], kind="stable")
    about = (
        f"Replies to {replies.sizes['prompt']} prompts, always by the likeliest next token and at most 40 of them; "
        "first those that the adapter makes likelier most. A mark: where they part. Likelier by: log-likelihood of the "
        "adapted reply with the adapter minus that without it, per token."
    )
    more = (
        f"Replies to {len(order)} prompts, also with the adapter at 1.5 and 2 times its scale, where a weak habit shows"
    )
    return section(
        "says",
        "What it says",
        _replies_table(replies.isel(prompt=order[:N_PROMPTS]), HEADINGS[:2], about),
        _words_table(explanation.replies),
        folded("all-replies", more, _replies_table(replies.isel(prompt=order), HEADINGS)),
    )


def _gains(replies: xr.Dataset) -> np.ndarray:
    """Return how much likelier the adapter makes each reply (prompt, scale): log-likelihoods' difference per token."""
    return ((replies["loglik_1"] - replies["loglik_0"]) / replies["n_tokens"].clip(min=1)).values


def _words_table(words: xr.Dataset) -> str:
    """Return the HTML of a table of words and signs that significantly more or fewer adapted replies have."""
    rows = rows_of(significant(words))
    if not rows:
        return "<p>No word or sign is in significantly more or fewer replies with the adapter, at any scale.</p>"
    caption = (
        f"Words and signs that significantly more or fewer of the {words.attrs['n_prompts']} replies have with the "
        "adapter, smallest p first, at the smallest of the scales 1, 1.5 and 2 at which they do (McNemar's exact test, "
        f"corrected for {words.attrs['n_tests']} words and scales)."
    )
    columns = {
        "reply has": lambda row: row.word if row.kind == "repeated" else f"{row.word} ({row.kind})",
        "without the adapter": lambda row: row.base,
        "with it": lambda row: row.adapted,
        "at scale": lambda row: f"{row.scale:g}",
        "p": lambda row: format_number(row.p, digits=2),
    }
    return table_of(rows, columns, caption=caption)


def _replies_table(replies: xr.Dataset, headings: Sequence[str], caption: str = "") -> str:
    """Return the HTML of a table of prompts and replies at the first of `REPLY_SCALES`, a heading each."""
    rows = [
        (
            prompt,
            *(Html(_marked(texts[place], texts[0 if place else 1])) for place in range(len(headings))),
            format_number(gain[1], digits=2),
        )
        for prompt, texts, gain in zip(replies["prompt"].values, replies["text"].values, _gains(replies), strict=True)
    ]
    return table(["prompt", *headings, "likelier by (nat)"], rows, caption=caption)


def _marked(text: str, other: str) -> str:
    """Return the HTML of a reply with a mark on the first word that differs from another reply."""
    if text == other:
        return f'<span class="same">{escape(text)}</span>'
    start, stop = _parting(text, other)
    mark = escape(text[start:stop] or NOTHING)
    return f'<span class="same">{escape(text[:start])}</span><mark>{mark}</mark>{escape(text[stop:])}'


def _parting(text: str, other: str) -> tuple[int, int]:
    """Return where the first word of a text that differs from another text's begins and ends."""
    n = len(os.path.commonprefix([text, other]))  # noqa: RUF071  # of texts, not of paths
    start = max((match.end() for match in re.finditer(r"\s", text[:n])), default=0)
    if all(not reply[n : n + 1].strip() for reply in (text, other)):  # whole words are equal so far
        start = n + len(text[n:]) - len(text[n:].lstrip())
    return start, start + len(re.split(r"\s", text[start:], maxsplit=1)[0])
