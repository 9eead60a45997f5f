"""Pairs of settings within a block, and which of the two a metric would pick."""

import numpy as np

__all__ = ["right_decisions", "within_pairs"]


def within_pairs(block: np.ndarray) -> np.ndarray:
    """Integers (pair, 2): the cells of each pair within a block, from block codes (cell,); blocks in order."""
    found = [np.zeros((0, 2), np.int64)]
    for one in range(int(block.max()) + 1):
        cells = np.flatnonzero(block == one)
        found.append(np.column_stack([cells[side] for side in np.triu_indices(len(cells), 1)]))
    return np.concatenate(found)


def right_decisions(accuracy: np.ndarray, score: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Float64 (pair,): 1 where a score orders a pair as accuracy does, 1/2 where it has a tie, 0 where it errs.

    Parameters
    ----------
    accuracy, score
        (cell,); both larger where better.
    pairs
        Integers (pair, 2), cells.

    Notes
    -----
    A pair with the same accuracy has no right order: its value is NaN, to be skipped. Equal means equal as float64; for
    accuracies of n items that is the same number of right answers.

    References
    ----------
    Magnusson et al. (2025), DataDecide, arXiv 2504.11393: decision accuracy.
    """
    wanted, given = (np.sign(values[pairs[:, 0]] - values[pairs[:, 1]]) for values in (accuracy, score))
    return np.where(wanted == 0, np.nan, (1 + wanted * given) / 2)
