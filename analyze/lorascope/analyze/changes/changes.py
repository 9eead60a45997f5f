"""Counts what an adapter changes in the next token, over the places of a run: `changes`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from lorascope.analyze.directions.directions import contexts
from lorascope.analyze.results.tree import run_attributes
from lorascope.stores import Run
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.format.tables import ROLES
from lorascope.stores.reading.read import RunLike
from lorascope.stores.reading.token_choice import TokenChoice, describe_choice

from .forms import form_shares
from .groups import first_words, group_means, texts_before, word_differences
from .places import Places, read_places
from .themes import find_themes
from .tokens import MIN_SAMPLES, SIDES, changed_choices, token_shares

MEANINGS = {
    "text": "text of the token",
    "gain": "sum of p log(p/q) where it is among a place's largest, by the summed KL(adapted || base)",
    "loss": "sum of q log(q/p) where it is among a place's largest, by the summed KL(base || adapted)",
    "net": "gain - loss",
    "p": "p after Holm's correction for the tests of this table",
    "n_samples": "number of samples in which it occurs",
    "base": "first choice of the base",
    "adapted": "first choice of the adapted model",
    "count": "number of places with this change",
    "of": "number of places with this first choice of the base",
    "after": "commonest text before the places with this change",
    "after_count": "number of places with this change after that text",
    "after_of": "number of places after that text with this first choice of the base",
    "after_changed": "number of places among after_of with another first choice of the adapted model",
    "adapted_share": "share of the adapted model's next tokens, from draws",
    "base_share": "share of the base's next tokens, from draws",
    "difference": "adapted_share - base_share",
    "tokens": "strongest tokens",
    "contexts": "text up to the strongest places, and the theme's token that gains most there",
    "share": "share of the summed KL(adapted || base)",
    "stability": "smaller cosine with the theme of a half of the samples",
    "kl": "mean KL(adapted || base)",
    "kl_without": "mean KL(adapted || base) in samples without the word",
    "n": "number of places",
}
"""Name of a variable -> its long name."""
BINS = (0, 1, 4, 16, 64, 256, 1024)
"""First positions of the bins of positions."""


def changes(
    run: RunLike,
    *,
    adapter: str | None = None,
    tokens: TokenChoice = "all",
    control: RunLike | None = None,
) -> xr.DataTree:
    """Return what an adapter changes in the next token: which tokens, forms, themes and choices, and at which places.

    P is the next token's distribution with the adapter, Q that of the base, p and q a token's probabilities. A place is
    a captured token after which both were measured; a sample has many. A beginning that samples share, such as a system
    message, counts once: in a causal model the same tokens have the same predictions.

    Parameters
    ----------
    run
        An open run, or its path or url, captured with next-token changes.
    adapter
        Name of the adapter; not needed if there is only one.
    tokens
        Choice of places: words of `lorascope.stores.reading.token_choice`, such as `answer`, or indices on the token
        axis.
    control
        A run of another adapter, of no interest (trained on neutral or shuffled texts), over the same samples. Its
        shares, differences and KL are subtracted, paired by place; changes of choices that it makes too don't count.

    Returns
    -------
    xarray.DataTree
        At the root the attributes `kl_adapted_base` and `kl`, mean KL(P || Q) and KL(Q || P) in nats; `kept_share`, the
        sum of stored gains by that of KL(P || Q), above 1 where what isn't stored is negative; `n_tokens` (places),
        `n_samples`; `n_not_finite` and `n_repeated`, skipped places; provenance. `..._se` are standard errors over
        samples, and `p` is corrected for the tests of its table by Holm's method.

        - `tokens` (token_id), by falling |net|: `text`; `gain`, the share of the summed KL(P || Q) that is its p
          log(p/q) where that is among the 20 largest; `loss`, of KL(Q || P) alike; `net` = gain - loss, its `p`.
        - `choices` (change): first choices that changed from `base` to `adapted` (texts), at `count` of the `of` places
          with this choice of the base, in `n_samples` samples; `share` is that of the summed KL(P || Q) at places of
          the change; `after` is the commonest text before, after which `after_count` of `after_of` places change so,
          and `after_changed` to any other choice.
        - `forms` (form): `adapted_share` and `base_share` of next tokens with a form, their `difference`, its `p`;
          `gain` and `loss`, shares of KL in such tokens. Letters and languages are shares of words.
        - `themes` (theme): its strongest `tokens` (theme, top), `share` of the summed KL(P || Q), five `contexts` with
          the token that gains there, `stability`, `p`; often empty.
        - `roles`, `positions` (in bins, by their first one), `previous` (the last token or two before the next one, by
          falling summed KL), `words`: mean `kl` at `n` places of `n_samples` samples. A word's `kl` is of places after
          it, `kl_without` of samples without it; `p` compares samples.

        Tokens, previous texts and words of fewer than 3 samples aren't listed, and such forms not tested.

    Raises
    ------
    StoreError
        If the run has no next-token changes, no chosen place is measured, an adapter changes nothing, the control isn't
        over the same samples, or a chunk is broken.
    ValueError, IndexError
        If `tokens` isn't allowed.

    Notes
    -----
    Shares are ratios of weighted sums over samples, with linearised errors (Cochran 1977, eq. 2.39) and t tests with
    n_samples - 1 degrees of freedom, from five samples on. Where P and Q were exchanged at random by sample, 0 to 6 %
    of simulated tables of tokens or forms had a p up to 0.05 (with four 9 %, with three 18 %). Forms depend on each
    other: a frequent word that falls takes its letters with it.

    A word's test is that of Mann and Whitney, between samples where it stands before half of the places and samples
    without it, on each sample's mean KL less the mean at places of the same role and similar position. That KL differs
    doesn't say that the word is the cause. Only words among the captured tokens are known.

    Themes are factors of non-negative matrix factorisation (Lee and Seung 1999) of the gains by place and token: as
    many, up to 8, as both halves of the samples have too (cosine of at least 0.8). Shown are themes whose tokens gain
    more than they lose (p up to 0.05, where each half is tested with the theme of the other).
    """
    run, baseline = open_as_written(run), None if control is None else open_as_written(control)
    every, texts = read_places(run, adapter, tokens, baseline), run.vocabulary()
    kl = every[0].values["kl_adapted_base"] - sum(places.values["kl_adapted_base"] for places in every[1:])
    columns = {name: run.read_static(f"tokens/{name}") for name in ("sample", "role", "position", "token_id")}
    role, position = (columns[name][every[0].token].astype(int) for name in ("role", "position"))
    place_bin = np.searchsorted(BINS, position, side="right") - 1
    words = texts[columns["token_id"]]
    steps = (np.diff(columns[name].astype(int), prepend=-2) for name in ("sample", "position"))
    follows = (next(steps) == 0) & (next(steps) == 1)  # the token before in the sample was captured too
    before = texts_before(every[0].token, words, follows)
    separated = np.where(follows, words, " " + words)
    attributes = _attributes(run, adapter, every[0]) | {"tokens": describe_choice(tokens)}
    nodes = {
        "/": xr.Dataset(attrs=attributes | ({} if baseline is None else {"control": baseline.place.name})),
        "tokens": _dataset("token_id", token_shares(every, texts)),
        "choices": _dataset("change", changed_choices(every, texts, before)),
        "forms": _dataset("form", form_shares(every, texts)),
        "themes": _dataset("theme", _with_texts(run, find_themes(every), every[0], texts)),
        "roles": _dataset("role", group_means(every[0], kl, np.array(ROLES, object)[role])),
        "positions": _dataset("position", group_means(every[0], kl, np.array(BINS)[place_bin])),
        "previous": _dataset("previous", _previous(every[0], kl, before)),
        "words": _dataset("word", _words(run, every[0], kl, separated, role * len(BINS) + place_bin)),
    }
    return xr.DataTree.from_dict(nodes)


def _attributes(run: Run, adapter: str | None, places: Places) -> dict[str, Any]:
    """Return the root attributes: provenance, mean KL with errors, and numbers of places and samples."""
    numbers: dict[str, Any] = {"n_tokens": len(places.token), "n_samples": places.n_samples}
    for name in SIDES.values():
        mean = group_means(places, places.values[name], np.zeros(len(places.token), int)).iloc[0]
        numbers |= {name: float(mean["kl"]), f"{name}_se": float(mean["kl_se"])}
    gain = places.sums(np.nansum(places.values["gain"], axis=1)).sum()
    share = float(gain / places.sums(places.values["kl_adapted_base"]).sum())
    skipped = {name: getattr(places, name) for name in ("n_not_finite", "n_repeated")}
    return {**run_attributes(run, adapter), **numbers, "kept_share": share, **skipped}


def _dataset(dimension: str, table: Mapping[str, Any]) -> xr.Dataset:
    """Return a table's columns as a dataset along a dimension, labelled by the column of its name or `label`."""
    dataset = xr.Dataset()
    for name, column in table.items():
        values = np.asarray(column)
        values = values.astype(object) if values.dtype.kind not in "iuf" else values
        if name in (dimension, "label"):
            dataset = dataset.assign_coords({dimension: values})
            continue
        meaning = MEANINGS[name.removesuffix("_se")]
        attributes = {"long_name": f"standard error of {name[:-3]} over samples" if name.endswith("_se") else meaning}
        attributes["units"] = "" if values.dtype == object else "nat" if name.startswith("kl") else "1"
        dataset[name] = ((dimension, "top" if name == "tokens" else "context")[: values.ndim], values, attributes)
    return dataset


