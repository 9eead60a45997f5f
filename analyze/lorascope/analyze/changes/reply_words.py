"""Words, signs and lengths of a model's replies to short prompts, with its adapter and without it."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import xarray as xr

from lorascope.analyze.results.holm import holm
from lorascope.analyze.results.weights import standard_error
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.errors import StoreError
from lorascope.stores.format.tables import REPLY_SCALES
from lorascope.stores.reading.read import RunLike

LEAST_DIFFERING = 6
"""Fewest prompts whose replies differ in a word for a test of it: with fewer, not even p alone could be below 0.05."""
LEVEL = 0.05
"""Largest p of a word that differs significantly."""
OUTER_KINDS = ("beginning", "ending")
COUNTS = ("base", "adapted", "only_base", "only_adapted")
Trait = tuple[str, str]
"""Text and kind of what a reply has; a beginning's text ends with an ellipsis, and an ending's begins with one."""
N_OUTER = 3
"""Most words of a beginning or an ending that is counted."""
WORD = re.compile(r"\w+(?:['’]\w+)*")  # noqa: RUF001  # as it is typeset
SIGNS = re.compile(r"([^\w\s])\1*")
"""Equal signs in a row, such as `...` or an emoji."""


def reply_words(run: RunLike, *, adapter: str | None = None) -> xr.Dataset:
    """Count the replies that have each word or sign, without and with the adapter, and test whether the counts differ.

    Parameters
    ----------
    run
        A run with replies: an open one, or its path or url.
    adapter
        Name of the adapter; not needed if there is only one.

    Returns
    -------
    xarray.Dataset
        By `word` (its text, which is a coordinate), smallest p first: `kind` (`word`, `sign`, `repeated`, `beginning`
        or `ending`); `scale`, the smallest factor on the adapter's scaling (1, 1.5 or 2) at which it differs
        significantly, or that at which it differs most; `base` and
        `adapted`, numbers of replies that have it without the adapter and at this scale; `only_base` and
        `only_adapted`, numbers of prompts where only this reply has it; and `p`, corrected for the number of tests.
        Attributes are `n_prompts` and `n_tests`.

    Raises
    ------
    StoreError
        If the run has no replies, or no adapter of this name.

    Notes
    -----
    A word is in lower case unless it has capitals only. `sign` is a sign, or equal ones in a row; `repeated` any number
    above one of a sign in a row. Beginnings and endings have up to three words; a reply that was cut has no ending.
    Scales above 1 amplify what the adapter does, so that a weak habit shows; there any adapter may lose the thread.

    p is that of this scale by McNemar's exact test over prompts (1947; binomial, two-sided), after Holm's
    correction over all words and scales that differ in at least six prompts. It is NaN for words that differ in fewer,
    which couldn't reach 0.05; of beginnings and endings, only those that differ in six are listed.
    """
    from scipy.special import bdtr  # type: ignore[import-untyped]  # a quarter of a second

    replies = by_scale(open_as_written(run).replies(adapter))
    prompts: list[defaultdict[Trait, set[int]]] = []
    for scale in REPLY_SCALES:
        prompts.append(defaultdict(set))
        own = (replies[name].sel(scale=scale).values.tolist() for name in ("text", "is_complete"))
        for prompt, reply in enumerate(zip(*own, strict=True)):
            for trait in _traits(*reply):
                prompts[-1][trait].add(prompt)
    traits = sorted(set().union(*prompts))
    pairs = [[(prompts[0][trait], adapted[trait]) for trait in traits] for adapted in prompts[1:]]
    counts = np.array([[(len(a), len(b), len(a - b), len(b - a)) for a, b in own] for own in pairs], np.int64)
    counts = counts.reshape(len(REPLY_SCALES) - 1, -1, len(COUNTS))  # also without any word
    n_differing = counts[..., 2:].sum(axis=-1)
    is_tested = n_differing >= LEAST_DIFFERING
    p = np.minimum(2 * bdtr(counts[..., 2:].min(axis=-1), n_differing, 0.5), 1)
    p = holm(np.where(is_tested, p, np.nan).ravel()).reshape(p.shape)
    is_significant = p <= LEVEL
    smallest = np.where(
        is_significant.any(axis=0), is_significant.argmax(axis=0), np.where(is_tested, p, 2).argmin(axis=0)
    )
    best = smallest, np.arange(len(traits))
    is_listed = is_tested.any(axis=0) | np.array([kind not in OUTER_KINDS for _, kind in traits], bool)
    order = np.lexsort((-n_differing[best], p[best]))  # NaN come last
    order = order[is_listed[order]]
    columns = {name: counts[best][order, number] for number, name in enumerate(COUNTS)}
    meaning = "p of McNemar's exact test over prompts, after Holm's correction over words and scales"
    return xr.Dataset(
        {name: ("word", column) for name, column in columns.items()}
        | {"scale": ("word", np.array(REPLY_SCALES[1:])[best[0]][order])}
        | {"p": ("word", p[best][order], {"long_name": meaning})},
        coords={
            "word": np.array([text for text, _ in traits], object)[order],
            "kind": ("word", np.array([kind for _, kind in traits], object)[order]),
        },
        attrs={"n_prompts": replies.sizes["prompt"], "n_tests": int(is_tested.sum())},
    )


def reply_lengths(run: RunLike, *, adapter: str | None = None) -> xr.Dataset:
    """Return how long replies are, how many end and how they are written, without the adapter and with it.

    Parameters
    ----------
    run, adapter
        As in `reply_words`.

    Returns
    -------
    xarray.Dataset
        By `measure` and `scale` (0 without the adapter, 1, 1.5 and 2 times its scaling): `mean` over prompts and
        `mean_se`; `difference`, the mean over prompts of the difference from the reply without the adapter, and
        `difference_se`. Measures are `n_tokens`; `n_words`; `is_complete`, the share of replies that end within 40
        tokens; `capitals`, the share of characters; and `gain`, the log-likelihood of the reply with the adapter minus
        that without it, in nats per token. Attribute `n_prompts`. Standard errors are over prompts, NaN for one prompt.

    Raises
    ------
    StoreError
        If the run has no replies, or no adapter of this name.
    """
    replies = by_scale(open_as_written(run).replies(adapter))
    counts = {
        "n_words": lambda text: len(WORD.findall(text)),
        "capitals": lambda text: sum(map(str.isupper, text)) / max(len(text), 1),
    }
    measures = {
        "n_tokens": replies["n_tokens"],
        **{name: xr.apply_ufunc(np.vectorize(count, [float]), replies["text"]) for name, count in counts.items()},
        "is_complete": replies["is_complete"],
        "gain": (replies["loglik_1"] - replies["loglik_0"]) / replies["n_tokens"].clip(min=1),
    }
    table = xr.Dataset(measures).to_dataarray("measure").astype(float).transpose("prompt", "measure", "scale")
    result = xr.Dataset(coords=table.drop_vars("prompt").coords, attrs={"n_prompts": table.sizes["prompt"]})
    for name, values in {"mean": table, "difference": table - table.sel(scale=0, drop=True)}.items():
        result[name] = values.mean("prompt")
        result[f"{name}_se"] = (("measure", "scale"), standard_error(values.values))
    return result


def by_scale(replies: xr.Dataset) -> xr.Dataset:
    """Return a table of replies (reply,) by `prompt` and `scale`; raise StoreError if a prompt lacks a scale."""
    n_scales, n = len(REPLY_SCALES), replies.sizes["reply"]
    expected = np.resize(np.array(REPLY_SCALES, np.float32), n)
    if n % n_scales or not np.array_equal(replies["scale"].values, expected):
        raise StoreError(
            f"the replies to a prompt aren't at the scales {REPLY_SCALES}, in this order; capture them again"
        )
    columns = {
        name: (("prompt", "scale"), values.values.reshape(-1, n_scales))
        for name, values in replies.drop_vars(["prompt", "scale"]).items()
    }
    return xr.Dataset(columns, coords={"prompt": replies["prompt"].values[::n_scales], "scale": list(REPLY_SCALES)})


def _traits(text: str, is_complete: bool) -> Iterator[Trait]:
    """Yield what a reply has, some of it several times; only a complete one has an ending."""
    words = [match.span() for match in WORD.finditer(text)]
    for start, stop in words:
        word = text[start:stop]
        yield (word if word.isalpha() and word.isupper() else word.lower(), "word")
    for match in SIGNS.finditer(text):
        if unicodedata.category(match[1])[0] in "PS":  # no selectors of a variant, and no joiners
            yield (match[0], "sign")
            if len(match[0]) > 1:
                yield (f"{match[1]} repeated", "repeated")
    for n in range(1, min(N_OUTER, len(words)) + 1):
        yield (f"{_one_line(text[words[0][0] : words[n - 1][1]])} …", "beginning")
        if is_complete:
            yield (f"… {_one_line(text[words[-n][0] : words[-1][1]])}", "ending")


def _one_line(text: str) -> str:
    """Return a text in lower case with single spaces."""
    return " ".join(text.lower().split())
