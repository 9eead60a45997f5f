"""Mutual information of two indices that are drawn from the softmaxes of a token's two states."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from scipy.special import kl_div, logsumexp  # type: ignore[import-untyped]

from .sides import check_sides

__all__ = ["soft_index_information"]

LEAST_ROWS = 2
"""The indices of a single row are independent."""
PIECE_ROWS = 512
"""Rows whose softmaxes are held at a time."""
LEAST_CELL = 1e-300
"""Products of marginals below it count as this: such a cell adds nothing, and must not be divided by 0."""


def soft_index_information(
    x: Float[np.ndarray, "row feature_x"], y: Float[np.ndarray, "row feature_y"], *, block: int = 1024
) -> float:
    """Mutual information in nats of two feature indices, drawn from softmax(x_t) and softmax(y_t) of a random row t.

    Parameters
    ----------
    x, y
        States of both sides, row by row, of any float dtype.
    block
        Features of y whose cells of the joint table are held at a time. The value doesn't depend on it, but for
        rounding.

    Raises
    ------
    ValueError
        If a side isn't (row, feature), holds NaN or infinity, they differ in rows or have fewer than 2, or `block` is
        below 1.

    Notes
    -----
    Of the table J = mean_t softmax(x_t) softmax(y_t)' it is sum J ln(J/(p q')), with the means p and q of both
    softmaxes, computed as the sum of J ln(J/(p q')) - J + p q', no term of which is negative, so that nothing cancels.
    Given t both indices are independent: what they share, they share through the row, so that the value is at most
    ln(rows), and at most the entropy of p and of q. It is exact for the rows given; as an estimate for all there are it
    is too high, the more so the fewer rows. Over all there are, it is at most the mutual information of the states, by
    data processing.

    Memory: `block` x feature_x cells of float64 a few times over, and 512 rows of both softmaxes. Time: rows x
    feature_x x feature_y.

    References
    ----------
    Ji, Henriques and Vedaldi 2019, arXiv 1807.06653, eq. 2 and 3: the objective of invariant information clustering,
    without making J symmetric, as base and lora don't change places.

    Examples
    --------
    >>> states = np.array([[0.0, 99.0], [99.0, 0.0]])
    >>> round(soft_index_information(states, states), 4)
    0.6931
    """
    check_sides(x, y, least_rows=LEAST_ROWS)
    if block < 1:
        raise ValueError(f"`block` is {block!r}; give at least 1")
    norms_x, norms_y = _norms(x), _norms(y)
    p, q = _mean_softmax(x, norms_x), _mean_softmax(y, norms_y)
    total = 0.0
    for start in range(0, y.shape[1], block):
        features = slice(start, start + block)
        joint = np.zeros((x.shape[1], len(q[features])))
        for rows in _pieces(len(x)):
            weights = _softmax(x[rows], norms_x[rows])
            joint += weights.T @ _softmax(y[rows, features], norms_y[rows])
        joint /= len(x)
        product = np.maximum(np.outer(p, q[features]), LEAST_CELL)
        total += float(kl_div(joint, product, out=joint).sum())
    return max(total, 0.0)  # rounding alone leads below


def _pieces(n_rows: int) -> Iterator[slice]:
    for start in range(0, n_rows, PIECE_ROWS):
        yield slice(start, start + PIECE_ROWS)


def _norms(side: np.ndarray) -> np.ndarray:
    """Logarithms of the softmaxes' denominators, float64 (row,)."""
    return np.concatenate([logsumexp(side[rows].astype(np.float64), axis=1) for rows in _pieces(len(side))])


def _softmax(piece: np.ndarray, norms: np.ndarray) -> np.ndarray:
    logs = np.subtract(piece, norms[:, None], dtype=np.float64)
    return np.asarray(np.exp(logs, out=logs))


def _mean_softmax(side: np.ndarray, norms: np.ndarray) -> np.ndarray:
    total = np.zeros(side.shape[1])
    for rows in _pieces(len(side)):
        total += _softmax(side[rows], norms[rows]).sum(axis=0)
    return total / len(side)