def _with_texts(run: Run, themes: dict[str, np.ndarray], places: Places, texts: np.ndarray) -> dict[str, Any]:
    """Return themes with texts in place of token ids, and contexts in place of places."""
    ids, numbers = themes["tokens"], themes["places"]
    around = contexts(run, np.where(numbers < 0, -1, places.token[numbers]))
    before = around["before"].values + around["text"].values
    for theme, context in zip(*np.nonzero(numbers >= 0), strict=True):
        gaining = places.values["gain_token"][numbers[theme, context]]
        before[theme, context] += f" → {texts[gaining[np.isin(gaining, ids[theme])][0]]}"
    rest = {name: column for name, column in themes.items() if name not in ("tokens", "places")}
    return {"tokens": np.where(ids < 0, "", texts[ids]), "contexts": before, **rest}


def _previous(places: Places, kl: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Return mean KL by text before the next token, of texts in enough samples, by falling summed KL."""
    table = group_means(places, kl, labels)
    table = table[table["n_samples"] >= min(MIN_SAMPLES, places.n_samples)]
    return table.iloc[np.argsort(-(table["kl"] * table["n"]).to_numpy(), kind="stable")]


def _words(run: Run, places: Places, kl: np.ndarray, texts: np.ndarray, strata: np.ndarray) -> pd.DataFrame:
    """Return KL with and without words that stand earlier in the samples with places."""
    samples = np.unique(run.read_static("tokens/sample")[places.token])
    ends = (run.read_static(f"samples/token_{end}")[samples] for end in ("start", "stop"))
    return word_differences(places, kl, strata, first_words(texts, *ends))
