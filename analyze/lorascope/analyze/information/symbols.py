"""Mutual information of two symbols, such as the index of each state's largest feature, and how large it can get."""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int, Int64
from scipy.special import digamma  # type: ignore[import-untyped]

__all__ = ["Correction", "argmax_symbols", "symbol_ceiling", "symbol_information"]

Correction = Literal["none", "miller-madow", "grassberger"]
"""How an entropy is estimated: from the shares as they are, or with a correction for few rows per symbol."""

LEAST_ROWS = 2
"""One row says nothing about dependence."""


def symbol_information(
    x: Int[np.ndarray, " row"], y: Int[np.ndarray, " row"], *, correction: Correction = "grassberger"
) -> float:
    """Mutual information of two symbols that come in pairs, in nats.

    Parameters
    ----------
    x, y
        Integer labels, row by row. Only which labels are equal counts.
    correction
        `none` is the plug-in estimate, the mutual information of the table of counts: too high, by about
        (cells - symbols x - symbols y + 1)/(2 rows) while rows are many to a cell. `miller-madow` and `grassberger`
        correct the three entropies, and can lead below 0.

    Raises
    ------
    ValueError
        If the labels aren't integers (row,), differ in length or have fewer than 2 rows, or the correction isn't known.

    Notes
    -----
    H(x) + H(y) - H(x, y). With counts n_i of K symbols (or pairs) that occur, and N rows,

    - none: H = ln N - sum n_i ln(n_i) / N
    - miller-madow: (K - 1)/(2N) is added
    - grassberger: H = ln N - sum n_i G(n_i) / N, G(n) = psi(n) + (-1)^n (psi((n + 1)/2) - psi(n/2))/2

    Rows count as independent. If nearly every pair occurs once, no correction helps: the plug-in estimate is then close
    to its ceiling whatever the dependence. Time and memory grow with rows, not with symbols times symbols.

    References
    ----------
    Miller 1955, in Quastler (ed.), Information Theory in Psychology, pp. 95-100; Grassberger 2003, arXiv
    physics/0307138, on G.

    Examples
    --------
    >>> round(symbol_information(np.array([0, 0, 1, 1]), np.array([5, 5, 7, 7]), correction="none"), 4)
    0.6931
    """
    if correction not in get_args(Correction):
        raise ValueError(f"`correction` is {correction!r}; allowed are {', '.join(map(repr, get_args(Correction)))}")
    codes_x, codes_y = _codes(x, y)
    entropy = ENTROPIES[correction]
    both = codes_x * (codes_y.max() + 1) + codes_y
    return entropy(_counts(codes_x)) + entropy(_counts(codes_y)) - entropy(_counts(both))


def symbol_ceiling(x: Int[np.ndarray, " row"], y: Int[np.ndarray, " row"]) -> float:
    """The smaller plug-in entropy of both sides, in nats: the plug-in mutual information isn't above it.

    Raises
    ------
    ValueError
        As `symbol_information`.
    """
    return min(_plug_in(_counts(codes)) for codes in _codes(x, y))


def argmax_symbols(states: Float[np.ndarray, "row feature"]) -> Int64[np.ndarray, " row"]:
    """Index of each row's largest feature, the first one of equals.

    Raises
    ------
    ValueError
        If `states` isn't (row, feature) with a feature, or holds NaN or infinity.
    """
    if states.ndim != 2 or not states.shape[1]:
        raise ValueError(f"`states` has shape {states.shape}; it must be (row, feature), with at least one feature")
    bad = np.flatnonzero(~np.isfinite(states).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(states)} rows of `states` hold NaN or infinity, first row {bad[0]}; leave these out"
        )
    return np.asarray(states.argmax(axis=1), np.int64)


def _codes(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels numbered from 0, int64 (row,) each."""
    for side, name in ((x, "x"), (y, "y")):
        if side.ndim != 1 or side.dtype.kind not in "biu":
            raise ValueError(f"`{name}` is {side.dtype} of shape {side.shape}; it must be integer labels (row,)")
    if len(x) != len(y):
        raise ValueError(f"`x` has {len(x)} rows and `y` {len(y)}; row i of one belongs to row i of the other")
    if len(x) < LEAST_ROWS:
        raise ValueError(f"there are {len(x)} rows; give at least {LEAST_ROWS}")
    first, second = (np.unique(side, return_inverse=True)[1].astype(np.int64) for side in (x, y))
    return first, second


def _counts(codes: np.ndarray) -> np.ndarray:
    """How often each symbol occurs, ascending: sums over them come out the same however symbols are named."""
    return np.sort(np.unique(codes, return_counts=True)[1])


def _plug_in(counts: np.ndarray) -> float:
    n = counts.sum()
    return float(np.log(n) - (counts * np.log(counts)).sum() / n)


def _miller_madow(counts: np.ndarray) -> float:
    return float(_plug_in(counts) + (len(counts) - 1) / (2 * counts.sum()))


def _grassberger(counts: np.ndarray) -> float:
    n, sign = counts.sum(), 1 - 2 * (counts % 2)
    g = digamma(counts) + sign * (digamma((counts + 1) / 2) - digamma(counts / 2)) / 2
    return float(np.log(n) - (counts * g).sum() / n)


ENTROPIES: dict[str, Callable[[np.ndarray], float]] = {
    "none": _plug_in,
    "miller-madow": _miller_madow,
    "grassberger": _grassberger,
}
"""Counts of symbols -> entropy in nats, for each `Correction`."""
