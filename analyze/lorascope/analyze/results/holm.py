"""Holm's correction of p-values for the number of tests."""

import numpy as np
from jaxtyping import Float64


def holm(p: Float64[np.ndarray, " test"]) -> Float64[np.ndarray, " test"]:
    """Return p-values after Holm's step-down correction (Holm 1979), NaN where p is NaN, which is no test.

    The chance that any true null hypothesis has a corrected p up to a level is at most that level, however the tests
    depend on each other.

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, np.nan, 0.03]))
    array([0.03, 0.06,  nan, 0.06])
    """
    order = np.argsort(p)[: int(np.isfinite(p).sum())]  # NaN come last
    corrected = np.full(len(p), np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return corrected
