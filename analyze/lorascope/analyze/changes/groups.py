"""KL by groups of places: by role, position and the text before, and by words that stand earlier."""

import re
from collections import defaultdict

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.holm import holm
from lorascope.analyze.results.weights import ratio, ratio_error

from .places import Places
from .tokens import MIN_SAMPLES


def group_means(places: Places, kl: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Return the mean `kl` in nats by label of places, its error over samples, and numbers of places and samples.

    The error is NaN for a label of one sample; labels come in ascending order.
    """
    frame = pd.DataFrame({"label": labels, "sample": places.sample, "weight": places.weight, "kl": places.weight * kl})
    parts = frame.groupby(["label", "sample"]).agg(weight=("weight", "sum"), kl=("kl", "sum"), n=("kl", "size"))
    sums = parts.groupby("label").sum()
    mean, n_samples = sums["kl"] / sums["weight"], parts.groupby("label").size()
    squares = ((parts["kl"] - parts["weight"] * mean) ** 2).groupby("label").sum()
    error = np.sqrt(squares * n_samples / (n_samples - 1).replace(0, np.nan)) / sums["weight"]
    return pd.DataFrame({"kl": mean, "kl_se": error, "n": sums["n"], "n_samples": n_samples}).reset_index()


def texts_before(token: np.ndarray, texts: np.ndarray, follows: np.ndarray) -> np.ndarray:
    """Return each place's own text, with that of the token before it if no white space stands between them.

    `token` are the places on the token axis of a run. `texts` are by its tokens, as is `follows`: whether the token
    before on the axis is also the one before in the sample, where others may not be captured.
    """
    joined = [
        texts[i - 1] + texts[i]
        if follows[i] and not (texts[i - 1][-1:].isspace() or texts[i][:1].isspace())
        else texts[i]
        for i in token.tolist()
    ]
    return np.array(joined, object)


def first_words(texts: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> dict[str, dict[int, int]]:
    """Return word (case-folded) -> sample -> token with the end of its first occurrence in the sample's text."""
    first: dict[str, dict[int, int]] = defaultdict(dict)
    for sample, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        ends = np.cumsum([len(text) for text in texts[start:stop]])
        for word in re.finditer(r"\w+", "".join(texts[start:stop])):
            first[word[0].casefold()].setdefault(sample, start + int(np.searchsorted(ends, word.end())))
    return first


def word_differences(
    places: Places, kl: np.ndarray, strata: np.ndarray, words: dict[str, dict[int, int]]
) -> pd.DataFrame:
    """Return words by ascending p, with the mean KL after them and in samples without them; `words` of `first_words`.

    `strata` are labels of places (role and position) whose means are subtracted from `kl` for the test. A sample has a
    word if it stands before half of its places, and is without it if it stands nowhere; both need `MIN_SAMPLES`.
    """
    from scipy import stats  # type: ignore[import-untyped]

    size, sums = places.sums(np.ones(len(kl))), places.sums(kl)
    expected = group_means(places, kl, strata).set_index("label")["kl"]
    excess = (sums - places.sums(expected[strata].to_numpy())) / size
    stops = np.append(places.starts[1:], len(kl))
    middle = places.token[(places.starts + stops) // 2]
    totals = np.cumsum(np.append(0, places.weight * kl)), np.cumsum(np.append(0, places.weight))
    rows = []
    for word, first in words.items():
        early = np.array([sample for sample, token in first.items() if token <= middle[sample]], int)
        without = np.setdiff1d(np.arange(places.n_samples), list(first))
        if min(len(early), len(without)) >= MIN_SAMPLES:
            start = np.searchsorted(places.token, [first[sample] for sample in early.tolist()])
            mean, residual = ratio(*((total[stops[early]] - total[start])[:, None] for total in totals))
            p = stats.mannwhitneyu(excess[early], excess[without]).pvalue
            n, mean_without = (stops[early] - start).sum(), sums[without].sum() / size[without].sum()
            rows.append((word, mean[0], ratio_error(residual)[0], n, len(early), mean_without, p))
    table = pd.DataFrame(rows, columns=["word", "kl", "kl_se", "n", "n_samples", "kl_without", "p"])
    table = table.astype({"n": int, "n_samples": int, "p": float}).assign(p=holm(table["p"].to_numpy(float)))
    return table.sort_values(["p", "kl"], ascending=[True, False], kind="stable")
