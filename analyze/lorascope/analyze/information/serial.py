"""Whether rows that follow each other are alike, which makes independent sides look dependent."""

import numpy as np
from scipy.fft import irfft, rfft  # type: ignore[import-untyped]

from .gaussian import normal_scores
from .pairs import Pairs

CHANCE = 2.0
"""Standard deviations by which an autocorrelation must exceed the largest of all lags and columns by chance."""
FEWEST = 0.9
"""Share of the rows that count, below which rows are said to be serial."""


def effective_rows(pairs: Pairs) -> float:
    """Number of independent rows whose correlations between the sides would scatter as much as those of these rows.

    n / (1 + 2 sum_h r_x(h) r_y(h)), with r the largest autocorrelation of a side's normal scores at lag h, over lags up
    to n / 4 where neither side's may be chance. Where rows have groups, these say what depends on what: all count.

    References
    ----------
    Bartlett 1935, J. R. Statist. Soc. 98, 536.
    """
    n = len(pairs.x)
    if len(np.unique(pairs.groups_x)) < n:
        return float(n)
    # Ties in a random order: else a rare symbol that comes twice at some distance would seem more than chance.
    of_x, of_y = (_autocorrelation(normal_scores(side, seed=place)) for place, side in enumerate((pairs.x, pairs.y)))
    return float(n / (1 + 2 * (of_x * of_y).sum()))


def _autocorrelation(side: np.ndarray) -> np.ndarray:
    """At lags 1 to n / 4, the largest size over columns, 0 where that may be chance, float64 (lag,)."""
    n = len(side)
    spectrum = rfft(side - side.mean(axis=0), 2 * n, axis=0)
    covariances = irfft(np.abs(spectrum) ** 2, axis=0)[: n // 4 + 1]
    largest = np.abs(covariances[1:] / covariances[0]).max(axis=1)
    least = (np.sqrt(2 * np.log(covariances[1:].size)) + CHANCE) / np.sqrt(n)
    return np.asarray(np.where(largest < least, 0.0, largest))
