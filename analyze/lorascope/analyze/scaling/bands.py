"""What a fit predicts, with the error of the mean and of a further cell."""

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .design import Design
from .estimate import Estimate

__all__ = ["bands"]


def bands(estimate: Estimate, rows: Design, level: float) -> pd.DataFrame:
    """Predicted response of rows, with intervals of the mean and of a single further cell.

    Returns
    -------
    DataFrame
        Under the rows' labels: `mean`, `mean_se`, `mean_low`, `mean_high`, `low`, `high`, in units of the response.

    Notes
    -----
    Linear theory (the delta method): J cov J' row by row, t with the fit's degrees of freedom. A further cell adds the
    spread of the residuals. Laws and residuals of the logarithm have bands on its scale, turned back. Where a parameter
    isn't identified, bands between the settings may still hold; beyond them they don't.
    """
    from scipy import stats  # type: ignore[import-untyped]

    predicted = estimate.predicted(rows)
    jacobian = estimate.jacobian(rows)
    values, vectors = np.linalg.eigh(estimate.covariance)
    error = np.sqrt((((jacobian @ vectors) ** 2) * np.maximum(values, 0)).sum(axis=1))
    t = float(stats.t.ppf((1 + level) / 2, estimate.df))
    logarithmic = rows.residual == "log"
    if logarithmic or rows.law.logarithmic:
        middle = np.log(predicted) if logarithmic else predicted
        relative = error / predicted if logarithmic else error
        whole = np.hypot(relative, estimate.sigma)
        ends = [np.exp(middle + sign * t * spread) for spread in (relative, whole) for sign in (-1, 1)]
        mean, mean_error = np.exp(middle), relative * np.exp(middle)
    else:
        scale = predicted if rows.residual == "relative" else np.ones(len(predicted))
        whole = np.hypot(error, estimate.sigma * scale)
        ends = [predicted + sign * t * spread for spread in (error, whole) for sign in (-1, 1)]
        mean, mean_error = predicted, error
    columns = dict(zip(("mean_low", "mean_high", "low", "high"), ends, strict=True))
    return pd.DataFrame({"mean": mean, "mean_se": mean_error, **columns}, index=rows.frame.index)
