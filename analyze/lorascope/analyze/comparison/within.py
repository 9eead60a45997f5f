"""Correlations within blocks: values centred in each block and pooled, or one coefficient a block."""

import math

import numpy as np

__all__ = ["block_pearson", "block_sums", "centred", "correlation_p", "kendall", "pooled_pearson", "ranks"]


def centred(values: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Float64 (cell,): values less their block's mean, exactly 0 where a block's values are all the same.

    Parameters
    ----------
    values
        (cell,), in any unit, which stays.
    block
        (cell,), codes 0, 1, ... of blocks, none of them empty.
    """
    found = np.empty(len(values))
    for one in range(int(block.max()) + 1):
        inside = values[block == one]
        found[block == one] = inside - inside.mean() if np.ptp(inside) > 0 else 0.0
    return found


def ranks(values: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Float64 (cell,): ranks 1, 2, ... within each block; ties share the mean of theirs."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    found = np.empty(len(values))
    for one in range(int(block.max()) + 1):
        found[block == one] = rankdata(values[block == one])
    return found


def block_sums(first: np.ndarray, second: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Float64 (block,): the sum of products of two columns of centred values."""
    return np.bincount(block, first * second)


def pooled_pearson(first: np.ndarray, second: np.ndarray, block: np.ndarray) -> float:
    """Pearson's r of two columns (cell,) after each block's means were taken off.

    Raises
    ------
    ValueError
        If a column is constant in every block.

    Notes
    -----
    r = sum(xy)/sqrt(sum(x^2) sum(y^2)) over all cells, x and y centred by block: the partial correlation given the
    blocks. It has the distribution of a plain r of n - G + 1 cells, of n cells in G blocks.
    """
    x, y = centred(first, block), centred(second, block)
    if not (x.any() and y.any()):
        raise ValueError("a column is constant in every block; it has no correlation within blocks")
    return _cosine(x, y)


def correlation_p(r: float, n: int) -> float:
    """Two-sided p of a Pearson correlation of 0 among n cells of a normal distribution; 0 where |r| is 1.

    Raises
    ------
    ValueError
        If n is below 3.

    Notes
    -----
    t = r sqrt((n - 2)/(1 - r^2)) with n - 2 degrees of freedom.
    """
    if n < 3:
        raise ValueError(f"`n` is {n}; a correlation's p-value needs 3 cells")
    if abs(r) >= 1:
        return 0.0
    from scipy.stats import t

    return float(2 * t.sf(abs(r) * math.sqrt((n - 2) / ((1 - r) * (1 + r))), n - 2))


def block_pearson(first: np.ndarray, second: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Pearson's r of two columns (cell,) by block (block,), NaN where either is constant; of `ranks`, Spearman's."""
    x, y = centred(first, block), centred(second, block)
    sides = [(x[block == one], y[block == one]) for one in range(int(block.max()) + 1)]
    return np.array([_cosine(a, b) if a.any() and b.any() else np.nan for a, b in sides])


def kendall(first: np.ndarray, second: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Kendall's tau-b of two columns (cell,) in each block (block,); NaN where either is constant.

    References
    ----------
    Kendall (1945), Biometrika 33, 239: ties.
    """
    from scipy.stats import kendalltau

    sides = [(first[block == one], second[block == one]) for one in range(int(block.max()) + 1)]
    return np.array([kendalltau(a, b).statistic if np.ptp(a) > 0 and np.ptp(b) > 0 else np.nan for a, b in sides])


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Of two vectors of which neither is 0; rounding can't take it past 1."""
    value = float(x @ y) / (math.sqrt(float(x @ x)) * math.sqrt(float(y @ y)))
    return max(-1.0, min(1.0, value))
