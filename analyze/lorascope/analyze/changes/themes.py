"""Themes: tokens that gain at the same places, as non-negative factors of the gains by place and token."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from lorascope.analyze.results.holm import holm
from lorascope.analyze.results.largest import largest_places
from lorascope.analyze.results.weights import ratio, ratio_error, t_test
from lorascope.stores.threads import limiting_blas_to_one_thread

from .places import Places
from .tokens import SIDES, frequent_tokens, token_sums

MOST_THEMES = 8
"""Largest number of factors; used is the last of the first numbers in a row at which all factors are stable."""
STABLE = 0.8
"""Smallest cosine of a stable factor's tokens with those of its match in each half of the samples."""
LEVEL = 0.05
"""Largest p of a theme, after Holm's correction for the number of factors."""
N_TOKENS, N_CONTEXTS = 10, 5
"""Numbers of a theme's strongest tokens, and of the places in different samples where it is strongest."""


def find_themes(every: Sequence[Places]) -> dict[str, np.ndarray]:
    """Return themes by falling `share` of the summed KL: ids of `tokens`, `places`, `share_se`, `stability` and `p`.

    Themes are stable over halves of the samples, and their tokens gain more than they lose: p is that of a t test over
    samples, each with the theme of the other half. `every` is the run's places, then the control's if there is one,
    whose gains and losses are subtracted place by place. -1 is no token or place.
    """
    ids, places = frequent_tokens(every[0])[0], every[0]
    gain, loss = (_place_values(every, side, ids) for side in SIDES)
    half = np.random.default_rng(0).permutation(places.n_samples)[places.sample] % 2
    best: dict[str, np.ndarray] = dict.fromkeys(("share", "share_se", "stability", "p"), np.empty(0))
    best |= {"tokens": np.empty((0, N_TOKENS), int), "places": np.empty((0, N_CONTEXTS), int)}
    for rank in range(1, min(MOST_THEMES + 1, *gain[half == 0].shape, *gain[half == 1].shape)):
        table = _factor_table(places, gain, loss, half, ids, rank)
        if table["stability"].min() >= STABLE:
            best = table | {"p": holm(table["p"])}
        elif len(best["share"]):
            break
    order = np.argsort(-best["share"], kind="stable")
    return {name: column[order[best["p"][order] <= LEVEL]] for name, column in best.items()}


def _place_values(every: Sequence[Places], side: str, ids: np.ndarray) -> Any:
    """Return a sparse matrix (place, id) of gains or losses in nats, less the control's in proportion to its KL."""
    kl, rows = [places.sums(places.values[SIDES[side]]).sum() for places in every], np.arange(len(every[0].token))
    first, *rest = (token_sums(places, side, ids, rows) * (kl[0] / own) for places, own in zip(every, kl, strict=True))
    return first - rest[0] if rest else first


def _factors(values: Any, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return factors (place, theme) and (theme, id) of a sparse matrix (Lee and Seung 1999), the latter of length 1."""
    from sklearn.decomposition import NMF  # type: ignore[import-untyped]  # a second
    from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]

    largest = values.max() or 1.0  # the search begins with values below 1e-6 rounded to 0
    with warnings.catch_warnings(), limiting_blas_to_one_thread():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a factor that hasn't converged isn't stable
        model = NMF(rank, init="nndsvd", random_state=0, max_iter=500)
        by_place = model.fit_transform(values / largest)
    length = np.linalg.norm(model.components_, axis=1)
    return by_place * length * largest, model.components_ / np.where(length > 0, length, 1)[:, None]


def _factor_table(
    places: Places, gain: Any, loss: Any, half: np.ndarray, ids: np.ndarray, rank: int
) -> dict[str, np.ndarray]:
    """Return all `rank` factors of the positive gains as columns of `find_themes`; `half` is each place's, 0 or 1."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    positive = gain.maximum(0)
    by_place, by_token = _factors(positive, rank)
    stability, net = np.ones(rank), np.zeros(by_place.shape)
    for number in (0, 1):
        other = _factors(positive[half == number], rank)[1]
        cosine = by_token @ other.T
        match = linear_sum_assignment(-cosine)[1]
        stability = np.minimum(stability, cosine[np.arange(rank), match])
        net[half != number] = (gain - loss)[half != number] @ other[match].T
    kl = places.sums(places.values["kl_adapted_base"])[:, None]
    share, residual = ratio(np.add.reduceat(by_place * by_token.sum(axis=1), places.starts), kl)
    value, error = ratio(np.add.reduceat(net, places.starts), kl)
    top = largest_places(by_token, N_TOKENS)
    is_shown = np.take_along_axis(by_token, top, axis=1) > 0
    gains = [positive[:, own[shown]].sum(axis=1) > 0 for own, shown in zip(top, is_shown, strict=True)]
    return {
        "tokens": np.where(is_shown, ids[top], -1),
        "places": np.stack([_strongest_places(*pair, places) for pair in zip(by_place.T, gains, strict=True)]),
        "share": share,
        "share_se": ratio_error(residual),
        "stability": stability,
        "p": np.where(value > 0, t_test(value, ratio_error(error), places.n_samples), 1.0),
    }


def _strongest_places(strength: np.ndarray, gains: np.ndarray, places: Places) -> np.ndarray:
    """Return numbers of the `N_CONTEXTS` places with the largest strength in different samples; -1 if fewer.

    Only places where a shown token of the theme `gains` count.
    """
    strength = np.where(gains, strength, 0)
    order = np.argsort(-strength, kind="stable")
    top = order[np.sort(np.unique(places.sample[order], return_index=True)[1])[:N_CONTEXTS]]
    return np.pad(np.where(strength[top] > 0, top, -1), (0, N_CONTEXTS - len(top)), constant_values=-1)
