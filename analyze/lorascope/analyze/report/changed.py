"""Sentences on what the adapter changes in the next token: choices, tokens, forms, themes, and at which places."""

import math
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.analyze.results.holm import holm
from lorascope.analyze.results.weights import LEAST_SAMPLES

from .explain import Explanation
from .wording import LEVEL, N_NAMED, join_names, quoted, rises_and_falls, rows_of, sample_count, significant

N_TOKENS = 20
"""Most tokens that the page names, of those whose net share is significant."""
MIN_SAMPLES = 3
"""Fewest samples in which a change of the first choice occurs that a sentence names."""
N_FORMS = 2
"""Most forms that a sentence names."""
LEAST_CHANGE = 0.02
"""Least change of a form's share that a sentence names; `benchmarks/planted.py` judges by the same."""
LEAST_FALL = 0.25
"""Least fall of a letter's share, as a part of it, at which a sentence calls the letter avoided; judged alike."""
UNNAMED = ("script latin", "special token", "word")
"""Forms that no sentence names, since tokens and other forms say it better."""
LEAST_RATIO = 2.0
"""Least ratio of the KL after a word to that without it at which a sentence names the word."""


def named_tokens(changes: xr.DataTree) -> xr.Dataset:
    """Return the tokens that the page names: the first 20 by |net| of those with p up to 0.05."""
    return significant(changes["tokens"].to_dataset()).isel(token_id=slice(N_TOKENS))


def answer_what_changed(explanation: Explanation) -> str:
    """Return sentences (plain text) on how far next tokens change, and which first choices, tokens, forms, themes."""
    changes = explanation.changes
    if changes is None:
        return f"Can't tell what changed, since {explanation.reasons['changes']}."
    sentences = (_choice_sentences(changes), _token_sentence(changes), *_form_sentences(changes))
    return " ".join(filter(None, sentences))


def _choice_sentences(changes: xr.DataTree) -> str:
    """Return sentences on how far predictions change, how many first choices do, and which of them change most.

    KL in nats says by how much less probable, in the geometric mean, predictions of the adapted model are for the base.
    """
    kl, error, n = (changes.attrs[name] for name in ("kl_adapted_base", "kl_adapted_base_se", "n_tokens"))
    choices = changes["choices"].to_dataset()
    n_changed = int(choices["count"].sum())
    doubt = "" if kl > 2 * error else "Can't tell whether predictions change. "
    text = (
        f"{doubt}Its predictions were {format_percent(-math.expm1(-kl))} less probable without the "
        f"adapter (Kullback-Leibler divergence {format_error(kl, error)} nat; {n} tokens of "
        f"{sample_count(changes.attrs['n_samples'])}); the first choice changes at {format_percent(n_changed / n)} of "
        "places."
    )
    known = choices.isel(change=(choices["n_samples"] >= MIN_SAMPLES).values).sortby("share", ascending=False)
    if known.sizes["change"]:
        return f"{text} Largest change: {'; '.join(map(_describe_choice, rows_of(known)[:2]))}."
    few = f" Can't tell which changes are habits: each occurs in fewer than {MIN_SAMPLES} samples."
    return f"{text}{few if n_changed else ''}"


def _describe_choice(row: Any) -> str:
    """Return a clause on a changed first choice, after the text before it if most of its places share that."""
    if 2 * row.after_count <= row.count:
        return f"{quoted(row.base)} becomes {quoted(row.adapted)} ({row.count} of {row.of} places)"
    start = f"after {quoted(row.after)}, {quoted(row.base)} becomes"
    if row.after_changed == row.after_count:
        return f"{start} {quoted(row.adapted)} ({row.after_count} of {row.after_of} places)"
    others = f"{row.after_changed} of {row.after_of}"
    return f"{start} another token ({others}), most often {quoted(row.adapted)} ({row.after_count})"


def _token_sentence(changes: xr.DataTree) -> str:
    """Return a sentence on the tokens that gain and lose most, or that none does significantly."""
    claim = rises_and_falls(
        rows_of(named_tokens(changes)),
        lambda row: float(row.net),
        lambda row: f"{quoted(row.text)} {format_percent(abs(row.net))}",
        ("gain most:", "lose most:"),
    )
    n = changes["tokens"].sizes["token_id"]
    if not claim:
        return f"Can't tell which tokens gain or lose: none of {n} does significantly."
    return f"{claim} (of the change; t test corrected for {n} tokens)."


