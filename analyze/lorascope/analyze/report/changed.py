"""Sentences on what the adapter changes in the next token: choices, tokens, places, forms and themes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from lorascope.analyze.measuring.sources import captured_measure
from lorascope.analyze.results.format import format_error, format_number, format_percent
from lorascope.analyze.results.holm import holm
from lorascope.analyze.results.weights import token_weights, weighted_mean
from lorascope.stores import Run

from .explain import Explanation
from .learned import LEVEL, quoted
from .matters import describe_kl
from .where_it_acts import join_names, sample_count

N_TOKENS = 20
"""Most tokens that the page names, of those whose net share is significant."""
N_NAMED = 3
"""Most tokens, forms or words that a sentence names."""
MIN_SAMPLES = 3
"""Fewest samples in which a change of the first choice occurs that a sentence names."""
CHOICE = ("base", "adapted", "count", "of", "after", "after_count", "after_of", "after_changed")
"""Variables of a changed first choice."""


def named_tokens(changes: xr.DataTree) -> xr.Dataset:
    """Return the tokens that the page names: the first 20 by |net| of those with p up to 0.05."""
    return significant(changes["tokens"].to_dataset()).isel(token_id=slice(N_TOKENS))


def significant(node: xr.Dataset) -> xr.Dataset:
    """Return the entries of a node of `changes` with p up to 0.05, which are what the page names."""
    return node.isel({node["p"].dims[0]: (node["p"] <= LEVEL).values})


def answer_what_changed(run: Run, explanation: Explanation) -> str:
    """Return sentences (plain text) on how much next tokens change, which first choices do, and which tokens gain."""
    changes = explanation.changes
    if changes is None:
        return f"{_overall_sentence(run, explanation)}Can't tell what changed, since {explanation.reasons['changes']}."
    kl, error, n = (changes.attrs[name] for name in ("kl", "kl_se", "n_tokens"))
    sentences = [
        f"{_capitalised(describe_kl(kl))} (Kullback-Leibler divergence, KL: {format_error(kl, error)} nat over {n} "
        f"places of {sample_count(changes.attrs['n_samples'])})."
    ]
    if not kl > 2 * error:
        sentences[0] = f"Can't tell whether predictions of the next token change: {sentences[0]}"
    choices = changes["choices"].to_dataset()
    n_changed = int(choices["count"].sum())
    known = choices.isel(change=(choices["n_samples"] >= MIN_SAMPLES).values)
    sentences.append(f"The first choice is another one at {format_percent(n_changed / n)} of the places ({n_changed}).")
    if known.sizes["change"]:
        examples = map(_describe_choice, rows_of(known.sortby("share", ascending=False), CHOICE)[:2])
        sentences[1] = f"{sentences[1][:-1]}. Where predictions change most: {'; '.join(examples)}."
    elif n_changed:
        sentences[1] += f" Can't tell which changes are habits: each occurs in fewer than {MIN_SAMPLES} samples."
    sentences.append(_token_sentence(changes))
    return " ".join(sentences)


def _describe_choice(choice: Sequence[Any]) -> str:
    """Return a clause on a changed first choice, after the text before it if most of its places share that."""
    base, adapted, count, of, after, after_count, after_of, after_changed = choice
    if 2 * after_count <= count:
        return f"{quoted([base])} becomes {quoted([adapted])} ({count} of {of} places)"
    start = f"after {quoted([after])}, {quoted([base])} becomes"
    if after_changed == after_count:
        return f"{start} {quoted([adapted])} ({after_count} of {after_of} places)"
    return f"{start} another token ({after_changed} of {after_of} places), mostly {quoted([adapted])} ({after_count})"


def _overall_sentence(run: Run, explanation: Explanation) -> str:
    """Return a sentence on the whole adapter's KL where capture measured that alone; empty otherwise."""
    moved = captured_measure(run, "kl", explanation.qualified.attrs["adapter"])
    known = np.empty(0, int) if moved is None else np.flatnonzero(np.isfinite(moved.values))
    if moved is None or not len(known):
        return ""
    mean = float(weighted_mean(moved.values[known], token_weights(run)[known]))
    return (
        f"{_capitalised(describe_kl(mean))} (Kullback-Leibler divergence, KL: {format_number(mean)} nat over "
        f"{len(known)} tokens). "
    )


