"""Whether rows that follow each other are alike, which makes independent sides look dependent."""

import numpy as np
from scipy.fft import irfft, rfft  # type: ignore[import-untyped]

from .gaussian import normal_scores
from .pairs import Pairs

CHANCE = 4.0
"""Autocorrelation times the root of the rows that chance hardly reaches."""
FEWEST = 0.9
"""Share of the rows that count, below which rows are said to be serial."""


def effective_rows(pairs: Pairs) -> float:
    """As many independent rows as have correlations between the sides that scatter as those of these rows.

    n / (1 + 2 sum_h r_x(h) r_y(h)), with r the largest autocorrelation of a side's normal scores at lag h, over lags up
    to the first where one side's may be chance. Where rows have groups, these say what depends on what: all count.

    References
    ----------
    Bartlett 1935, J. R. Statist. Soc. 98, 536.
    """
    n = len(pairs.x)
    if len(np.unique(pairs.groups_x)) < n:
        return float(n)
    least = CHANCE / np.sqrt(n)
    of_x, of_y = (_largest_autocorrelation(normal_scores(side)) for side in (pairs.x, pairs.y))
    lags = int(np.argmax([*((of_x < least) | (of_y < least)), True]))
    return float(n / (1 + 2 * (of_x * of_y)[:lags].sum()))


def _largest_autocorrelation(side: np.ndarray) -> np.ndarray:
    """At lags 1 to n / 4, the largest size over columns, float64 (lag,)."""
    n = len(side)
    spectrum = rfft(side - side.mean(axis=0), 2 * n, axis=0)
    found = irfft(np.abs(spectrum) ** 2, axis=0)
    return np.asarray(np.abs(found[1 : n // 4 + 1] / found[0]).max(axis=1))