def _form_sentences(changes: xr.DataTree) -> tuple[str, str]:
    """Return a sentence on forms that become more or less frequent, and one on tokens that gain together."""
    forms = changes["forms"].to_dataset()
    claim = rises_and_falls(
        notable_forms(forms)[:N_FORMS],
        lambda row: float(row.difference),
        _describe_form,
        ("more often:", "less often:"),
    )
    groups = (
        f"{quoted(*[token for token in row.tokens if token][:N_NAMED])} ({format_percent(row.share)} of the change)"
        for row in rows_of(changes["themes"].to_dataset())[:2]
    )
    together = "; ".join(groups)
    return (
        claim and f"{claim} (t test corrected for {forms.sizes['form']} forms).",
        together and f"Tokens that gain together, in both halves of the samples: {together}.",
    )


def _describe_form(row: Any) -> str:
    """Return the name of a form with its shares without and with the adapter."""
    name = row.form.replace("language ", "common words of ").replace("letter ", "words with the letter ")
    return f"{name} ({100 * row.base_share:.1f} to {format_percent(row.adapted_share)})"


def notable_forms(forms: xr.Dataset) -> list[Any]:
    """Return the significant forms whose share changes by two points or more, the largest change first.

    A letter is one if it loses a quarter of its share or more and no form loses more, as its words would. Languages
    share words, so of them only the one with most words is, with the adapter if it gains, without it if it loses.
    """
    rows = rows_of(significant(forms).sortby("difference"))
    languages = [row for row in rows_of(forms) if row.form.startswith("language ")]

    def is_notable(row: Any) -> bool:
        """Return whether a sentence may name a form."""
        if row.form.startswith("letter "):
            return row is rows[0] and bool(-row.difference >= LEAST_FALL * row.base_share)
        if row.form.startswith("language "):
            side = "adapted_share" if row.difference > 0 else "base_share"
            return bool(getattr(row, side) == max(getattr(other, side) for other in languages))
        return row.form not in UNNAMED

    notable = [row for row in rows if abs(row.difference) >= LEAST_CHANGE and is_notable(row)]
    return sorted(notable, key=lambda row: -abs(row.difference))


def answer_where_it_changes(changes: xr.DataTree) -> str:
    """Return sentences (plain text) on the places after which predictions change most, and on words before them."""
    mean, names = changes.attrs["kl_adapted_base"], list[str]()
    for node, most in (("previous", 1), ("roles", 1)):
        for row in _above(changes[node].to_dataset(), mean)[:most]:
            what = quoted(row.previous) if node == "previous" else f"tokens of the {row.role}"
            unit, places = ("", "") if names else (" nat", " places")
            names.append(f"{what} ({format_error(row.kl, row.kl_se)}{unit}, {row.n}{places})")
    text = "Can't tell after which tokens predictions change most: none is significantly above the mean."
    if names:
        text = f"Predictions change more than average after {join_names(names)} (t test, corrected)."
    return f"{text} {_word_sentence(changes['words'].to_dataset())}".strip()


def _word_sentence(words: xr.Dataset) -> str:
    """Return a sentence on the words after which predictions change at least twice as much, or no text."""
    rows = [row for row in rows_of(significant(words)) if row.kl >= LEAST_RATIO * row.kl_without]
    named = (
        f"{quoted(row.word)} ({format_error(row.kl, row.kl_se)} nat, {format_number(row.kl_without)} nat in samples "
        f"without it; {row.n_samples} samples)"
        for row in sorted(rows, key=lambda row: row.kl_without - row.kl)[:2]
    )
    if rows:
        test = f"Mann-Whitney's test corrected for {words.sizes['word']} words"
        return f"They change at least twice as much in samples with the word {' or '.join(named)} before ({test})."
    return ""


def _above(part: xr.Dataset, mean: float) -> list[Any]:
    """Return the groups of places whose KL is significantly above the mean: t test over samples, Holm's correction."""
    from scipy.special import stdtr  # type: ignore[import-untyped]  # scipy.stats takes a quarter of a second more

    n_samples = part["n_samples"].values
    with np.errstate(invalid="ignore", divide="ignore"):
        t = ((part["kl"] - mean) / part["kl_se"]).values
    p = holm(np.where(n_samples >= LEAST_SAMPLES, stdtr(np.maximum(n_samples - 1, 1), -t), np.nan))
    return rows_of(part.isel({part["kl"].dims[0]: p <= LEVEL}))
