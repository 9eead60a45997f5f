"""Mutual information of two symbols, such as the index of each state's largest feature."""

import numpy as np
from jaxtyping import Int
from scipy.special import digamma  # type: ignore[import-untyped]

__all__ = ["symbol_ceiling", "symbol_information"]


def symbol_information(x: Int[np.ndarray, " row"], y: Int[np.ndarray, " row"]) -> float:
    """Mutual information of two symbols that come in pairs, in nats.

    Parameters
    ----------
    x, y
        Integer labels, row by row. Only which labels are equal counts.

    Notes
    -----
    H(x) + H(y) - H(x, y) with Grassberger's entropies, which correct for few rows per symbol: with counts n_i of the
    symbols (or pairs) that occur, and N rows,

        H = ln N - sum n_i G(n_i) / N, G(n) = psi(n) + (-1)^n (psi((n + 1)/2) - psi(n/2))/2.

    The value can lead below 0. Rows count as independent. If nearly every pair occurs once, no correction helps. The
    value without any is `sklearn.metrics.mutual_info_score`: too high, by about (cells - symbols x - symbols y +
    1)/(2 rows) while rows are many to a cell.

    References
    ----------
    Grassberger 2003, arXiv physics/0307138, on G.

    Examples
    --------
    >>> labels = np.arange(1000) % 2
    >>> round(symbol_information(labels, labels), 3)
    0.693
    """
    (codes_x, n_x), (codes_y, n_y) = _coded(x), _coded(y)
    _, n_both = _coded(codes_x * len(n_y) + codes_y)
    return _entropy(n_x) + _entropy(n_y) - _entropy(n_both)


def symbol_ceiling(x: Int[np.ndarray, " row"], y: Int[np.ndarray, " row"]) -> float:
    """The smaller plug-in entropy of both sides, in nats: the mutual information of the counts isn't above it."""
    counts = _coded(x)[1], _coded(y)[1]
    return min(float(np.log(n.sum()) - (n * np.log(n)).sum() / n.sum()) for n in counts)


def _coded(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels numbered from 0, int64 (row,), and how often each occurs."""
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return codes.astype(np.int64), counts


def _entropy(counts: np.ndarray) -> float:
    counts = np.sort(counts)  # sums over them come out the same however symbols are named
    n, sign = counts.sum(), 1 - 2 * (counts % 2)
    g = digamma(counts) + sign * (digamma((counts + 1) / 2) - digamma(counts / 2)) / 2
    return float(np.log(n) - (counts * g).sum() / n)