def _token_sentence(changes: xr.DataTree) -> str:
    """Return a sentence on the tokens that gain and lose most, or that none does significantly."""
    named, n = named_tokens(changes), changes["tokens"].sizes["token_id"]
    test = f"share of the change; p < {LEVEL} each, corrected for {n} tokens"
    parts = []
    for verb, sign in (("gain", 1), ("lose", -1)):
        own = named.isel(token_id=(sign * named["net"] > 0).values)
        if own.sizes["token_id"]:
            words = (
                f"{quoted([text])} {format_percent(abs(net))}" for text, net in rows_of(own, ("text", "net"))[:N_NAMED]
            )
            parts.append(f"{verb} most: {', '.join(words)}")
    if not parts:
        return f"Can't tell which tokens gain or lose: none of {n} does significantly."
    return f"Tokens that {'; that '.join(parts)} ({test})."


def answer_where_it_changes(changes: xr.DataTree) -> str:
    """Return sentences (plain text) on the places after which predictions change most, and on words before them."""
    mean, parts = changes.attrs["kl_adapted_base"], list[str]()
    for node in ("roles", "previous"):
        label = str(changes[node]["kl"].dims[0])
        rows = rows_of(_above(changes[node].to_dataset(), mean), (label, "kl", "kl_se", "n"))
        what = "tokens of the {}" if label == "role" else "{}"
        names = [
            f"{what.format(name if label == 'role' else quoted([name]))} ({format_error(kl, error)} nat, {n} places)"
            for name, kl, error, n in rows[:2]
        ]
        parts += [f"after {join_names(names)}"] if names else []
    text = "Can't tell after which tokens predictions change most: none is significantly above the mean ({{}} nat)."
    if parts:
        text = f"Predictions change most {'; '.join(parts)} (mean {{}} nat; p < {LEVEL} each, corrected)."
    text = text.format(format_number(mean))
    words, n = significant(changes["words"].to_dataset()), changes["words"].sizes["word"]
    if not words.sizes["word"]:
        return f"{text} Can't tell of any word whether it triggers a change ({n} words)." if n else text
    named = (
        f"{quoted([word])} ({format_error(kl, error)} nat after it, {format_number(without)} without it; p = "
        f"{format_number(p)})"
        for word, kl, error, without, p in rows_of(words, ("word", "kl", "kl_se", "kl_without", "p"))[:2]
    )
    return f"{text} Words that may trigger or mark a change: {' and '.join(named)}."


def _above(rows: xr.Dataset, mean: float) -> xr.Dataset:
    """Return the groups of places whose KL is significantly above the mean: t test over samples, Holm's correction."""
    from scipy import stats  # type: ignore[import-untyped]  # a quarter of a second

    with np.errstate(invalid="ignore", divide="ignore"):
        t = ((rows["kl"] - mean) / rows["kl_se"]).values
    p = holm(stats.t.sf(t, np.maximum(rows["n_samples"].values - 1, 1)))
    return rows.isel({rows["kl"].dims[0]: p <= LEVEL})


def answer_which_forms(changes: xr.DataTree) -> str:
    """Return sentences (plain text) on forms of tokens that become more or less frequent, and on themes that gain."""
    forms, n = significant(changes["forms"].to_dataset()), changes["forms"].sizes["form"]
    forms = forms.sortby(abs(forms["difference"]), ascending=False)
    parts = []
    for verb, sign in (("more", 1), ("less", -1)):
        own = forms.isel(form=(sign * forms["difference"] > 0).values)
        if own.sizes["form"]:
            names = (
                f"{form} ({format_percent(base)} to {format_percent(adapted)})"
                for form, base, adapted in rows_of(own, ("form", "base_share", "adapted_share"))[:2]
            )
            parts.append(f"{verb} often: {', '.join(names)}")
    text = (
        f"Next tokens are {'; '.join(parts)} (shares of draws; p < {LEVEL} each, corrected for {n} forms)."
        if parts
        else f"Can't tell which forms of tokens gain or lose: none of {n} does significantly."
    )
    themes = changes["themes"].to_dataset()
    if not themes.sizes["theme"]:
        return f"{text} No group of tokens that gain together is the same in both halves of the samples."
    groups = (
        f"{quoted([token for token in tokens if token][:N_NAMED])} ({format_percent(share)} of the change)"
        for tokens, share in rows_of(themes, ("tokens", "share"))[:3]
    )
    return f"{text} Tokens that gain together, in both halves of the samples: {'; '.join(groups)}."


def rows_of(data: xr.Dataset, names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the rows of a one-dimensional dataset: tuples of the variables `names`, as Python values."""
    return list(zip(*(data[name].values.tolist() for name in names), strict=True))


def _capitalised(text: str) -> str:
    """Return a text with a capital first letter."""
    return text[:1].upper() + text[1:]
