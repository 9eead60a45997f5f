"""Which law: likelihood with a price for parameters, and errors of predictions."""

import math
from typing import NamedTuple

import numpy as np

from .estimate import Estimate

__all__ = ["Criteria", "criteria"]


class Criteria(NamedTuple):
    """Fit and price of one law; comparable between laws of the same cells, whatever their residuals."""

    minus_two_log_likelihood: float
    """Of the response, not of its logarithm; spread at its maximum."""
    n_parameters: int
    """The spread counts as one."""
    aic: float
    aicc: float
    """NaN where there are too few cells for it."""
    bic: float


def criteria(estimate: Estimate) -> Criteria:
    """Information criteria of a fit.

    Notes
    -----
    Residuals are taken for normal: n ln(2 pi SSR / n) + n, and, for relative and logarithmic ones, twice the sum of
    ln y, which brings their likelihood to that of the response. Relative weights 1/y count as given. With Huber's loss
    it is that of its residuals' sum of squares, larger than the least.
    """
    n, k = estimate.n, len(estimate.parameters) + 1
    relative = estimate.design.residual in ("relative", "log") or estimate.design.law.logarithmic
    response = estimate.design.frame[estimate.design.response].to_numpy()
    scale = 2 * float(np.log(response).sum()) if relative else 0.0
    deviance = n * math.log(2 * math.pi * estimate.ssr / n) + n + scale if estimate.ssr > 0 else -math.inf
    aic = deviance + 2 * k
    aicc = aic + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else math.nan
    return Criteria(deviance, k, aic, aicc, deviance + k * math.log(n))
